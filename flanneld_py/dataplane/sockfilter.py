"""A program that keeps datagrams of unknown outer addresses from the pump, before they cost a wake-up. Sans-I/O.

Sockets share the port (SO_REUSEPORT), and the program says which of them gets a datagram: a pump's, chosen by the
processor that it arrives on or by its sender, or the one that nobody waits for (`strangers.py`), whose losses are a
count of strangers and nothing else.

Classic BPF (include/uapi/linux/filter.h) as a search tree over address ranges. A program holds 4,096 instructions
(BPF_MAXINSNS), so with many scattered addresses near ones share a range: it may let a stranger through, which the
worker's own check then drops, but never keeps a peer out.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address
from itertools import pairwise
from struct import Struct

MOST_RANGES = 580
_INSN = Struct("=HBBI")
# BPF_LD|BPF_W|BPF_ABS; BPF_JMP with BPF_JA, BPF_JGE|BPF_K, BPF_JGT|BPF_K, BPF_JEQ|BPF_K; BPF_RET|BPF_K, BPF_RET|BPF_A
_LOAD_WORD, _JUMP, _IF_GE, _IF_GT, _IF_EQ, _RETURN, _RETURN_A = 0x20, 0x05, 0x35, 0x25, 0x15, 0x06, 0x16
# BPF_ALU with BPF_MOD|BPF_K, BPF_ADD|BPF_K, BPF_MUL|BPF_K, BPF_RSH|BPF_K; BPF_MISC with BPF_TAX, BPF_TXA
_MODULO, _ADD, _MULTIPLY, _SHIFT_RIGHT, _A_TO_X, _X_TO_A = 0x94, 0x04, 0x24, 0x74, 0x07, 0x87
_SOURCE = 0xFFFFFFFF - 0x100000 + 1 + 12
"""SKF_NET_OFF, from which offsets count from the network header, and the source address in it."""
_PROCESSOR = 0xFFFFFFFF - 0x1000 + 1 + 36
"""SKF_AD_OFF + SKF_AD_CPU."""
STRANGERS = 1
"""What a program returns: the socket's place among those that share the port, which is the order of their binding.
The first pump's is 0, and those of others follow the strangers'."""


def _encode(*code: tuple[int, int, int, int]) -> bytes:
    return b"".join(_INSN.pack(*insn) for insn in code)


ALL_TO_THE_FIRST = _encode((_RETURN, 0, 0, 0))
_A_PUMP = ((_X_TO_A, 0, 0, 0), (_RETURN_A, 0, 0, 0))
TO_A_PUMP = _encode(*_A_PUMP)


_BY_PROCESSOR = ((_LOAD_WORD, 0, 0, _PROCESSOR),)
# The upper half of a product with 2^32 divided by the golden ratio: addresses at even distances fall on all pumps.
_BY_SENDER = ((_LOAD_WORD, 0, 0, _SOURCE), (_MULTIPLY, 0, 0, 0x9E3779B1), (_SHIFT_RIGHT, 0, 0, 16))


def which_pump(pumps: int, *, by_sender: bool = False) -> bytes:
    """What stands before TO_A_PUMP or a `source_filter`: the pump's place is kept in X."""
    return _encode(
        *(_BY_SENDER if by_sender else _BY_PROCESSOR),
        (_MODULO, 0, 0, pumps),
        (_IF_EQ, 1, 0, 0),
        (_ADD, 0, 0, STRANGERS),
        (_A_TO_X, 0, 0, 0),
    )


Range = tuple[int, int]


def source_filter(sources: Iterable[IPv4Address]) -> bytes:
    """The program, as an array of struct sock_filter: datagrams from `sources` to a pump, all others to STRANGERS."""
    ranges = merge_ranges(sorted(map(int, set(sources))), MOST_RANGES)
    return _encode((_LOAD_WORD, 0, 0, _SOURCE), *_tree(ranges))


def merge_ranges(addresses: list[int], most: int) -> list[Range]:
    """At most `most` ranges that hold all of the sorted `addresses`, and of others as few as that allows."""
    if not addresses:
        return []
    gaps = [(after - before, at) for at, (before, after) in enumerate(pairwise(addresses), 1)]
    # A gap of 1 divides nothing; of the others, the widest ones are kept.
    cuts = sorted(at for gap, at in sorted(gaps, reverse=True)[: most - 1] if gap > 1)
    edges = [0, *cuts, len(addresses)]
    return [(addresses[begin], addresses[end - 1]) for begin, end in pairwise(edges)]


def _tree(ranges: list[Range]) -> list[tuple[int, int, int, int]]:
    if not ranges:
        return [(_RETURN, 0, 0, STRANGERS)]
    if len(ranges) == 1:
        ((first, last),) = ranges
        return [(_IF_GE, 0, 3, first), (_IF_GT, 2, 0, last), *_A_PUMP, (_RETURN, 0, 0, STRANGERS)]
    middle = len(ranges) // 2
    below, above = _tree(ranges[:middle]), _tree(ranges[middle:])
    # A conditional jump reaches 255 instructions, an unconditional one any number.
    return [(_IF_GE, 0, 1, ranges[middle][0]), (_JUMP, 0, 0, len(below)), *below, *above]
