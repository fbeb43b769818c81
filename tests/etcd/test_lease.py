"""A node's own lease on a real etcd: races, reservations, records, renewal, lost answers."""

import asyncio
import json
from collections.abc import Callable
from ipaddress import ip_network
from itertools import count
from random import Random
from typing import Any

import pytest

from flanneld_py.errors import DuplicatePublicIP, LeaseLost, OutOfSubnets
from flanneld_py.etcd import transport
from flanneld_py.etcd.client import EtcdClient
from flanneld_py.etcd.verdict import CallError
from flanneld_py.etcd.wire import TXN, Message, Rpc
from flanneld_py.model.lease import Lease
from flanneld_py.model.net import overlaps
from flanneld_py.store.base import LeaseRequest
from flanneld_py.store.etcd import EtcdStore
from tests.etcd.conftest import Reports, bad, soon
from tests.etcd.nodes import DUAL, V6, config, keys, lease_ids, machine, nets, node, request
from tests.etcd.server import Server

Stores = Callable[..., EtcdStore]
Clients = Callable[..., EtcdClient]


async def test_forty_nodes_at_once_all_get_a_subnet(etcd: Server, prefix: str, stores: Stores) -> None:
    leases = await asyncio.gather(*(stores(etcd, prefix).acquire(request(n)) for n in range(1, 41)))
    subnets = [lease.subnets[0] for lease in leases]
    assert len(set(subnets)) == 40
    assert all(net.subnet_of(ip_network("10.5.0.0/16")) for net in subnets)  # type: ignore[arg-type]


async def test_forty_nodes_fill_a_network_of_forty(etcd: Server, prefix: str, stores: Stores) -> None:
    cfg = config(SubnetMin="10.5.1.0", SubnetMax="10.5.40.0")
    leases = await asyncio.gather(*(stores(etcd, prefix).acquire(request(n, cfg)) for n in range(1, 41)))
    assert {lease.subnets[0] for lease in leases} == {ip_network(f"10.5.{n}.0/24") for n in range(1, 41)}


async def test_dual_stack_racers_share_neither_family(etcd: Server, prefix: str, stores: Stores) -> None:
    cfg = config(DUAL, SubnetMax="10.5.12.0", IPv6SubnetMax="fd00:0:0:c::")
    racers = [stores(etcd, prefix).acquire(request(n, cfg, six=True)) for n in range(1, 11)]
    leases = await asyncio.gather(*racers)
    found = [net for lease in leases for net in lease.subnets]
    assert len(found) == 20
    assert not any(overlaps(one, other) for i, one in enumerate(found) for other in found[i + 1 :])
    assert len(keys(etcd, f"{prefix}/subnets/")) == 10


