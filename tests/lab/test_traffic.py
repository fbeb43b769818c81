import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pyroute2 import IPRoute

from flanneld_py.lab import path, process
from flanneld_py.lab.build import Lab
from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.path import trace
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.stream import run_stream
from flanneld_py.lab.topology import Node
from flanneld_py.lab.traffic import Endpoint, Probe, endpoints, ping_matrix
from flanneld_py.lab.view import complete


def places(lab: Lab) -> dict[str, Endpoint]:
    return {place.name: place for place in endpoints(lab.topology, lab.record.pods, 4)}


@contextmanager
def cut(lab: Lab, node: Node) -> Iterator[None]:
    """The node's cable is out: its port at the router is down."""

    def set_port(state: str) -> None:
        with IPRoute() as ipr:
            ipr.link("set", index=ipr.link_lookup(ifname=node.port)[0], state=state)

    inside(lab.topology.router, lambda: set_port("down"))
    try:
        yield
    finally:
        inside(lab.topology.router, lambda: set_port("up"))


def test_matrix_shows_who_cannot_be_reached(lab: Lab) -> None:
    everyone = tuple(places(lab).values())
    with cut(lab, lab.topology.nodes[2]):
        matrix = ping_matrix(everyone, count=1, timeout_s=3.0)
    lost = {pair for pair, result in matrix.items() if result.lost}
    assert lost == {pair for pair in matrix if (pair[0][:4] == "pod3") != (pair[1][:4] == "pod3")}


def test_matrix_counts_and_times(lab: Lab) -> None:
    begin = time.monotonic()
    matrix = ping_matrix(tuple(places(lab).values()), count=2)
    elapsed_s = time.monotonic() - begin
    assert len(matrix) == 30
    assert complete(matrix)
    assert all(len(result.rtts_s) == 2 and 0 < min(result.rtts_s) < elapsed_s for result in matrix.values())


def test_matrix_of_one_or_none_is_empty(lab: Lab) -> None:
    assert ping_matrix((places(lab)["pod1-1"],)) == {}
    assert ping_matrix(()) == {}


def test_probe_counts_what_is_lost_while_a_cable_is_out(lab: Lab) -> None:
    source, target = places(lab)["pod1-1"], places(lab)["pod3-1"]
    with Probe(source, target.address) as probe:
        assert probe.wait_for(20, timeout_s=20)
        with cut(lab, lab.topology.nodes[2]):
            # Longer than the router keeps what it has no neighbour for.
            assert not probe.wait_for(300, timeout_s=1.5)
        assert probe.wait_for(20, timeout_s=20)
        report = probe.stop()
    assert report.lost
    assert list(report.lost) == list(range(report.lost[0], report.lost[-1] + 1))
    assert len(report.arrived) + len(report.lost) == report.sent
    # Not their order: what the router kept while it looked for its neighbour again may be overtaken by what comes then.
    assert report.duplicates == 0
    assert report.longest_gap_s > 0.2


@pytest.mark.parametrize("hard", [False, True])
def test_nothing_is_lost_while_a_daemon_restarts(lab: Lab, hard: bool) -> None:
    source, target = places(lab)["pod1-1"], places(lab)["pod3-2"]
    node = lab.topology.nodes[0]
    before = lab.record.processes[node.name]
    with Probe(source, target.address) as probe:
        assert probe.wait_for(20, timeout_s=20)
        assert lab.stop_daemon(node, hard=hard)
        assert not lab.stop_daemon(node, hard=hard)
        assert probe.wait_for(50, timeout_s=20)
        lab.start_daemon(node, Silent())
        assert probe.wait_for(50, timeout_s=20)
        report = probe.stop()
    assert lab.record.processes[node.name] != before
    assert (report.lost, report.unsent, report.duplicates, report.reordered) == ((), (), 0, 0)
    assert complete(ping_matrix(tuple(places(lab).values()), count=1))


def test_probe_notes_what_the_kernel_refuses_to_send(lab: Lab) -> None:
    source = places(lab)["pod1-1"]

    def blackhole(verb: str) -> None:
        with IPRoute() as ipr:
            ipr.route(verb, dst="203.0.113.1/32", type="blackhole")

    inside(source.namespace, lambda: blackhole("add"))
    try:
        with Probe(source, places(lab)["pod2-1"].address) as good:
            nowhere = good._target.__class__("203.0.113.1")
            with Probe(source, nowhere) as bad:
                assert good.wait_for(20, timeout_s=20)
                report = bad.stop(linger_s=0)
    finally:
        inside(source.namespace, lambda: blackhole("del"))
    assert report.sent > 0
    assert len(report.unsent) == report.sent
    assert report.arrived == ()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_stream_reports_what_arrived(lab: Lab, protocol: str) -> None:
    report = run_stream(places(lab)["pod1-1"], places(lab)["pod3-1"], protocol=protocol, seconds=0.3)
    assert report.received_bytes > 100_000
    assert report.bits_per_second > 0
    if protocol == "udp":
        assert report.sent * 1200 >= report.received_bytes
        assert report.received_bytes == (report.sent - report.lost) * 1200


def test_path_through_the_tunnel_and_past_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path, "_SETTLE_S", 1.0)
    topology = lab.topology
    ends = {pod.name: (pod, places(lab)[pod.name]) for pod in topology.pods}
    far = trace(topology, ends["pod1-1"], ends["pod3-1"])
    assert far.answered
    seen = [(hop.place, hop.frame.device) for hop in far.hops]
    assert seen[0] == ("pod1-1", "eth0")
    assert seen[-1] == ("pod3-1", "eth0")
    for one in [("node1", "flannel.1"), ("node1", "eth0"), ("router", "link1"), ("router", "link2")]:
        assert one in seen
    wrapped = [hop.frame.packet.inner is not None for hop in far.hops if hop.frame.device == "eth0"]
    assert wrapped == [False, True, True, False]
    assert [hop.frame.at_ns for hop in far.hops] == sorted(hop.frame.at_ns for hop in far.hops)

    near = trace(topology, ends["pod1-1"], ends["pod2-1"])
    assert near.answered
    assert "flannel.1" not in [hop.frame.device for hop in near.hops]
    assert all(hop.frame.packet.inner is None for hop in near.hops)


def test_path_to_a_node_that_is_cut_off_ends_where_it_ends(lab: Lab) -> None:
    ends = {pod.name: (pod, places(lab)[pod.name]) for pod in lab.topology.pods}
    with cut(lab, lab.topology.nodes[2]):
        path = trace(lab.topology, ends["pod1-1"], ends["pod3-1"])
    assert not path.answered
    assert "pod3-1" not in [hop.place for hop in path.hops]
    assert ("node1", "eth0") in [(hop.place, hop.frame.device) for hop in path.hops]


def test_a_daemon_that_was_killed_is_known_to_be_gone(lab: Lab) -> None:
    node = lab.topology.nodes[1]
    daemon = lab.record.processes[node.name]
    process.send(daemon, signal.SIGKILL)
    assert process.wait(daemon, 10)
    assert not process.alive(daemon)
    lab.start_daemon(node, Silent())
    assert process.alive(lab.record.processes[node.name])
