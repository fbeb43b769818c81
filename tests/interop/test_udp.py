"""Clusters with the udp backend in which some nodes run the real flannel: neither kind may notice."""

import json
import socket
from contextlib import closing
from itertools import permutations

import pytest

from flanneld_py.lab import traffic
from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.stream import run_stream
from flanneld_py.lab.topology import Stack, Underlay
from tests.daemon.field import call
from tests.interop.cluster import Cluster, echo
from tests.interop.conftest import BACKENDS, BuildCluster
from tests.waiting import eventually

MIXES = [(2,), (1, 3)]


@pytest.fixture(autouse=True)
def backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "udp", ("udp", (), Underlay.ROUTED, Stack.IPV4))
    monkeypatch.setitem(BACKENDS, "udp-9000", ("udp", (("Port", 9000),), Underlay.L2, Stack.IPV4))


def reach_all(cluster: Cluster) -> None:
    places = tuple(cluster.endpoints().values())

    def answered() -> bool:
        return not any(result.lost for result in traffic.ping_matrix(places, count=1, timeout_s=0.3).values())

    eventually("the pods reach each other", answered, cluster.lost_pings)


def check_traffic(cluster: Cluster) -> None:
    assert cluster.lost_pings() == {}
    mtus = {cluster.mtu(node.number) for node in cluster.nodes}
    assert mtus == {1472}
    places = cluster.endpoints()
    for source, target in permutations(places, 2):
        for size, fragments in ((1472, False), (1473, True), (20000, True)):
            assert echo(places[source], places[target], size, fragments=fragments), (source, target, size)
        report = run_stream(places[source], places[target], seconds=0.3)
        assert report.received_bytes > 100_000, (source, target)


@pytest.mark.parametrize("go_nodes", MIXES, ids=lambda nodes: f"{len(nodes)}-of-3-go")
def test_pods_of_both_kinds_of_node_reach_each_other(cluster_of: BuildCluster, go_nodes: tuple[int, ...]) -> None:
    cluster = cluster_of("udp", go_nodes)
    reach_all(cluster)
    check_traffic(cluster)
    go, ours = go_nodes[0], next(n for n in (1, 2, 3) if n not in go_nodes)
    leases = {n: json.loads(cluster.leases()[cluster.lease_key(n)].value) for n in (go, ours)}
    theirs, our_own = leases[go], leases[ours]
    assert our_own.keys() - theirs.keys() <= {"BackendData"}
    assert {name: type(value) for name, value in theirs.items() if name != "BackendData"}.items() <= {
        name: type(value) for name, value in our_own.items()
    }.items()


@pytest.mark.parametrize("port", ["udp", "udp-9000"])
def test_a_go_node_that_is_restarted_is_reached_again(cluster_of: BuildCluster, port: str) -> None:
    """With a port of its own: what Go flannel does not publish is taken to be ours."""
    cluster = cluster_of(port, (2,))
    reach_all(cluster)
    cluster.stop(2)
    cluster.start(2, go=True)
    reach_all(cluster)
    check_traffic(cluster)


def hops(cluster: Cluster, source: str, target: str) -> list[str]:
    """Who answers as the time to live grows, up to the target: addresses, "" where nobody does."""
    places = cluster.endpoints()
    found: list[str] = []
    for ttl in range(1, 8):
        answer = probe_hop(places[source].namespace, str(places[target].address), ttl)
        found.append(answer)
        if answer == str(places[target].address):
            return found
    return found


def probe_hop(namespace: str, target: str, ttl: int) -> str:
    """The sender of the ICMP message that one UDP packet with that time to live brings back."""

    def opened() -> tuple[socket.socket, socket.socket]:
        return (
            socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        )

    icmp, sender = inside(namespace, opened)
    with closing(icmp), closing(sender):
        icmp.settimeout(1.0)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        sender.sendto(b"hop", (target, 33434 + ttl))
        while True:
            try:
                data, (address, _) = icmp.recvfrom(2048)
            except TimeoutError:
                return ""
            size = (data[0] & 15) * 4
            if data[size] in (3, 11) and data[size + 8 + 16 : size + 8 + 20] == socket.inet_aton(target):
                return str(address)


def test_a_traceroute_shows_the_same_way_as_between_go_nodes(cluster_of: BuildCluster) -> None:
    """Each data path on the way takes one from the time to live, and says so where it was the last."""
    cluster = cluster_of("udp", (1, 2))
    reach_all(cluster)
    between = {pair: hops(cluster, *pair) for pair in permutations(cluster.endpoints(), 2)}
    lengths = {pair: len(found) for pair, found in between.items()}
    assert len(set(lengths.values())) == 1, between
    for pair, found in between.items():
        assert found[-1] == str(cluster.endpoints()[pair[1]].address), (pair, found)
    own = {number: str(cluster.subnets(number)[0]).split("/")[0] for number in (1, 2, 3)}
    ours = between["pod3-1", "pod1-1"]
    assert own[3] in ours, (ours, own)


def test_from_go_to_ours_to_go_on_one_node(cluster_of: BuildCluster) -> None:
    """The order in the documentation: stop ours, `flanneld cleanup` (or wait a minute), start the other."""
    cluster = cluster_of("udp", (1, 2))
    reach_all(cluster)
    subnets = cluster.subnets(1)
    cluster.stop(1)
    cluster.start(1, go=False)
    assert cluster.subnets(1) == subnets
    reach_all(cluster)
    cluster.stop(1)
    assert cluster.lost_pings() == {}, "the worker carries on without the daemon"
    folder = cluster.lab.directory.node(cluster.node(1).name)
    done = call(cluster.node(1).namespace, "cleanup", f"--subnet-file={folder}/subnet.env")
    assert done.returncode == 0, done.stderr
    cluster.start(1, go=True)
    assert cluster.subnets(1) == subnets
    reach_all(cluster)
    devices = {one["ifname"] for one in cluster.ip(1, "link", "show")}
    assert {name for name in devices if name.startswith("flannel")} == {"flannel0"}
