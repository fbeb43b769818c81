"""Frames decoded into layers, one line each. Sans-I/O.

A frame is bytes from anywhere: a length in it is a claim, and where a claim does not hold the layer says so and the
decoding ends. Formats: RFC 791, 8200, 792, 4443, 768, 9293, 826, 7348; linux/if_ether.h.
"""

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from itertools import zip_longest
from struct import unpack_from
from textwrap import wrap

from flanneld_py.model.net import Addr

VXLAN_PORTS = frozenset({8472, 4789})
"""The kernel's default and IANA's."""
ETHERTYPE_IPV4, ETHERTYPE_ARP, ETHERTYPE_VLAN, ETHERTYPE_IPV6 = 0x0800, 0x0806, 0x8100, 0x86DD
_ICMP, _TCP, _UDP, _ICMPV6 = 1, 6, 17, 58
_EXTENSIONS = frozenset({0, 43, 60})
"""IPv6 headers of 8-octet units between the fixed header and the payload: hop-by-hop, routing, destination options."""
_FRAGMENT = 44
_BETWEEN = " | "
_MIN_COLUMN = 24
_TCP_FLAGS = "FSRP.UEW"
_ICMP_NAMES = {0: "echo reply", 3: "unreachable", 5: "redirect", 8: "echo request", 11: "time exceeded"}
_ICMPV6_NAMES = {
    1: "unreachable",
    2: "packet too big",
    3: "time exceeded",
    128: "echo request",
    129: "echo reply",
    133: "router solicitation",
    134: "router advertisement",
    135: "neighbour solicitation",
    136: "neighbour advertisement",
    143: "multicast listener report",
}
_ECHO = {_ICMP: (8, 0), _ICMPV6: (128, 129)}


