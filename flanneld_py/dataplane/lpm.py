"""Which peer a packet goes to, and who may send one: the table of the userspace data path. Sans-I/O.

A table never changes; a new one replaces it. It is built once, from prefixes, into one image of bytes that both the C
core and the Python twin read, and that can go to another process as it is. Numbers are native ("=" of `struct`):

    header     magic, validation, own address, counts of peers, ranges, sources, locals, 0          8 x u32
    sources    sorted (outer source address << 32 | peer)                                          u64 each
    ranges     first address of each range, sorted, the first one 0                                u32 each
    owners     peer of each range, or NO_PEER                                                      u32 each
    locals     first and last address of what lies behind us, sorted                               2 x u32 each
    peers      address, port, mtu                                                                  u32, u16, u16 each

Prefixes of different lengths become ranges that do not overlap, so the longest prefix is found by one binary search.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from itertools import pairwise
from struct import Struct

NO_PEER = 0xFFFFFFFF
_MAGIC = 0x31544C46
_HEADER = Struct("=8I")
_PEER = Struct("=IHH")
_END = 1 << 32


class Validation(IntEnum):
    """Which inbound packets count (`SourceValidation`); the values are those of `enum pump_validation`."""

    OFF = 0
    LOOSE = 1
    """The inner source is behind some peer, or a peer's own address; the inner destination is ours."""
    STRICT = 2
    """As LOOSE, and the outer source is an address of that very peer."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A node that leases `subnets`. `mtu`: bytes of the largest packet that reaches it in one datagram.

    `sources`: further addresses from which it may send, besides `address`.
    """

    address: IPv4Address
    port: int
    mtu: int
    subnets: tuple[IPv4Network, ...]
    sources: tuple[IPv4Address, ...] = ()


def build_ranges(prefixes: Mapping[IPv4Network, int]) -> tuple[list[int], list[int]]:
    """(first addresses, owners) of ranges that cover all of IPv4, each owned by the longest prefix that holds it."""
    ordered = sorted(prefixes, key=lambda net: (int(net.network_address), net.prefixlen))
    edges: list[tuple[int, int]] = [(0, NO_PEER)]
    open_nets: list[tuple[int, int]] = [(_END, NO_PEER)]  # (end, owner) of the prefixes around the current address
    for net in ordered:
        first = int(net.network_address)
        _close(open_nets, edges, first)
        edges.append((first, prefixes[net]))
        open_nets.append((first + net.num_addresses, prefixes[net]))
    _close(open_nets, edges, _END - 1)
    kept: list[tuple[int, int]] = []
    for first, owner in edges:
        if kept and kept[-1][0] == first:
            kept.pop()
        if not kept or kept[-1][1] != owner:
            kept.append((first, owner))
    return [first for first, _ in kept], [owner for _, owner in kept]


def _close(open_nets: list[tuple[int, int]], edges: list[tuple[int, int]], upto: int) -> None:
    """End the prefixes that reach no further than `upto`; what is around them goes on."""
    while open_nets[-1][0] <= upto:
        end, _ = open_nets.pop()
        edges.append((end, open_nets[-1][1]))


def encode_table(
    peers: Sequence[Peer], *, local: Iterable[IPv4Network], own: IPv4Address, validation: Validation
) -> bytes:
    """The image of a table. `local`: networks behind us; `own`: our address on the TUN device, for ICMP errors.

    ValueError if two peers lease one subnet: which of them is meant must be known before.
    """
    prefixes: dict[IPv4Network, int] = {}
    for index, peer in enumerate(peers):
        for net in peer.subnets:
            if net in prefixes:
                raise ValueError(f"{net} is leased by {peers[prefixes[net]].address} and {peer.address}")
            prefixes[net] = index
    firsts, owners = build_ranges(prefixes)
    sources = sorted({int(a) << 32 | i for i, peer in enumerate(peers) for a in (peer.address, *peer.sources)})
    pairs = [(int(n.network_address), int(n.broadcast_address)) for n in sorted(collapse_addresses(local))]
    counts = (len(peers), len(firsts), len(sources), len(pairs))
    return b"".join(
        (
            _HEADER.pack(_MAGIC, validation, int(own), *counts, 0),
            Struct(f"={len(sources)}Q").pack(*sources),
            Struct(f"={len(firsts)}I").pack(*firsts),
            Struct(f"={len(owners)}I").pack(*owners),
            Struct(f"={2 * len(pairs)}I").pack(*(bound for pair in pairs for bound in pair)),
            b"".join(_PEER.pack(int(peer.address), peer.port, peer.mtu) for peer in peers),
        )
    )


