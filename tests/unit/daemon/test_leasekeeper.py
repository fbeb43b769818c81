import asyncio
from dataclasses import replace
from ipaddress import IPv4Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanneld_py.daemon.leasekeeper import LeaseKeeper, renew_at
from flanneld_py.errors import LeaseLost
from flanneld_py.model.config import parse_config
from flanneld_py.model.lease import Lease, LeaseAttrs, NodeIdentity
from flanneld_py.store.base import LeaseRequest
from flanneld_py.store.etcd import TTL_S

CONFIG, _ = parse_config('{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}', "test")
ATTRS = LeaseAttrs(IPv4Address("192.0.2.1"), None, "vxlan", "{}")
REQUEST = LeaseRequest(CONFIG, ATTRS, (), NodeIdentity("node1", "hash", "1"))
LEASE = Lease((ip_network("10.244.1.0/24"),), ATTRS, expires=1000.0)


class ScriptedStore:
    """Gives out leases one after another; renews as told. Not a store: only what a keeper asks of one."""

    def __init__(self, *leases: Lease) -> None:
        self.leases = list(leases)
        self.requests: list[LeaseRequest] = []
        self.renewed = asyncio.Event()
        self.refuse: LeaseLost | None = None

    async def acquire(self, request: LeaseRequest) -> Lease:
        self.requests.append(request)
        return self.leases.pop(0)

    async def renew(self, lease: Lease) -> Lease:
        if self.refuse is not None:
            raise self.refuse
        self.renewed.set()
        return replace(lease, expires=10_000.0)


def ignore() -> None:
    """Nobody cares."""


def keeper(store: ScriptedStore, *, reacquire: bool, now: float = 0.0) -> LeaseKeeper:
    return LeaseKeeper(
        store,  # type: ignore[arg-type]
        store,
        REQUEST,
        margin_s=60,
        reacquire=reacquire,
        clock=lambda: now,
        jitter=lambda: 0.0,
    )


def test_renewal_is_a_margin_before_expiry_spread_by_jitter() -> None:
    assert renew_at(LEASE, margin_s=60, jitter=0.0) == 940
    assert renew_at(LEASE, margin_s=60, jitter=0.5) == 943
    assert renew_at(replace(LEASE, reserved=True), margin_s=60, jitter=0.0) is None
    assert renew_at(replace(LEASE, expires=None), margin_s=60, jitter=0.0) is None


@given(margin_min=st.integers(1, 1439), jitter=st.floats(0, 1, exclude_max=True))
def test_a_new_lease_is_not_due(margin_min: int, jitter: float) -> None:
    """For every --subnet-lease-renew-margin that is taken."""
    due = renew_at(replace(LEASE, expires=1000.0 + TTL_S), margin_s=margin_min * 60, jitter=jitter)
    assert due is not None and 1000.0 + TTL_S > due >= 1000.0 + 60


async def test_a_due_lease_is_renewed() -> None:
    store = ScriptedStore(LEASE)
    kept = keeper(store, reacquire=False, now=950.0)
    await kept.acquire()
    task = asyncio.create_task(kept.run(ignore))
    await store.renewed.wait()
    task.cancel()
    assert kept.lease.expires == 10_000.0


async def test_a_revoked_lease_ends_the_daemon_and_says_which() -> None:
    kept = keeper(ScriptedStore(LEASE), reacquire=False)
    await kept.acquire()
    kept.observe(None)
    with pytest.raises(LeaseLost, match=r"10\.244\.1\.0/24.*10\.244\.1\.0-24 is gone"):
        await kept.run(ignore)


async def test_a_lease_that_another_node_wrote_over_is_lost() -> None:
    kept = keeper(ScriptedStore(LEASE), reacquire=False)
    await kept.acquire()
    kept.observe(replace(LEASE, attrs=LeaseAttrs(IPv4Address("192.0.2.77"))))
    with pytest.raises(LeaseLost, match=r"192\.0\.2\.77"):
        await kept.run(ignore)


async def test_reacquire_asks_for_the_same_subnet_and_tells() -> None:
    other = replace(LEASE, subnets=(ip_network("10.244.7.0/24"),))
    store = ScriptedStore(LEASE, other)
    heard = asyncio.Event()
    kept = keeper(store, reacquire=True)
    await kept.acquire()
    kept.observe(None)
    task = asyncio.create_task(kept.run(heard.set))
    await heard.wait()
    task.cancel()
    assert store.requests[1].previous == LEASE.subnets
    assert kept.lease == other


class SlowStore(ScriptedStore):
    """Its second answer comes when `answer` is set, long after it has done what it was asked."""

    def __init__(self, *leases: Lease) -> None:
        super().__init__(*leases)
        self.asked, self.answer = asyncio.Event(), asyncio.Event()

    async def acquire(self, request: LeaseRequest) -> Lease:
        lease = await super().acquire(request)
        if len(self.requests) == 2:
            self.asked.set()
            await self.answer.wait()
        return lease


@pytest.mark.parametrize("news", [(LEASE, None), (None, LEASE, None), (LEASE,), (None,), ()])
async def test_what_is_heard_before_the_store_answers_counts_if_it_is_news_of_the_new_lease(
    news: tuple[Lease | None, ...],
) -> None:
    store = SlowStore(LEASE, LEASE, LEASE)
    kept = keeper(store, reacquire=True)
    await kept.acquire()
    running = asyncio.create_task(kept.run(ignore))
    kept.observe(None)
    await store.asked.wait()
    for one in news:
        kept.observe(one)
    store.answer.set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(store.requests) == (3 if LEASE in news and news[-1] is None else 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_renewal_that_finds_the_key_gone_counts_as_loss() -> None:
    store = ScriptedStore(LEASE)
    store.refuse = LeaseLost("gone")
    kept = keeper(store, reacquire=False, now=990.0)
    await kept.acquire()
    with pytest.raises(LeaseLost, match="gone"):
        await kept.run(ignore)


async def test_what_we_wrote_ourselves_is_no_loss_and_a_reservation_is_kept() -> None:
    store = ScriptedStore(LEASE)
    kept = keeper(store, reacquire=False, now=0.0)
    await kept.acquire()
    kept.observe(replace(LEASE, expires=None))
    kept.observe(replace(LEASE, reserved=True, expires=None))
    assert kept.lease.reserved
    assert renew_at(kept.lease, margin_s=60, jitter=0) is None


@pytest.mark.parametrize("before", [replace(LEASE, expires=None, reserved=True), replace(LEASE, expires=1e9)])
async def test_a_reservation_that_is_a_lease_again_is_renewed_at_once(before: Lease) -> None:
    """Whatever was known before of an expiry: an operator has put the key under another etcd lease."""
    store = ScriptedStore(before)
    kept = keeper(store, reacquire=False)
    await kept.acquire()
    kept.observe(replace(LEASE, reserved=True, expires=None))
    task = asyncio.create_task(kept.run(ignore))
    kept.observe(replace(LEASE, expires=None))
    async with asyncio.timeout(10):
        await store.renewed.wait()
    task.cancel()
    assert (kept.lease.reserved, kept.lease.expires) == (False, 10_000.0)
