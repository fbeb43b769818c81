"""Clusters in which some nodes run the real flannel and some run ours: neither kind may notice."""

import json
from itertools import permutations

import pytest

from tests.interop.cluster import BOOT, OURS, Cluster, echo
from tests.interop.conftest import BACKENDS, BuildCluster
from tests.waiting import eventually

MIXES = [(2,), (1, 3)]
"""The numbers of the nodes that run the real flannel. Nodes 1 and 2 share a link in the routed underlay."""


def check_traffic(cluster: Cluster) -> None:
    """Small packets, the biggest that fit everywhere as a whole, and fragmented ones, from each pod to each other.

    Not fragmented where a Go node's MTU is bigger than ours: it is 20 bytes too big for VXLAN over IPv6, and what
    Go flannel's pods send at their full MTU is lost then.
    """
    assert cluster.lost_pings() == {}
    mtus = {cluster.mtu(node.number) for node in cluster.nodes}
    sizes = [(min(mtus), False)] + [(4000, True)] * (len(mtus) == 1)
    for version in cluster.versions:
        places = cluster.endpoints(version)
        for source, target in permutations(places, 2):
            for size, fragments in sizes:
                came_back = echo(places[source], places[target], size, fragments=fragments)
                assert came_back, f"{source} to {target}, IPv{version}: {size} bytes"


@pytest.mark.parametrize("go_nodes", MIXES, ids=lambda nodes: f"{len(nodes)}-of-3-go")
@pytest.mark.parametrize("backend", BACKENDS)
def test_pods_of_both_kinds_of_node_reach_each_other(
    cluster_of: BuildCluster, backend: str, go_nodes: tuple[int, ...]
) -> None:
    cluster = cluster_of(backend, go_nodes)
    cluster.wait_settled()
    check_traffic(cluster)


@pytest.mark.parametrize("backend", BACKENDS)
def test_both_kinds_publish_the_same_lease_and_choose_the_same_routes(cluster_of: BuildCluster, backend: str) -> None:
    cluster = cluster_of(backend, (2,))
    cluster.wait_settled()
    leases = {n: cluster.leases()[cluster.lease_key(n)] for n in (1, 2)}
    ours, theirs = (json.loads(leases[n].value) for n in (1, 2))
    assert list(ours) == list(theirs)
    assert {name: type(value) for name, value in ours.items()} == {name: type(value) for name, value in theirs.items()}
    assert ours["BackendType"] == theirs["BackendType"]
    assert list(ours.get("BackendData", {})) == list(theirs.get("BackendData", {}))
    assert leases[1].lease and leases[2].lease

    def shape(number: int, peer: int) -> list[tuple[object, ...]]:
        routes = [cluster.routes(number)[subnet] for subnet in cluster.subnets(peer)]
        via = {subnet.split("/")[0]: "subnet" for subnet in cluster.subnets(peer)}
        via |= {str(address.ip): "node" for address in cluster.node(peer).addresses}
        return [
            (via[route["gateway"]], route["dev"], route["flags"], route.get("metric"), route["scope"])
            for route in routes
        ]

    assert shape(1, 3) == shape(2, 3)
    assert shape(1, 2) == shape(2, 1)
    # Over an IPv6 underlay VXLAN needs 70 bytes; Go flannel leaves out 50 only.
    assert cluster.mtu(2) - cluster.mtu(1) == (20 if backend == "vxlan-dual" else 0)


@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
def test_a_node_that_leaves_is_forgotten_by_both_kinds(cluster_of: BuildCluster, backend: str) -> None:
    cluster = cluster_of(backend, (2,))
    cluster.wait_settled()
    gone = cluster.lease_key(3)
    cluster.stop(3)
    cluster.delete_lease(gone)
    left = [{*cluster.subnets(2)}, {*cluster.subnets(1)}]
    eventually(f"both have forgotten {gone}", lambda: [{*cluster.routes(number)} for number in (1, 2)] == left)
    assert {str(route["protocol"]) for route in cluster.routes(1).values()} == {OURS}
    assert {str(route["protocol"]) for route in cluster.routes(2).values()} == {BOOT}
    if backend == "vxlan":
        for number in (1, 2):
            assert len(cluster.ip(number, "neigh", "show", "dev", "flannel.1", "nud", "permanent")) == 1
            assert len(cluster.ip(number, "fdb", "show", "dev", "flannel.1", tool="bridge")) == 1
