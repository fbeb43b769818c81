"""What `ip` and `bridge` say of our messages, and what we read of theirs."""

from ipaddress import ip_address, ip_network

import pytest

from flanneld_py.model.entry import Desired, Entry, FdbEntry, Link, Neighbour, Op, Route, Scope, Verb, Vxlan
from flanneld_py.netlink.applier import NetlinkApplier
from tests.netns.space import Namespace, vxlan

LINK = Link("flannel.1", "vxlan", 1450, "02:00:5e:00:53:01", "ours", Vxlan(1, 8472, ip_address("192.0.2.1"), "eth0"))
ANY = (ip_network("0.0.0.0/0"), ip_network("::/0"))


@pytest.fixture
def overlay(node: Namespace) -> Namespace:
    vxlan(node)
    return node


async def put(space: Namespace, *entries: Entry) -> None:
    async with NetlinkApplier(netns=space.path) as applier:
        assert await applier.apply([Op(Verb.ADD, entry) for entry in entries]) == []


async def known(space: Namespace, *entries: Entry) -> dict[tuple[str, ...], Entry]:
    """`entries` as they are now, whoever made them."""
    async with NetlinkApplier(netns=space.path) as applier:
        return await applier.known(Desired({entry.key: entry for entry in entries}, Scope()))


ROUTES = {
    "onlink": (
        Route(ip_network("10.244.7.0/24"), "flannel.1", ip_address("10.244.7.0"), onlink=True),
        "10.244.7.0/24 via 10.244.7.0 dev flannel.1 onlink",
    ),
    "direct": (
        Route(ip_network("10.244.8.0/24"), "eth0", ip_address("192.0.2.9")),
        "10.244.8.0/24 via 192.0.2.9 dev eth0",
    ),
    "link scope": (Route(ip_network("10.244.9.0/24"), "eth0"), "10.244.9.0/24 dev eth0 scope link"),
    "metric": (
        Route(ip_network("10.244.9.0/24"), "eth0", metric=7),
        "10.244.9.0/24 dev eth0 scope link metric 7",
    ),
    "blackhole": (Route(ip_network("10.244.0.0/16"), None, kind="blackhole"), "blackhole 10.244.0.0/16"),
    "default": (
        Route(ip_network("0.0.0.0/0"), "eth0", ip_address("192.0.2.254")),
        "default via 192.0.2.254 dev eth0",
    ),
    "behind an IPv6 gateway": (
        Route(ip_network("10.244.10.0/24"), "eth0", ip_address("2001:db8::9")),
        "10.244.10.0/24 via inet6 2001:db8::9 dev eth0",
    ),
}


@pytest.mark.parametrize("case", sorted(ROUTES))
async def test_an_ipv4_route_is_what_ip_shows(overlay: Namespace, case: str) -> None:
    route, text = ROUTES[case]
    await put(overlay, route)
    assert " ".join(overlay.ip("route", "show", "proto", "241").split()) == text
    assert await known(overlay, route) == {route.key: route}


ROUTES6 = {
    "onlink": (
        Route(ip_network("fd00:7::/64"), "flannel.1", ip_address("fd00:7::"), onlink=True),
        "fd00:7::/64 via fd00:7:: dev flannel.1 metric 1024 onlink pref medium",
    ),
    "direct": (
        Route(ip_network("fd00:8::/64"), "eth0", ip_address("2001:db8::9"), metric=12),
        "fd00:8::/64 via 2001:db8::9 dev eth0 metric 12 pref medium",
    ),
    "blackhole": (
        Route(ip_network("fd00::/56"), None, kind="blackhole"),
        "blackhole fd00::/56 dev lo metric 1024 pref medium",
    ),
}


@pytest.mark.parametrize("case", sorted(ROUTES6))
async def test_an_ipv6_route_is_what_ip_shows(overlay: Namespace, case: str) -> None:
    route, text = ROUTES6[case]
    await put(overlay, route)
    assert " ".join(overlay.ip("-6", "route", "show", "proto", "241").split()) == text
    assert await known(overlay, route) == {route.key: route}


FOREIGN = {
    "10.244.1.0/24 nexthop via 192.0.2.2 dev eth0 nexthop via 192.0.2.3 dev eth0": "multipath",
    "unreachable 10.244.1.0/24": "unreachable",
    "10.244.1.0/24 nhid 7": "nexthop",
    "10.244.1.0/24 via 192.0.2.2 dev eth0 src 192.0.2.1 mtu 1300": "unicast",
}


@pytest.mark.parametrize("spec", sorted(FOREIGN))
async def test_whatever_ip_made_in_our_way_is_seen_and_replaced(overlay: Namespace, spec: str) -> None:
    overlay.ip("nexthop", "add", "id", "7", "via", "192.0.2.2", "dev", "eth0")
    overlay.ip("route", "add", *spec.split())
    mine = Route(ip_network("10.244.1.0/24"), "flannel.1", ip_address("10.244.1.0"), onlink=True)
    found = await known(overlay, mine)
    (route,) = found.values()
    assert isinstance(route, Route)
    assert route != mine and route.kind == FOREIGN[spec]
    await put(overlay, mine)
    assert await known(overlay, mine) == {mine.key: mine}
    assert len(overlay.ip_json("route", "show", "10.244.1.0/24")) == 1


async def test_foreign_multipath_in_ipv6_is_seen_and_replaced(overlay: Namespace) -> None:
    for last in ("2", "3"):
        overlay.ip("-6", "route", "append", "fd00:1::/64", "via", f"2001:db8::{last}", "dev", "eth0")
    mine = Route(ip_network("fd00:1::/64"), "flannel.1", ip_address("fd00:1::"), onlink=True)
    (route,) = (await known(overlay, mine)).values()
    assert isinstance(route, Route) and route.kind == "multipath"
    await put(overlay, mine)
    assert await known(overlay, mine) == {mine.key: mine}


