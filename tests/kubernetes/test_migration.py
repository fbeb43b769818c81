"""A cluster of Go flannel becomes one of ours and goes back, node by node, with pods that stay connected."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from itertools import count

import pytest

from flanneld_py.lab import build, stores
from flanneld_py.lab.kubernetes import ControlPlane
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.topology import LabSpec, Stack, Store, Underlay, Wiring
from tests.interop.cluster import Cluster
from tests.interop.conftest import go_flannel
from tests.waiting import eventually

__all__ = ["go_flannel"]

NUMBERS = count(1)
PREFIX = "flannel.alpha.coreos.com/"
ARRIVALS = 50
"""Echo replies to wait for after each change: a quarter of a second of the probe's traffic."""
_SPEC = LabSpec(pods=1, store=Store.KUBERNETES, wiring=Wiring.PLAIN)
SPECS = {
    "vxlan": replace(_SPEC, underlay=Underlay.ROUTED),
    "vxlan-direct": replace(_SPEC, underlay=Underlay.ROUTED, backend_options=(("DirectRouting", True),)),
    "vxlan-dual": replace(_SPEC, stack=Stack.DUAL),
    "host-gw": replace(_SPEC, backend="host-gw"),
    "host-gw-dual": replace(_SPEC, backend="host-gw", stack=Stack.DUAL),
    "udp": replace(_SPEC, backend="udp"),
}
LOSSLESS = ("vxlan", "vxlan-direct", "vxlan-dual", "host-gw", "host-gw-dual")
"""Go flannel's udp daemon takes its TUN device along when it ends."""

BuildCluster = Callable[[str, tuple[int, ...]], Cluster]


@pytest.fixture
def cluster_of(kubernetes_programs: None, go_flannel: str) -> Iterator[BuildCluster]:
    """A function that builds a cluster of three nodes with a pod each; all are removed at the end."""
    specs: list[LabSpec] = []

    def up(kind: str, go_nodes: tuple[int, ...]) -> Cluster:
        name = f"migrate{os.getpid()}-{next(NUMBERS)}"
        specs.append(replace(SPECS[kind], name=name, go_nodes=go_nodes, go_binary=go_flannel))
        return Cluster(specs[-1])

    yield up
    for spec in specs:
        build.down(spec.name, Silent())


def settle(cluster: Cluster) -> None:
    """Wait until all pods answer and, where a peer has a route of its own, until there are these routes only."""
    if cluster.spec.backend != "udp":
        cluster.wait_settled()
    eventually("all pods answer", lambda: cluster.lost_pings() == {}, cluster.lost_pings)


def annotations(cluster: Cluster) -> Mapping[str, Mapping[str, str]]:
    """By node, what a flanneld has written, whichever."""
    api = ControlPlane(stores.site(cluster.lab.topology, cluster.lab.directory)).api
    return {
        node["metadata"]["name"]: {
            key: value for key, value in node["metadata"]["annotations"].items() if key.startswith(PREFIX)
        }
        for node in api.get("/api/v1/nodes")["items"]
    }


def condition(cluster: Cluster, name: str) -> Mapping[str, str]:
    api = ControlPlane(stores.site(cluster.lab.topology, cluster.lab.directory)).api
    found = api.get(f"/api/v1/nodes/{name}")["status"]["conditions"]
    return next((one for one in found if one["type"] == "NetworkUnavailable"), {})


@pytest.mark.parametrize("kind", LOSSLESS)
def test_node_by_node_and_back_no_packet_is_lost(cluster_of: BuildCluster, kind: str) -> None:
    cluster = cluster_of(kind, (1, 2, 3))
    cluster.wait_settled()
    before, subnets = annotations(cluster), [cluster.subnets(number) for number in (1, 2, 3)]
    probes = {
        f"IPv{version} from {source} to {target}": cluster.probe(source, target, version)
        for version in cluster.versions
        for source, target in (("pod2-1", "pod1-1"), ("pod3-1", "pod2-1"), ("pod1-1", "pod3-1"))
    }
    with ExitStack() as running:
        for probe in probes.values():
            running.enter_context(probe)
        for go in (False, True):
            for number in (1, 2, 3):
                cluster.stop(number)
                cluster.start(number, go=go)
                cluster.wait_settled()
                for name, probe in probes.items():
                    assert probe.wait_for(ARRIVALS, 10.0), f"nothing comes back any more: {name}, Go: {go}"
            assert [cluster.subnets(number) for number in (1, 2, 3)] == subnets
        reports = {name: probe.stop() for name, probe in probes.items()}
    lost = {name: (report.lost, report.unsent) for name, report in reports.items() if report.lost or report.unsent}
    assert lost == {}
    assert all(report.sent > 6 * ARRIVALS for report in reports.values())
    assert annotations(cluster) == before


@pytest.mark.parametrize("kind", SPECS)
def test_what_we_write_into_a_node_is_what_go_flannel_wrote(cluster_of: BuildCluster, kind: str) -> None:
    """Byte for byte, and without a trace of the other one; what is ours alone is in keys of its own."""
    cluster = cluster_of(kind, (1, 2))
    settle(cluster)
    theirs = annotations(cluster)["node1"]
    assert theirs[f"{PREFIX}kube-subnet-manager"] == "true"
    cluster.stop(1)
    cluster.start(1, go=False)
    settle(cluster)
    ours = annotations(cluster)["node1"]
    if cluster.spec.backend == "udp":
        # Go flannel leaves its port to guesswork; ours says which it is, where Go flannel reads nothing.
        theirs = {key: value for key, value in theirs.items() if key != f"{PREFIX}backend-data"}
    assert {key: ours.get(key) for key in theirs} == theirs
    eventually(
        "the node's network is said to be available", lambda: condition(cluster, "node1").get("status") == "False"
    )
    assert condition(cluster, "node1")["reason"] == "FlannelIsUp"


@pytest.mark.parametrize("go_nodes", [(1,), (2, 3)], ids=["one-go", "two-go"])
def test_udp_nodes_of_both_kinds_reach_each_other(cluster_of: BuildCluster, go_nodes: tuple[int, ...]) -> None:
    cluster = cluster_of("udp", go_nodes)
    settle(cluster)
