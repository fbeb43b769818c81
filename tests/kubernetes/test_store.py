"""Leases in a real Kubernetes API: what is written, what is read, and that changes come as they happen."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import pytest

from flanneld_py.errors import StoreError
from flanneld_py.lab import kubeobjects
from flanneld_py.model.lease import Changed, Gone, Lease, LeaseAttrs, LeaseMessage, Snapshot
from flanneld_py.store.base import PublicWishes
from flanneld_py.store.kube_own import NodeRef
from tests.etcd.conftest import Reports
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.proxy import FaultProxy
from tests.kubernetes.stores import DUAL, PREFIX, Stores, ask, attrs, config, go_annotations, lease, vtep

DEADLINE_S = 20


async def told(messages: AsyncGenerator[LeaseMessage, None]) -> LeaseMessage:
    async with asyncio.timeout(DEADLINE_S):
        return await anext(messages)


def ours(cluster: Cluster, name: str, prefix: str = PREFIX) -> dict[str, str]:
    found = cluster.annotations(name)
    return {key.removeprefix(prefix): text for key, text in found.items() if key.startswith(prefix)}


async def test_annotations_are_those_of_flannel(cluster: Cluster, stores: Stores) -> None:
    cluster.add_node("n1", pod_networks=["10.244.1.0/24"])
    got = await stores.make("n1").acquire(ask(1))
    assert got == lease(1, "10.244.1.0/24")
    assert (got.expires, got.reserved) == (None, False)
    assert ours(cluster, "n1") == {
        "kube-subnet-manager": "true",
        "backend-type": "vxlan",
        "backend-data": '{"VNI":1,"VtepMAC":"0a:00:00:00:00:01"}',
        "public-ip": "192.0.2.1",
    }


async def test_dual_stack(cluster: Cluster, stores: Stores) -> None:
    cluster.add_node("n1", pod_networks=["10.244.1.0/24", "fd00:10:244:1::/64"])
    got = await stores.make("n1").acquire(ask(1, config(**DUAL)))
    assert got == lease(1, "10.244.1.0/24", "fd00:10:244:1::/64", six=True)
    assert ours(cluster, "n1") == {
        "kube-subnet-manager": "true",
        "backend-type": "vxlan",
        "backend-data": '{"VNI":1,"VtepMAC":"0a:00:00:00:00:01"}',
        "public-ip": "192.0.2.1",
        "backend-v6-data": '{"VNI":1,"VtepMAC":"0a:00:00:00:00:65"}',
        "public-ipv6": "fd00::1",
    }


async def test_what_is_of_another_backend_or_family_is_taken_away(cluster: Cluster, stores: Stores) -> None:
    """Go flannel leaves the IPv6 data of an earlier configuration on the node for good."""
    cluster.add_node("n1", annotations=go_annotations(1, six=True), pod_networks=["10.244.1.0/24"])
    await stores.make("n1").acquire(ask(1, published=LeaseAttrs(IPv4Address("192.0.2.9"), None, "host-gw")))
    assert ours(cluster, "n1") == {
        "kube-subnet-manager": "true", "backend-type": "host-gw", "backend-data": "null", "public-ip": "192.0.2.9"
    }  # fmt: skip


async def test_nothing_is_written_where_all_is_so(cluster: Cluster, stores: Stores) -> None:
    cluster.add_node("n1", annotations=go_annotations(1), pod_networks=["10.244.1.0/24"])
    before = cluster.node("n1")["metadata"]["resourceVersion"]
    await stores.make("n1").acquire(ask(1))
    assert cluster.node("n1")["metadata"]["resourceVersion"] == before


@pytest.mark.parametrize(
    ("prefix", "written"), [("net.example.org", "net.example.org/"), ("net.example.org/lab", "net.example.org/lab-")]
)
async def test_prefix(cluster: Cluster, stores: Stores, prefix: str, written: str) -> None:
    cluster.add_node("n1", pod_networks=["10.244.1.0/24"])
    await stores.make("n1", prefix=prefix).acquire(ask(1))
    assert ours(cluster, "n1", written)["backend-data"] == vtep(1)
    again = stores.make("n1", prefix=prefix)
    assert await again.stored(attrs(1)) == attrs(1), "the MAC is found under each prefix"


async def test_the_mac_of_the_run_before_is_found(cluster: Cluster, stores: Stores) -> None:
    cluster.add_node("n1", annotations=go_annotations(7, six=True), pod_networks=["10.244.1.0/24"])
    assert await stores.make("n1").stored(attrs(1)) == attrs(7, six=True)
    cluster.annotate("n1", **{PREFIX + "backend-data": "{"})
    assert await stores.make("n1").stored(attrs(1)) is None
    cluster.add_node("n2")
    assert await stores.make("n2").stored(attrs(2)) is None
    assert await stores.make("n3").stored(attrs(3)) is None


async def test_an_operators_address_is_published_and_the_lease_stays_ours(cluster: Cluster, stores: Stores) -> None:
    given = {PREFIX + "public-ip-overwrite": "203.0.113.7", PREFIX + "public-ipv6-overwrite": "2001:db8::7"}
    cluster.add_node("n1", annotations=given, pod_networks=["10.244.1.0/24", "fd00:10:244:1::/64"])
    store = stores.make("n1")
    own = await store.acquire(ask(1, config(**DUAL)))
    assert own.attrs == attrs(1, six=True)
    assert (ours(cluster, "n1")["public-ip"], ours(cluster, "n1")["public-ipv6"]) == ("203.0.113.7", "2001:db8::7")
    async with aclosing(store.watch()) as messages:
        assert await told(messages) == Snapshot((own,))
    peer = stores.make("n2")
    cluster.add_node("n2", pod_networks=["10.244.2.0/24", "fd00:10:244:2::/64"])
    await peer.acquire(ask(2, config(**DUAL)))
    async with aclosing(peer.watch()) as messages:
        first = await told(messages)
        assert isinstance(first, Snapshot)
        seen = {one.subnets: one.attrs.public_ip for one in first.leases}
    assert seen[own.subnets] == IPv4Address("203.0.113.7")


async def test_an_operators_address_that_is_none_is_passed_over(
    cluster: Cluster, stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    given = {PREFIX + "public-ip-overwrite": "nat.example.org", PREFIX + "node-public-ip": "224.0.0.1"}
    cluster.add_node("n1", annotations=given, pod_networks=["10.244.1.0/24"])
    store = stores.make("n1")
    assert await store.wishes() == PublicWishes()
    await store.acquire(ask(1))
    assert ours(cluster, "n1")["public-ip"] == "192.0.2.1"
    assert "public-ip-overwrite 'nat.example.org'" in caplog.text


async def test_wishes(cluster: Cluster, stores: Stores) -> None:
    given = {PREFIX + "node-public-ip": "203.0.113.9", PREFIX + "node-public-ipv6": "2001:db8::9"}
    cluster.add_node("n1", annotations=given)
    expected = PublicWishes(IPv4Address("203.0.113.9"), IPv6Address("2001:db8::9"))
    assert await stores.make("n1").wishes() == expected


async def test_node_of_a_pod(cluster: Cluster, stores: Stores) -> None:
    cluster.add_node("n1", pod_networks=["10.244.1.0/24"])
    pod = {
        "metadata": {"name": "flannel-x", "namespace": kubeobjects.NAMESPACE},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
    }
    cluster.api.post(f"/api/v1/namespaces/{kubeobjects.NAMESPACE}/pods", pod)
    try:
        found = await stores.make(NodeRef(None, kubeobjects.NAMESPACE, "flannel-x")).acquire(ask(1))
    finally:
        cluster.api.delete(f"/api/v1/namespaces/{kubeobjects.NAMESPACE}/pods/flannel-x?gracePeriodSeconds=0")
    assert found.subnets == (ip_network("10.244.1.0/24"),)
    with pytest.raises(StoreError, match="get pod kube-flannel/other: the Kubernetes API answers 404 NotFound"):
        await stores.make(NodeRef(None, kubeobjects.NAMESPACE, "other")).wishes()


async def test_a_slice_outside_the_network_is_refused(cluster: Cluster, stores: Stores) -> None:
    cluster.add_node("n1", pod_networks=["10.99.1.0/24"])
    with pytest.raises(StoreError, match=r"podCIDR 10.99.1.0/24 of node n1 lies outside Network 10.244.0.0/16") as told:
        await stores.make("n1").acquire(ask(1))
    assert told.value.hint is not None and "--cluster-cidr" in told.value.hint
    assert ours(cluster, "n1") == {}


async def test_changes_come_as_they_happen(cluster: Cluster, stores: Stores) -> None:
    cluster.add_node("n1", pod_networks=["10.244.1.0/24"])
    store = stores.make("n1")
    own = await store.acquire(ask(1))
    async with aclosing(store.watch()) as messages:
        assert await told(messages) == Snapshot((own,))
        cluster.add_node("n2", pod_networks=["10.244.2.0/24"])
        cluster.annotate("n2", **go_annotations(2))
        assert await told(messages) == Changed(lease(2, "10.244.2.0/24"))
        cluster.annotate("n2", **go_annotations(3))
        assert await told(messages) == Changed(lease(3, "10.244.2.0/24"))
        cluster.annotate("n2", **{PREFIX + "kube-subnet-manager": None})
        assert await told(messages) == Gone((ip_network("10.244.2.0/24"),))
        cluster.annotate("n2", **go_annotations(2))
        assert await told(messages) == Changed(lease(2, "10.244.2.0/24"))
        cluster.delete_node("n2")
        assert await told(messages) == Gone((ip_network("10.244.2.0/24"),))


async def test_a_change_of_one_family_is_told(cluster: Cluster, stores: Stores) -> None:
    """Go flannel loses an update of a dual-stack node unless both families changed in it."""
    cidrs = ["10.244.2.0/24", "fd00:10:244:2::/64"]
    cluster.add_node("n1", pod_networks=["10.244.1.0/24", "fd00:10:244:1::/64"])
    cluster.add_node("n2", annotations=go_annotations(2, six=True), pod_networks=cidrs)
    store = stores.make("n1")
    await store.acquire(ask(1, config(**DUAL)))
    async with aclosing(store.watch()) as messages:
        await told(messages)
        cluster.annotate("n2", **{PREFIX + "public-ipv6": "fd00::77"})
        expected = lease(2, *cidrs, six=True)
        expected = replace(expected, attrs=replace(expected.attrs, public_ipv6=IPv6Address("fd00::77")))
        assert await told(messages) == Changed(expected)


async def test_a_node_that_comes_back_with_another_slice(cluster: Cluster, stores: Stores) -> None:
    """Go flannel looks at no podCIDR after the first, and never takes the old value back."""
    cluster.add_node("n1", pod_networks=["10.244.1.0/24"])
    cluster.add_node("n2", annotations=go_annotations(2), pod_networks=["10.244.2.0/24"])
    store = stores.make("n1")
    await store.acquire(ask(1))
    async with aclosing(store.watch()) as messages:
        await told(messages)
        cluster.delete_node("n2")
        cluster.add_node("n2", annotations=go_annotations(2), pod_networks=["10.244.9.0/24"])
        assert await told(messages) == Gone((ip_network("10.244.2.0/24"),))
        assert await told(messages) == Changed(lease(2, "10.244.9.0/24"))


async def test_our_own_node_comes_back_with_another_slice(cluster: Cluster, stores: Stores) -> None:
    cluster.add_node("n1", pod_networks=["10.244.1.0/24"])
    store = stores.make("n1")
    own = await store.acquire(ask(1))
    await store.announce()
    async with aclosing(store.watch()) as messages:
        assert await told(messages) == Snapshot((own,))
        cluster.delete_node("n1")
        cluster.add_node("n1", pod_networks=["10.244.9.0/24"])
        assert await told(messages) == Gone(own.subnets)
        again = await store.acquire(ask(1))
        assert again == lease(1, "10.244.9.0/24")
        assert await told(messages) == Changed(again)
    assert condition(cluster, "n1")["status"] == "False", "announced again: the new Node object knows nothing of it"


def condition(cluster: Cluster, name: str) -> dict[str, Any]:
    found = cluster.node(name)["status"]["conditions"]
    return next((one for one in found if one["type"] == "NetworkUnavailable"), {})


async def test_condition(cluster: Cluster, stores: Stores) -> None:
    cluster.add_node("n1")
    kubeobjects.patch_node_status(
        cluster.api,
        "n1",
        {"conditions": [{"type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated"}]},
    )
    await stores.make("n1", clock=lambda: 1_700_000_000.0).announce()
    assert condition(cluster, "n1") == {
        "type": "NetworkUnavailable",
        "status": "False",
        "reason": "FlannelIsUp",
        "message": "Flannel is running on this node",
        "lastHeartbeatTime": "2023-11-14T22:13:20Z",
        "lastTransitionTime": "2023-11-14T22:13:20Z",
    }
    assert {one["type"] for one in cluster.node("n1")["status"]["conditions"]} == {"NetworkUnavailable", "Ready"}


async def test_all_pages_of_a_long_list(cluster: Cluster, stores: Stores, proxy: FaultProxy) -> None:
    count = 230
    cluster.add_node("n1", pod_networks=["10.244.0.0/24"])
    for number in range(1, count):
        cluster.add_node(f"p{number}", annotations=go_annotations(1), pod_networks=[f"10.244.{number}.0/24"])
    store = stores.make("n1", proxy=proxy)
    await store.acquire(ask(1))
    async with aclosing(store.watch()) as messages:
        first = await told(messages)
    assert isinstance(first, Snapshot) and len({one.subnets for one in first.leases}) == count
    assert len([request for request in proxy.requests if request.is_list]) == 3


async def test_a_node_that_is_not_sound_harms_no_other(
    cluster: Cluster, stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.add_node("n1", pod_networks=["10.244.1.0/24"])
    cluster.add_node("bad", annotations=go_annotations(2, backend_data="{"), pod_networks=["10.244.2.0/24"])
    cluster.add_node("good", annotations=go_annotations(3), pod_networks=["10.244.3.0/24"])
    cluster.add_node("other", pod_networks=["10.244.4.0/24"])
    store = stores.make("n1")
    own = await store.acquire(ask(1))
    async with aclosing(store.watch()) as messages:
        first = await told(messages)
        assert isinstance(first, Snapshot)
        assert set(first.leases) == {own, lease(3, "10.244.3.0/24")}
        cluster.annotate("bad", **go_annotations(2))
        assert await told(messages) == Changed(lease(2, "10.244.2.0/24"))
    assert caplog.text.count("node bad is skipped: its annotation flannel.alpha.coreos.com/backend-data") == 1


async def test_alloc_needs_no_watch(cluster: Cluster, stores: Stores, proxy: FaultProxy) -> None:
    cluster.add_node("n1", pod_networks=["10.244.1.0/24"])
    cluster.add_node("n2", annotations=go_annotations(2), pod_networks=["10.244.2.0/24"])
    store = stores.make("n1", proxy=proxy)
    alone = LeaseAttrs(IPv4Address("192.0.2.1"))
    own = await store.acquire(ask(1, config(Backend={"Type": "alloc"}), alone))
    assert ours(cluster, "n1") == {
        "kube-subnet-manager": "true", "backend-type": "", "backend-data": "null", "public-ip": "192.0.2.1"
    }  # fmt: skip
    async with aclosing(store.watch()) as messages:
        assert await told(messages) == Snapshot((Lease(own.subnets, alone),))
    assert {request.target.partition("?")[0] for request in proxy.requests} == {
        "/api/v1/nodes/n1", "/api/v1/nodes/n1/status"
    }  # fmt: skip


async def test_configuration_file_is_waited_for(stores: Stores, reports: Reports) -> None:
    store = stores.make("n1", reports=reports)
    waiting = asyncio.ensure_future(store.config())
    missing = await reports.until(lambda condition: not condition.ok)
    assert "net-conf.json: No such file" in missing.message and "--net-config-path" in missing.hint
    text = json.dumps({"Network": "10.244.0.0/16"})
    (stores.folder / "net-conf.json").write_text(text)
    assert await asyncio.wait_for(waiting, DEADLINE_S) == text
    assert reports.seen[-1].ok
