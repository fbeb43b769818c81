"""An upgraded daemon hands the work of the running worker to one of its own build.

The other build is a copy of the package in another place, from which the daemon is started.
"""

import shutil
from pathlib import Path

import pytest

import flanneld_py
from flanneld_py.lab import process, servers
from tests.udp.overlay import UdpField, workers_in
from tests.udp.streams import CheckedStream
from tests.waiting import eventually

MEGABYTE = 1 << 20
ARRIVALS = 50
BROKEN = {
    "it does not start": ("worker.py", "raise SystemExit(7)\n"),
    "it cannot take over": (
        "carrier.py",
        "\n\ndef _broken(*_: object) -> None:\n    raise OSError(5, 'a broken build')\n\n\nCarrier.start = _broken\n",
    ),
    "it dies when it takes over": (
        "carrier.py",
        "\n\ndef _dead(*_: object) -> None:\n    import os\n\n    os._exit(9)\n\n\nCarrier.start = _dead\n",
    ),
}


@pytest.fixture
def other_build(tmp_path: Path) -> Path:
    """A directory in which `python -m flanneld_py` finds a copy of the package."""
    (source,) = flanneld_py.__path__
    shutil.copytree(source, tmp_path / "flanneld_py", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "flanneld_py/dataplane/worker.py").touch()
    return tmp_path


def test_nothing_is_lost_when_an_upgraded_worker_takes_over(
    field: UdpField, other_build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = field.endpoints()
    drops = {number: field.drops(number) for number in (1, 2)}
    with (
        CheckedStream(places["pod1-1"], places["pod2-1"]) as outbound,
        CheckedStream(places["pod2-1"], places["pod1-1"]) as inbound,
        field.probe("pod2-1", "pod1-1") as probe,
    ):
        for directory in (other_build, Path.cwd()):
            before, old = field.worker(1), field.worker_process(1)
            field.kill(1)
            monkeypatch.chdir(directory)
            field.restart(1)
            after = field.worker(1)
            assert after["build"] != before["build"]
            assert after["pid"] != before["pid"]
            assert process.wait(old, 10.0)
            assert workers_in(field.namespace(1)) == {after["pid"]}
            for way in ("outbound", "inbound"):
                assert all(after[way][name] >= before[way][name] for name in ("packets", "bytes", "trains"))
            assert after["offload"] == before["offload"]
            for stream in (outbound, inbound):
                stream.wait_for(20 * MEGABYTE)
            assert probe.wait_for(ARRIVALS, 10.0)
        report = probe.stop()
        outbound.finish()
        inbound.finish()
    assert (report.lost, report.unsent, report.duplicates, report.reordered) == ((), (), 0, 0)
    # The socket is the same, and so is what the kernel counts for it.
    assert {number: field.drops(number) for number in (1, 2)} == drops


@pytest.mark.parametrize("fault", BROKEN)
def test_the_old_worker_goes_on_when_the_new_one_fails(
    field: UdpField, other_build: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    name, text = BROKEN[fault]
    module = other_build / "flanneld_py/dataplane" / name
    whole = module.read_text()
    module.write_text(text + whole if name == "worker.py" else whole + text)
    old = field.worker_process(1)
    node, directory = field.node(1), field.lab.directory
    with field.probe("pod2-1", "pod1-1") as probe:
        field.kill(1)
        said = field.log(1)
        with monkeypatch.context() as there:
            there.chdir(other_build)
            failing = servers.start_daemon(field.lab.topology, node, directory)
        try:
            eventually(
                "the daemon says that it failed, and tries again",
                lambda: field.log(1).removeprefix(said).count("cannot change udp worker") >= 1,
                lambda: field.log(1).removeprefix(said),
            )
            assert probe.wait_for(ARRIVALS, 10.0)
        finally:
            servers.stop_daemon(failing, hard=True)
        eventually("the failed workers are gone", lambda: workers_in(field.namespace(1)) == {old.pid})
        field.restart(1)
        assert probe.wait_for(ARRIVALS, 10.0)
        report = probe.stop()
    assert (report.lost, report.unsent, report.reordered) == ((), (), 0)
    assert field.worker_process(1) == old