class Table:
    """A table read from its image. ValueError says what is wrong with the image."""

    def __init__(self, image: bytes) -> None:
        if len(image) < _HEADER.size:
            raise ValueError("the image is too short")
        magic, validation, self.own, peers, ranges, sources, locals_, reserved = _HEADER.unpack_from(image)
        if magic != _MAGIC:
            raise ValueError("the image is of another format or byte order")
        if validation > Validation.STRICT or reserved:
            raise ValueError("the image's header is unknown")
        if len(image) != _HEADER.size + 8 * sources + 8 * ranges + 8 * locals_ + _PEER.size * peers:
            raise ValueError("the image's length does not fit its header")
        self.validation = Validation(validation)
        at = _HEADER.size
        self._sources = Struct(f"={sources}Q").unpack_from(image, at)
        self._firsts = Struct(f"={ranges}I").unpack_from(image, at := at + 8 * sources)
        self._owners = Struct(f"={ranges}I").unpack_from(image, at := at + 4 * ranges)
        bounds = Struct(f"={2 * locals_}I").unpack_from(image, at := at + 4 * ranges)
        self._locals = tuple(zip(bounds[::2], bounds[1::2], strict=True))
        self._peers = tuple(_PEER.iter_unpack(image[at + 8 * locals_ :]))
        self._check()

    def _check(self) -> None:
        if not self._firsts or self._firsts[0] != 0:
            raise ValueError("the ranges do not begin at 0.0.0.0")
        for i, (first, owner) in enumerate(zip(self._firsts, self._owners, strict=True)):
            if i and first <= self._firsts[i - 1]:
                raise ValueError("the ranges are not sorted")
            if owner != NO_PEER and owner >= len(self._peers):
                raise ValueError("a range names no peer")
        for i, source in enumerate(self._sources):
            if i and source <= self._sources[i - 1]:
                raise ValueError("the sources are not sorted")
            if source & NO_PEER >= len(self._peers):
                raise ValueError("a source names no peer")
        after = all(low[1] < high[0] for low, high in pairwise(self._locals))
        if not after or any(first > last for first, last in self._locals):
            raise ValueError("the local ranges are not sorted")

    def lookup(self, address: int) -> int:
        """The peer whose subnet is the longest that holds `address`, or NO_PEER."""
        owner: int = self._owners[bisect_right(self._firsts, address) - 1]
        return owner

    def peer(self, index: int) -> tuple[int, int, int]:
        """(address, port, mtu)."""
        found: tuple[int, int, int] = self._peers[index]
        return found

    def knows_source(self, source: int) -> bool:
        """Whether any peer sends from that outer address."""
        at = bisect_left(self._sources, source << 32)
        return at < len(self._sources) and self._sources[at] >> 32 == source

    def is_local(self, address: int) -> bool:
        return any(first <= address <= last for first, last in self._locals)

    def belongs(self, outer: int, inner: int) -> bool:
        """Whether `inner` is behind a peer that sends from `outer`, or is itself an address of such a peer."""
        owner = self.lookup(inner)
        if owner != NO_PEER and self._sends_from(outer, owner):
            return True
        if inner == outer:
            return True
        at = bisect_left(self._sources, outer << 32)
        while at < len(self._sources) and self._sources[at] >> 32 == outer:
            if self._sends_from(inner, self._sources[at] & NO_PEER):
                return True
            at += 1
        return False

    def _sends_from(self, source: int, peer: int) -> bool:
        key = source << 32 | peer
        at = bisect_left(self._sources, key)
        return at < len(self._sources) and self._sources[at] == key
