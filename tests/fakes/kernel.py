"""A kernel that is a dictionary, with the contract of an Applier. tests/contract holds it against the real one."""

import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from flanneld_py.model.entry import (
    PROTOCOL_BOOT,
    ROUTE_PROTOCOL,
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
    Scope,
    Sysctl,
    Verb,
)
from flanneld_py.model.net import inside


class FakeKernel:
    """`underlay`: names of devices that are there and are not ours. `refuse`: errno by key, for ops on that key.

    `batches` are the ops of each call of `apply`, for tests that count.
    """

    handles: frozenset[type[Entry]] = frozenset({Link, LinkUp, Address, Neighbour, FdbEntry, Route, Sysctl})

    def __init__(self, underlay: Iterable[str] = ("eth0",)) -> None:
        self.underlay = set(underlay)
        self.entries: dict[Key, Entry] = {}
        self.refuse: Mapping[Key, int] = {}
        self.batches: list[tuple[Op, ...]] = []

    async def known(self, desired: Desired) -> dict[Key, Entry]:
        mine = {
            entry.name for entry in self.entries.values() if isinstance(entry, Link) and _is_ours(entry, desired.scope)
        }
        return {
            key: _as_asked(entry, desired.entries.get(key))
            for key, entry in self.entries.items()
            if key in desired.entries or _is_reported(entry, desired.scope, mine)
        }

    async def apply(self, ops: Sequence[Op]) -> list[Failure]:
        self.batches.append(tuple(ops))
        return [refused for refused in map(self._apply, ops) if refused is not None]

    def put(self, *entries: Entry) -> None:
        """What somebody else does: no question asked."""
        for entry in entries:
            self.entries[entry.key] = entry

    def remove_device(self, name: str) -> None:
        self.underlay.discard(name)
        self.entries = {key: entry for key, entry in self.entries.items() if entry.dev != name}

    def _apply(self, op: Op) -> Failure | None:
        entry = op.entry
        if (code := self.refuse.get(entry.key)) is not None:
            return Failure(op, "refused", errno=code)
        if op.verb is Verb.DELETE:
            if isinstance(entry, Link):
                self.remove_device(entry.name)
            elif not isinstance(entry, Sysctl) and _names_it(entry, self.entries.get(entry.key)):
                self.entries.pop(entry.key)
            return None
        if isinstance(entry, Link):
            return self._make_link(op, entry)
        if entry.dev is not None and not isinstance(entry, Sysctl) and not self._has_device(entry.dev):
            return Failure(op, "there is no such interface", errno=errno.ENODEV, hint="see: ip link")
        self.entries[entry.key] = entry
        return None

    def _make_link(self, op: Op, link: Link) -> Failure | None:
        if link.vxlan is not None and not self._has_device(link.vxlan.underlay):
            return Failure(op, "there is no such interface", errno=errno.ENODEV, hint="see: ip link")
        old = self.entries.get(link.key)
        if op.verb is Verb.RECREATE or (isinstance(old, Link) and link.must_recreate(old)):
            self.remove_device(link.name)
        self.entries[link.key] = link
        return None

    def _has_device(self, name: str) -> bool:
        return name in self.underlay or ("link", name) in self.entries


def _names_it(entry: Entry, there: Entry | None) -> bool:
    """Whether the kernel deletes what is there when asked for `entry`: of a route, protocol and next hop must fit."""
    if isinstance(entry, Route) and isinstance(there, Route):
        return (entry.protocol, entry.dev, entry.via, entry.kind) == (there.protocol, there.dev, there.via, there.kind)
    return there is not None


def _as_asked(entry: Entry, wanted: Entry | None) -> Entry:
    """A new value each time, as from a real kernel: what is read is never the object that was applied."""
    if isinstance(entry, Link) and isinstance(wanted, Link) and wanted.mac is None:
        return replace(entry, mac=None)
    return replace(entry)


def _is_ours(link: Link, scope: Scope) -> bool:
    return link.name in scope.devices or (scope.alias != "" and link.alias == scope.alias)


def _is_reported(entry: Entry, scope: Scope, mine: set[str]) -> bool:
    match entry:
        case Route():
            within = any(inside(entry.dst, network) for network in scope.networks)
            if entry.protocol == ROUTE_PROTOCOL:
                return within or entry.dev in mine
            boot = entry.protocol == PROTOCOL_BOOT and bool(scope.takeover)
            return boot and within and (entry.dev in mine or entry.dev in scope.takeover)
        case Neighbour() | FdbEntry():
            return entry.dev in mine and entry.permanent
        case Sysctl():
            return False
        case _:
            return entry.dev in mine
