"""The choice of the external interface: the order of wishes, both families, and what is said when nothing fits."""

from ipaddress import ip_address
from typing import TypedDict, Unpack

import pytest

from flanneld_py.errors import InterfaceError
from flanneld_py.model.extiface import (
    Choice,
    InterfaceWish,
    Reached,
    Underlay,
    choose,
    compile_pattern,
    describe,
    usable,
)
from flanneld_py.model.node import Interface, InterfaceAddress


def address(text: str, **marks: bool) -> InterfaceAddress:
    ip, _, length = text.partition("/")
    return InterfaceAddress(ip_address(ip), int(length or 24), **marks)


LO = Interface("lo", 1, 65536, True, (address("127.0.0.1/8"), address("::1/128")))
ETH0 = Interface("eth0", 2, 1500, True, (address("10.0.2.15"), address("fe80::1/64"), address("2001:db8::15/64")))
ETH1 = Interface(
    "eth1", 3, 9000, True, (address("192.168.5.11"), address("192.168.5.12"), address("2001:db8:5::11/64"))
)
BARE = Interface("eth2", 4, 1500, True)
CANDIDATES = (LO, ETH0, ETH1, BARE)
ROUTES = Underlay(default4="eth0", default6="eth0")
DUAL = (4, 6)


class Wish(TypedDict, total=False):
    versions: tuple[int, ...]
    ifaces: tuple[str, ...]
    regexes: tuple[str, ...]
    can_reach: str
    public_ip: str
    public_ipv6: str


def chosen(routes: Underlay = ROUTES, candidates: tuple[Interface, ...] = CANDIDATES, **wish: Unpack[Wish]) -> Choice:
    return choose(candidates, InterfaceWish(**wish), routes)


def refused(routes: Underlay = ROUTES, candidates: tuple[Interface, ...] = CANDIDATES, **wish: Unpack[Wish]) -> str:
    with pytest.raises(InterfaceError) as caught:
        chosen(routes, candidates, **wish)
    assert caught.value.hint
    return caught.value.message


def shown(choice: Choice) -> tuple[str, ...]:
    external = choice.external
    values = (external.addr4, external.addr6, external.public4, external.public6)
    return (external.name, *(str(value) for value in values if value is not None))


def test_without_wishes_the_default_route_decides() -> None:
    choice = chosen()
    assert shown(choice) == ("eth0", "10.0.2.15", "10.0.2.15")
    assert (choice.external.index, choice.external.mtu) == (2, 1500)
    assert choice.reason == "the default route leaves there"
    assert choice.rejected == ("eth1 (192.168.5.11): not the way of the default route",)


def test_dual_stack_takes_both_families() -> None:
    assert shown(chosen(versions=DUAL)) == ("eth0", "10.0.2.15", "2001:db8::15", "10.0.2.15", "2001:db8::15")


def test_ipv6_alone_leaves_ipv4_out() -> None:
    external = chosen(versions=(6,)).external
    assert (external.addr4, external.public4, str(external.addr6)) == (None, None, "2001:db8::15")


def test_dual_stack_needs_both_default_routes_on_one_interface() -> None:
    assert "IPv4 by eth0, IPv6 by eth1" in refused(Underlay("eth0", "eth1"), versions=DUAL)
    assert "no IPv6 default route" in refused(Underlay("eth0"), versions=DUAL)
    assert "no IPv4 default route" in refused(Underlay())


@pytest.mark.parametrize(
    ("wish", "found"),
    [
        ({"ifaces": ("eth1",)}, ("eth1", "192.168.5.11", "192.168.5.11")),
        ({"ifaces": ("192.168.5.12",)}, ("eth1", "192.168.5.12", "192.168.5.12")),
        ({"ifaces": ("eth9", "eth1")}, ("eth1", "192.168.5.11", "192.168.5.11")),
        ({"ifaces": ("eth1",), "public_ip": "203.0.113.9"}, ("eth1", "192.168.5.11", "203.0.113.9")),
        ({"public_ip": "192.168.5.12"}, ("eth1", "192.168.5.12", "192.168.5.12")),
        ({"regexes": (r"168\.5\.12",)}, ("eth1", "192.168.5.12", "192.168.5.12")),
        ({"regexes": ("th1$",)}, ("eth1", "192.168.5.11", "192.168.5.11")),
        ({"regexes": ("nothing", "^10\\.")}, ("eth0", "10.0.2.15", "10.0.2.15")),
        ({"regexes": (r"^eth[[:digit:]]\z",)}, ("eth0", "10.0.2.15", "10.0.2.15")),
        ({"ifaces": ("eth9",), "regexes": ("eth1",)}, ("eth1", "192.168.5.11", "192.168.5.11")),
    ],
)
def test_wishes_for_ipv4(wish: Wish, found: tuple[str, ...]) -> None:
    assert shown(chosen(**wish)) == found


