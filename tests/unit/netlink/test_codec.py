"""What is told apart when kernel messages become entries."""

import struct
from ipaddress import ip_address, ip_network

import pytest

from flanneld_py.model.entry import FdbEntry, Link, Neighbour, Op, Route, Verb
from flanneld_py.netlink import codec, wire

NAMES = {4: "flannel.1", 2: "eth0"}
INDEXES = {name: index for index, name in NAMES.items()}


def route_body(
    *attrs: bytes, family: int = 2, plen: int = 24, table: int = 254, proto: int = 241, kind: int = 1, **more: int
) -> bytes:
    head = codec.RTMSG.pack(
        family, plen, more.get("src_len", 0), more.get("tos", 0), table, proto, 0, kind, more.get("flags", 0)
    )
    return head + b"".join(attrs)


DST = wire.encode_attr(codec.RTA_DST, bytes([10, 244, 7, 0]))
GATEWAY = wire.encode_attr(codec.RTA_GATEWAY, bytes([10, 244, 7, 0]))
OIF = wire.encode_u32(codec.RTA_OIF, 4)


def decoded(body: bytes) -> Route:
    message = codec.parse_route(body)
    assert message is not None
    return codec.decode_route(message, NAMES)


def test_layouts_have_the_kernels_sizes() -> None:
    assert (codec.RTMSG.size, codec.NDMSG.size) == (12, 12)


def test_a_route_of_ours() -> None:
    route = decoded(route_body(DST, GATEWAY, OIF, flags=4))
    assert route == Route(ip_network("10.244.7.0/24"), "flannel.1", ip_address("10.244.7.0"), onlink=True)


@pytest.mark.parametrize(
    "body",
    [
        route_body(DST, OIF, table=255),
        route_body(DST, OIF, wire.encode_u32(codec.RTA_TABLE, 1000), table=252),
        route_body(DST, OIF, flags=0x200),
        route_body(DST, OIF, tos=8),
        route_body(DST, OIF, src_len=24),
        route_body(family=128),
    ],
    ids=["local table", "big table", "cached", "type of service", "source", "multicast routing"],
)
def test_routes_that_are_not_in_the_main_table_are_nothing(body: bytes) -> None:
    assert codec.parse_route(body) is None


@pytest.mark.parametrize(
    ("attr", "kind"),
    [
        (wire.encode_attr(codec.RTA_MULTIPATH, bytes(16)), "multipath"),
        (wire.encode_u32(codec.RTA_NH_ID, 9), "nexthop"),
        (wire.encode_attr(codec.RTA_ENCAP_TYPE, b"\1\0"), "encap"),
    ],
)
def test_routes_that_we_cannot_describe_equal_none_of_ours(attr: bytes, kind: str) -> None:
    route = decoded(route_body(DST, GATEWAY, OIF, attr, flags=4))
    assert route.kind == kind
    assert route.key == ("route", "10.244.7.0/24", "0")
    codec.encode(Op(Verb.DELETE, route), 1, INDEXES)
    with pytest.raises(ValueError, match="kind"):
        codec.encode(Op(Verb.ADD, route), 1, INDEXES)


def test_an_unknown_route_type_is_shown_by_number() -> None:
    assert decoded(route_body(DST, OIF, kind=77)).kind == "type77"


def test_the_default_metric_of_ipv6_is_zero() -> None:
    dst = wire.encode_attr(codec.RTA_DST, ip_address("fd00::").packed)
    body = route_body(dst, OIF, wire.encode_u32(codec.RTA_PRIORITY, 1024), family=10, plen=64)
    assert decoded(body) == Route(ip_network("fd00::/64"), "flannel.1")
    assert decoded(route_body(DST, OIF, wire.encode_u32(codec.RTA_PRIORITY, 1024))).metric == 1024


def test_an_ipv6_blackhole_is_on_no_device() -> None:
    dst = wire.encode_attr(codec.RTA_DST, ip_address("fd00::").packed)
    body = route_body(dst, wire.encode_u32(codec.RTA_OIF, 1), family=10, plen=56, kind=6)
    assert decoded(body) == Route(ip_network("fd00::/56"), None, kind="blackhole")


def test_a_device_without_a_name_is_shown_by_index() -> None:
    assert decoded(route_body(DST, wire.encode_u32(codec.RTA_OIF, 99))).dev == "if99"


