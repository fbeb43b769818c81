"""Candidates, default routes and reach, as a real kernel has them."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from flanneld_py.errors import InterfaceError, KernelError
from flanneld_py.model.extiface import InterfaceWish, choose
from flanneld_py.model.node import InterfaceAddress, Reach
from flanneld_py.netlink.interfaces import ra_default6, read_interfaces, read_underlay
from flanneld_py.netlink.netns import in_netns
from flanneld_py.netlink.routes import Way, route_to
from flanneld_py.netlink.socket import NetlinkSocket
from flanneld_py.netlink.underlay import KernelUnderlay
from tests.netns.space import Namespace, vxlan


def test_candidates_have_their_addresses_and_marks(node: Namespace) -> None:
    node.ip("addr", "add", "192.0.2.9/24", "dev", "eth0", "valid_lft", "3600", "preferred_lft", "0")
    node.ip("addr", "add", "192.0.2.10/32", "dev", "eth0", "valid_lft", "3600", "preferred_lft", "1800")
    with NetlinkSocket(netns=node.path) as sock:
        found = {interface.name: interface for interface in read_interfaces(sock)}
    assert list(found) == [row["ifname"] for row in node.ip_json("link", "show")]
    eth0 = found["eth0"]
    assert (eth0.mtu, eth0.up) == (1500, True)
    assert InterfaceAddress(ip_address("192.0.2.1"), 24) in eth0.addresses
    assert InterfaceAddress(ip_address("192.0.2.9"), 24, deprecated=True, permanent=False) in eth0.addresses
    assert InterfaceAddress(ip_address("192.0.2.10"), 32, permanent=False) in eth0.addresses
    assert InterfaceAddress(ip_address("2001:db8::1"), 64) in eth0.addresses


def test_a_veth_is_known_to_keep_a_sender_on_one_processor(node: Namespace) -> None:
    node.ip("link", "add", "br0", "type", "bridge")
    with NetlinkSocket(netns=node.path) as sock:
        found = {interface.name: interface.steady for interface in read_interfaces(sock)}
        assert choose(read_interfaces(sock), InterfaceWish(ifaces=("eth0",)), read_underlay(sock)).external.steady
    assert (found["eth0"], found["br0"]) == (True, False)


def test_the_default_route_with_the_least_metric_decides(node: Namespace) -> None:
    node.ip("addr", "add", "198.51.100.1/24", "dev", "wire0")
    node.ip("route", "add", "default", "via", "192.0.2.254", "dev", "eth0", "metric", "200")
    node.ip("route", "add", "default", "via", "198.51.100.254", "dev", "wire0", "metric", "100")
    node.ip("-6", "route", "add", "default", "via", "2001:db8::ff", "dev", "eth0")
    with NetlinkSocket(netns=node.path) as sock:
        underlay = read_underlay(sock)
        assert (underlay.default4, underlay.default6) == ("wire0", "eth0")
        choice = choose(read_interfaces(sock), InterfaceWish(), underlay)
    assert (choice.external.name, str(choice.external.addr4)) == ("wire0", "198.51.100.1")
    assert choice.rejected == ("eth0 (192.0.2.1): not the way of the default route",)


def test_a_default_route_by_several_routers_counts(node: Namespace) -> None:
    hops = [word for last in ("fe", "ff") for word in ("nexthop", "via", f"2001:db8::{last}", "dev", "eth0")]
    node.ip("-6", "route", "add", "default", "proto", "ra", *hops)
    with NetlinkSocket(netns=node.path) as sock:
        assert read_underlay(sock).default6 == "eth0"
        assert ra_default6(sock, "eth0") and not ra_default6(sock, "wire0")


def test_unusable_defaults_are_none(node: Namespace) -> None:
    node.ip("route", "add", "unreachable", "default")
    with NetlinkSocket(netns=node.path) as sock:
        underlay = read_underlay(sock)
        assert (underlay.default4, underlay.default6) == (None, None)
        with pytest.raises(InterfaceError, match=r"eth0 \(192\.0\.2\.1, 2001:db8::1"):
            choose(read_interfaces(sock), InterfaceWish(), underlay)


def test_can_reach_asks_the_kernel(node: Namespace) -> None:
    node.ip("route", "add", "203.0.113.0/24", "via", "192.0.2.254", "dev", "eth0", "src", "192.0.2.1")
    with NetlinkSocket(netns=node.path) as sock:
        choice = choose(
            read_interfaces(sock), InterfaceWish(can_reach="203.0.113.7"), read_underlay(sock, "203.0.113.7")
        )
        assert (choice.external.name, str(choice.external.addr4)) == ("eth0", "192.0.2.1")
        names = {row["ifindex"]: row["ifname"] for row in node.ip_json("link", "show")}
        way = route_to(sock, ip_address("203.0.113.7"), names)
        assert way == Way("eth0", ip_address("192.0.2.1"), ip_address("192.0.2.254"))
        with pytest.raises(KernelError, match=r"no route to 8\.8\.8\.8"):
            route_to(sock, ip_address("8.8.8.8"), names)
        assert "no route to 8.8.8.8" in read_underlay(sock, "8.8.8.8").unreached
        assert "not an IP address" in read_underlay(sock, "gateway").unreached


async def test_reach_is_told_for_each_address(node: Namespace) -> None:
    vxlan(node)
    node.ip("route", "add", "10.244.0.0/16", "dev", "flannel.1")
    node.ip("route", "add", "203.0.113.0/24", "via", "192.0.2.254", "dev", "eth0")
    node.ip("route", "add", "198.18.0.0/15", "via", "inet6", "2001:db8::9", "dev", "eth0")
    node.ip("route", "add", "blackhole", "198.51.100.0/24")
    expected = {
        "192.0.2.9": Reach.ON_LINK,
        "2001:db8::9": Reach.ON_LINK,
        "203.0.113.9": Reach.ROUTED,
        "198.18.0.1": Reach.ROUTED,
        "10.244.7.1": Reach.ROUTED,
        "192.0.2.1": Reach.ROUTED,
        "127.0.0.1": Reach.ROUTED,
        "198.51.100.1": Reach.UNREACHABLE,
        "8.8.8.8": Reach.UNREACHABLE,
        "2001:4860::8888": Reach.UNREACHABLE,
    }
    with NetlinkSocket(netns=node.path) as sock:
        underlay = KernelUnderlay(sock, ("flannel.1",))
        found = await underlay.reaches(frozenset(ip_address(text) for text in expected))
        assert {str(address): reached.reach for address, reached in found.items()} == expected
        assert {reached.dev for reached in found.values() if reached.reach is Reach.ON_LINK} == {"eth0"}
        many = frozenset(ip_address("198.18.0.0") + n for n in range(1000))
        assert {reached.reach for reached in (await underlay.reaches(many)).values()} == {Reach.ROUTED}


def test_a_namespace_that_is_not_there_is_named() -> None:
    with pytest.raises(KernelError, match="cannot open network namespace /run/netns/none-such"):
        NetlinkSocket(netns="/run/netns/none-such")


def test_an_open_descriptor_names_a_namespace_too(node: Namespace) -> None:
    with Path(node.path).open() as namespace, NetlinkSocket(netns=namespace.fileno()) as sock:
        assert "wire0" in {interface.name for interface in read_interfaces(sock)}


def test_what_fails_inside_is_raised_outside(node: Namespace) -> None:
    with pytest.raises(ZeroDivisionError):
        in_netns(node.path, lambda: 1 // 0)