@pytest.mark.parametrize(
    ("wish", "own"),
    [
        ({"ifaces": ("192.168.5.12",)}, ("eth1", "192.168.5.12", "2001:db8:5::11")),
        ({"ifaces": ("2001:db8:5::11",)}, ("eth1", "192.168.5.11", "2001:db8:5::11")),
        ({"public_ipv6": "2001:db8:5::11"}, ("eth1", "192.168.5.11", "2001:db8:5::11")),
        ({"regexes": ("15$",)}, ("eth0", "10.0.2.15", "2001:db8::15")),
        ({"regexes": (r"^192\.",), "ifaces": ("eth0",)}, ("eth0", "10.0.2.15", "2001:db8::15")),
    ],
)
def test_wishes_for_dual_stack(wish: Wish, own: tuple[str, ...]) -> None:
    dual: Wish = {**wish, "versions": DUAL}
    assert shown(chosen(**dual))[:3] == own


def test_a_wish_that_fits_nothing_never_falls_back_to_the_default_route() -> None:
    text = refused(ifaces=("eth9",), regexes=("wlan",))
    assert "--iface=eth9: there is no interface eth9" in text
    assert "--iface-regex=wlan: matches no address and no name" in text
    assert "eth0 (10.0.2.15, fe80::1, 2001:db8::15)" in text and "eth2 (no address)" in text


def test_what_was_tried_before_is_told_with_the_choice() -> None:
    assert chosen(ifaces=("eth9", "eth1")).rejected == ("--iface=eth9: there is no interface eth9",)


def test_in_dual_stack_a_public_ipv6_address_must_be_on_the_same_interface() -> None:
    external = chosen(versions=DUAL, ifaces=("192.168.5.11",), public_ipv6="2001:db8:5::11").external
    assert str(external.addr6) == "2001:db8:5::11"
    assert "is on eth0" in refused(versions=DUAL, ifaces=("192.168.5.11",), public_ipv6="2001:db8::15")
    assert "is on no interface" in refused(versions=DUAL, ifaces=("192.168.5.11",), public_ipv6="2001:db8:9::1")


def test_a_public_address_that_is_not_local_needs_an_interface_too() -> None:
    with pytest.raises(InterfaceError, match="no interface has the address") as caught:
        chosen(public_ip="203.0.113.9")
    assert "--iface" in (caught.value.hint or "")


def test_an_address_of_a_family_that_the_network_lacks_is_refused() -> None:
    assert "has no IPv6" in refused(ifaces=("2001:db8::15",))
    assert "has no IPv4" in refused(ifaces=("10.0.2.15",), versions=(6,))


@pytest.mark.parametrize("wish", [{"public_ip": "10.0.2"}, {"public_ipv6": "10.0.2.15"}, {"public_ip": "10.0.2.15/24"}])
def test_a_public_address_that_is_none_is_an_error(wish: Wish) -> None:
    assert "not an IPv" in refused(**wish)


def test_can_reach_takes_the_source_address_of_the_route() -> None:
    routes = Underlay(reached=Reached("eth1", ip_address("192.168.5.12")))
    assert shown(chosen(routes, can_reach="192.168.5.1")) == ("eth1", "192.168.5.12", "192.168.5.12")
    assert shown(chosen(routes, can_reach="192.168.5.1", versions=DUAL))[2] == "2001:db8:5::11"
    assert "no route to 8.8.8.8" in refused(Underlay(unreached="there is no route to 8.8.8.8"), can_reach="8.8.8.8")


def test_a_bad_pattern_is_named() -> None:
    assert "not a regular expression" in refused(regexes=("eth[",))


def test_an_interface_without_address_or_mtu_is_refused() -> None:
    assert "eth2 has no usable IPv4 address" in refused(ifaces=("eth2",))
    assert "eth1 has no usable IPv6 address" in refused(
        ifaces=("eth1",), versions=DUAL, candidates=(Interface("eth1", 3, 1500, True, (address("192.0.2.1"),)),)
    )
    assert "MTU 0" in refused(ifaces=("eth0",), candidates=(Interface("eth0", 2, 0, True, ETH0.addresses),))


def test_the_loopback_address_is_no_address_for_peers() -> None:
    assert "no usable IPv4" in refused(ifaces=("lo",))


def test_the_best_address_comes_first() -> None:
    addresses = (
        address("fe80::2/64"),
        address("2001:db8::d", deprecated=True),
        address("2001:db8::e", permanent=False, temporary=True),
        address("2001:db8::f", permanent=False),
        address("2001:db8::a"),
        address("2001:db8::b"),
        address("::1"),
        address("ff02::1"),
    )
    found = usable(Interface("eth0", 2, 1500, True, addresses), 6)
    assert [str(a.ip) for a in found] == ["2001:db8::a", "2001:db8::b", "2001:db8::f", "2001:db8::e", "fe80::2"]


def test_no_interface_at_all_is_said() -> None:
    assert "(interfaces: none)" in refused(candidates=())


def test_hundreds_of_interfaces_are_not_all_listed() -> None:
    many = tuple(Interface(f"veth{n}", n, 1500, True) for n in range(300))
    text = describe((*many, ETH0))
    assert text.startswith("eth0 (") and text.endswith(" and 277 more") and len(text) < 1000


@pytest.mark.parametrize(
    ("pattern", "matches", "misses"),
    [("eth[[:digit:]]+", "eth12", "ethx"), (r"^en.*\z", "enp3s0", "xen"), (r"\d", "eth0", "eth٣")],
)
def test_patterns_are_read_as_go_reads_them(pattern: str, matches: str, misses: str) -> None:
    compiled = compile_pattern(pattern)
    assert compiled.search(matches)
    assert not compiled.search(misses)