@dataclass(frozen=True, slots=True)
class Echo:
    """An echo request or reply, by which a packet is known at each hop."""

    request: bool
    ident: int
    seq: int


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet in one envelope. `layers`: a line each, outermost first. `inner`: the packet it carries, if it does.

    `ports`: of UDP or TCP, source first.
    """

    layers: tuple[str, ...] = ()
    src: Addr | None = None
    dst: Addr | None = None
    ttl: int | None = None
    protocol: str = ""
    ports: tuple[int, int] | None = None
    echo: Echo | None = None
    inner: "Packet | None" = None

    def plus(self, line: str) -> "Packet":
        return replace(self, layers=(*self.layers, line))

    @property
    def innermost(self) -> "Packet":
        return self if self.inner is None else self.inner.innermost


def decode_ethernet(frame: bytes, vxlan_ports: frozenset[int] = VXLAN_PORTS) -> Packet:
    """The layers of an Ethernet frame. Never raises, whatever the bytes."""
    if len(frame) < 14:
        return _cut(Packet(protocol="ethernet"), "Ethernet", frame)
    kind, offset = int(unpack_from("!H", frame, 12)[0]), 14
    line = f"Ethernet {_mac(frame[6:12])} > {_mac(frame[:6])}"
    while kind == ETHERTYPE_VLAN and len(frame) >= offset + 4:
        tag, kind = unpack_from("!HH", frame, offset)
        line += f" vlan {tag & 0xFFF}"
        offset += 4
    packet = Packet(layers=(line,), protocol="ethernet")
    payload = frame[offset:]
    if kind == ETHERTYPE_ARP:
        return _arp(packet, payload)
    if kind in (ETHERTYPE_IPV4, ETHERTYPE_IPV6):
        return decode_ip(payload, vxlan_ports, packet)
    return packet.plus(f"{'length' if kind < 0x600 else 'type'} 0x{kind:04x}, {len(payload)} bytes")


def decode_ip(data: bytes, vxlan_ports: frozenset[int] = VXLAN_PORTS, below: Packet | None = None) -> Packet:
    """The layers of an IP packet, after those of `below`. Never raises, whatever the bytes."""
    packet = below or Packet()
    version = data[0] >> 4 if data else 0
    if version == 4:
        return _ipv4(packet, data, vxlan_ports)
    if version == 6:
        return _ipv6(packet, data, vxlan_ports)
    return _cut(packet, "IP", data) if not data else packet.plus(f"IP of unknown version {version}, {len(data)} bytes")


def _ipv4(packet: Packet, data: bytes, vxlan_ports: frozenset[int]) -> Packet:
    size = (data[0] & 0x0F) * 4
    if len(data) < 20 or size < 20 or len(data) < size:
        return _cut(packet, "IPv4", data)
    tos, total, ident, fragment = unpack_from("!BHHH", data, 1)
    src, dst = IPv4Address(data[12:16]), IPv4Address(data[16:20])
    offset, marks = (fragment & 0x1FFF) * 8, ""
    if fragment & 0x4000:
        marks += " DF"
    if fragment & 0x3FFF and not fragment & 0x4000:
        marks += f" fragment id {ident} at {offset}{'+' if fragment & 0x2000 else ''}"
    if tos:
        marks += f" tos 0x{tos:02x}"
    packet = replace(packet, src=src, dst=dst, ttl=data[8], protocol="ipv4")
    packet = packet.plus(f"IPv4 {src} > {dst} ttl {data[8]} len {total}{marks}")
    if total < size:
        return packet.plus(f"bad length: {total} is less than the header's {size}")
    if offset:
        return packet.plus(f"{min(total, len(data)) - size} bytes of protocol {data[9]}")
    return _transport(packet, data[9], data[size:total], vxlan_ports)


def _ipv6(packet: Packet, data: bytes, vxlan_ports: frozenset[int]) -> Packet:
    if len(data) < 40:
        return _cut(packet, "IPv6", data)
    length, following, hops = unpack_from("!HBB", data, 4)
    src, dst = IPv6Address(data[8:24]), IPv6Address(data[24:40])
    packet = replace(packet, src=src, dst=dst, ttl=hops, protocol="ipv6")
    packet = packet.plus(f"IPv6 {src} > {dst} hlim {hops} len {length}")
    payload = data[40 : 40 + length]
    while following in _EXTENSIONS or following == _FRAGMENT:
        if len(payload) < 8:
            return _cut(packet, "IPv6 extension", payload)
        size = 8 if following == _FRAGMENT else (payload[1] + 1) * 8
        if following == _FRAGMENT and (offset := unpack_from("!H", payload, 2)[0] & 0xFFF8):
            return packet.plus(f"fragment at {offset}, {len(payload) - 8} bytes")
        following, payload = payload[0], payload[size:]
    return _transport(packet, following, payload, vxlan_ports)


def _transport(packet: Packet, protocol: int, data: bytes, vxlan_ports: frozenset[int]) -> Packet:
    if protocol == _UDP:
        return _udp(packet, data, vxlan_ports)
    decode = {_TCP: _tcp, _ICMP: _icmp, _ICMPV6: _icmpv6}.get(protocol)
    return packet.plus(f"protocol {protocol}, {len(data)} bytes") if decode is None else decode(packet, data)


def _udp(packet: Packet, data: bytes, vxlan_ports: frozenset[int]) -> Packet:
    if len(data) < 8:
        return _cut(packet, "UDP", data)
    source, target, length = unpack_from("!HHH", data)
    packet = replace(packet, protocol="udp", ports=(source, target)).plus(f"UDP {source} > {target} len {length}")
    return _vxlan(packet, data[8:], vxlan_ports) if target in vxlan_ports else packet


def _vxlan(packet: Packet, data: bytes, vxlan_ports: frozenset[int]) -> Packet:
    if len(data) < 8 or not data[0] & 0x08:
        return _cut(packet, "VXLAN", data)
    vni = int.from_bytes(data[4:7], "big")
    # An inner packet is not looked into for VXLAN again: depth would be the sender's choice.
    inner = decode_ethernet(data[8:], frozenset())
    return replace(packet, protocol="vxlan", inner=inner).plus(f"VXLAN vni {vni}")


def _tcp(packet: Packet, data: bytes) -> Packet:
    size = (data[12] >> 4) * 4 if len(data) >= 20 else 0
    if size < 20 or len(data) < size:
        return _cut(packet, "TCP", data)
    source, target, seq, ack = unpack_from("!HHII", data)
    flags = "".join(letter for bit, letter in enumerate(_TCP_FLAGS) if data[13] >> bit & 1)
    line = (
        f"TCP {source} > {target} [{flags}] seq {seq}{f' ack {ack}' if data[13] & 0x10 else ''} len {len(data) - size}"
    )
    return replace(packet, protocol="tcp", ports=(source, target)).plus(line)


def _icmp(packet: Packet, data: bytes) -> Packet:
    return _any_icmp(packet, data, _ICMP, "ICMP", _ICMP_NAMES)


def _icmpv6(packet: Packet, data: bytes) -> Packet:
    return _any_icmp(packet, data, _ICMPV6, "ICMPv6", _ICMPV6_NAMES)


def _any_icmp(packet: Packet, data: bytes, protocol: int, title: str, names: dict[int, str]) -> Packet:
    if len(data) < 8:
        return _cut(packet, title, data)
    kind, code = data[0], data[1]
    line = f"{title} {names.get(kind, f'type {kind}')}{f' code {code}' if code else ''}"
    packet = replace(packet, protocol=title.lower())
    if kind in _ECHO[protocol]:
        ident, seq = unpack_from("!HH", data, 4)
        packet = replace(packet, echo=Echo(kind == _ECHO[protocol][0], ident, seq))
        line += f" id {ident} seq {seq} len {len(data) - 8}"
    if protocol == _ICMPV6 and kind in (135, 136) and len(data) >= 24:
        line += f" {IPv6Address(data[8:24])}"
    return packet.plus(line)


def _arp(packet: Packet, data: bytes) -> Packet:
    packet = replace(packet, protocol="arp")
    if len(data) < 28 or unpack_from("!HHBB", data) != (1, ETHERTYPE_IPV4, 6, 4):
        return _cut(packet, "ARP", data)
    sender, target = IPv4Address(data[14:18]), IPv4Address(data[24:28])
    packet = replace(packet, src=sender, dst=target)
    if data[7] == 1:
        return packet.plus(f"ARP who has {target}? tell {sender}")
    if data[7] == 2:
        return packet.plus(f"ARP {sender} is at {_mac(data[8:14])}")
    return packet.plus(f"ARP operation {data[7]}")


def _cut(packet: Packet, layer: str, data: bytes) -> Packet:
    return packet.plus(f"{layer} cut short or malformed, {len(data)} bytes")


def _mac(data: bytes) -> str:
    return data.hex(":")


def side_by_side(packet: Packet, width: int) -> list[str]:
    """The packet's layers as lines; of a tunnelled packet the outer headers to the left, the inner to the right.

    Where that is broader than `width`, layers go on in a further, indented line.
    """
    if packet.inner is None:
        return list(packet.layers)
    left, right = packet.layers, packet.inner.layers
    column, rest = max(map(len, left)), max(map(len, right))
    if column + len(_BETWEEN) + rest > width:
        column = rest = max(_MIN_COLUMN, (width - len(_BETWEEN)) // 2)
    lines = []
    for one, other in zip_longest(left, right, fillvalue=""):
        for outer, inner in zip_longest(_wrapped(one, column), _wrapped(other, rest), fillvalue=""):
            lines.append(f"{outer:<{column}}{_BETWEEN}{inner}".rstrip())
    return lines


def _wrapped(line: str, width: int) -> list[str]:
    return wrap(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
