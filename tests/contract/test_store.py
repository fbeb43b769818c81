"""What LeaseStores do: the one in memory, which other tests use, and real etcd, whose leases run out; and what a real
Kubernetes API does as well, where nodes have their subnets from the cluster."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from ipaddress import IPv4Address, ip_network
from typing import Any, Protocol

import pytest

from flanneld_py.errors import DuplicatePublicIP, LeaseLost, OutOfSubnets
from flanneld_py.model.config import NetworkConfig, parse_config
from flanneld_py.model.lease import Changed, Gone, Lease, LeaseAttrs, LeaseMessage, NodeIdentity, Snapshot
from flanneld_py.model.net import Subnets
from flanneld_py.store.base import LeaseRequest
from flanneld_py.store.etcd import EtcdStore
from flanneld_py.store.etcd_keys import Keys
from flanneld_py.store.lease_codec import encode_attrs
from tests.etcd.conftest import Reports
from tests.etcd.server import Server
from tests.fakes.store import MemoryCluster
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.stores import Stores as KubeStores

NOW = 1_000_000.0


class Place(Protocol):
    """One cluster: stores of its nodes, and what an operator does to it."""

    def store(self) -> Any: ...

    def store_of(self, number: int) -> Any:
        """The store of the node that asks with this number, where a store is one node's."""

    async def set_config(self, text: str) -> None: ...

    async def reserve(self, subnets: Subnets, attrs: LeaseAttrs) -> None: ...

    async def revoke(self, subnets: Subnets) -> None: ...


class Memory:
    def __init__(self, reports: Reports) -> None:
        self._cluster = MemoryCluster(clock=lambda: NOW)
        self._reports = reports
        self.set_config = self._cluster.set_config
        self.reserve = self._cluster.reserve
        self.revoke = self._cluster.revoke

    def store(self) -> Any:
        return self._cluster.store(self._reports)

    def store_of(self, number: int) -> Any:
        return self.store()


class Etcd:
    def __init__(self, server: Server, prefix: str, stores: Callable[..., EtcdStore]) -> None:
        self._server, self._prefix, self._stores = server, prefix, stores
        self._keys = Keys(prefix)

    def store(self) -> Any:
        return self._stores(self._server, self._prefix, clock=lambda: NOW)

    def store_of(self, number: int) -> Any:
        return self.store()

    async def set_config(self, text: str) -> None:
        await asyncio.to_thread(self._server.ctl, "put", self._keys.config.decode(), text)

    async def reserve(self, subnets: Subnets, attrs: LeaseAttrs) -> None:
        words = ("put", self._keys.subnet(subnets).decode(), encode_attrs(attrs).decode())
        await asyncio.to_thread(self._server.ctl, *words)

    async def revoke(self, subnets: Subnets) -> None:
        await asyncio.to_thread(self._server.ctl, "del", self._keys.subnet(subnets).decode())


class Kubernetes:
    """Nodes that a kubelet has registered. The cluster gives subnets; it is an operator who takes a node away."""

    def __init__(self, cluster: Cluster, stores: KubeStores, reports: Reports) -> None:
        self._cluster, self._stores, self._reports = cluster, stores, reports

    def store_of(self, number: int) -> Any:
        if f"n{number}" not in self._names():
            self._cluster.add_node(f"n{number}", pod_networks=[f"10.5.{number}.0/24"])
        return self._stores.make(f"n{number}", reports=self._reports)

    def _names(self) -> dict[str, list[str]]:
        listed = self._cluster.api.get("/api/v1/nodes")["items"]
        return {node["metadata"]["name"]: node["spec"].get("podCIDRs", []) for node in listed}

    async def set_config(self, text: str) -> None:
        path = self._stores.folder / "net-conf.json"
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").rename(path)

    async def revoke(self, subnets: Subnets) -> None:
        for name, cidrs in self._names().items():
            if cidrs == [str(net) for net in subnets]:
                self._cluster.delete_node(name)


@pytest.fixture(params=["memory", "etcd", "kubernetes"])
def anyplace(request: pytest.FixtureRequest, reports: Reports) -> Any:
    """For what all stores do alike."""
    if request.param == "memory":
        return Memory(reports)
    if request.param == "etcd":
        return Etcd(*(request.getfixturevalue(name) for name in ("etcd", "prefix", "stores")))
    return Kubernetes(request.getfixturevalue("cluster"), request.getfixturevalue("kube_stores"), reports)


