"""One node changes from the real flannel to ours and back, under traffic, with its pods staying where they are."""

from contextlib import ExitStack

import pytest

from tests.interop.cluster import OURS, Cluster
from tests.interop.conftest import BACKENDS, BuildCluster
from tests.waiting import eventually

ARRIVALS = 50
"""Echo replies to wait for after each change: a quarter of a second of the probe's traffic."""


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_packet_is_lost_from_go_to_ours_to_go(cluster_of: BuildCluster, backend: str) -> None:
    cluster = cluster_of(backend, (1, 2))
    cluster.wait_settled()
    subnets = cluster.subnets(1)
    probes = {
        f"IPv{version} from {source} to {target}": cluster.probe(source, target, version)
        for version in cluster.versions
        for source, target in (("pod2-1", "pod1-1"), ("pod3-1", "pod1-1"), ("pod1-1", "pod3-1"))
    }
    with ExitStack() as running:
        for probe in probes.values():
            running.enter_context(probe)
        for go in (False, True, False):
            cluster.stop(1)
            cluster.start(1, go=go)
            cluster.wait_settled()
            assert cluster.subnets(1) == subnets
            for name, probe in probes.items():
                assert probe.wait_for(ARRIVALS, 10.0), f"nothing comes back any more: {name}, Go: {go}"
        reports = {name: probe.stop() for name, probe in probes.items()}
    lost = {name: (report.lost, report.unsent) for name, report in reports.items() if report.lost or report.unsent}
    assert lost == {}
    assert all(report.sent > 3 * ARRIVALS for report in reports.values())


def leave_dead_peer(cluster: Cluster, number: int, backend: str) -> str:
    """Put into the kernel what Go flannel leaves of a peer that went away while no daemon ran; its subnet."""
    subnet = "10.244.252.0/24"
    if backend.startswith("host-gw"):
        cluster.ip(number, "route", "add", subnet, "via", "172.18.1.99", "dev", "eth0")
        return subnet
    mac, gateway = "02:00:00:00:00:99", subnet.removesuffix("/24")
    cluster.ip(number, "neigh", "add", gateway, "lladdr", mac, "dev", "flannel.1", "nud", "permanent")
    cluster.ip(number, "fdb", "add", mac, "dev", "flannel.1", "dst", "172.18.1.99", tool="bridge")
    cluster.ip(number, "route", "add", subnet, "via", gateway, "dev", "flannel.1", "onlink")
    return subnet


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_go_left_is_taken_over_and_nothing_stale_stays(cluster_of: BuildCluster, backend: str) -> None:
    cluster = cluster_of(backend, (1, 2))
    cluster.wait_settled()
    cluster.stop(1)
    dead = leave_dead_peer(cluster, 1, backend)
    assert dead in cluster.routes(1)
    cluster.start(1, go=False)
    eventually("the dead peer's route is gone, the others are marked as ours", lambda: cluster.settled(1))
    assert {str(route["protocol"]) for route in cluster.routes(1).values()} == {OURS}
    if not backend.startswith("host-gw"):
        peers = {"vxlan": 2, "vxlan-dual": 2, "vxlan-direct": 1}[backend]
        eventually(
            "the dead peer's neighbour and forwarding entries are gone",
            lambda: (
                len(cluster.ip(1, "neigh", "show", "dev", "flannel.1", "nud", "permanent"))
                == len(cluster.ip(1, "fdb", "show", "dev", "flannel.1", tool="bridge"))
                == peers
            ),
        )
    assert cluster.lost_pings() == {}


def test_foreign_routes_in_the_network_are_left_alone(cluster_of: BuildCluster) -> None:
    """A route of another protocol through another device is somebody else's, however dead it looks."""
    cluster = cluster_of("vxlan", (1,))
    cluster.wait_settled()
    cluster.stop(1)
    cluster.ip(1, "route", "add", "10.244.253.0/24", "via", "172.18.1.1", "dev", "eth0", "proto", "static")
    cluster.start(1, go=False)
    eventually("the peers' routes are marked as ours", lambda: cluster.routes(1).keys() > cluster.peers(1))
    assert str(cluster.routes(1)["10.244.253.0/24"]["protocol"]) == "static"


def test_reservations_stay_as_they_are(cluster_of: BuildCluster) -> None:
    """A key without an etcd lease: of a node that never came, and of our own node (which Go flannel would undo)."""
    cluster = cluster_of("vxlan", (1, 2))
    cluster.wait_settled()
    backend = '"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:77"}'
    absent = f'{{"PublicIP":"172.18.1.77","PublicIPv6":null,{backend}}}'
    cluster.put_reservation("10.244.251.0-24", absent)
    cluster.stop(3)
    key = cluster.lease_key(3)
    cluster.put_reservation(key, cluster.leases()[key].value)
    cluster.start(3, go=False)
    cluster.stop(1)
    cluster.start(1, go=False)
    leases = cluster.leases()
    assert (leases["10.244.251.0-24"].value, leases["10.244.251.0-24"].lease) == (absent, 0)
    assert leases[key].lease == 0
    assert cluster.lease_key(3) == key
