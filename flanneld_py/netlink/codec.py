"""Routes, neighbours and FDB entries as rtnetlink messages, both ways. Sans-I/O.

Layouts: include/uapi/linux/rtnetlink.h struct rtmsg, include/uapi/linux/neighbour.h struct ndmsg; integers in host
order, addresses as on the wire. Whatever cannot be one of our entries is either told apart (a route with several
next hops has `kind` "multipath") or is None; bytes that lie about their length are a ValueError, never an entry.
"""

import sys
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from socket import AF_INET, AF_INET6
from struct import Struct
from typing import NamedTuple

from flanneld_py.model.entry import FdbEntry, Neighbour, Op, Route, Verb
from flanneld_py.model.net import Addr, Net
from flanneld_py.netlink.wire import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REPLACE,
    Message,
    attributes,
    encode_attr,
    encode_message,
    encode_u32,
    number,
)

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
AF_BRIDGE = 7

RTMSG = Struct("=BBBBBBBBI")
"""struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags."""
NDMSG = Struct("=BBHiHBB")
"""struct ndmsg: family, two pads, ifindex, state, flags, type."""

RT_TABLE_UNSPEC, RT_TABLE_MAIN, RT_TABLE_LOCAL = 0, 254, 255
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_NOWHERE = 0, 253, 255
_RTM_F_CLONED = 0x200
_RTNH_F_ONLINK = 4
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC = 1, 4, 5, 6, 7
RTA_METRICS = 8
RTA_MULTIPATH, RTA_TABLE, RTA_VIA, RTA_ENCAP_TYPE, RTA_NH_ID = 9, 15, 18, 21, 30
_IP6_DEFAULT_METRIC = 1024  # include/uapi/linux/ipv6_route.h IP6_RT_PRIO_USER
ROUTE_KINDS = {
    1: "unicast",
    2: "local",
    3: "broadcast",
    4: "anycast",
    5: "multicast",
    6: "blackhole",
    7: "unreachable",
    8: "prohibit",
    9: "throw",
    10: "nat",
}
_KIND_NUMBERS = {name: value for value, name in ROUTE_KINDS.items()}
_NO_NEXT_HOP = frozenset({"blackhole", "unreachable", "prohibit", "throw"})

NDA_DST, NDA_LLADDR, NDA_CACHEINFO, NDA_PORT, NDA_VNI, NDA_IFINDEX = 1, 2, 3, 6, 7, 8
_NDA_NH_ID = 13
NUD_REACHABLE, NUD_NOARP, NUD_PERMANENT = 0x02, 0x40, 0x80
NTF_SELF, NTF_PROXY, NTF_EXT_LEARNED = 0x02, 0x08, 0x10

_MAKE = NLM_F_CREATE | NLM_F_REPLACE
_FAMILY = {4: AF_INET, 6: AF_INET6}


class RouteMessage(NamedTuple):
    """A route message taken apart but not yet turned into values, so that foreign routes cost little."""

    family: int
    prefixlen: int
    protocol: int
    type: int
    flags: int
    attrs: dict[int, bytes]

    @property
    def raw_key(self) -> tuple[int, bytes, int, int]:
        """Family, destination bytes, prefix length and metric as `Route` has it: comparable without building one."""
        return self.family, self.attrs.get(RTA_DST, b""), self.prefixlen, _known_metric(self.family, self.attrs)


def encode(op: Op, seq: int, index_of: Mapping[str, int]) -> bytes:
    """The message that carries out `op`; it may be sent twice, since it creates or replaces.

    KeyError: the name of a device that `index_of` does not know. TypeError: an entry of another kind than Route,
    Neighbour and FdbEntry. ValueError: a route kind that only others make ("multipath", "nexthop") is to be added.
    """
    delete = op.verb is Verb.DELETE
    entry = op.entry
    if isinstance(entry, Route):
        body = _encode_route_delete(entry, index_of) if delete else _encode_route(entry, index_of)
        return encode_message(RTM_DELROUTE if delete else RTM_NEWROUTE, 0 if delete else _MAKE, seq, body)
    if isinstance(entry, Neighbour | FdbEntry):
        index = index_of[entry.dev]
        body = _neighbour(entry, index, delete) if isinstance(entry, Neighbour) else _fdb(entry, index, delete)
        return encode_message(RTM_DELNEIGH if delete else RTM_NEWNEIGH, 0 if delete else _MAKE, seq, body)
    raise TypeError(f"{type(entry).__name__} is not a route, neighbour or FDB entry")


