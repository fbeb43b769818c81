"""The kernel's network objects made real: the `Applier` for links, addresses, neighbours, FDB entries and routes."""

import asyncio
import errno
from collections.abc import Sequence
from itertools import groupby
from types import TracebackType
from typing import Self

from flanneld_py.errors import KernelError
from flanneld_py.model.entry import (
    Address,
    Desired,
    Entry,
    Failure,
    FdbEntry,
    Key,
    Link,
    LinkUp,
    Neighbour,
    Op,
    Route,
    Verb,
)
from flanneld_py.netlink.codec import encode, encode_first_route_delete
from flanneld_py.netlink.hints import already_done, failure, no_device
from flanneld_py.netlink.links import Links, find_links, known_addresses, known_links, ours, read_links
from flanneld_py.netlink.neighbours import known_fdb, known_neighbours
from flanneld_py.netlink.netns import Netns
from flanneld_py.netlink.routes import known_routes
from flanneld_py.netlink.socket import NetlinkSocket
from flanneld_py.netlink.wire import Refusal

_BATCHED = (Neighbour, FdbEntry, Route)


class NetlinkApplier:
    """Applies in `netns`, our own namespace if None. Close it with `close`, or use it as an async context manager."""

    handles: frozenset[type[Entry]] = frozenset({Link, LinkUp, Address, Neighbour, FdbEntry, Route})

    def __init__(self, *, netns: Netns = None) -> None:
        self._sock = NetlinkSocket(netns=netns)
        self._links = Links(self._sock, netns=netns)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._links.close()
        self._sock.close()

    async def known(self, desired: Desired) -> dict[Key, Entry]:
        """What the kernel holds now, the MAC and MTU of devices as it has them. KernelError: it cannot be read."""
        scope, wanted = desired.scope, desired.entries
        links = read_links(self._sock)
        mine = ours(links, scope)
        asked = {entry.dev for entry in wanted.values() if isinstance(entry, Neighbour | FdbEntry)}
        peopled = [state for state in links if state in mine or state.name in asked]
        names = {state.index: state.name for state in links}
        known = known_links(links, scope, wanted)
        known |= known_addresses(self._sock, links, scope, wanted)
        await asyncio.sleep(0)
        neighbours = known_neighbours(self._sock, peopled, wanted)
        fdb = known_fdb(self._sock, peopled, wanted)
        own = {state.name for state in mine}
        known |= {key: entry for key, entry in (neighbours | fdb).items() if entry.dev in own or key in wanted}
        await asyncio.sleep(0)
        return known | known_routes(self._sock, scope, own, wanted, names)

    async def apply(self, ops: Sequence[Op]) -> list[Failure]:
        failures: list[Failure] = []
        for batched, run in groupby(ops, key=lambda op: isinstance(op.entry, _BATCHED)):
            if batched:
                failures += await self._batch(list(run))
                continue
            for op in run:
                try:
                    refused = await self._links.apply(op)
                except KernelError as err:
                    refused = failure(op, err.errno, err.message, err.hint)
                if refused is not None:
                    failures.append(refused)
        return failures

    async def _batch(self, ops: Sequence[Op]) -> list[Failure]:
        """Device names are looked up now: the devices may have been made by the ops before."""
        names = {op.entry.dev for op in ops if op.entry.dev is not None}
        index_of = {name: state.index for name, state in find_links(self._sock, names).items()}
        failures: list[Failure] = []
        for start in range(0, len(ops), self._sock.batch):
            failures += self._chunk(ops[start : start + self._sock.batch], index_of)
            await asyncio.sleep(0)
        return failures

    def _chunk(self, ops: Sequence[Op], index_of: dict[str, int]) -> list[Failure]:
        failures: dict[int, Failure] = {}
        requests: dict[int, bytes] = {}
        op_of = dict(zip(self._sock.sequence(len(ops)), ops, strict=True))
        for seq, op in op_of.items():
            try:
                requests[seq] = encode(op, seq, index_of)
            except KeyError:
                if op.verb is not Verb.DELETE:
                    failures[seq] = no_device(op, str(op.entry.dev))
        try:
            refused = self._sock.execute(list(requests.values()), list(requests))
        except KernelError as err:
            return [failure(op, err.errno, err.message, err.hint) for op in ops]
        for seq, refusal in refused.items():
            op = op_of[seq]
            still: Refusal | None = refusal
            if isinstance(op.entry, Route) and op.verb is not Verb.DELETE and _is_in_the_way(op.entry, refusal.errno):
                still = self._make_way(op, op.entry, index_of)
            if still is not None and not already_done(op, still.errno):
                failures[seq] = failure(op, still.errno, still.text)
        return [failures[seq] for seq in sorted(failures)]

    def _make_way(self, op: Op, route: Route, index_of: dict[str, int]) -> Refusal | None:
        """Deletes the route that has the place of ours, and asks again."""
        first, second = self._sock.sequence(2)
        requests = [encode_first_route_delete(route.dst, route.metric, first), encode(op, second, index_of)]
        refused = self._sock.execute(requests, [first, second])
        return refused.get(second)


def _is_in_the_way(route: Route, code: int) -> bool:
    """Whether another route of the same key may be why the kernel does not replace it by ours.

    EEXIST: ours is there, but behind another one, which the kernel uses (net/ipv4/fib_trie.c fib_table_insert); it
    takes over without a gap. EINVAL: an IPv6 gateway inside the destination itself is looked up in the route that is
    to be replaced, and refused if that leaves through another device (net/ipv6/route.c ip6_route_check_nh_onlink).
    """
    inside = route.onlink and route.dst.version == 6 and route.via is not None and route.via in route.dst
    return code == errno.EEXIST or (code == errno.EINVAL and inside)
