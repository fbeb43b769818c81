"""A lab whose leases are in a real API server: what users see of it, and what it survives."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from itertools import count
from typing import Any

import pytest

from flanneld_py.cli import lab as cli
from flanneld_py.errors import LabError
from flanneld_py.lab import build, kubeobjects, process, report, servers, stores
from flanneld_py.lab.build import Lab
from flanneld_py.lab.kubernetes import API_SERVER, ControlPlane
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.topology import LabSpec, Stack, Store, Wiring
from flanneld_py.lab.traffic import endpoints, ping_matrix
from tests.interop.cluster import Cluster
from tests.waiting import eventually

NUMBERS = count(1)
PREFIX = "flannel.alpha.coreos.com/"
SPEC = LabSpec(pods=1, store=Store.KUBERNETES, wiring=Wiring.PLAIN)
RATE_HZ = 200
"""Of a probe."""
AWAY_S = float(os.environ.get("FLANNELD_API_AWAY_S") or 1.5)
"""How long the API server is away. `tests/run --cluster` has a whole minute."""


@pytest.fixture
def cluster(kubernetes_programs: None) -> Iterator[Cluster]:
    spec = replace(SPEC, name=f"kube{os.getpid()}-{next(NUMBERS)}")
    try:
        yield Cluster(spec)
    finally:
        build.down(spec.name, Silent())


def control_of(lab: Lab) -> ControlPlane:
    return ControlPlane(stores.site(lab.topology, lab.directory))


def complaints(cluster: Cluster) -> list[object]:
    """What each node says is wrong, in the order of the nodes; None: nothing is."""
    return [servers.read_status(cluster.lab.directory, node).get("error") for node in cluster.nodes]


def test_pods_answer_and_the_node_says_what_users_look_for(cluster: Cluster) -> None:
    cluster.wait_settled()
    assert cluster.lost_pings() == {}
    api = control_of(cluster.lab).api
    for node in cluster.nodes:
        shown = kubeobjects.read_node(api, node.name)
        written = {key.removeprefix(PREFIX): value for key, value in shown["metadata"]["annotations"].items()}
        assert written["kube-subnet-manager"] == "true"
        assert (written["backend-type"], written["public-ip"]) == ("vxlan", str(node.addresses[0].ip))
        assert json.loads(written["backend-data"]).keys() == {"VNI", "VtepMAC"}
        assert cluster.subnets(node.number) == kubeobjects.pod_networks_of(shown)
        said = {one["type"]: (one["status"], one["reason"]) for one in shown["status"]["conditions"]}
        assert said["NetworkUnavailable"] == ("False", "FlannelIsUp")


def test_nothing_is_lost_while_the_api_server_is_away(cluster: Cluster) -> None:
    cluster.wait_settled()
    control = control_of(cluster.lab)
    server = cluster.lab.record.processes[API_SERVER]
    with cluster.probe("pod1-1", "pod2-1") as probe:
        process.send(server, signal.SIGKILL)
        process.end([server])
        eventually(
            "all say that the API server does not answer", lambda: all(complaints(cluster)), lambda: complaints(cluster)
        )
        assert probe.wait_for(int(AWAY_S * RATE_HZ), AWAY_S + 20.0)
        cluster.lab.save(cluster.lab.record.with_process(API_SERVER, control.start(API_SERVER)))
        control.wait_for_api(Silent())
        eventually("nobody complains any more", lambda: not any(complaints(cluster)), lambda: complaints(cluster))
        found = probe.stop()
    assert (found.lost, found.unsent) == ((), ())
    assert found.sent > AWAY_S * RATE_HZ
    cluster.wait_settled()


def test_all_follow_a_node_that_comes_back_with_another_network(cluster: Cluster) -> None:
    cluster.wait_settled()
    api, node = control_of(cluster.lab).api, cluster.node(3)
    old, new = cluster.subnets(3), "10.244.200.0/24"

    def peers() -> list[dict[str, dict[str, Any]]]:
        return [cluster.routes(peer) for peer in (1, 2)]

    api.delete(f"/api/v1/nodes/{node.name}")
    eventually("nobody has a route to it", lambda: not any(set(old) & routes.keys() for routes in peers()), peers)
    kubeobjects.create_node(api, node.name, [one.ip for one in node.addresses], pod_networks=[ip_network(new)])
    eventually(f"both peers have a route to {new}", lambda: all(new in routes for routes in peers()), peers)
    eventually("its own subnet.env names it", lambda: cluster.subnets(3) == (new,), lambda: cluster.subnets(3))


def test_dual_stack_nodes_have_both_families(kubernetes_programs: None) -> None:
    spec = replace(SPEC, name=f"kube{os.getpid()}-{next(NUMBERS)}", stack=Stack.DUAL, nodes=2)
    with build.temporary(spec, Silent()) as lab:
        for version in (4, 6):
            matrix = ping_matrix(endpoints(lab.topology, lab.record.pods, version), timeout_s=5.0)
            assert len(matrix) == 2
            assert {pair: result.lost for pair, result in matrix.items() if result.lost} == {}


def test_commands_of_the_lab_know_the_api_server(
    cluster: Cluster, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, lab = cluster.spec.name, cluster.lab
    assert cli.run(["status", "--name", name, "-o", "json"]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert shown["kubernetes"].endswith(":6443 runs")
    assert [line.node for line in report.leases(lab)] == ["node1", "node2", "node3"]
    child = os.fork()
    if child == 0:
        # kubectl takes the place of the process that asks for it.
        cli.run(["kubectl", "--name", name, "get", "nodes", "-o", "name"])
        os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert capfd.readouterr().out.split() == ["node/node1", "node/node2", "node/node3"]


def test_without_kubernetes_it_says_what_to_build(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    spec = replace(SPEC, name=f"kube{os.getpid()}-{next(NUMBERS)}")
    with pytest.raises(LabError, match="there is no etcd, neither built nor on PATH") as caught:
        build.up(spec, Silent())
    assert caught.value.hint == "build it in a checkout: tests/kubernetes/build etcd"
