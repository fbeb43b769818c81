"""Notices from a real kernel, and the silence where nothing concerns us."""

import asyncio
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address, ip_interface, ip_network

import pytest
import uvloop

from flanneld_py.model.entry import FdbEntry, Neighbour, Route
from flanneld_py.netlink.monitor import AddressNotice, EntryNotice, LinkNotice, Lost, Monitor, Notice
from tests.netns.space import Namespace, vxlan

NETWORKS = (ip_network("10.244.0.0/16"), ip_network("fd00::/56"))
SENTINEL = "10.244.255.0/24"


@pytest.fixture
async def monitor(node: Namespace) -> AsyncIterator[Monitor]:
    vxlan(node)
    async with Monitor({"flannel.1", "eth0"}, NETWORKS, netns=node.path) as monitor:
        yield monitor


async def until(monitor: Monitor, is_last: Callable[[Notice], bool]) -> list[Notice]:
    """The notices up to the first one for which `is_last` holds."""
    seen: list[Notice] = []
    async with asyncio.timeout(10):
        async for notice in monitor:
            seen.append(notice)
            if is_last(notice):
                break
    return seen


async def up_to_sentinel(node: Namespace, monitor: Monitor) -> list[Notice]:
    """All notices of what was done before; a route of its own marks the end.

    Without those of link-local addresses, which devices get by themselves, some time after they are up.
    """
    node.ip("route", "add", SENTINEL, "dev", "eth0")
    seen = await until(monitor, lambda n: isinstance(n, EntryNotice) and n.entry.key[1] == SENTINEL)
    return [n for n in seen[:-1] if not (isinstance(n, AddressNotice) and n.interface.is_link_local)]


async def test_entries_of_ours_are_told_as_values(node: Namespace, monitor: Monitor) -> None:
    node.ip("route", "add", "10.244.7.0/24", "via", "192.0.2.9", "dev", "eth0", "proto", "241")
    node.ip("neigh", "add", "10.244.7.0", "lladdr", "02:00:5e:00:53:07", "dev", "flannel.1", "nud", "permanent")
    node.bridge("fdb", "add", "02:00:5e:00:53:07", "dev", "flannel.1", "dst", "192.0.2.9")
    node.ip("route", "del", "10.244.7.0/24")
    route = Route(ip_network("10.244.7.0/24"), "eth0", ip_address("192.0.2.9"))
    assert await up_to_sentinel(node, monitor) == [
        EntryNotice(route, gone=False),
        EntryNotice(Neighbour("flannel.1", ip_address("10.244.7.0"), "02:00:5e:00:53:07"), gone=False),
        EntryNotice(FdbEntry("flannel.1", "02:00:5e:00:53:07", ip_address("192.0.2.9")), gone=False),
        EntryNotice(route, gone=True),
    ]


async def test_a_foreign_route_inside_the_network_is_told(node: Namespace, monitor: Monitor) -> None:
    node.ip("route", "add", "fd00:0:0:7::/64", "via", "2001:db8::9", "dev", "eth0")
    (notice,) = await up_to_sentinel(node, monitor)
    assert isinstance(notice, EntryNotice) and isinstance(notice.entry, Route)
    assert (str(notice.entry.dst), notice.entry.protocol) == ("fd00:0:0:7::/64", 3)


async def test_what_does_not_concern_us_makes_no_notice(node: Namespace, monitor: Monitor) -> None:
    node.ip("route", "add", "172.31.0.0/24", "via", "192.0.2.9", "dev", "wire0", "onlink")
    node.ip("route", "add", "172.30.0.0/24", "via", "192.0.2.9", "dev", "eth0")
    node.ip("route", "add", "10.0.0.0/8", "via", "192.0.2.9", "dev", "eth0")
    node.ip("route", "add", "10.244.8.0/24", "dev", "eth0", "table", "99")
    node.ip("neigh", "add", "192.0.2.50", "lladdr", "02:00:5e:00:53:50", "dev", "wire0", "nud", "permanent")
    node.ip("link", "add", "veth7", "type", "veth", "peer", "name", "veth8")
    node.ip("addr", "add", "10.99.0.1/24", "dev", "veth7")
    assert await up_to_sentinel(node, monitor) == []


