"""Netlink framing: messages, attributes and errors as bytes. Sans-I/O; all integers in host order.

Layouts: include/uapi/linux/netlink.h struct nlmsghdr, nlattr, nlmsgerr. What a length field says is a claim, checked
against the bytes that are there; ValueError where it lies.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

HEADER = Struct("=IHHII")
"""struct nlmsghdr: length with header, type, flags, sequence, port."""
ATTR = Struct("=HH")
"""struct nlattr: length with header, type."""
U32 = Struct("=I")
_ERRNO = Struct("=i")

NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE, NLMSG_OVERRUN = 1, 2, 3, 4
NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK, NLM_F_DUMP_INTR = 0x1, 0x2, 0x4, 0x10
NLM_F_REPLACE, NLM_F_CREATE, NLM_F_DUMP = 0x100, 0x400, 0x300
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
_NLA_TYPE_MASK = 0x3FFF  # NLA_F_NESTED and NLA_F_NET_BYTEORDER live above
_NLMSGERR_ATTR_MSG = 1

SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 1, 10, 11, 12


class Message(NamedTuple):
    """One netlink message; `body` is a copy, without the header."""

    type: int
    flags: int
    seq: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """The kernel's answer to a request that it did not carry out. `text`: its extended acknowledgement, or ""."""

    errno: int
    text: str = ""


def encode_message(kind: int, flags: int, seq: int, body: bytes) -> bytes:
    padding = -len(body) & 3
    return HEADER.pack(HEADER.size + len(body), kind, flags | NLM_F_REQUEST, seq, 0) + body + bytes(padding)


def encode_attr(kind: int, value: bytes) -> bytes:
    return ATTR.pack(ATTR.size + len(value), kind) + value + bytes(-len(value) & 3)


def encode_u32(kind: int, value: int) -> bytes:
    return encode_attr(kind, U32.pack(value))


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram, in order."""
    offset, end = 0, len(data)
    while offset < end:
        if end - offset < HEADER.size:
            raise ValueError(f"{end - offset} bytes after the last netlink message")
        length, kind, flags, seq, _ = HEADER.unpack_from(data, offset)
        if not HEADER.size <= length <= end - offset:
            raise ValueError(f"netlink message of type {kind} claims {length} of {end - offset} bytes")
        yield Message(kind, flags, seq, data[offset + HEADER.size : offset + length])
        offset += length + 3 & ~3


def attributes(body: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes of `body` from `offset` on, by type; the last one of a type wins, as in the kernel's nla_parse."""
    found: dict[int, bytes] = {}
    end = len(body)
    unpack = ATTR.unpack_from
    while end - offset >= 4:
        length, kind = unpack(body, offset)
        stop = offset + length
        if length < 4 or stop > end:
            raise ValueError(f"netlink attribute {kind} claims {length} of {end - offset} bytes")
        found[kind & _NLA_TYPE_MASK] = body[offset + 4 : stop]
        offset = stop + 3 & ~3
    if offset < end:
        raise ValueError(f"{end - offset} bytes after the last netlink attribute")
    return found


def number(attrs: Mapping[int, bytes], kind: int, default: int = 0) -> int:
    """An unsigned attribute of 1, 2 or 4 bytes in host order."""
    value = attrs.get(kind)
    if value is None:
        return default
    if len(value) == 4:
        return int(U32.unpack(value)[0])
    if len(value) not in {1, 2}:
        raise ValueError(f"netlink attribute {kind} has {len(value)} bytes where a number belongs")
    return int.from_bytes(value, sys.byteorder)


def text(attrs: Mapping[int, bytes], kind: int) -> str:
    """A NUL-terminated attribute. Names need not be UTF-8 (dev_valid_name), and stay distinct if they are not."""
    return attrs.get(kind, b"").split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def decode_refusal(message: Message) -> Refusal | None:
    """What an NLMSG_ERROR message says; None: it is the acknowledgement of a success."""
    body = message.body
    if len(body) < 4 + HEADER.size:
        raise ValueError(f"netlink error of {len(body)} bytes")
    code = _ERRNO.unpack_from(body)[0]
    if code == 0:
        return None
    return Refusal(-code, _extended_text(message.flags, body))


def decode_dump_end(message: Message) -> int:
    """The errno that ended a dump, 0 if it is complete (NLMSG_DONE carries an int since Linux 2.6)."""
    return -int(_ERRNO.unpack_from(message.body)[0]) if len(message.body) >= 4 else 0


def _extended_text(flags: int, body: bytes) -> str:
    """Attributes follow the request's header, or the whole request where the kernel did not cap it."""
    if not flags & NLM_F_ACK_TLVS:
        return ""
    echoed = HEADER.size if flags & NLM_F_CAPPED else HEADER.unpack_from(body, 4)[0]
    return text(attributes(body, min(len(body), 4 + (echoed + 3 & ~3))), _NLMSGERR_ATTR_MSG)
