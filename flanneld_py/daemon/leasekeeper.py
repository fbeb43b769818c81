"""Keeps the node's own lease: takes it, renews it in time, notices its loss."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from flanneld_py.errors import LeaseLost
from flanneld_py.model.lease import Lease
from flanneld_py.store.base import LeaseRequest, LeaseStore, Renewable

log = logging.getLogger(__name__)


def renew_at(lease: Lease, *, margin_s: float, jitter: float) -> float | None:
    """Unix seconds of the next renewal; None: never. `jitter` in [0, 1) spreads nodes over a tenth of the margin, all
    of it after the margin's begin: before that may lie the past, where the margin is nearly a whole lease."""
    if lease.expires is None or lease.reserved:
        return None
    return lease.expires - margin_s * (1 - jitter / 10)


def when(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _described(lease: Lease) -> str:
    """What is published, in a message: the names as in the lease's text."""
    attrs = lease.attrs
    named = {
        "PublicIP": attrs.public_ip,
        "PublicIPv6": attrs.public_ipv6,
        "BackendType": attrs.backend_type or None,
        "BackendData": attrs.backend_data,
        "BackendV6Data": attrs.backend_v6_data,
    }
    return ", ".join(f"{name} {value}" for name, value in named.items() if value is not None)


class LeaseKeeper:
    """`margin_s`: how long before expiry to renew. `reacquire`: take a lost lease anew instead of ending."""

    def __init__(
        self,
        store: LeaseStore,
        renewable: Renewable | None,
        request: LeaseRequest,
        *,
        margin_s: float,
        reacquire: bool,
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._store = store
        self._renewable = renewable
        self._request = request
        self._margin_s = margin_s
        self._reacquire = reacquire
        self._clock = clock
        self._jitter = jitter
        self._event = asyncio.Event()
        self._lost: LeaseLost | None = None
        self._lease: Lease | None = None
        self._acquiring = False
        self._heard: list[Lease | None] = []

    @property
    def lease(self) -> Lease:
        if self._lease is None:
            raise RuntimeError("there is no lease before acquire")
        return self._lease

    async def acquire(self) -> Lease:
        """Take a lease. What was heard of an earlier one no longer counts."""
        self._acquiring = True
        self._heard.clear()
        try:
            self._lease = lease = await self._store.acquire(self._request)
        finally:
            self._acquiring = False
        self._lost = None
        self._event.clear()
        if any(found is not None and found.attrs == lease.attrs for found in self._heard):
            # The store's answer came after the news of what it had done, and perhaps of what was done to that.
            self.observe(self._heard[-1])
        # Its next loss, or the next run, must ask for this subnet first.
        self._request = replace(self._request, previous=lease.subnets)
        return lease

    def observe(self, found: Lease | None) -> None:
        """What the store says of our own key now: None, it is gone."""
        own = self._lease
        if own is None:
            return
        if self._acquiring:
            self._heard.append(found)
        elif found is None:
            self._lose(f"the lease {own} was revoked: its key {own.key} is gone from the store")
        elif found.attrs != own.attrs:
            self._lose(f"the lease {own} was taken: its key {own.key} now holds {_described(found)}")
        elif found.reserved != own.reserved:
            log.info("lease %s is %s", own, "a reservation now, and not renewed" if found.reserved else "renewed again")
            # Nobody has told how long the key lives that is no reservation now: it is renewed at once.
            self._lease = replace(own, reserved=found.reserved, expires=None if found.reserved else self._clock())
            self._event.set()

    def _lose(self, why: str) -> None:
        self._lost = LeaseLost(why, hint="start the daemon again, or run it with --reacquire")
        self._event.set()

    async def run(self, on_lease: Callable[[], None]) -> None:
        """Renew for ever; `on_lease` hears whenever `lease` is another or has another expiry.

        LeaseLost: the lease is lost and must not be taken anew.
        """
        while True:
            lost = await self._keep(on_lease)
            if not self._reacquire:
                raise lost
            log.error("%s; taking a lease anew", lost.message)
            before = self.lease
            lease = await self.acquire()
            log.log(
                logging.INFO if lease.subnets == before.subnets else logging.WARNING,
                "lease %s after the loss of %s",
                lease,
                before,
            )
            on_lease()

    async def _keep(self, on_lease: Callable[[], None]) -> LeaseLost:
        """Renew until the lease is lost."""
        while True:
            due = renew_at(self.lease, margin_s=self._margin_s, jitter=self._jitter())
            try:
                # Not wait_for: before Python 3.12 it loses a cancellation that meets the event (CPython issue 86296).
                async with asyncio.timeout(None if due is None else max(0.0, due - self._clock())):
                    await self._event.wait()
            except TimeoutError:
                if (lost := await self._renew()) is not None:
                    return lost
            self._event.clear()
            if self._lost is not None:
                return self._lost
            on_lease()

    async def _renew(self) -> LeaseLost | None:
        if self._renewable is None:
            return None
        try:
            self._lease = await self._renewable.renew(self.lease)
        except LeaseLost as lost:
            return lost
        if self._lease.expires is not None:
            log.info("Lease renewed, new expiration: %s (%s)", when(self._lease.expires), self._lease)
        return None