def encode_first_route_delete(dst: Net, metric: int, seq: int) -> bytes:
    """Deletes the route to `dst` that comes first among those of one metric, whatever else it is."""
    body = RTMSG.pack(_FAMILY[dst.version], dst.prefixlen, 0, 0, RT_TABLE_MAIN, 0, _SCOPE_NOWHERE, 0, 0)
    return encode_message(RTM_DELROUTE, 0, seq, body + _destination(dst) + _metric(dst, metric, delete=True))


def _encode_route(route: Route, index_of: Mapping[str, int]) -> bytes:
    if route.kind not in _KIND_NUMBERS:
        raise ValueError(f"{route} has a kind that we do not make")
    linked = route.kind == "unicast" and route.via is None and route.dst.version == 4
    head = RTMSG.pack(
        _FAMILY[route.dst.version],
        route.dst.prefixlen,
        0,
        0,
        RT_TABLE_MAIN,
        route.protocol,
        _SCOPE_LINK if linked else _SCOPE_UNIVERSE,
        _KIND_NUMBERS[route.kind],
        _RTNH_F_ONLINK if route.onlink else 0,
    )
    return head + _destination(route.dst) + _next_hop(route, index_of) + _metric(route.dst, route.metric)


def _encode_route_delete(route: Route, index_of: Mapping[str, int]) -> bytes:
    """Names protocol, device and gateway too, so that nothing but the route that was seen is deleted.

    An IPv4 metric of 0 cannot be asked for: the kernel takes it for "any", and deletes the lowest
    (net/ipv4/fib_trie.c fib_table_delete).
    """
    kind = _KIND_NUMBERS.get(route.kind, 0)
    head = RTMSG.pack(
        _FAMILY[route.dst.version],
        route.dst.prefixlen,
        0,
        0,
        RT_TABLE_MAIN,
        route.protocol,
        _SCOPE_NOWHERE,
        kind,
        0,
    )
    return head + _destination(route.dst) + _next_hop(route, index_of) + _metric(route.dst, route.metric, delete=True)


def _destination(dst: Net) -> bytes:
    return encode_attr(RTA_DST, dst.network_address.packed) if dst.prefixlen else b""


def _next_hop(route: Route, index_of: Mapping[str, int]) -> bytes:
    hop = b""
    if route.via is not None and route.via.version == route.dst.version:
        hop = encode_attr(RTA_GATEWAY, route.via.packed)
    elif route.via is not None:  # an IPv4 destination behind an IPv6 gateway: struct rtvia
        hop = encode_attr(RTA_VIA, _FAMILY[route.via.version].to_bytes(2, sys.byteorder) + route.via.packed)
    return hop if route.dev is None else hop + encode_u32(RTA_OIF, index_of[route.dev])


def _metric(dst: Net, metric: int, *, delete: bool = False) -> bytes:
    if metric == 0:
        return encode_u32(RTA_PRIORITY, _IP6_DEFAULT_METRIC) if delete and dst.version == 6 else b""
    return encode_u32(RTA_PRIORITY, metric)


def _neighbour(entry: Neighbour, index: int, delete: bool) -> bytes:
    state = NUD_PERMANENT if entry.permanent else NUD_REACHABLE
    body = NDMSG.pack(_FAMILY[entry.ip.version], 0, 0, index, 0 if delete else state, 0, 0)
    body += encode_attr(NDA_DST, entry.ip.packed)
    return body if delete or entry.mac is None else body + encode_attr(NDA_LLADDR, _mac_bytes(entry.mac))


def _fdb(entry: FdbEntry, index: int, delete: bool) -> bytes:
    """Flag self: the entry goes to the device's own table, not to that of a bridge above it."""
    state = NUD_PERMANENT if entry.permanent else NUD_REACHABLE
    body = NDMSG.pack(AF_BRIDGE, 0, 0, index, 0 if delete else state, NTF_SELF, 0)
    body += encode_attr(NDA_LLADDR, _mac_bytes(entry.mac))
    return body if entry.dst is None else body + encode_attr(NDA_DST, entry.dst.packed)


