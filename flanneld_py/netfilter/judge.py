"""What one rule of nf_tables does with a packet: its steps, carried out as the kernel would. Sans-I/O."""

from struct import Struct

from flanneld_py.netfilter.nftcodec import (
    FAMILY,
    NF_ACCEPT,
    NF_DROP,
    VERDICT_GOTO,
    VERDICT_JUMP,
    VERDICT_RETURN,
    Expression,
    RuleState,
    decode_verdict,
    number,
)
from flanneld_py.netfilter.walk import ACCEPT, DROP, GOTO, JUMP, RETURN, Judged, Packet, Verdict
from flanneld_py.netlink.wire import attributes

_HOST32 = Struct("=I")
_META_MARK, _META_IIFNAME, _META_OIFNAME, _META_NFPROTO = 3, 6, 7, 15
_CT_STATE = 0
_NEW = 1 << 3  # NF_CT_STATE_BIT(IP_CT_NEW), include/uapi/linux/netfilter/nf_conntrack_common.h
_CONNTRACK = Struct("=HHH")
_CONNTRACK_FLAGS = 146
"""Where match_flags, invert_flags and state_mask are in struct xt_conntrack_mtinfo2 and 3 (xt_conntrack.h)."""
_CONNTRACK_STATE, _CONNTRACK_ALIAS = 1, 1 << 13
"""What is looked at: the state alone; and that the rule was written as `-m state`, which changes nothing."""
_NETWORK_HEADER = 1
_ADDRESSES = {4: (12, 4), 6: (8, 16)}
"""Where the source is in the header, and its bytes; the destination follows."""
_NAME_BYTES = 16
_DROPPING_TARGETS = frozenset({b"DROP", b"REJECT"})
_VERDICTS = {NF_DROP: DROP, NF_ACCEPT: ACCEPT, VERDICT_JUMP: JUMP, VERDICT_GOTO: GOTO, VERDICT_RETURN: RETURN}
_CONDITIONS = frozenset({"lookup", "range", "limit", "connlimit", "fib", "rt", "socket", "osf"})
"""Steps on which the rule may end, and of which we cannot tell."""


class Judge:
    """Of rules that one packet meets."""

    def __init__(self, packet: Packet) -> None:
        self._packet = packet

    def __call__(self, rule: RuleState) -> Judged:
        registers: dict[int, bytes | None] = {}
        matches: bool | None = True
        for step in rule.expressions:
            attrs = attributes(step.data)
            verdict = _verdict(step, attrs)
            if verdict is not None:
                return matches, verdict
            held = self._step(step.name, attrs, registers)
            if held is False:
                return False, None
            matches = None if held is None else matches
        return matches, None

    def _step(self, name: str, attrs: dict[int, bytes], registers: dict[int, bytes | None]) -> bool | None:
        """Whether the packet goes on to the next step; loads and masks registers."""
        match name:
            case "meta" if 1 in attrs:
                registers[number(attrs, 1)] = self._meta(number(attrs, 2))
            case "ct" if 1 in attrs:
                registers[number(attrs, 1)] = _HOST32.pack(_NEW) if number(attrs, 2) == _CT_STATE else None
            case "payload" if 1 in attrs:
                where = number(attrs, 2), number(attrs, 3), number(attrs, 4)
                registers[number(attrs, 1)] = self._payload(*where)
            case "bitwise":
                registers[number(attrs, 2)] = _masked(registers.get(number(attrs, 1)), attrs)
            case "cmp":
                return _compared(registers.get(number(attrs, 1)), attrs)
            case "match":
                return _xt_match(attrs.get(1, b"").rstrip(b"\0"), number(attrs, 2), attrs.get(3, b""))
            case _ if name in _CONDITIONS:
                return None
        return True

    def _meta(self, key: int) -> bytes | None:
        packet = self._packet
        known = {
            _META_MARK: bytes(4),
            _META_IIFNAME: packet.iif.encode().ljust(_NAME_BYTES, b"\0"),
            _META_OIFNAME: packet.oif.encode().ljust(_NAME_BYTES, b"\0"),
            _META_NFPROTO: bytes((FAMILY[packet.version],)),
        }
        return known.get(key)

    def _payload(self, base: int, offset: int, size: int) -> bytes | None:
        start, length = _ADDRESSES[self._packet.version]
        both = self._packet.source.packed + self._packet.destination.packed
        if base != _NETWORK_HEADER or offset < start or offset + size > start + 2 * length:
            return None
        return both[offset - start : offset - start + size]


def _verdict(step: Expression, attrs: dict[int, bytes]) -> Verdict | None:
    if step.name == "reject":
        return DROP, ""
    if step.name == "target":  # one of iptables' own
        return (DROP, "") if attrs.get(1, b"").rstrip(b"\0") in _DROPPING_TARGETS else None
    if step.name == "immediate" and number(attrs, 1) == 0:
        found = decode_verdict(attributes(attrs.get(2, b"")))
        return (_VERDICTS[found[0]], found[1]) if found is not None and found[0] in _VERDICTS else None
    return None


def _xt_match(name: bytes, revision: int, info: bytes) -> bool | None:
    """One of iptables' own matches, for the first packet of a connection."""
    if name == b"comment":
        return True
    if name == b"state" and len(info) >= 4:
        return bool(_HOST32.unpack_from(info)[0] & _NEW)
    if name == b"conntrack" and revision >= 2 and len(info) >= _CONNTRACK_FLAGS + _CONNTRACK.size:
        asked, inverted, states = _CONNTRACK.unpack_from(info, _CONNTRACK_FLAGS)
        if asked & ~_CONNTRACK_ALIAS == _CONNTRACK_STATE:
            return bool(states & _NEW) is not bool(inverted & _CONNTRACK_STATE)
    return None


def _masked(value: bytes | None, attrs: dict[int, bytes]) -> bytes | None:
    mask = attributes(attrs.get(4, b"")).get(1, b"")
    flip = attributes(attrs.get(5, b"")).get(1, bytes(len(mask)))
    if value is None or not len(value) == len(mask) == len(flip):
        return None
    return bytes(one & two ^ three for one, two, three in zip(value, mask, flip, strict=True))


def _compared(value: bytes | None, attrs: dict[int, bytes]) -> bool | None:
    """A shorter value is a prefix, as in `iifname "veth*"`. Only equal and unequal are told apart."""
    other, operator = attributes(attrs.get(3, b"")).get(1, b""), number(attrs, 2)
    if value is None or len(other) > len(value) or operator > 1:
        return None if operator <= 1 or value is None else _ordered(value, other, operator)
    return (value[: len(other)] == other) is (operator == 0)


def _ordered(value: bytes, other: bytes, operator: int) -> bool | None:
    """NFT_CMP_LT, LTE, GT, GTE."""
    if len(value) != len(other):
        return None
    return {2: value < other, 3: value <= other, 4: value > other, 5: value >= other}.get(operator)
