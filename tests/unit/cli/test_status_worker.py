"""What `flanneld status` shows of the udp backend's worker."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flanneld_py.cli.status import READY
from flanneld_py.observe.status import Report
from tests.unit.cli.test_status import PEER, STATUS, shown

FLOW = {"packets": 40, "bytes": 52000, "trains": 3, "train_packets": 36, "mean_train": 12.0, "drops": {}}
WORKER: dict[str, Any] = {
    "pid": 4711,
    "pump": "native",
    "why": "",
    "offload": ["tso", "gso"],
    "filtered": True,
    "lanes": 2,
    "by_sender": False,
    "strangers": 7,
    "seen": [],
    "socket_drops": 5,
    "queue_drops": 2,
    "outbound": FLOW,
    "inbound": FLOW | {"drops": {"foreign_source": 4, "bad_header": 1}},
}


def lines_of(tmp_path: Path, capsys: pytest.CaptureFixture[str], worker: dict[str, Any] | None) -> list[str]:
    code, text = shown(tmp_path, Report(replace(STATUS, backend="udp"), (PEER,), worker=worker), capsys)
    assert code == READY
    return [line.strip() for line in text.splitlines()]


def test_offloads_packets_trains_and_drops_by_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_of(tmp_path, capsys, WORKER)
    at = next(number for number, line in enumerate(lines) if line.startswith("worker"))
    assert lines[at : at + 4] == [
        "worker     pid 4711, native pump, lanes: 2, offload tso+gso, strangers sorted out by the kernel",
        "outbound 40 packets, 52000 bytes, 3 trains of 12.0 on average, dropped: none",
        "inbound  40 packets, 52000 bytes, 3 trains of 12.0 on average, dropped: 1 bad header, 4 foreign source",
        "kernel   no room for 5 at the socket, 2 at the device; dropped 7 of strangers",
    ]


def test_why_it_is_slow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = WORKER | {"pump": "portable", "why": "no compiler was there", "offload": [], "filtered": False}
    lines = lines_of(tmp_path, capsys, slow)
    assert "worker     pid 4711, portable pump (no compiler was there), lanes: 2, offload none" in lines


def test_whose_lane_is_chosen_by_the_sender(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert any(", lanes: 2 by sender, " in line for line in lines_of(tmp_path, capsys, WORKER | {"by_sender": True}))


def test_other_backends_have_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not any(line.startswith("worker") for line in lines_of(tmp_path, capsys, None))
