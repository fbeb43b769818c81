"""What other tests here take for granted: a control plane as in a real cluster, and the rights of our account."""

import json
import os
from ipaddress import ip_network
from pathlib import Path

import pytest

from flanneld_py.errors import LabError
from flanneld_py.lab import kubernetes, process
from flanneld_py.lab.kubeapi import STRATEGIC, Api, Refused
from flanneld_py.lab.kubernetes import API_SERVER, CONTROLLERS, ETCD
from flanneld_py.lab.namespaces import processes
from flanneld_py.model.net import inside
from tests.kubernetes.account import ask, watch
from tests.kubernetes.cluster import POD_NETWORKS, Cluster
from tests.kubernetes.conftest import BuildCluster
from tests.kubernetes.place import Place
from tests.waiting import eventually

CONDITION = {"type": "NetworkUnavailable", "status": "False", "reason": "FlannelIsUp", "message": "test"}


def test_the_controller_manager_gives_each_node_networks_of_both_families(cluster: Cluster) -> None:
    for name in ("a", "b"):
        cluster.add_node(name)
    chosen = [tuple(map(ip_network, cluster.pod_networks(name))) for name in ("a", "b")]
    four, six = map(ip_network, POD_NETWORKS)
    for v4, v6 in chosen:
        assert (v4.prefixlen, v6.prefixlen) == (24, 64)
        assert inside(v4, four) and inside(v6, six)
    assert chosen[0] != chosen[1]


def test_a_network_that_a_node_came_with_is_kept(cluster: Cluster) -> None:
    cluster.add_node("a", pod_networks=["10.244.77.0/24"])
    assert cluster.pod_networks("a") == ("10.244.77.0/24",)


def test_without_the_controller_manager_a_node_gets_no_network(cluster: Cluster) -> None:
    cluster.control.stop(CONTROLLERS)
    cluster.add_node("a")
    assert "podCIDR" not in cluster.node("a")["spec"]
    cluster.control.start(CONTROLLERS)
    assert cluster.pod_networks("a")


@pytest.mark.parametrize(
    ("method", "path", "kind", "body", "status"),
    [
        ("GET", "/api/v1/nodes/a", "", None, 200),
        ("GET", "/api/v1/nodes?limit=1", "", None, 200),
        ("PATCH", "/api/v1/nodes/a/status", "merge", {"metadata": {"annotations": {"t/x": "1"}}}, 200),
        ("PATCH", "/api/v1/nodes/a/status", "strategic-merge", {"status": {"conditions": [CONDITION]}}, 200),
        ("PATCH", "/api/v1/nodes/a", "merge", {"metadata": {"annotations": {"t/x": "1"}}}, 403),
        ("DELETE", "/api/v1/nodes/a", "", None, 403),
        ("GET", "/api/v1/secrets", "", None, 403),
        ("GET", "/api/v1/pods", "", None, 403),
        ("GET", "/api/v1/namespaces/default/pods/none", "", None, 403),
        ("GET", "/api/v1/namespaces/kube-flannel/pods/none", "", None, 404),
    ],
)
def test_the_daemons_account_may_do_what_the_manifests_grant(
    cluster: Cluster, method: str, path: str, kind: str, body: dict[str, object] | None, status: int
) -> None:
    cluster.add_node("a")
    answer = ask(cluster, method, path, body, kind=f"application/{kind}-patch+json")
    assert answer.status == status, answer.text


def test_a_watch_that_begins_with_the_state_marks_its_end(cluster: Cluster) -> None:
    cluster.add_node("a")
    query = "watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    with watch(cluster, f"/api/v1/nodes?{query}") as lines:
        assert next(lines)["type"] == "ADDED"
        bookmark = next(lines)
    assert bookmark["type"] == "BOOKMARK"
    assert bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true"


def test_a_version_that_etcd_has_forgotten_is_gone(cluster: Cluster) -> None:
    cluster.add_node("a")
    old = cluster.node("a")["metadata"]["resourceVersion"]
    for value in "xyz":
        cluster.annotate("a", **{"t/x": value})
    cluster.control.stop(API_SERVER)
    cluster.compact()
    cluster.start_api_server()
    with watch(cluster, f"/api/v1/nodes?watch=1&resourceVersion={old}") as lines:
        event = next(lines)
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)


def test_a_stopped_api_server_comes_back_with_what_it_had(cluster: Cluster) -> None:
    cluster.add_node("a")
    networks = cluster.pod_networks("a")
    cluster.control.stop(API_SERVER)
    assert not cluster.api.ready()
    cluster.start_api_server()
    assert cluster.pod_networks("a") == networks


@pytest.mark.parametrize("failing", ["the certificates", ETCD, API_SERVER, CONTROLLERS])
def test_nothing_is_left_of_one_that_did_not_come_up(
    kubernetes_programs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    find = kubernetes.find_program

    def find_or_fail(name: str) -> str:
        if name == failing:
            raise LabError("this one is missing")
        return find(name)

    monkeypatch.setattr(kubernetes, "find_program", find_or_fail)
    if failing == "the certificates":
        (tmp_path / "kubernetes").mkdir()
        (tmp_path / "kubernetes/pki").write_text("in their way")
    place = Place(tmp_path, f"half{os.getpid()}")
    try:
        with pytest.raises((LabError, OSError)):
            place.up()
        assert Path("/run/netns", place.namespace).exists()
        left = [kept for pid in processes([place.namespace]) if (kept := process.find(pid)) is not None]
    finally:
        place.down()
    assert not Path("/run/netns", place.namespace).exists()
    assert not any(map(process.alive, left))


def test_a_cluster_of_one_family(cluster_of: BuildCluster) -> None:
    cluster = cluster_of("10.60.0.0/16")
    cluster.add_node("a")
    (network,) = cluster.pod_networks("a")
    assert inside(ip_network(network), ip_network("10.60.0.0/16"))


def test_a_refusal_names_the_request_and_the_reason(cluster: Cluster) -> None:
    with pytest.raises(Refused, match=r'refused GET /api/v1/nodes/none: 404 nodes "none" not found') as caught:
        cluster.node("none")
    assert caught.value.status == 404


def test_the_kubeconfig_is_for_its_owner_alone_and_holds_what_it_needs(cluster: Cluster) -> None:
    config = json.loads(cluster.kubeconfig.read_text())
    assert cluster.kubeconfig.stat().st_mode & 0o777 == 0o600
    assert config["users"][0]["user"] == {"token": cluster.token}
    assert config["clusters"][0]["cluster"]["server"] == cluster.url
    assert isinstance(cluster.api, Api)
    assert STRATEGIC.endswith("+json")
    eventually("the API server is ready", cluster.api.ready)
