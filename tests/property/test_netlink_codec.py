"""The codec against itself, against pyroute2's encoder, and against noise."""

import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from flanneld_py.model.entry import FdbEntry, Neighbour, Op, Route, Verb
from flanneld_py.netlink import codec, linkcodec, wire
from flanneld_py.netlink.wire import Message

NAMES = {2: "eth0", 7: "flannel.1", 300: "flannel-v6.1"}
INDEXES = {name: index for index, name in NAMES.items()}
devs = st.sampled_from(sorted(INDEXES))
v4, v6 = st.ip_addresses(v=4), st.ip_addresses(v=6)
macs = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
metrics = st.integers(0, 2**32 - 1)
protocols = st.integers(0, 255)


@st.composite
def routes(draw: st.DrawFn) -> Route:
    if draw(st.booleans()):
        prefix = draw(st.integers(0, 32))
        dst: IPv4Network | IPv6Network = IPv4Network((int(draw(v4)) >> (32 - prefix) << (32 - prefix), prefix))
        via: Any = draw(st.none() | v4 | v6)
        metric = draw(metrics)
    else:
        prefix = draw(st.integers(0, 128))
        dst = IPv6Network((int(draw(v6)) >> (128 - prefix) << (128 - prefix), prefix))
        via = draw(st.none() | v6)
        metric = draw(metrics.filter(lambda number: number != 1024))  # spelled 0
    if draw(st.integers(0, 5)) == 0:
        return Route(
            dst, None, metric=metric, protocol=draw(protocols), kind=draw(st.sampled_from(["blackhole", "throw"]))
        )
    return Route(dst, draw(devs), via, draw(st.booleans()), metric, draw(protocols))


neighbours = st.builds(Neighbour, devs, v4 | v6, st.none() | macs, st.booleans())
fdb = st.builds(FdbEntry, devs, macs, st.none() | v4 | v6, st.booleans())
entries = routes() | neighbours | fdb


def only(data: bytes) -> Message:
    (message,) = wire.messages(data)
    return message


def as_told(message: Message) -> Message:
    """A request as its notice: neighbours and FDB entries get struct nda_cacheinfo (include/uapi/linux/neighbour.h)."""
    if message.type not in {codec.RTM_NEWNEIGH, codec.RTM_DELNEIGH}:
        return message
    return message._replace(body=message.body + wire.encode_attr(codec.NDA_CACHEINFO, bytes(16)))


def as_echoed(message: Message, vlan: int | None) -> Message:
    """The second notice of a write to a forwarding table (net/core/rtnetlink.c nlmsg_populate_fdb_fill): address, and
    a VLAN if one was given."""
    mac = wire.attributes(message.body, codec.NDMSG.size)[codec.NDA_LLADDR]
    tag = b"" if vlan is None else wire.encode_attr(5, struct.pack("=H", vlan))
    return message._replace(body=message.body[: codec.NDMSG.size] + wire.encode_attr(codec.NDA_LLADDR, mac) + tag)


@given(entries, st.integers(1, 2**32 - 1))
def test_what_is_encoded_is_decoded(entry: Route | Neighbour | FdbEntry, seq: int) -> None:
    message = only(codec.encode(Op(Verb.ADD, entry), seq, INDEXES))
    assert message.seq == seq
    assert codec.decode_notice(as_told(message), NAMES) == (entry, False)


@given(fdb, st.sampled_from([Verb.ADD, Verb.DELETE]), st.none() | st.integers(1, 4094))
def test_the_echo_of_a_write_to_a_forwarding_table_is_no_notice(entry: FdbEntry, verb: Verb, vlan: int | None) -> None:
    """It lacks the destination, so it would be taken for another entry than the one that was written."""
    message = only(codec.encode(Op(verb, entry), 1, INDEXES))
    assert codec.decode_notice(as_echoed(message, vlan), NAMES) is None
    assert codec.decode_notice(as_told(message), NAMES) is not None


@given(routes())
def test_raw_keys_agree_with_keys(route: Route) -> None:
    parsed = codec.parse_route(only(codec.encode(Op(Verb.ADD, route), 1, INDEXES)).body)
    assert parsed is not None
    assert parsed.raw_key == codec.raw_key(route)


@given(entries)
def test_a_delete_names_the_same_object(entry: Route | Neighbour | FdbEntry) -> None:
    found = codec.decode_notice(as_told(only(codec.encode(Op(Verb.DELETE, entry), 1, INDEXES))), NAMES)
    assert found is not None
    assert (found[0].key, found[1]) == (entry.key, True)


def by_pyroute2(message: Any, fields: dict[str, int], attrs: list[tuple[str, Any]], head: Message) -> bytes:
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attrs
    message["header"]["type"] = head.type
    message["header"]["flags"] = head.flags
    message["header"]["sequence_number"] = head.seq
    message["header"]["pid"] = 0
    message.encode()
    return bytes(message.data)