@pytest.fixture(params=["memory", "etcd"])
def place(request: pytest.FixtureRequest, reports: Reports) -> Place:
    if request.param == "memory":
        return Memory(reports)
    return Etcd(*(request.getfixturevalue(name) for name in ("etcd", "prefix", "stores")))


def config(**keys: object) -> NetworkConfig:
    return parse_config(json.dumps({"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}} | keys), "test")[0]


def ask(number: int, cfg: NetworkConfig | None = None, previous: Subnets = (), machine: str = "") -> LeaseRequest:
    attrs = LeaseAttrs(IPv4Address(f"192.0.2.{number}"), None, "vxlan", f'{{"VNI":{number}}}')
    identity = NodeIdentity(f"host{machine or number}", f"hash{machine or number}", "1")
    return LeaseRequest(cfg or config(), attrs, previous, identity)


def nets(*texts: str) -> Subnets:
    return tuple(ip_network(text) for text in texts)


ONE = config(SubnetMin="10.5.1.0", SubnetMax="10.5.1.0")


async def test_new_lease(place: Place) -> None:
    lease = await place.store().acquire(ask(1))
    assert config().fits(lease.subnets)
    assert (lease.attrs, lease.expires, lease.reserved) == (ask(1).attrs, NOW + 86_400, False)


async def test_nodes_get_different_subnets(place: Place) -> None:
    leases = await asyncio.gather(*(place.store().acquire(ask(number)) for number in range(1, 13)))
    assert len({lease.subnets for lease in leases}) == 12


async def test_node_gets_its_lease_back_with_new_attrs(anyplace: Place) -> None:
    first = await anyplace.store_of(1).acquire(ask(1))
    changed = replace(ask(1), attrs=replace(ask(1).attrs, backend_data='{"VNI":9}'))
    again = await anyplace.store_of(1).acquire(changed)
    assert again == replace(first, attrs=changed.attrs)
    assert await anyplace.store_of(1).stored(changed.attrs) == changed.attrs


async def test_nothing_is_stored_of_an_unknown_node(anyplace: Place) -> None:
    await anyplace.store_of(1).acquire(ask(1))
    assert await anyplace.store_of(2).stored(ask(2).attrs) is None


async def test_previous_subnet(place: Place) -> None:
    previous = nets("10.5.9.0/24")
    assert (await place.store().acquire(ask(1, previous=previous))).subnets == previous
    assert (await place.store().acquire(ask(2, previous=previous))).subnets != previous
    assert (await place.store().acquire(ask(3, previous=nets("10.6.9.0/24")))).subnets != nets("10.6.9.0/24")


async def test_full_network(place: Place) -> None:
    await place.store().acquire(ask(1, ONE))
    with pytest.raises(OutOfSubnets):
        await place.store().acquire(ask(2, ONE))


async def test_second_machine_with_one_address(place: Place) -> None:
    await place.store().acquire(ask(1))
    with pytest.raises(DuplicatePublicIP, match="host1"):
        await place.store().acquire(ask(1, machine="x"))


async def test_lease_that_does_not_fit_is_given_up(place: Place) -> None:
    await place.store().acquire(ask(1))
    lease = await place.store().acquire(ask(1, config(Network="10.9.0.0/16")))
    async with aclosing(place.store().watch()) as messages:
        assert await anext(messages) == Snapshot((lease,))


async def test_reservation_is_taken_and_stays_one(place: Place) -> None:
    await place.reserve(nets("10.5.7.0/24"), ask(1).attrs)
    lease = await place.store().acquire(ask(1))
    assert (lease.subnets, lease.reserved, lease.expires) == (nets("10.5.7.0/24"), True, None)
    async with aclosing(place.store().watch()) as messages:
        (seen,) = (await anext(messages)).leases
    assert seen == lease and seen.reserved


async def test_reservation_of_another_holds(place: Place) -> None:
    await place.reserve(nets("10.5.1.0/24"), ask(9).attrs)
    with pytest.raises(OutOfSubnets):
        await place.store().acquire(ask(1, ONE))


async def test_reservation_that_does_not_fit_stays_beside_the_lease(place: Place) -> None:
    await place.reserve(nets("10.99.7.0/24"), ask(1).attrs)
    lease = await place.store().acquire(ask(1))
    async with aclosing(place.store().watch()) as messages:
        seen = {found.subnets: found.reserved for found in (await anext(messages)).leases}
    assert seen == {nets("10.99.7.0/24"): True, lease.subnets: False}


async def test_renew(place: Place) -> None:
    store = place.store()
    lease = await store.acquire(ask(1))
    renewed = await store.renew(replace(lease, expires=0.0))
    assert renewed == lease and renewed.expires == NOW + 86_400


async def test_renew_of_a_revoked_lease(place: Place) -> None:
    store = place.store()
    lease = await store.acquire(ask(1))
    await place.revoke(lease.subnets)
    with pytest.raises(LeaseLost):
        await store.renew(lease)


async def test_renew_of_a_lease_that_is_another_nodes(place: Place) -> None:
    store = place.store()
    lease = await store.acquire(ask(1))
    await place.reserve(lease.subnets, ask(2).attrs)
    with pytest.raises(LeaseLost):
        await store.renew(lease)


async def test_renew_of_a_lease_that_became_a_reservation(place: Place) -> None:
    store = place.store()
    lease = await store.acquire(ask(1))
    await place.reserve(lease.subnets, lease.attrs)
    renewed = await store.renew(lease)
    assert renewed.reserved and renewed.expires is None


async def test_release(place: Place) -> None:
    store = place.store()
    lease = await store.acquire(ask(1, ONE))
    await store.release(lease)
    await store.release(lease)
    assert (await place.store().acquire(ask(2, ONE))).subnets == lease.subnets
    await store.release(lease)
    assert await store.stored(ask(2).attrs) is not None, "the lease of another is not ours to release"


async def test_reservation_is_not_released(place: Place) -> None:
    await place.reserve(nets("10.5.7.0/24"), ask(1).attrs)
    store = place.store()
    await store.release(await store.acquire(ask(1)))
    assert await store.stored(ask(1).attrs) is not None


async def collect(messages: AsyncIterator[LeaseMessage], until: LeaseMessage) -> list[LeaseMessage]:
    seen: list[LeaseMessage] = []
    async with asyncio.timeout(20):
        while until not in seen:
            seen.append(await anext(messages))
    return seen


async def test_watch_tells_everything_in_order(place: Place) -> None:
    store = place.store()
    own = await store.acquire(ask(1))
    async with aclosing(store.watch()) as messages:
        assert await anext(messages) == Snapshot((own,))
        peer: Lease = await place.store().acquire(ask(2))
        renewed = await store.renew(own)
        await place.revoke(peer.subnets)
        await place.revoke(own.subnets)
        seen = await collect(messages, Gone(own.subnets))
    assert seen == [Changed(peer), Changed(renewed), Gone(peer.subnets), Gone(own.subnets)]


async def test_each_watch_begins_with_all_leases(anyplace: Place) -> None:
    async with aclosing(anyplace.store_of(1).watch()) as messages:
        assert await anext(messages) == Snapshot(())
    leases = [await anyplace.store_of(number).acquire(ask(number)) for number in (1, 2)]
    async with aclosing(anyplace.store_of(1).watch()) as messages:
        first = await anext(messages)
    assert isinstance(first, Snapshot) and set(first.leases) == set(leases)


async def test_watch_tells_of_others_and_of_our_own_loss(anyplace: Place) -> None:
    store, other = anyplace.store_of(1), anyplace.store_of(2)
    own = await store.acquire(ask(1))
    async with aclosing(store.watch()) as messages:
        assert await anext(messages) == Snapshot((own,))
        peer = await other.acquire(ask(2))
        seen = await collect(messages, Changed(peer))
        await anyplace.revoke(peer.subnets)
        seen += await collect(messages, Gone(peer.subnets))
        await anyplace.revoke(own.subnets)
        seen += await collect(messages, Gone(own.subnets))
    assert seen == [Changed(peer), Gone(peer.subnets), Gone(own.subnets)]


async def test_what_is_released_harms_nobody(anyplace: Place) -> None:
    own, other = anyplace.store_of(1), anyplace.store_of(2)
    lease, peer = await own.acquire(ask(1)), await other.acquire(ask(2))
    await own.release(lease)
    await own.release(lease)
    assert await other.stored(ask(2).attrs) == peer.attrs


async def test_configuration_is_waited_for_and_watched(anyplace: Place, reports: Reports) -> None:
    store = anyplace.store_of(1)
    waiting = asyncio.ensure_future(store.config())
    missing = await reports.until(lambda condition: not condition.ok)
    assert missing.hint
    await anyplace.set_config("one")
    assert await asyncio.wait_for(waiting, 20) == "one"
    assert reports.seen[-1].ok
    async with aclosing(store.watch_config()) as texts, asyncio.timeout(20):
        await anyplace.set_config("two")
        assert await anext(texts) == "two"
