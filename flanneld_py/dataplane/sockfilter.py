"""A program that keeps datagrams of unknown outer addresses from the pump, before they cost a wake-up. Sans-I/O.

Two sockets share the port (SO_REUSEPORT), and the program says which of them gets a datagram: the pump's, or the one
that nobody waits for (`strangers.py`), whose losses are a count of strangers and nothing else.

Classic BPF (include/uapi/linux/filter.h) as a search tree over address ranges. A program holds 4,096 instructions
(BPF_MAXINSNS), so with many scattered addresses near ones share a range: it may let a stranger through, which the
worker's own check then drops, but never keeps a peer out.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address
from itertools import pairwise
from struct import Struct

MOST_RANGES = 680
_INSN = Struct("=HBBI")
# BPF_LD|BPF_W|BPF_ABS; BPF_JMP with BPF_JA, BPF_JGE|BPF_K, BPF_JGT|BPF_K; BPF_RET|BPF_K
_LOAD_WORD, _JUMP, _IF_GE, _IF_GT, _RETURN = 0x20, 0x05, 0x35, 0x25, 0x06
_SOURCE = 0xFFFFFFFF - 0x100000 + 1 + 12
"""SKF_NET_OFF, from which offsets count from the network header, and the source address in it."""
PUMP, STRANGERS = 0, 1
"""What a program returns: the socket's place among those that share the port, which is the order of their binding."""
ALL_TO_THE_PUMP = _INSN.pack(_RETURN, 0, 0, PUMP)

Range = tuple[int, int]


def source_filter(sources: Iterable[IPv4Address]) -> bytes:
    """The program, as an array of struct sock_filter: datagrams from `sources` to PUMP, all others to STRANGERS."""
    ranges = merge_ranges(sorted(map(int, set(sources))), MOST_RANGES)
    code = [(_LOAD_WORD, 0, 0, _SOURCE), *_tree(ranges)]
    return b"".join(_INSN.pack(*insn) for insn in code)


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
        return [(_IF_GE, 0, 2, first), (_IF_GT, 1, 0, last), (_RETURN, 0, 0, PUMP), (_RETURN, 0, 0, STRANGERS)]
    middle = len(ranges) // 2
    below, above = _tree(ranges[:middle]), _tree(ranges[middle:])
    # A conditional jump reaches 255 instructions, an unconditional one any number.
    return [(_IF_GE, 0, 1, ranges[middle][0]), (_JUMP, 0, 0, len(below)), *below, *above]
