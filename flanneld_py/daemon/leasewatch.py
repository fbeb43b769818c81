"""From the store's messages to the set of leases, and from there to whoever cares."""

import logging
from collections.abc import Callable
from contextlib import aclosing

from flanneld_py.daemon.leasekeeper import LeaseKeeper
from flanneld_py.model.lease import Changed, Gone, LeaseMessage, Snapshot
from flanneld_py.model.leaseset import LeaseSet
from flanneld_py.model.net import Subnets
from flanneld_py.store.base import LeaseStore

log = logging.getLogger(__name__)


async def follow_leases(
    store: LeaseStore, leases: LeaseSet, keeper: LeaseKeeper, on_change: Callable[[], None]
) -> None:
    """Take in what the store tells, for ever. `on_change`: after the first snapshot, and when peers changed."""
    first = True
    async with aclosing(store.watch()) as messages:
        async for message in messages:
            changed = leases.apply(message)
            own = keeper.lease.subnets
            if _concerns(message, own):
                keeper.observe(leases.get(own))
            if first and isinstance(message, Snapshot):
                log.info("%d leases in the network", len(message.leases))
            else:
                _log_changes(leases, changed - {own})
            if first or changed - {own}:
                first = False
                on_change()


def _concerns(message: LeaseMessage, own: Subnets) -> bool:
    if isinstance(message, Changed):
        return message.lease.subnets == own
    return isinstance(message, Snapshot) or (isinstance(message, Gone) and message.subnets == own)


def _log_changes(leases: LeaseSet, changed: frozenset[Subnets]) -> None:
    for subnets in changed:
        lease = leases.get(subnets)
        if lease is None:
            log.info("peer %s has gone", "+".join(map(str, subnets)))
        else:
            log.info("peer %s is new or has changed", lease)
