"""What operators and scripts see of the worker."""

import json

from tests.udp.overlay import UdpField
from tests.waiting import eventually


def test_status_json_counts_what_the_worker_carries_without_being_asked(field: UdpField) -> None:
    path = field.folder(1) / "status.json"

    def packets() -> int:
        worker = json.loads(path.read_text())["worker"]
        return 0 if worker is None else int(worker["outbound"]["packets"])

    before = packets()
    assert field.lost_pings() == {}
    eventually("the counters move on", lambda: packets() > before, path.read_text)


def test_the_text_names_the_worker_and_its_pump(field: UdpField) -> None:
    done = field.call(1, "status", f"--subnet-file={field.folder(1)}/subnet.env")
    worker = field.worker(1)
    assert f"worker     pid {worker['pid']}, {worker['pump']} pump" in done.stdout
    assert "dropped: none" in done.stdout
    assert done.returncode == 0, done.stdout
