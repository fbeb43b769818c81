"""A node that is not there yet, or has no slice yet, is waited for; the reason stands where operators look."""

import asyncio
from typing import Any

import pytest

from flanneld_py.lab.kubernetes import CONTROLLERS
from flanneld_py.store.base import Condition
from tests.etcd.conftest import Reports, bad
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.stores import DUAL, Stores, ask, config, lease
from tests.waiting import eventually

DEADLINE_S = 60


@pytest.fixture
def without_controllers(cluster: Cluster) -> Cluster:
    cluster.control.stop(CONTROLLERS)
    return cluster


async def test_a_node_without_a_slice(without_controllers: Cluster, stores: Stores, reports: Reports) -> None:
    cluster = without_controllers
    cluster.add_node("n1")
    store = stores.make("n1", reports=reports, patience_s=0.05)
    waiting = asyncio.ensure_future(store.acquire(ask(1)))
    reason = await reports.until(bad("no podCIDR"))
    assert reason == Condition(
        False,
        "node n1 has no podCIDR",
        "kube-controller-manager needs --allocate-node-cidrs=true --cluster-cidr=10.244.0.0/16 (kubeadm: "
        "--pod-network-cidr=10.244.0.0/16); if it has them, its range is used up: look for CIDRNotAvailable in "
        "kubectl describe node n1",
    )
    await asyncio.to_thread(eventually, "an Event is written", lambda: cluster.events("n1"))
    (event,) = cluster.events("n1")
    assert (event["type"], event["reason"]) == ("Warning", "PodCIDRNotAssigned")
    assert "--allocate-node-cidrs=true --cluster-cidr=10.244.0.0/16" in event["message"]
    assert event["involvedObject"] == {
        "kind": "Node", "name": "n1", "apiVersion": "v1", "uid": cluster.node("n1")["metadata"]["uid"]
    }  # fmt: skip
    assert event["source"] == {"component": "flanneld", "host": "n1"}
    assert not waiting.done()
    cluster.control.start(CONTROLLERS)
    got = await asyncio.wait_for(waiting, DEADLINE_S)
    assert got.subnets and reports.seen[-1].ok


async def test_no_event_for_a_slice_that_comes_soon(cluster: Cluster, stores: Stores, reports: Reports) -> None:
    cluster.add_node("n1")
    await asyncio.wait_for(stores.make("n1", reports=reports).acquire(ask(1)), DEADLINE_S)
    assert cluster.events("n1") == []


async def test_a_family_is_missing(without_controllers: Cluster, stores: Stores, reports: Reports) -> None:
    cluster = without_controllers
    cluster.add_node("n1", pod_networks=["10.244.1.0/24"])
    waiting = asyncio.ensure_future(stores.make("n1", reports=reports).acquire(ask(1, config(**DUAL))))
    reason = await reports.until(bad("podCIDR"))
    assert reason.message == "node n1 has no podCIDR for IPv6, only 10.244.1.0/24"
    assert "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48" in reason.hint
    cluster.delete_node("n1")
    await reports.until(bad("is not in the Kubernetes API"))
    cidrs = ["10.244.1.0/24", "fd00:10:244:1::/64"]
    cluster.add_node("n1", pod_networks=cidrs)
    assert await asyncio.wait_for(waiting, DEADLINE_S) == lease(1, *cidrs, six=True)


async def test_a_node_that_is_not_registered(cluster: Cluster, stores: Stores, reports: Reports) -> None:
    waiting = asyncio.ensure_future(stores.make("n1", reports=reports).wishes())
    reason = await reports.until(bad("node n1 is not in the Kubernetes API"))
    assert "kubelet" in reason.hint and "NODE_NAME" in reason.hint
    cluster.add_node("n1")
    await asyncio.wait_for(waiting, DEADLINE_S)
    assert reports.seen[-1].ok


async def test_an_account_without_rights_is_waited_for(cluster: Cluster, stores: Stores, reports: Reports) -> None:
    """Manifests are applied in any order: the ClusterRole may come after the DaemonSet."""
    role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/flannel"
    rules: list[Any] = cluster.api.get(role)["rules"]
    cluster.add_node("n1", pod_networks=["10.244.1.0/24"])
    cluster.api.patch(role, {"rules": [rule for rule in rules if "nodes/status" not in rule["resources"]]})
    try:
        waiting = asyncio.ensure_future(stores.make("n1", reports=reports).acquire(ask(1)))
        reason = await reports.until(bad("forbids us to patch nodes/status of n1"))
        assert "nodes/status patch" in reason.hint
        assert cluster.token not in str(reports.seen)
    finally:
        cluster.api.patch(role, {"rules": rules})
    assert await asyncio.wait_for(waiting, DEADLINE_S) == lease(1, "10.244.1.0/24")
    assert reports.seen[-1].ok