def encode_route_dump(family: int, seq: int) -> bytes:
    """Asks for the main table; kernels without strict checking answer with all tables, so readers look again."""
    body = RTMSG.pack(family, 0, 0, 0, RT_TABLE_MAIN, 0, 0, 0, 0)
    return encode_message(RTM_GETROUTE, NLM_F_DUMP, seq, body)


def encode_neighbour_dump(index: int, seq: int) -> bytes:
    """Asks for the ARP and ND entries of one device."""
    body = NDMSG.pack(0, 0, 0, 0, 0, 0, 0) + encode_u32(NDA_IFINDEX, index)
    return encode_message(RTM_GETNEIGH, NLM_F_DUMP, seq, body)


def encode_fdb_dump(index: int, seq: int) -> bytes:
    """Asks for the forwarding entries of one device (net/core/rtnetlink.c valid_fdb_dump_strict)."""
    return encode_message(RTM_GETNEIGH, NLM_F_DUMP, seq, NDMSG.pack(AF_BRIDGE, 0, 0, index, 0, 0, 0))


def encode_route_lookup(address: Addr, seq: int) -> bytes:
    """Asks which route a packet to `address` takes; the answer is one RTM_NEWROUTE or an error."""
    body = RTMSG.pack(_FAMILY[address.version], address.max_prefixlen, 0, 0, RT_TABLE_UNSPEC, 0, 0, 0, 0)
    return encode_message(RTM_GETROUTE, 0, seq, body + encode_attr(RTA_DST, address.packed))


def parse_route(body: bytes, *, lookup: bool = False) -> RouteMessage | None:
    """A route of the main table; None: of another table or family, cached, or for one type of service or source only.

    `lookup`: the answer to `encode_route_lookup`, which is a cached route of whatever table, for IPv6 from
    whatever source.
    """
    if len(body) < RTMSG.size:
        raise ValueError(f"route message of {len(body)} bytes")
    family, dst_len, src_len, tos, table, protocol, _, kind, flags = RTMSG.unpack_from(body)
    if family not in {AF_INET, AF_INET6} or (not lookup and (src_len or tos or flags & _RTM_F_CLONED)):
        return None
    attrs = attributes(body, RTMSG.size)
    if not lookup and number(attrs, RTA_TABLE, table) != RT_TABLE_MAIN:
        return None
    return RouteMessage(family, dst_len, protocol, kind, flags, attrs)


def decode_route(message: RouteMessage, name_of: Mapping[int, str]) -> Route:
    """The route as a value. A device index that `name_of` lacks becomes `if7`, as `ip` prints it.

    An IPv6 metric of 1024 is the kernel's default, and 0 in a `Route`: both have one key.
    """
    attrs = message.attrs
    dst = _network(message.family, attrs.get(RTA_DST), message.prefixlen)
    metric = _known_metric(message.family, attrs)
    kind = ROUTE_KINDS.get(message.type, f"type{message.type}")
    if kind in _NO_NEXT_HOP:  # the kernel shows IPv6 ones on lo
        return Route(dst, None, metric=metric, protocol=message.protocol, kind=kind)
    for attr, name in ((RTA_MULTIPATH, "multipath"), (RTA_NH_ID, "nexthop")):
        if attr in attrs:
            return Route(dst, None, metric=metric, protocol=message.protocol, kind=name)
    if RTA_ENCAP_TYPE in attrs:
        kind = "encap"
    return Route(
        dst,
        device(name_of, number(attrs, RTA_OIF)) if RTA_OIF in attrs else None,
        via=gateway(message),
        onlink=bool(message.flags & _RTNH_F_ONLINK),
        metric=metric,
        protocol=message.protocol,
        kind=kind,
    )


def gateway(message: RouteMessage) -> Addr | None:
    attrs = message.attrs
    if RTA_GATEWAY in attrs:
        return _address(message.family, attrs[RTA_GATEWAY])
    if RTA_VIA not in attrs:
        return None
    via = attrs[RTA_VIA]
    return _address(int.from_bytes(via[:2], sys.byteorder), via[2:])


