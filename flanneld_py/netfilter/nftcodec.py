"""nf_tables messages as bytes: transactions, and what dumps of tables, chains and rules say. Sans-I/O.

Layouts: include/uapi/linux/netfilter/nf_tables.h and nfnetlink.h. Integers in attributes are big-endian, unlike
rtnetlink's; names end with NUL.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from struct import Struct

from flanneld_py.netlink.wire import ATTR, Message, attributes, encode_attr, encode_message

NETLINK_NETFILTER = 12
NFNLGRP_NFTABLES = 7
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
(NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, GETCHAIN, DELCHAIN, NEWRULE, GETRULE, DELRULE) = (
    _SUBSYSTEM << 8 | number for number in range(9)
)
NEWGEN, GETGEN = _SUBSYSTEM << 8 | 15, _SUBSYSTEM << 8 | 16
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_GENMSG = Struct(">BBH")
"""struct nfgenmsg: family, version, resource (big-endian)."""
_BE32 = Struct(">I")
_SIGNED_BE32 = Struct(">i")
_NESTED = 0x8000

FAMILY = {4: 2, 6: 10}
"""NFPROTO_IPV4 and NFPROTO_IPV6, by IP version."""
INET = 1
FAMILY_NAME = {INET: "inet", 2: "ip", 10: "ip6"}

NF_FORWARD, NF_POSTROUTING = 2, 4
SRCNAT, FILTER = 100, 0
"""NF_IP_PRI_NAT_SRC, NF_IP_PRI_FILTER (include/uapi/linux/netfilter_ipv4.h; the same for IPv6)."""
NF_DROP, NF_ACCEPT = 0, 1
VERDICT_JUMP, VERDICT_GOTO, VERDICT_RETURN = -3, -4, -5

F_ACK, F_EXCL, F_CREATE, F_APPEND, F_DUMP = 0x4, 0x200, 0x400, 0x800, 0x300
_COMMENT = 0  # NFTNL_UDATA_{TABLE,CHAIN,RULE}_COMMENT (libnftnl)


@dataclass(frozen=True, slots=True)
class BaseHook:
    """Where the kernel calls a base chain. `drops`: its policy."""

    number: int
    priority: int
    kind: str
    drops: bool = False


@dataclass(frozen=True, slots=True)
class ChainState:
    """A chain as the kernel has it; `hook` None: only other chains call it."""

    family: int
    table: str
    name: str
    hook: BaseHook | None = None


@dataclass(frozen=True, slots=True)
class Expression:
    """One step of a rule. `data`: its attributes, undecoded."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class RuleState:
    """A rule as the kernel has it. `comment`: what nft shows as such."""

    family: int
    table: str
    chain: str
    handle: int
    expressions: tuple[Expression, ...]
    comment: str


def be32(value: int) -> bytes:
    return _BE32.pack(value)


def name_attr(kind: int, name: str) -> bytes:
    return encode_attr(kind, name.encode() + b"\0")


def nested(kind: int, *inner: bytes) -> bytes:
    return encode_attr(kind | _NESTED, b"".join(inner))


def expression(name: str, *data: bytes) -> bytes:
    """One NFTA_LIST_ELEM."""
    return nested(1, name_attr(1, name), nested(2, *data))


def batch(changes: Sequence[tuple[int, int, bytes]], seq: int) -> bytes:
    """A transaction: `changes` are message type, flags and body; numbered from `seq` + 1 on."""
    frame = _GENMSG.pack(0, 0, _SUBSYSTEM)
    parts = [encode_message(_BATCH_BEGIN, 0, seq, frame)]
    parts += [encode_message(kind, flags, seq + at, body) for at, (kind, flags, body) in enumerate(changes, 1)]
    parts.append(encode_message(_BATCH_END, 0, seq + len(changes) + 1, frame))
    return b"".join(parts)


def new_table(family: int, name: str, comment: str) -> tuple[int, int, bytes]:
    """Makes the table; no error if it is there."""
    return NEWTABLE, F_CREATE, _body(family, name_attr(1, name), encode_attr(6, _comment(comment)))


def delete_table(family: int, name: str) -> tuple[int, int, bytes]:
    return DELTABLE, 0, _body(family, name_attr(1, name))


def new_chain(family: int, table: str, name: str, hook: BaseHook, comment: str) -> tuple[int, int, bytes]:
    """Makes a base chain with the policy accept; no error if it is there with the same hook."""
    where = nested(4, encode_attr(1, be32(hook.number)), encode_attr(2, _SIGNED_BE32.pack(hook.priority)))
    parts = (name_attr(1, table), name_attr(3, name), where, encode_attr(5, be32(NF_ACCEPT)), name_attr(7, hook.kind))
    return NEWCHAIN, F_CREATE, _body(family, *parts, encode_attr(12, _comment(comment)))


def delete_chain(family: int, table: str, name: str) -> tuple[int, int, bytes]:
    """The chain must be empty, and nothing may call it."""
    return DELCHAIN, 0, _body(family, name_attr(1, table), name_attr(3, name))