def neigh_body(family: int, index: int, state: int, flags: int, *attrs: bytes) -> bytes:
    return codec.NDMSG.pack(family, 0, 0, index, state, flags, 0) + b"".join(attrs)


IP = wire.encode_attr(codec.NDA_DST, bytes([10, 244, 7, 0]))
MAC = wire.encode_attr(codec.NDA_LLADDR, bytes.fromhex("02005e005301"))
NEIGHBOUR = Neighbour("flannel.1", ip_address("10.244.7.0"), "02:00:5e:00:53:01")


@pytest.mark.parametrize(
    ("state", "flags", "permanent"),
    [
        (codec.NUD_PERMANENT, 0, True),
        (codec.NUD_REACHABLE, 0, False),
        (0x04, 0, False),
        (codec.NUD_PERMANENT, 0x10, False),
    ],
    ids=["permanent", "reachable", "stale", "extern learned"],
)
def test_only_permanent_neighbours_are_permanent(state: int, flags: int, permanent: bool) -> None:
    found = codec.decode_neighbour(neigh_body(2, 4, state, flags, IP, MAC), NAMES)
    assert found is not None
    assert found[0].permanent is permanent
    assert (found[0] == NEIGHBOUR) is permanent


def test_a_neighbour_that_never_answered_has_no_mac() -> None:
    found = codec.decode_neighbour(neigh_body(2, 4, 0x20, 0, IP), NAMES)
    assert found is not None and found[0].mac is None and not found[0].permanent


@pytest.mark.parametrize(
    "body",
    [
        neigh_body(7, 4, 0x80, 2, MAC, IP),
        neigh_body(2, 4, 0x80, codec.NTF_PROXY, IP),
        neigh_body(10, 4, codec.NUD_NOARP, 0, wire.encode_attr(1, ip_address("ff02::1").packed), MAC),
        neigh_body(2, 4, 0x80, 0, MAC),
    ],
    ids=["bridge family", "proxy", "multicast", "no address"],
)
def test_what_is_no_neighbour(body: bytes) -> None:
    assert codec.decode_neighbour(body, NAMES) is None


def test_a_forwarding_entry_of_ours() -> None:
    found = codec.decode_fdb(neigh_body(7, 4, 0x80, 2, MAC, IP), NAMES)
    assert found == (FdbEntry("flannel.1", "02:00:5e:00:53:01", ip_address("10.244.7.0")), 0x80)


@pytest.mark.parametrize("kind", [codec.NDA_PORT, codec.NDA_VNI, codec.NDA_IFINDEX, 13])
def test_a_forwarding_entry_with_more_than_an_address_equals_none_of_ours(kind: int) -> None:
    found = codec.decode_fdb(neigh_body(7, 4, 0x80, 2, MAC, IP, wire.encode_u32(kind, 5)), NAMES)
    assert found is not None and found[0].dst is None


def test_entries_of_a_bridge_are_not_the_devices() -> None:
    assert codec.decode_fdb(neigh_body(7, 4, 0x80, 4, MAC), NAMES) is None
    assert codec.decode_fdb(neigh_body(7, 4, 0x80, 0, MAC, wire.encode_u32(9, 3)), NAMES) is None


def test_a_missing_device_is_named() -> None:
    with pytest.raises(KeyError, match=r"flannel\.1"):
        codec.encode(Op(Verb.ADD, NEIGHBOUR), 1, {})


def test_links_are_not_for_this_codec() -> None:
    with pytest.raises(TypeError, match="Link"):
        codec.encode(Op(Verb.ADD, Link("a", "vxlan", 1, None, "")), 1, {})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        route_body(wire.encode_attr(codec.RTA_DST, b"\x0a")),
        route_body(DST, plen=33),
        route_body(DST, plen=8),
        route_body(DST, wire.encode_attr(codec.RTA_GATEWAY, bytes(3))),
        route_body(DST, wire.encode_attr(codec.RTA_VIA, struct.pack("=H", 99) + bytes(4))),
        route_body(DST, OIF)[:-2],
    ],
    ids=["empty", "short address", "long prefix", "host bits", "short gateway", "family of via", "truncated"],
)
def test_bytes_that_lie_are_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        decoded(body)
