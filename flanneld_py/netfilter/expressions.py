"""Our rules as nf_tables expressions, and back. Sans-I/O.

A rule is a list of small steps over registers (include/uapi/linux/netfilter/nf_tables.h): load a field, mask it,
compare it, and at the end a verdict. Each step that does not match ends the rule.
"""

from collections.abc import Sequence
from ipaddress import ip_network
from struct import Struct

from flanneld_py.model.net import Net
from flanneld_py.model.ruleset import Destination, Mark, Masquerade, Match, Rule, Source, Unknown, Verdict
from flanneld_py.netfilter.nftcodec import (
    NF_ACCEPT,
    VERDICT_JUMP,
    VERDICT_RETURN,
    Expression,
    be32,
    decode_verdict,
    expression,
    name_attr,
    nested,
    number,
)
from flanneld_py.netlink.wire import attributes, encode_attr

_HOST32 = Struct("=I")
_REGISTER = 1  # NFT_REG_1; 0 is the verdict
_NETWORK_HEADER = 1
_META_MARK = 3
_OFFSETS = {4: (12, 16), 6: (8, 24)}
"""Of source and destination in the IP header (RFC 791, RFC 8200)."""
_RANDOM_FULLY = 1 << 4  # NF_NAT_RANGE_PROTO_RANDOM_FULLY, include/uapi/linux/netfilter/nf_nat.h
_CODES = {Verdict.ACCEPT: NF_ACCEPT, Verdict.RETURN: VERDICT_RETURN}
_VERDICTS = {code: verdict for verdict, code in _CODES.items()}


def encode_rule(rule: Rule) -> list[bytes]:
    """ValueError: the rule holds what was read from elsewhere."""
    steps: list[bytes] = []
    for match in rule.matches:
        steps += _encode_match(match)
    match rule.verdict:
        case Verdict() as verdict:
            steps.append(verdict_expression(_CODES[verdict]))
        case Masquerade(fully_random):
            flags = (encode_attr(1, be32(_RANDOM_FULLY)),) if fully_random else ()
            steps.append(expression("masq", *flags))
        case Unknown():
            raise ValueError(f"cannot write {rule}")
    return steps


def verdict_expression(code: int, chain: str = "") -> bytes:
    """`chain`: where a jump goes."""
    to = (name_attr(2, chain),) if chain else ()
    return expression(
        "immediate",
        encode_attr(1, be32(0)),
        nested(2, nested(2, encode_attr(1, code.to_bytes(4, "big", signed=True)), *to)),
    )


def counter() -> bytes:
    """What iptables puts before every verdict."""
    return expression("counter", encode_attr(1, bytes(8)), encode_attr(2, bytes(8)))


def decode_rule(version: int, expressions: Sequence[Expression]) -> Rule:
    """What we never write becomes Unknown, and so makes the rule differ from all of ours."""
    matches: list[Match] = []
    left = list(expressions)
    while len(left) > 1:
        size, match = _decode_match(version, left)
        matches.append(match)
        del left[:size]
    return Rule(tuple(matches), _decode_verdict(left[0]) if left else Unknown("no verdict"))


def jumps_to(expressions: Sequence[Expression]) -> str | None:
    """The chain that the rule jumps to, if its verdict is that."""
    for step in expressions:
        if step.name == "immediate":
            verdict = decode_verdict(attributes(attributes(step.data).get(2, b"")))
            if verdict is not None and verdict[0] == VERDICT_JUMP:
                return verdict[1]
    return None


def _encode_match(match: Match) -> list[bytes]:
    match match:
        case Mark(value, mask):
            load = expression("meta", encode_attr(1, be32(_REGISTER)), encode_attr(2, be32(_META_MARK)))
            return [load, _bitwise(_HOST32.pack(mask)), _compare(_HOST32.pack(value), negated=False)]
        case Source(net, negated) | Destination(net, negated):
            offset = _OFFSETS[net.version][isinstance(match, Destination)]
            return _encode_net(net, offset, negated=negated)
        case Unknown():
            raise ValueError(f"cannot write {match}")


def _encode_net(net: Net, offset: int, *, negated: bool) -> list[bytes]:
    """In the form that nft, too, shows as a prefix: whole bytes are loaded alone, others are masked."""
    whole = net.prefixlen % 8 == 0 and net.prefixlen > 0
    size = net.prefixlen // 8 if whole else net.max_prefixlen // 8
    steps = [
        expression(
            "payload",
            encode_attr(1, be32(_REGISTER)),
            encode_attr(2, be32(_NETWORK_HEADER)),
            encode_attr(3, be32(offset)),
            encode_attr(4, be32(size)),
        )
    ]
    if not whole:
        steps.append(_bitwise(net.netmask.packed))
    return [*steps, _compare(net.network_address.packed[:size], negated=negated)]


def _bitwise(mask: bytes) -> bytes:
    return expression(
        "bitwise",
        encode_attr(1, be32(_REGISTER)),
        encode_attr(2, be32(_REGISTER)),
        encode_attr(3, be32(len(mask))),
        nested(4, encode_attr(1, mask)),
        nested(5, encode_attr(1, bytes(len(mask)))),
    )


def _compare(value: bytes, *, negated: bool) -> bytes:
    return expression(
        "cmp", encode_attr(1, be32(_REGISTER)), encode_attr(2, be32(negated)), nested(3, encode_attr(1, value))
    )


def _decode_match(version: int, steps: Sequence[Expression]) -> tuple[int, Match]:
    """How many steps make the next match, and what it is."""
    load = attributes(steps[0].data)
    size = 3 if len(steps) > 2 and steps[1].name == "bitwise" else 2
    compare = steps[size - 1] if len(steps) >= size else None
    if compare is None or compare.name != "cmp":
        return 1, Unknown(steps[0].name)
    attrs = attributes(compare.data)
    value, operator = attributes(attrs.get(3, b"")).get(1, b""), number(attrs, 2)
    mask = attributes(attributes(steps[1].data).get(4, b"")).get(1, b"") if size == 3 else b"\xff" * len(value)
    if steps[0].name == "meta" and number(load, 2) == _META_MARK and operator == 0 and len(value) == len(mask) == 4:
        return size, Mark(_HOST32.unpack(value)[0], _HOST32.unpack(mask)[0])
    net = _decode_net(version, value, mask)
    if steps[0].name == "payload" and number(load, 2) == _NETWORK_HEADER and operator in (0, 1) and net is not None:
        offset = number(load, 3)
        if offset in _OFFSETS[version]:
            kind = Source if offset == _OFFSETS[version][0] else Destination
            return size, kind(net, operator == 1)
    return size, Unknown(steps[0].name)


def _decode_net(version: int, value: bytes, mask: bytes) -> Net | None:
    size = 4 if version == 4 else 16
    bits = int.from_bytes(mask.ljust(size, b"\0"), "big")
    prefix = bits.bit_count()
    if len(value) > size or len(mask) > size or bits != (1 << 8 * size) - (1 << 8 * size - prefix):
        return None
    try:
        return ip_network((value.ljust(size, b"\0"), prefix))
    except ValueError:
        return None


def _decode_verdict(step: Expression) -> Verdict | Masquerade | Unknown:
    attrs = attributes(step.data)
    if step.name == "masq" and number(attrs, 1) in (0, _RANDOM_FULLY):
        return Masquerade(number(attrs, 1) == _RANDOM_FULLY)
    found = decode_verdict(attributes(attrs.get(2, b""))) if step.name == "immediate" else None
    if found is not None and found[0] in _VERDICTS:
        return _VERDICTS[found[0]]
    return Unknown(step.name)
