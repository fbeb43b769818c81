"""Packets between pods through real workers: all sizes, contents unchanged, in order; and what a worker may do."""

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from pathlib import Path

import pytest

from flanneld_py.dataplane.lane import MOST_LANES
from flanneld_py.lab.stream import run_stream
from tests.interop.cluster import echo
from tests.udp.overlay import CAPABILITIES, UdpField, descriptors, status_fields
from tests.udp.streams import CheckedStream

MEGABYTE = 1 << 20


def test_every_pod_reaches_every_pod_with_packets_of_all_sizes(field: UdpField) -> None:
    assert field.lost_pings() == {}
    places = field.endpoints()
    for source, target in permutations(places, 2):
        for size, fragments in ((28, False), (field.mtu(1), False), (field.mtu(1) + 1, True), (60000, True)):
            assert echo(places[source], places[target], size, fragments=fragments), (source, target, size)


@pytest.mark.parametrize("ends", [("pod1-1", "pod2-1"), ("pod2-1", "pod1-1")])
def test_a_tcp_stream_arrives_unchanged_and_travels_in_trains(field: UdpField, ends: tuple[str, str]) -> None:
    places = field.endpoints()
    before = {number: field.worker(number) for number in (1, 2)}
    drops = {number: field.drops(number) for number in (1, 2)}
    with CheckedStream(places[ends[0]], places[ends[1]]) as stream:
        stream.wait_for(100 * MEGABYTE)
        stream.finish()
    sender, receiver = (int(name[3]) for name in ends)
    for number, way in ((sender, "outbound"), (receiver, "inbound")):
        now, then = field.worker(number)[way], before[number][way]
        assert now["bytes"] - then["bytes"] > 100 * MEGABYTE
        assert now["trains"] > then["trains"]
        assert now["mean_train"] > 2
    assert {number: field.drops(number) for number in (1, 2)} == drops


def test_udp_stays_in_order(field: UdpField) -> None:
    places = field.endpoints()
    report = run_stream(places["pod1-1"], places["pod3-1"], protocol="udp", seconds=1.0)
    assert report.sent > 1000
    assert report.received_bytes > 0
    assert report.reordered == 0


def test_flows_stay_in_order_whichever_lanes_they_go_through(field: UdpField) -> None:
    places = field.endpoints()
    assert field.worker(1)["lanes"] == min(len(os.sched_getaffinity(0)), MOST_LANES)
    assert not field.worker(1)["by_sender"]  # the lab's nodes have veths
    with ThreadPoolExecutor(8) as pool:
        flows = [
            pool.submit(run_stream, places["pod1-1"], places["pod3-1"], protocol="udp", seconds=1.0) for _ in range(8)
        ]
    for report in (flow.result() for flow in flows):
        assert report.received_bytes > 0
        assert report.reordered == 0


def test_each_lane_has_a_processor_of_its_own(field: UdpField) -> None:
    pid = field.worker_process(1).pid
    allowed = os.sched_getaffinity(pid)
    pinned = [
        cpus
        for task in Path(f"/proc/{pid}/task").iterdir()
        if (cpus := os.sched_getaffinity(int(task.name))) != allowed
    ]
    assert len(allowed) == 1 or len(pinned) == len(set().union(*pinned)) == field.worker(1)["lanes"]


def test_the_worker_holds_no_privilege_and_nothing_but_what_it_needs(field: UdpField) -> None:
    pid = field.worker_process(1).pid
    threads = list(Path(f"/proc/{pid}/task").iterdir())
    assert len(threads) >= 2
    for thread in threads:
        status = status_fields(thread / "status")
        assert {status[name] for name in CAPABILITIES} == {"0000000000000000"}, thread
        assert status["NoNewPrivs"] == "1"
    kinds = [text for text in descriptors(pid) if not text.startswith(("anon_inode:", "pipe:"))]
    sockets = [text for text in kinds if text.startswith("socket:")]
    files = sorted(text for text in kinds if not text.startswith("socket:"))
    log = str(field.lab.directory.log(field.node(1).name))
    lanes = field.worker(1)["lanes"]
    assert files == sorted(["/dev/null", log, log, *["/dev/net/tun"] * lanes])
    # The listener, the daemon's connection, the strangers', each lane's, and the loop's pair to wake it up.
    assert len(sockets) <= 3 + lanes + 2
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"NODE_NAME" in Path(f"/proc/{field.daemon(1).pid}/environ").read_bytes()
    assert b"NODE_NAME" not in environment
    assert b"FLANNEL" not in environment


def test_the_worker_stays_small(field: UdpField) -> None:
    """After whatever the tests before have put through it."""
    status = status_fields(Path(f"/proc/{field.worker_process(1).pid}/status"))
    assert int(status["VmRSS"].split()[0]) <= 40 << 10


def test_packets_do_not_pass_the_daemon(field: UdpField) -> None:
    found = descriptors(field.daemon(1).pid)
    assert found
    assert "/dev/net/tun" not in found
    worker = set(descriptors(field.worker_process(1).pid))
    shared = {text for text in found if text.startswith("socket:")} & worker
    assert shared == set()