async def test_devices_and_addresses_are_told_by_name(node: Namespace, monitor: Monitor) -> None:
    node.ip("addr", "add", "192.0.2.2/24", "dev", "eth0")
    node.ip("link", "set", "flannel.1", "down")
    node.ip("link", "del", "flannel.1")
    seen = [n for n in await up_to_sentinel(node, monitor) if not isinstance(n, EntryNotice)]
    assert seen[0] == AddressNotice("eth0", ip_interface("192.0.2.2/24"), gone=False)
    assert LinkNotice("flannel.1", up=False, gone=False) in seen
    assert seen[-1] == LinkNotice("flannel.1", up=False, gone=True)


async def test_a_device_that_comes_later_is_watched(node: Namespace, monitor: Monitor) -> None:
    node.ip("link", "del", "flannel.1")
    vxlan(node)
    await until(monitor, lambda n: n == LinkNotice("flannel.1", up=True, gone=False))
    node.ip("neigh", "add", "10.244.7.0", "lladdr", "02:00:5e:00:53:07", "dev", "flannel.1", "nud", "permanent")
    assert any(
        isinstance(n, EntryNotice) and isinstance(n.entry, Neighbour) for n in await up_to_sentinel(node, monitor)
    )


async def test_a_renamed_device_is_gone_under_its_old_name(node: Namespace, monitor: Monitor) -> None:
    node.ip("link", "set", "flannel.1", "down")
    node.ip("link", "set", "flannel.1", "name", "kept.1")
    assert LinkNotice("flannel.1", up=False, gone=True) in await up_to_sentinel(node, monitor)


async def test_an_overflow_is_told_as_lost_and_notices_go_on(node: Namespace) -> None:
    async with Monitor({"flannel.1"}, NETWORKS, netns=node.path, receive_bytes=4096) as monitor:
        node.batch([f"route add 10.244.{n}.0/24 dev eth0" for n in range(200)])
        assert Lost() in await until(monitor, lambda n: n == Lost())
        node.ip("route", "del", "10.244.3.0/24")
        await until(monitor, lambda n: isinstance(n, EntryNotice) and n.gone)


async def test_a_flood_of_foreign_notices_is_kept_out_by_the_kernel(node: Namespace) -> None:
    """With a tiny receive queue: what the filter lets through would overflow it and be told as lost."""
    async with Monitor({"flannel.1"}, NETWORKS, netns=node.path, receive_bytes=4096) as monitor:
        node.batch(
            [f"neigh replace 192.0.2.{n} lladdr 02:00:5e:00:53:50 dev wire0 nud permanent" for n in range(2, 250)] * 4
            + [f"route add 10.244.{n}.0/24 dev eth0 table 99" for n in range(200)]
        )
        assert await up_to_sentinel(node, monitor) == []


async def test_closing_ends_the_iteration(node: Namespace) -> None:
    monitor = Monitor({"eth0"}, NETWORKS, netns=node.path)
    reader = asyncio.create_task(until(monitor, lambda n: False))
    await asyncio.sleep(0)
    monitor.close()
    assert await asyncio.wait_for(reader, 10) == []


def test_it_works_on_uvloop(node: Namespace) -> None:
    async def watch() -> list[Notice]:
        async with Monitor({"eth0"}, NETWORKS, netns=node.path) as monitor:
            node.ip("addr", "add", "192.0.2.3/24", "dev", "eth0")
            return await up_to_sentinel(node, monitor)

    assert AddressNotice("eth0", ip_interface("192.0.2.3/24"), gone=False) in uvloop.run(watch())
