"""ICMP echo messages of both families as bytes. Sans-I/O. RFC 792, RFC 4443 section 4."""

from dataclasses import dataclass
from struct import pack, unpack_from

_REQUEST = {4: 8, 6: 128}
_REPLY = {4: 0, 6: 129}
_HEADER = 8


@dataclass(frozen=True, slots=True)
class EchoReply:
    ident: int
    seq: int
    payload: bytes


def encode_request(version: int, ident: int, seq: int, payload: bytes) -> bytes:
    """The message. For IPv6 the checksum is left to the kernel, which alone knows the source (RFC 3542 section 3.1)."""
    head = pack("!BBHHH", _REQUEST[version], 0, 0, ident, seq)
    if version == 6:
        return head + payload
    return head[:2] + pack("!H", checksum(head + payload)) + head[4:] + payload


def decode_reply(version: int, data: bytes) -> EchoReply | None:
    """The echo reply in what a raw socket received (IPv4: with its IP header); None for anything else."""
    if version == 4:
        data = data[(data[0] & 0x0F) * 4 :] if data else data
    if len(data) < _HEADER or data[0] != _REPLY[version] or data[1] != 0:
        return None
    ident, seq = unpack_from("!HH", data, 4)
    return EchoReply(ident, seq, data[_HEADER:])


def checksum(data: bytes) -> int:
    """The internet checksum, in network order when packed with '!H' (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(unpack_from(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