def new_rule(
    family: int, table: str, chain: str, expressions: Sequence[bytes], *, comment: str = "", first: bool = False
) -> tuple[int, int, bytes]:
    """`first`: before the rules that are there, else after them."""
    parts = [name_attr(1, table), name_attr(2, chain), nested(4, *expressions)]
    if comment:
        parts.append(encode_attr(7, _comment(comment)))
    return NEWRULE, F_CREATE | (0 if first else F_APPEND), _body(family, *parts)


def delete_rules(family: int, table: str, chain: str, handle: int | None = None) -> tuple[int, int, bytes]:
    """One rule, or all of the chain."""
    which = () if handle is None else (encode_attr(3, handle.to_bytes(8, "big")),)
    return DELRULE, 0, _body(family, name_attr(1, table), name_attr(2, chain), *which)


def ask_tables(seq: int) -> bytes:
    return encode_message(GETTABLE, F_DUMP, seq, _body(0))


def ask_chains(seq: int) -> bytes:
    return encode_message(GETCHAIN, F_DUMP, seq, _body(0))


def ask_rules(seq: int, family: int, table: str, chain: str) -> bytes:
    return encode_message(GETRULE, F_DUMP, seq, _body(family, name_attr(1, table), name_attr(2, chain)))


def ask_table(seq: int, family: int, table: str) -> bytes:
    return encode_message(GETTABLE, 0, seq, _body(family, name_attr(1, table)))


def ask_chain(seq: int, family: int, table: str, chain: str) -> bytes:
    return encode_message(GETCHAIN, 0, seq, _body(family, name_attr(1, table), name_attr(3, chain)))


def ask_generation(seq: int) -> bytes:
    return encode_message(GETGEN, 0, seq, _body(0))


def decode_uses(message: Message) -> int:
    """How many chains, sets and other things are in the table."""
    return number(attributes(message.body, 4), 3)


def decode_chain(message: Message) -> ChainState:
    attrs = attributes(message.body, 4)
    return ChainState(message.body[0], _text(attrs, 1), _text(attrs, 3), _hook(attrs))


def decode_rules(found: Iterable[Message]) -> list[RuleState]:
    """In the order in which the kernel walks them."""
    rules = []
    for one in found:
        if one.type != NEWRULE:
            continue
        attrs = attributes(one.body, 4)
        handle = int.from_bytes(attrs.get(3, b""), "big")
        steps = tuple(decode_expressions(attrs.get(4, b"")))
        rules.append(RuleState(one.body[0], _text(attrs, 1), _text(attrs, 2), handle, steps, read_comment(attrs)))
    return rules


def decode_generation(message: Message) -> int:
    return number(attributes(message.body, 4), 1)


def decode_expressions(data: bytes) -> Iterator[Expression]:
    offset = 0
    while offset < len(data):
        length = ATTR.unpack_from(data, offset)[0] if len(data) - offset >= ATTR.size else 0
        if length < ATTR.size or offset + length > len(data):
            raise ValueError(f"nft expression claims {length} of {len(data) - offset} bytes")
        attrs = attributes(data[offset + ATTR.size : offset + length])
        yield Expression(_text(attrs, 1), attrs.get(2, b""))
        offset += length + 3 & ~3


def number(attrs: dict[int, bytes], kind: int, default: int = 0) -> int:
    """An unsigned big-endian attribute of any size."""
    value = attrs.get(kind)
    return default if value is None else int.from_bytes(value, "big")


def decode_verdict(attrs: dict[int, bytes]) -> tuple[int, str] | None:
    """Code and chain of a NFTA_DATA_VERDICT within attributes of struct nft_data; None: there is no verdict."""
    if 2 not in attrs:
        return None
    inner = attributes(attrs[2])
    return int.from_bytes(inner.get(1, b""), "big", signed=True), _text(inner, 2)


def read_comment(attrs: dict[int, bytes]) -> str:
    """A rule's comment, from its userdata: type, length, value with its NUL."""
    data = attrs.get(7, b"")
    while len(data) >= 2:
        kind, length = data[0], data[1]
        if kind == _COMMENT:
            return data[2 : 2 + length].rstrip(b"\0").decode(errors="replace")
        data = data[2 + length :]
    return ""


def _hook(attrs: dict[int, bytes]) -> BaseHook | None:
    if 4 not in attrs:
        return None
    where = attributes(attrs[4])
    priority = int.from_bytes(where.get(2, b""), "big", signed=True)
    return BaseHook(number(where, 1), priority, _text(attrs, 7), number(attrs, 5, NF_ACCEPT) == NF_DROP)


def _body(family: int, *parts: bytes) -> bytes:
    return _GENMSG.pack(family, 0, 0) + b"".join(parts)


def _comment(text: str) -> bytes:
    value = text.encode() + b"\0"
    return bytes((_COMMENT, len(value))) + value


def _text(attrs: dict[int, bytes], kind: int) -> str:
    return attrs.get(kind, b"").split(b"\0", 1)[0].decode(errors="backslashreplace")
