"""`flanneld status`: what is shown of a report, and the exit code that scripts go by."""

import asyncio
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flanneld_py.cli.status import NOT_RUNNING, NOT_WELL, READY, run
from flanneld_py.daemon import rundir
from flanneld_py.daemon.board import FILE
from flanneld_py.daemon.control import listening
from flanneld_py.observe.status import PeerLine, Report, Stage, Status

STATUS = Status(
    Stage.READY,
    time.time() - 7300,
    os.getpid(),
    "1.2.3",
    "host-a",
    store="etcd http://192.0.2.9:2379 below /net",
    backend="vxlan",
    networks=("10.5.0.0/16",),
    subnets=("10.5.7.0/24",),
    public=("192.0.2.1",),
    expires=1_700_000_000.0,
    interface="eth0",
    interface_reason="the default route",
    mtu=1450,
    entries=9,
)
PEER = PeerLine(("10.5.8.0/24",), ("192.0.2.2",), ("vxlan",))


def shown(tmp_path: Path, report: Report, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Code and text of the command beside a daemon that answers so."""

    async def answer() -> dict[str, Any]:
        return report.as_json()

    async def ask() -> int:
        async with listening(tmp_path, {"status": answer}):
            return await asyncio.to_thread(run, [f"--subnet-file={tmp_path}/subnet.env", *words])

    code = asyncio.run(ask())
    return code, capsys.readouterr().out


def test_what_is_asked_of_offloads_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "tx-checksum off dev flannel.1 (a NAT lies between)"
    code, text = shown(tmp_path, Report(replace(STATUS, offload=(line,)), (PEER,)), capsys)
    assert code == READY
    assert f"  offload    {line}" in text.splitlines()


def test_a_daemon_that_is_well_is_shown_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = replace(STATUS, since=time.time() - 7300)  # now: the run of all tests may be an hour old
    code, text = shown(tmp_path, Report(status, (PEER,)), capsys)
    assert code == READY
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == "flanneld 1.2.3 on host-a: ready for 2 h"
    assert lines[1:6] == [
        "store      etcd http://192.0.2.9:2379 below /net",
        "lease      10.5.7.0/24, expires 2023-11-14 22:13:20 UTC",
        "interface  eth0 (the default route), public 192.0.2.1",
        "backend    vxlan, network 10.5.0.0/16, pods' MTU 1450",
        "kernel     9 entries, all as wanted",
    ]
    assert lines[-1].split() == ["10.5.8.0/24", "192.0.2.2", "vxlan", "ok"]


def test_all_that_is_not_well_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = {
        "add route 10.5.8.0/24": Report(STATUS, ops=("add route 10.5.8.0/24",)),
        "cannot add": Report(replace(STATUS, failures=("cannot add route",))),
        "etcd is away; start it": Report(replace(STATUS, error="etcd is away", hint="start it", store_ok=False)),
        "it publishes no VTEP": Report(STATUS, (replace(PEER, path=(), problems=("it publishes no VTEP",)),)),
        "waiting for a lease": Report(replace(STATUS, stage=Stage.LEASE)),
    }
    for words, report in cases.items():
        code, text = shown(tmp_path, report, capsys)
        assert (code, words in text) == (NOT_WELL, True), text


def test_many_differences_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, text = shown(tmp_path, Report(STATUS, ops=tuple(f"add route {n}" for n in range(25))), capsys)
    assert "9 entries, 25 differ" in text
    assert "add route 19\n" in text
    assert "add route 20" not in text
    assert "and 5 more" in text


def test_json_holds_all_of_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(STATUS, (PEER,), ("an op",))
    _, text = shown(tmp_path, report, capsys, "-o", "json")
    found = json.loads(text)
    assert found.pop("running") is True
    assert found == json.loads(json.dumps(report.as_json()))


def test_without_a_daemon_its_last_word_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([f"--subnet-file={tmp_path}/subnet.env"]) == NOT_RUNNING
    assert "no flanneld answers" in capsys.readouterr().out
    (tmp_path / FILE).write_text(json.dumps(STATUS.as_json() | {"stage": "failed", "error": "out of subnets"}))
    assert run([f"--subnet-file={tmp_path}/subnet.env"]) == NOT_RUNNING
    text = capsys.readouterr().out
    assert "not running" in text
    assert "failed" in text
    assert "out of subnets" in text
    (tmp_path / FILE).write_text("{")
    assert run([f"--subnet-file={tmp_path}/subnet.env"]) == NOT_RUNNING


def test_own_asks_no_more_than_whose_daemon_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([f"--subnet-file={tmp_path}/subnet.env", "--own"]) == NOT_RUNNING
    assert "is not of this container" in capsys.readouterr().out
    code, text = shown(tmp_path, Report(replace(STATUS, stage=Stage.STORE)), capsys, "--own")
    assert (code, text) == (READY, f"the flanneld at work in {tmp_path} is of this container\n")


def test_a_daemon_that_hangs_is_not_said_to_have_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / FILE).write_text(json.dumps(STATUS.as_json()))
    with rundir.hold(tmp_path):
        assert run([f"--subnet-file={tmp_path}/subnet.env"]) == NOT_RUNNING
    assert "does not answer" in capsys.readouterr().out