async def test_two_racers_for_the_last_subnet(etcd: Server, prefix: str, stores: Stores) -> None:
    cfg = config(SubnetMin="10.5.1.0", SubnetMax="10.5.1.0")
    racers = [stores(etcd, prefix).acquire(request(n, cfg)) for n in (1, 2)]
    results = await asyncio.gather(*racers, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Lease", "OutOfSubnets"]
    error = next(result for result in results if isinstance(result, OutOfSubnets))
    assert "10.5.0.0/16" in str(error) and "1 lease;" in str(error) and error.hint
    assert len(keys(etcd, f"{prefix}/subnets/")) == len(keys(etcd, f"{prefix}/nodes/")) == 1


class LoseRaces(Random):
    """Picks the same subnet for everybody, as long as it may."""

    def choice(self, seq: Any) -> Any:
        return seq[0]


async def test_lost_race_is_tried_again_and_leaves_no_etcd_lease(etcd: Server, prefix: str, stores: Stores) -> None:
    before = lease_ids(etcd)
    racers = [stores(etcd, prefix, rng=LoseRaces(n)) for n in range(1, 9)]
    leases = await asyncio.gather(*(store.acquire(request(n)) for n, store in enumerate(racers, 1)))
    assert {lease.subnets[0] for lease in leases} == {ip_network(f"10.5.{n}.0/24") for n in range(1, 9)}
    assert len(lease_ids(etcd) - before) == 8


async def test_same_node_gets_its_subnet_back(etcd: Server, prefix: str, stores: Stores) -> None:
    before = lease_ids(etcd)
    first = await stores(etcd, prefix).acquire(request(1))
    again = await stores(etcd, prefix).acquire(request(1))
    assert again.subnets == first.subnets
    assert len(lease_ids(etcd) - before) == 1, "the first etcd lease is revoked once no key hangs on it"
    assert await stores(etcd, prefix).stored(node(1)) == node(1)


async def test_previous_subnet_is_taken_if_it_is_free(etcd: Server, prefix: str, stores: Stores) -> None:
    previous = nets("10.5.77.0/24")
    assert (await stores(etcd, prefix).acquire(request(1, previous=previous))).subnets == previous
    assert (await stores(etcd, prefix).acquire(request(2, previous=previous))).subnets != previous


async def test_lease_that_does_not_fit_is_replaced(etcd: Server, prefix: str, stores: Stores, clients: Clients) -> None:
    old = await stores(etcd, prefix).acquire(request(1))
    new = await stores(etcd, prefix).acquire(request(1, config(Network="10.9.0.0/16")))
    assert new.subnets[0].subnet_of(ip_network("10.9.0.0/16"))  # type: ignore[arg-type]
    assert keys(etcd, prefix) == [f"{prefix}/nodes/{new.key}", f"{prefix}/subnets/{new.key}"]
    assert (await clients(etcd.url).get(f"{prefix}/subnets/{old.key}".encode()))[0] is None


async def test_second_machine_with_our_address_is_refused(etcd: Server, prefix: str, stores: Stores) -> None:
    lease = await stores(etcd, prefix).acquire(request(1))
    twin = LeaseRequest(config(), node(1), (), machine(2))
    with pytest.raises(DuplicatePublicIP) as caught:
        await stores(etcd, prefix).acquire(twin)
    assert "'host1'" in str(caught.value) and "192.0.2.1" in str(caught.value)
    assert f"etcdctl del {prefix}/nodes/{lease.key}" in (caught.value.hint or "")


async def test_record_of_an_earlier_etcd_lease_does_not_count(etcd: Server, prefix: str, stores: Stores) -> None:
    """A Go node that took the lease over after us has written the key alone, on an etcd lease of its own."""
    lease = await stores(etcd, prefix).acquire(request(1))
    value = etcd.ctl("get", "--print-value-only", f"{prefix}/subnets/{lease.key}").stdout.strip()
    grant = etcd.ctl("lease", "grant", "600").stdout.split()[1]
    etcd.ctl("put", f"--lease={grant}", f"{prefix}/subnets/{lease.key}", value)
    twin = LeaseRequest(config(), node(1), (), machine(2))
    assert (await stores(etcd, prefix).acquire(twin)).subnets == lease.subnets


async def test_reservation_keeps_no_ttl(etcd: Server, prefix: str, stores: Stores, clients: Clients) -> None:
    etcd.ctl("put", f"{prefix}/subnets/10.5.50.0-24", '{"PublicIP":"192.0.2.1"}')
    lease = await stores(etcd, prefix).acquire(request(1))
    assert (lease.subnets, lease.reserved, lease.expires) == (nets("10.5.50.0/24"), True, None)
    kv, revision = await clients(etcd.url).get(f"{prefix}/subnets/10.5.50.0-24".encode())
    assert kv is not None and kv.lease == 0 and b"VtepMAC" in kv.value
    assert (await stores(etcd, prefix).acquire(request(1))).reserved
    assert (await clients(etcd.url).get(b"x"))[1] == revision, "nothing is written when nothing changed"


async def test_reservation_of_another_is_never_leased(etcd: Server, prefix: str, stores: Stores) -> None:
    cfg = config(SubnetMin="10.5.1.0", SubnetMax="10.5.2.0")
    etcd.ctl("put", f"{prefix}/subnets/10.5.1.0-24", '{"PublicIP":"192.0.2.99"}')
    assert (await stores(etcd, prefix).acquire(request(1, cfg))).subnets == nets("10.5.2.0/24")
    with pytest.raises(OutOfSubnets):
        await stores(etcd, prefix).acquire(request(2, cfg))


async def test_reservation_that_does_not_fit_stays(
    etcd: Server, prefix: str, stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    etcd.ctl("put", f"{prefix}/subnets/10.99.0.0-24", '{"PublicIP":"192.0.2.1"}')
    lease = await stores(etcd, prefix).acquire(request(1))
    assert not lease.reserved
    assert f"{prefix}/subnets/10.99.0.0-24" in keys(etcd, prefix)
    assert any("reservation 10.99.0.0/24" in record.message for record in caplog.records)


async def test_renew_moves_the_key_to_a_new_etcd_lease(etcd: Server, prefix: str, stores: Stores) -> None:
    now = [1000.0]
    store = stores(etcd, prefix, clock=lambda: now[0])
    before = lease_ids(etcd)
    lease = await store.acquire(request(1))
    assert lease.expires == 1000 + 86_400
    now[0] = 5000.0
    renewed = await store.renew(lease)
    assert renewed == lease and renewed.expires == 5000 + 86_400
    assert len(lease_ids(etcd) - before) == 1
    assert len(keys(etcd, prefix)) == 2


async def test_renew_of_a_deleted_lease_is_lost(etcd: Server, prefix: str, stores: Stores) -> None:
    store = stores(etcd, prefix)
    lease = await store.acquire(request(1))
    etcd.ctl("del", f"{prefix}/subnets/{lease.key}")
    with pytest.raises(LeaseLost, match="is gone"):
        await store.renew(lease)


@pytest.mark.parametrize(
    ("value", "why"), [('{"PublicIP":"192.0.2.9"}', "another node's"), ("nonsense", "overwritten")]
)
async def test_renew_of_a_lease_taken_by_another_is_lost(
    etcd: Server, prefix: str, stores: Stores, value: str, why: str
) -> None:
    store = stores(etcd, prefix)
    lease = await store.acquire(request(1))
    etcd.ctl("put", f"{prefix}/subnets/{lease.key}", value)
    with pytest.raises(LeaseLost, match=why):
        await store.renew(lease)
    assert etcd.ctl("get", "--print-value-only", f"{prefix}/subnets/{lease.key}").stdout.strip() == value


async def test_renew_of_a_lease_turned_into_a_reservation(etcd: Server, prefix: str, stores: Stores) -> None:
    store = stores(etcd, prefix)
    lease = await store.acquire(request(1))
    key = f"{prefix}/subnets/{lease.key}"
    etcd.ctl("put", key, etcd.ctl("get", "--print-value-only", key).stdout.strip())
    renewed = await store.renew(lease)
    assert renewed.reserved and renewed.expires is None


async def test_release_deletes_key_record_and_etcd_lease(etcd: Server, prefix: str, stores: Stores) -> None:
    before = lease_ids(etcd)
    store = stores(etcd, prefix)
    await store.release(await store.acquire(request(1)))
    assert keys(etcd, prefix) == []
    assert lease_ids(etcd) == before


async def test_ipv6_only_nodes_are_told_apart(
    etcd: Server, prefix: str, stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = config(V6)
    first = await stores(etcd, prefix).acquire(request(1, cfg, four=False, six=True))
    second = await stores(etcd, prefix).acquire(request(2, cfg, four=False, six=True))
    assert first.subnets != second.subnets
    assert first.key.startswith("0.0.0.0-0&fd00:0:0:")
    assert (await stores(etcd, prefix).acquire(request(1, cfg, four=False, six=True))).subnets == first.subnets
    value = json.loads(etcd.ctl("get", "--print-value-only", f"{prefix}/subnets/{first.key}").stdout)
    assert value["PublicIP"] == "0.0.0.0" and value["PublicIPv6"] == "2001:db8::1"
    assert any("Go flannel nodes cannot share it" in record.message for record in caplog.records)


async def test_renew_waits_for_etcd(servers: Callable[..., Server], stores: Stores, reports: Reports) -> None:
    server = servers().start()
    store = stores(server, "/p")
    lease = await store.acquire(request(1))
    server.end()
    renewal = asyncio.ensure_future(store.renew(lease))
    await reports.until(bad("connection refused"))
    assert not renewal.done()
    server.start()
    assert await asyncio.wait_for(renewal, 20) == lease


async def test_release_does_not_wait_for_etcd(
    servers: Callable[..., Server], stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the time that a store takes for itself
    server = servers().start()
    store = stores(server, "/p")
    lease: Lease = await store.acquire(request(1))
    server.end()
    await asyncio.wait_for(store.release(lease), 5)


@pytest.mark.parametrize("calls", range(1, 6))
async def test_cancelled_acquire_leaves_no_key(
    etcd: Server, prefix: str, stores: Stores, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`calls`: how many calls to etcd were begun when it is cancelled: two lists, grant, transaction."""
    monkeypatch.setattr("flanneld_py.etcd.transport.DEADLINE_S", 20.0)  # no call is made twice on a slow machine
    store = stores(etcd, prefix)
    task = asyncio.ensure_future(store.acquire(request(1)))
    await soon(lambda: store._client.attempts >= calls or task.done())
    if not task.cancel():
        await store.release(task.result())
    await asyncio.wait([task])
    assert task.cancelled() == (calls < 5)
    assert keys(etcd, prefix) == []


def hold_answers(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Transactions that write are carried out by etcd, and then no answer comes. Set once one is."""
    carried_out = asyncio.Event()

    async def unary(channel: Any, rpc: Rpc, message: Message, metadata: Any) -> Message:
        answer = await real_unary(channel, rpc, message, metadata)
        if rpc is TXN and any(op.HasField("request_put") for op in message.success):
            carried_out.set()
            await asyncio.Event().wait()
        return answer

    real_unary = transport.unary
    monkeypatch.setattr(transport, "unary", unary)
    return carried_out


@pytest.mark.parametrize("again", ["renew", "acquire"])
async def test_cancelled_while_our_key_moves_to_a_new_etcd_lease_the_key_stays(
    etcd: Server, prefix: str, stores: Stores, again: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by SIGTERM: the daemon that comes next finds the lease."""
    store = stores(etcd, prefix)
    lease = await store.acquire(request(1))
    carried_out = hold_answers(monkeypatch)
    task = asyncio.ensure_future(store.renew(lease) if again == "renew" else store.acquire(request(1)))
    async with asyncio.timeout(20):
        await carried_out.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert keys(etcd, prefix) == [f"{prefix}/nodes/{lease.key}", f"{prefix}/subnets/{lease.key}"]


async def test_cancelled_while_a_new_key_is_written_it_goes(
    etcd: Server, prefix: str, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = lease_ids(etcd)
    carried_out = hold_answers(monkeypatch)
    task = asyncio.ensure_future(stores(etcd, prefix).acquire(request(1)))
    async with asyncio.timeout(20):
        await carried_out.wait()
    task.cancel()
    await asyncio.wait([task])
    assert keys(etcd, prefix) == []
    assert lease_ids(etcd) == before


@pytest.fixture
def lose_answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every other transaction is carried out by etcd, and then its answer is lost."""
    lost: list[str] = []
    turn = count()

    async def unary(channel: Any, rpc: Rpc, message: Message, metadata: Any) -> Message:
        answer = await real_unary(channel, rpc, message, metadata)
        if rpc is TXN and next(turn) % 2 == 0:
            lost.append(rpc.path)
            raise CallError("UNAVAILABLE", "Socket closed")
        return answer

    real_unary = transport.unary
    monkeypatch.setattr(transport, "unary", unary)
    return lost


async def test_lost_answers_lose_no_lease(etcd: Server, prefix: str, stores: Stores, lose_answers: list[str]) -> None:
    before = lease_ids(etcd)
    store = stores(etcd, prefix)
    lease = await store.acquire(request(1))
    assert await store.acquire(request(1)) == lease
    assert await store.renew(lease) == lease
    assert len(lose_answers) >= 3
    assert keys(etcd, prefix) == [f"{prefix}/nodes/{lease.key}", f"{prefix}/subnets/{lease.key}"]
    assert len(lease_ids(etcd) - before) == 1
    await store.release(lease)
    assert keys(etcd, prefix) == []


async def test_lost_answer_does_not_hide_a_rival(
    etcd: Server, prefix: str, stores: Stores, lose_answers: list[str]
) -> None:
    cfg = config(DUAL, SubnetMax="10.5.3.0", IPv6SubnetMax="fd00:0:0:3::")
    racers = [stores(etcd, prefix).acquire(request(n, cfg, six=True)) for n in range(1, 4)]
    found = [net for lease in await asyncio.gather(*racers) for net in lease.subnets]
    assert not any(overlaps(one, other) for i, one in enumerate(found) for other in found[i + 1 :])


async def test_nearly_full_network_is_named(
    etcd: Server, prefix: str, stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = config(SubnetMin="10.5.1.0", SubnetMax="10.5.10.0")
    for number in range(1, 9):
        assert "are leased" not in caplog.text
        await stores(etcd, prefix).acquire(request(number, cfg))
    assert "80 % of the 10 subnets of 10.5.0.0/16 are leased" in caplog.text