def decode_neighbour(body: bytes, name_of: Mapping[int, str]) -> tuple[Neighbour, int] | None:
    """An ARP or ND entry and its NUD_* state; None: another family, a proxy entry, or one that the kernel made
    for multicast and broadcast (NUD_NOARP)."""
    family, index, state, flags, attrs = _parse_neighbour(body)
    if family not in {AF_INET, AF_INET6} or flags & NTF_PROXY or state & NUD_NOARP or NDA_DST not in attrs:
        return None
    mac = _mac(attrs.get(NDA_LLADDR, b""))
    ip = _address(family, attrs[NDA_DST])
    permanent = bool(state & NUD_PERMANENT) and not flags & NTF_EXT_LEARNED
    return Neighbour(device(name_of, index), ip, mac, permanent), state


def decode_fdb(body: bytes, name_of: Mapping[int, str]) -> tuple[FdbEntry, int] | None:
    """A forwarding entry of the device itself and its NUD_* state; None: a bridge's entry, or another family.

    `dst` is None where the destination is more than an address (a port, VNI or device of its own, a next-hop group).
    """
    family, index, state, flags, attrs = _parse_neighbour(body)
    if family != AF_BRIDGE or not flags & NTF_SELF:
        return None
    mac = _mac(attrs.get(NDA_LLADDR, b""))
    if mac is None:
        return None
    dst = attrs.get(NDA_DST)
    plain = not attrs.keys() & {NDA_PORT, NDA_VNI, NDA_IFINDEX, _NDA_NH_ID}
    remote = _address(AF_INET if len(dst) == 4 else AF_INET6, dst) if dst is not None and plain else None
    permanent = bool(state & NUD_PERMANENT) and not flags & NTF_EXT_LEARNED
    return FdbEntry(device(name_of, index), mac, remote, permanent), state


def decode_notice(message: Message, name_of: Mapping[int, str]) -> tuple[Route | Neighbour | FdbEntry, bool] | None:
    """The entry that a notification speaks of, and whether it is gone; None: nothing that could be an entry.

    Before Linux 6.13 a write to a forwarding table is told twice: by the device, and by rtnl_fdb_notify
    (net/core/rtnetlink.c), which knows neither the destination nor the times of use that every device gives.
    """
    if message.type in {RTM_NEWROUTE, RTM_DELROUTE}:
        parsed = parse_route(message.body)
        return None if parsed is None else (decode_route(parsed, name_of), message.type == RTM_DELROUTE)
    if message.type not in {RTM_NEWNEIGH, RTM_DELNEIGH} or not message.body:
        return None
    gone = message.type == RTM_DELNEIGH
    if message.body[0] != AF_BRIDGE:
        neighbour = decode_neighbour(message.body, name_of)
        return None if neighbour is None else (neighbour[0], gone)
    fdb = decode_fdb(message.body, name_of)
    if fdb is None or NDA_CACHEINFO not in attributes(message.body, NDMSG.size):
        return None
    return fdb[0], gone


def device(name_of: Mapping[int, str], index: int) -> str:
    return name_of.get(index) or f"if{index}"


def raw_key(route: Route) -> tuple[int, bytes, int, int]:
    """What `RouteMessage.raw_key` is for the message of this route."""
    dst = route.dst
    return _FAMILY[dst.version], dst.network_address.packed if dst.prefixlen else b"", dst.prefixlen, route.metric


def _parse_neighbour(body: bytes) -> tuple[int, int, int, int, dict[int, bytes]]:
    if len(body) < NDMSG.size:
        raise ValueError(f"neighbour message of {len(body)} bytes")
    family, _, _, index, state, flags, _ = NDMSG.unpack_from(body)
    return family, index, state, flags, attributes(body, NDMSG.size)


def _known_metric(family: int, attrs: Mapping[int, bytes]) -> int:
    metric = number(attrs, RTA_PRIORITY)
    return 0 if family == AF_INET6 and metric == _IP6_DEFAULT_METRIC else metric


def _network(family: int, packed: bytes | None, prefixlen: int) -> Net:
    """ValueError where address length, prefix length or host bits do not fit each other."""
    if family == AF_INET:
        return IPv4Network((packed if packed is not None else bytes(4), prefixlen))
    return IPv6Network((packed if packed is not None else bytes(16), prefixlen))


def _address(family: int, packed: bytes) -> Addr:
    if family == AF_INET and len(packed) == 4:
        return IPv4Address(packed)
    if family == AF_INET6 and len(packed) == 16:
        return IPv6Address(packed)
    raise ValueError(f"address of {len(packed)} bytes in family {family}")


def _mac(packed: bytes) -> str | None:
    return packed.hex(":") if len(packed) == 6 else None


def _mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
