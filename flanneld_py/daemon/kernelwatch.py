"""From the kernel's notices to wake-ups of the reconciler."""

import asyncio
from collections.abc import Collection
from ipaddress import ip_network

from flanneld_py.model.entry import ROUTE_PROTOCOL, Route
from flanneld_py.model.net import Net, inside
from flanneld_py.netlink.monitor import AddressNotice, EntryNotice, LinkNotice, Lost, Monitor
from flanneld_py.reconcile.loop import Reconciler

EVERY_ROUTE: tuple[Net, ...] = (ip_network("0.0.0.0/0"), ip_network("::/0"))

REACH_SETTLES_S = 1.0
"""Routes of the underlay come in bursts (a routing daemon starts); how peers are reached is asked once after one."""


def open_monitor(devices: Collection[str], networks: Collection[Net], *, needs_reach: bool) -> Monitor:
    """A monitor of what `follow_kernel` wants to hear: with `needs_reach`, the underlay's routes too."""
    return Monitor(devices, EVERY_ROUTE if needs_reach else networks)


async def follow_kernel(monitor: Monitor, reconciler: Reconciler, networks: tuple[Net, ...]) -> None:
    """Take notices in, for ever."""
    loop = asyncio.get_running_loop()
    later: asyncio.TimerHandle | None = None
    try:
        async for notice in monitor:
            match notice:
                case LinkNotice() | AddressNotice() | Lost():
                    reconciler.look_again()
                case EntryNotice(entry, gone):
                    if isinstance(entry, Route) and _is_underlay(entry, networks):
                        if later is None or later.when() <= loop.time():
                            later = loop.call_later(REACH_SETTLES_S, reconciler.look_again)
                    else:
                        reconciler.notice(entry, gone=gone)
    finally:
        if later is not None:
            later.cancel()


def _is_underlay(route: Route, networks: tuple[Net, ...]) -> bool:
    """A route outside the overlay, and not ours: it can only change how a peer is reached."""
    within = any(inside(route.dst, net) for net in networks)
    return not within and route.protocol != ROUTE_PROTOCOL
