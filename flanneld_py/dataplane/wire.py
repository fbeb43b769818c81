"""One IPv4 packet: is it whole, may it be forwarded, and what does its sender hear if not. Sans-I/O.

Packets are bytes in network order; addresses are integers. The C core decides the same in `_pump.c`.
"""

from enum import IntEnum
from struct import Struct

IPV4_MIN = 20
PACKET_MAX = 65535
ICMP_MAX = 576
"""Longest ICMP error, RFC 1812 4.3.2.3."""
ICMP_TTL = 64
FLAG_DF = 0x4000
PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP = 1, 6, 17

_OFFSET = 0x1FFF
_GROUPS = 0xE0000000
_INTERNETWORK_CONTROL = 0xC0
_ICMP_QUERIES = frozenset({0, 8, 13, 14, 15, 16, 17, 18})
_ADDRESSES = Struct("!II")
_IPV4 = Struct("!BBHHHBBHI4s")


class Drop(IntEnum):
    """Why a packet goes no further; the values are those of `enum pump_drop` in `_pump.h`."""

    OK = 0
    TRUNCATED = 1
    NOT_IPV4 = 2
    BAD_HEADER = 3
    BAD_LENGTH = 4
    BAD_CHECKSUM = 5
    UNKNOWN_PEER = 6
    FOREIGN_SOURCE = 7
    FOREIGN_DESTINATION = 8
    TTL_EXPIRED = 9
    NO_ROUTE = 10
    TOO_BIG = 11
    BAD_OFFLOAD = 12
    OVERSIZE = 13
    SEND_FAILED = 14
    WRITE_FAILED = 15


class IcmpKind(IntEnum):
    """Errors that we send; the values are those of `enum pump_icmp_kind`."""

    NET_UNREACHABLE = 0
    FRAGMENTATION_NEEDED = 1
    TIME_EXCEEDED = 2


_TYPE_AND_CODE = {
    IcmpKind.NET_UNREACHABLE: (3, 0),
    IcmpKind.FRAGMENTATION_NEEDED: (3, 4),
    IcmpKind.TIME_EXCEEDED: (11, 0),
}


def ones_sum(*parts: bytes | bytearray | memoryview) -> int:
    """The 16-bit one's complement sum of the parts, each padded to an even size (RFC 1071); 0 only for zeros alone."""
    total = 0
    for part in parts:
        value = int.from_bytes(part, "big")
        total += value << 8 if len(part) & 1 else value
    # 2^16 is 1 modulo 65535, so the remainder of the whole number is the sum of its 16-bit words.
    return total % 0xFFFF or (0xFFFF if total else 0)


def checksum(*parts: bytes | bytearray | memoryview) -> int:
    return ones_sum(*parts) ^ 0xFFFF


def get16(packet: bytes | bytearray | memoryview, at: int) -> int:
    return packet[at] << 8 | packet[at + 1]


def addresses(packet: bytes | bytearray | memoryview) -> tuple[int, int]:
    """Source and destination of a packet that passed `check_ipv4`."""
    found: tuple[int, int] = _ADDRESSES.unpack_from(packet, 12)
    return found


def check_ipv4(packet: bytes | bytearray | memoryview, *, verify: bool) -> Drop:
    """`Drop.OK` if this is a whole IPv4 packet and nothing behind it. The header checksum counts only with `verify`."""
    size = len(packet)
    if size < IPV4_MIN:
        return Drop.TRUNCATED
    if packet[0] >> 4 != 4:
        return Drop.NOT_IPV4
    header = (packet[0] & 0xF) * 4
    if header < IPV4_MIN or header > size:
        return Drop.BAD_HEADER
    if get16(packet, 2) != size:
        return Drop.BAD_LENGTH
    if verify and ones_sum(packet[:header]) != 0xFFFF:
        return Drop.BAD_CHECKSUM
    return Drop.OK


def decrement_ttl(packet: bytearray) -> bool:
    """One less, and the header checksum mended (RFC 1624 equation 3). False, and nothing changed, if TTL is used up."""
    if packet[8] <= 1:
        return False
    before = get16(packet, 8)
    packet[8] -= 1
    total = (get16(packet, 10) ^ 0xFFFF) + (before ^ 0xFFFF) + get16(packet, 8)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    packet[10:12] = (total ^ 0xFFFF).to_bytes(2, "big")
    return True


def icmp(kind: int, mtu: int, own: int, offender: bytes) -> bytes:
    """An ICMP error from `own` about `offender` as it was received; empty if there may be none (RFC 1812 4.3.2.7).

    `mtu`: of the next hop, for FRAGMENTATION_NEEDED (RFC 1191).
    """
    if not _may_tell(offender):
        return b""
    kind = IcmpKind(kind)
    quoted = offender[: ICMP_MAX - IPV4_MIN - 8]
    icmp_type, code = _TYPE_AND_CODE[kind]
    next_hop = mtu if kind is IcmpKind.FRAGMENTATION_NEEDED else 0
    message = bytearray(bytes((icmp_type, code, 0, 0, 0, 0)) + next_hop.to_bytes(2, "big") + quoted)
    message[2:4] = checksum(message).to_bytes(2, "big")
    total = IPV4_MIN + len(message)
    fields = (0x45, _INTERNETWORK_CONTROL, total, 0, 0, ICMP_TTL, PROTOCOL_ICMP)
    header = bytearray(_IPV4.pack(*fields, 0, own, offender[12:16]))
    header[10:12] = checksum(header).to_bytes(2, "big")
    return bytes(header + message)


def _may_tell(offender: bytes) -> bool:
    if check_ipv4(offender, verify=False) is not Drop.OK or get16(offender, 6) & _OFFSET:
        return False
    source, destination = addresses(offender)
    if source >> 24 in (0, 127) or source >= _GROUPS or destination >= _GROUPS:
        return False
    if offender[9] != PROTOCOL_ICMP:
        return True
    header = (offender[0] & 0xF) * 4
    return len(offender) > header and offender[header] in _ICMP_QUERIES


class Bucket:
    """Tokens for ICMP errors: 1000 a second, 50 at once, as the kernel's net.ipv4.icmp_msgs_per_sec and _burst."""

    ONE_NS = 1_000_000
    FULL_NS = 50 * ONE_NS

    def __init__(self) -> None:
        self._empty_at_ns = 0

    def take(self, now_ns: int) -> bool:
        """Whether one more error may be sent at `now_ns` of a monotonic clock."""
        self._empty_at_ns = max(self._empty_at_ns, now_ns - self.FULL_NS)
        if self._empty_at_ns + self.ONE_NS > now_ns:
            return False
        self._empty_at_ns += self.ONE_NS
        return True