async def test_routes_of_other_tables_are_none_of_our_business(overlay: Namespace) -> None:
    for table in ("99", "100000", "local"):
        overlay.ip("route", "add", "10.244.1.0/24", "via", "192.0.2.2", "dev", "eth0", "table", table, "proto", "241")
    async with NetlinkApplier(netns=overlay.path) as applier:
        assert await applier.known(Desired(scope=Scope(ANY))) == {}


async def test_neighbours_are_what_ip_shows(overlay: Namespace) -> None:
    entries = [Neighbour("flannel.1", ip_address(ip), "02:00:5e:00:53:07") for ip in ("10.244.7.0", "fd00:7::")]
    await put(overlay, *entries)
    shown = overlay.ip_json("neigh", "show", "dev", "flannel.1", "nud", "permanent")
    assert sorted((row["dst"], row["lladdr"], row["state"]) for row in shown) == [
        ("10.244.7.0", "02:00:5e:00:53:07", ["PERMANENT"]),
        ("fd00:7::", "02:00:5e:00:53:07", ["PERMANENT"]),
    ]
    assert await known(overlay, *entries) == {entry.key: entry for entry in entries}


async def test_a_learned_neighbour_in_our_way_is_seen_and_replaced(overlay: Namespace) -> None:
    overlay.ip("neigh", "add", "10.244.7.0", "lladdr", "02:00:5e:00:53:66", "dev", "flannel.1", "nud", "stale")
    mine = Neighbour("flannel.1", ip_address("10.244.7.0"), "02:00:5e:00:53:07")
    (found,) = (await known(overlay, mine)).values()
    assert found == Neighbour("flannel.1", ip_address("10.244.7.0"), "02:00:5e:00:53:66", permanent=False)
    await put(overlay, mine)
    assert await known(overlay, mine) == {mine.key: mine}


async def test_only_set_neighbours_are_ours(overlay: Namespace) -> None:
    overlay.ip("neigh", "add", "10.244.8.0", "lladdr", "02:00:5e:00:53:08", "dev", "flannel.1", "nud", "stale")
    overlay.ip("neigh", "add", "10.244.9.0", "lladdr", "02:00:5e:00:53:09", "dev", "flannel.1", "nud", "permanent")
    overlay.ip("neigh", "add", "proxy", "10.244.10.0", "dev", "flannel.1")
    overlay.ip("neigh", "add", "192.0.2.77", "lladdr", "02:00:5e:00:53:77", "dev", "eth0", "nud", "permanent")
    async with NetlinkApplier(netns=overlay.path) as applier:
        found = await applier.known(Desired(scope=Scope(devices=frozenset({"flannel.1"}))))
    neighbours = [entry for entry in found.values() if isinstance(entry, Neighbour)]
    assert neighbours == [Neighbour("flannel.1", ip_address("10.244.9.0"), "02:00:5e:00:53:09")]


async def test_forwarding_entries_are_what_bridge_shows(overlay: Namespace) -> None:
    entries = [
        FdbEntry("flannel.1", "02:00:5e:00:53:07", ip_address("192.0.2.9")),
        FdbEntry("flannel.1", "02:00:5e:00:53:08", ip_address("192.0.2.10")),
    ]
    await put(overlay, *entries)
    shown = overlay.bridge_json("fdb", "show", "dev", "flannel.1")
    assert sorted((row["mac"], row["dst"], row["state"], row["flags"]) for row in shown) == [
        ("02:00:5e:00:53:07", "192.0.2.9", "permanent", ["self"]),
        ("02:00:5e:00:53:08", "192.0.2.10", "permanent", ["self"]),
    ]
    assert await known(overlay, *entries) == {entry.key: entry for entry in entries}


@pytest.mark.parametrize("extra", [["port", "4789"], ["vni", "9"], ["via", "eth0"]])
async def test_a_forwarding_entry_to_elsewhere_is_seen_and_replaced(overlay: Namespace, extra: list[str]) -> None:
    overlay.bridge("fdb", "add", "02:00:5e:00:53:07", "dev", "flannel.1", "dst", "192.0.2.9", *extra)
    mine = FdbEntry("flannel.1", "02:00:5e:00:53:07", ip_address("192.0.2.9"))
    (found,) = (await known(overlay, mine)).values()
    assert isinstance(found, FdbEntry) and found.dst is None
    await put(overlay, mine)
    assert await known(overlay, mine) == {mine.key: mine}


async def test_every_forwarding_entry_of_our_device_is_ours(overlay: Namespace) -> None:
    overlay.bridge("fdb", "add", "02:00:5e:00:53:07", "dev", "flannel.1", "dst", "192.0.2.9", "static")
    overlay.bridge("fdb", "add", "00:00:00:00:00:00", "dev", "flannel.1", "dst", "192.0.2.10")
    overlay.bridge("fdb", "append", "00:00:00:00:00:00", "dev", "flannel.1", "dst", "192.0.2.11")
    scope = Desired(scope=Scope(devices=frozenset({"flannel.1"})))
    async with NetlinkApplier(netns=overlay.path) as applier:
        for _ in range(2):  # an entry with two destinations goes in two passes
            found = [entry for entry in (await applier.known(scope)).values() if isinstance(entry, FdbEntry)]
            assert found
            assert await applier.apply([Op(Verb.DELETE, entry) for entry in found]) == []
        left = [entry for entry in (await applier.known(scope)).values() if isinstance(entry, FdbEntry)]
    assert left == []
    assert overlay.bridge_json("fdb", "show", "dev", "flannel.1") == []
