"""A store in memory that behaves as the etcd store does. tests/contract/test_store.py holds the two together."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from random import Random

from flanneld_py.errors import DuplicatePublicIP, LeaseLost
from flanneld_py.model.allocate import choose_subnets
from flanneld_py.model.lease import Changed, Gone, Lease, LeaseAttrs, LeaseMessage, NodeIdentity, Snapshot
from flanneld_py.model.net import Subnets
from flanneld_py.store.base import Condition, LeaseRequest, Report


@dataclass
class MemoryCluster:
    """What all stores of one cluster share, and what a test does to it from outside."""

    ttl_s: int = 86_400
    clock: Callable[[], float] = lambda: 0.0
    text: str | None = None
    leases: dict[Subnets, Lease] = field(default_factory=dict)
    writers: dict[Subnets, NodeIdentity] = field(default_factory=dict)
    reading: set["asyncio.Queue[LeaseMessage | None]"] = field(default_factory=set)
    config_changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def set_config(self, text: str) -> None:
        async with self.config_changed:
            self.text = text
            self.config_changed.notify_all()

    async def reserve(self, subnets: Subnets, attrs: LeaseAttrs) -> None:
        self.writers.pop(subnets, None)
        self.write(Lease(subnets, attrs, reserved=True))

    async def revoke(self, subnets: Subnets) -> None:
        """Delete a lease, as an operator or its expiry does."""
        if self.leases.pop(subnets, None) is not None:
            self.writers.pop(subnets, None)
            self.tell(Gone(subnets))

    async def lose_history(self) -> None:
        """Break every watch so that it must begin with a snapshot again, as a compaction does."""
        for queue in self.reading:
            queue.put_nowait(None)

    def write(self, lease: Lease) -> None:
        self.leases[lease.subnets] = lease
        self.tell(Changed(lease))

    def tell(self, message: LeaseMessage) -> None:
        for queue in self.reading:
            queue.put_nowait(message)

    def store(self, report: Report | None = None, *, rng: Random | None = None) -> "MemoryStore":
        return MemoryStore(self, report or (lambda _: None), rng or Random(1))


class MemoryStore:
    """LeaseStore and Renewable over a MemoryCluster."""

    def __init__(self, cluster: MemoryCluster, report: Report, rng: Random) -> None:
        self.cluster = cluster
        self.closed = False
        self._report = report
        self._rng = rng
        self._config: str | None = None

    def describe(self) -> str:
        return "memory"

    def config_source(self) -> str:
        return "memory"

    async def config(self) -> str:
        async with self.cluster.config_changed:
            if self.cluster.text is None:
                self._report(Condition(False, "no network configuration in memory", "set it"))
            await self.cluster.config_changed.wait_for(lambda: self.cluster.text is not None)
        self._report(Condition(True, "memory answers"))
        assert self.cluster.text is not None
        self._config = self.cluster.text
        return self._config

    async def watch_config(self) -> AsyncGenerator[str, None]:
        while True:
            async with self.cluster.config_changed:
                await self.cluster.config_changed.wait_for(lambda: self.cluster.text not in (None, self._config))
                self._config = self.cluster.text
            assert self._config is not None
            yield self._config

    def _mine(self, attrs: LeaseAttrs) -> list[Lease]:
        four = attrs.public_ip is not None
        return [
            lease
            for _, lease in sorted(self.cluster.leases.items(), key=lambda item: item[1].key)
            if (lease.attrs.public_ip == attrs.public_ip if four else lease.attrs.public_ip is None)
            and (four or lease.attrs.public_ipv6 == attrs.public_ipv6)
        ]

    async def stored(self, attrs: LeaseAttrs) -> LeaseAttrs | None:
        return next((lease.attrs for lease in self._mine(attrs)), None)

    async def acquire(self, request: LeaseRequest) -> Lease:
        await asyncio.sleep(0)
        mine = self._mine(request.attrs)
        for lease in mine:
            writer = self.cluster.writers.get(lease.subnets)
            if writer is not None and writer.machine != request.identity.machine:
                raise DuplicatePublicIP(
                    f"host {writer.host_name!r} holds the lease {lease}", hint="use another address"
                )
        fitting = [lease for lease in mine if request.config.fits(lease.subnets)]
        chosen = min(fitting, key=lambda held: (not held.reserved, held.subnets != request.previous), default=None)
        for lease in mine:
            if lease is not chosen and not lease.reserved:
                await self.cluster.revoke(lease.subnets)
        if chosen is not None and chosen.reserved:
            lease = replace(chosen, attrs=request.attrs)
        else:
            taken = [net for subnets in self.cluster.leases for net in subnets]
            subnets = chosen.subnets if chosen else choose_subnets(request.config, taken, request.previous, self._rng)
            lease = Lease(subnets, request.attrs, expires=self.cluster.clock() + self.cluster.ttl_s)
        self.cluster.writers[lease.subnets] = request.identity
        self.cluster.write(lease)
        return lease

    async def renew(self, lease: Lease) -> Lease:
        held = self.cluster.leases.get(lease.subnets)
        if held is None:
            raise LeaseLost(f"our lease {lease} is gone")
        if held not in self._mine(lease.attrs):
            raise LeaseLost(f"our lease {lease} is another node's now: {held}")
        if held.reserved:
            return replace(lease, expires=None, reserved=True)
        renewed = replace(lease, expires=self.cluster.clock() + self.cluster.ttl_s)
        self.cluster.write(renewed)
        return renewed

    async def watch(self) -> AsyncGenerator[LeaseMessage, None]:
        queue: asyncio.Queue[LeaseMessage | None] = asyncio.Queue()
        self.cluster.reading.add(queue)
        try:
            while True:
                yield Snapshot(tuple(self.cluster.leases.values()))
                while (message := await queue.get()) is not None:
                    yield message
        finally:
            self.cluster.reading.discard(queue)

    async def release(self, lease: Lease) -> None:
        held = self.cluster.leases.get(lease.subnets)
        if held is not None and not held.reserved and held in self._mine(lease.attrs):
            await self.cluster.revoke(lease.subnets)

    async def close(self) -> None:
        self.closed = True