@given(routes())
def test_routes_are_encoded_as_pyroute2_does(route: Route) -> None:
    data = codec.encode(Op(Verb.ADD, route), 9, INDEXES)
    family = 2 if route.dst.version == 4 else 10
    attrs: list[tuple[str, Any]] = []
    if route.dst.prefixlen:
        attrs.append(("RTA_DST", str(route.dst.network_address)))
    if route.via is not None and route.via.version == route.dst.version:
        attrs.append(("RTA_GATEWAY", str(route.via)))
    elif route.via is not None:
        attrs.append(("RTA_VIA", {"family": 10, "addr": str(route.via)}))
    if route.dev is not None:
        attrs.append(("RTA_OIF", INDEXES[route.dev]))
    if route.metric:
        attrs.append(("RTA_PRIORITY", route.metric))
    linked = route.kind == "unicast" and route.via is None and family == 2
    fields = {
        "family": family,
        "dst_len": route.dst.prefixlen,
        "table": 254,
        "proto": route.protocol,
        "scope": 253 if linked else 0,
        "type": {"unicast": 1, "blackhole": 6, "throw": 9}[route.kind],
        "flags": 4 if route.onlink else 0,
    }
    assert data == by_pyroute2(rtmsg(), fields, attrs, only(data))


@given(neighbours)
def test_neighbours_are_encoded_as_pyroute2_does(entry: Neighbour) -> None:
    data = codec.encode(Op(Verb.ADD, entry), 9, INDEXES)
    family = 2 if isinstance(entry.ip, IPv4Address) else 10
    attrs: list[tuple[str, Any]] = [("NDA_DST", str(entry.ip))]
    if entry.mac is not None:
        attrs.append(("NDA_LLADDR", entry.mac))
    fields = {"family": family, "ifindex": INDEXES[entry.dev], "state": 0x80 if entry.permanent else 0x02}
    assert data == by_pyroute2(ndmsg(), fields, attrs, only(data))


@given(fdb)
def test_forwarding_entries_are_encoded_as_pyroute2_does(entry: FdbEntry) -> None:
    data = codec.encode(Op(Verb.ADD, entry), 9, INDEXES)
    attrs: list[tuple[str, Any]] = [("NDA_LLADDR", entry.mac)]
    if entry.dst is not None:
        attrs.append(("NDA_DST", str(entry.dst)))
    state = 0x80 if entry.permanent else 0x02
    fields = {"family": 7, "ifindex": INDEXES[entry.dev], "state": state, "flags": 2}
    assert data == by_pyroute2(ndmsg(), fields, attrs, only(data))


TYPES = st.sampled_from([16, 17, 20, 21, 24, 25, 28, 29, 99])


def read_everything(message: Message) -> None:
    codec.decode_notice(message, NAMES)
    codec.parse_route(message.body, lookup=True)
    linkcodec.link_name(message.body)
    linkcodec.decode_link(message.body)
    linkcodec.decode_address(message.body)


@given(TYPES, st.binary(max_size=200))
def test_noise_is_refused_with_a_value_error_alone(kind: int, body: bytes) -> None:
    for read in (read_everything, wire.decode_refusal, wire.decode_dump_end):
        try:
            read(Message(kind, wire.NLM_F_ACK_TLVS, 1, body))
        except ValueError:
            continue


@given(st.binary(max_size=300))
def test_noise_as_a_datagram_is_refused_or_read_to_its_end(data: bytes) -> None:
    try:
        found = list(wire.messages(data))
    except ValueError:
        return
    assert sum(16 + (len(message.body) + 3 & ~3) for message in found) >= len(data)


@given(entries, st.data())
def test_a_cut_or_changed_message_is_never_another_object_in_silence(
    entry: Route | Neighbour | FdbEntry, data: st.DataObject
) -> None:
    """Cut anywhere: either refused, or what is left is whole attributes."""
    whole = codec.encode(Op(Verb.ADD, entry), 1, INDEXES)
    body = as_told(only(whole)).body
    cut = data.draw(st.integers(0, len(body) - 1))
    message = Message(struct.unpack_from("=H", whole, 4)[0], 5, 1, body[:cut])
    try:
        found = codec.decode_notice(message, NAMES)
    except ValueError:
        return
    ends = {12, *_attribute_ends(body)}
    assert cut in ends or found is None


def _attribute_ends(body: bytes) -> set[int]:
    """Where an attribute may end: with or without its padding."""
    ends, offset = set(), 12
    while offset < len(body):
        length = struct.unpack_from("=H", body, offset)[0]
        ends |= set(range(offset + length, offset + (length + 3 & ~3) + 1))
        offset += length + 3 & ~3
    return ends


def test_ipv6_addresses_keep_their_bytes() -> None:
    address = IPv6Address("2001:db8::53")
    entry = Neighbour("eth0", address, "02:00:5e:00:53:01")
    assert address.packed in codec.encode(Op(Verb.ADD, entry), 1, INDEXES)
