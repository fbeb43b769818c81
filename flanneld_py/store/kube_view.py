"""Nodes of the Kubernetes API, told as leases. sans-I/O.

The API knows nodes by name, the daemon knows leases by subnets: a node may change its slice, and of two nodes that were
given one slice (a controller restored from a backup) only one can have it.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flanneld_py.kube.objects import Node
from flanneld_py.model.lease import Changed, Gone, Lease, LeaseMessage, Snapshot
from flanneld_py.model.net import Subnets
from flanneld_py.store.kube_codec import Names, decode_lease

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a list or a watch told of one node. `lease` None: it has none, or none that is sound."""

    name: str
    lease: Lease | None


class NodeReader:
    """Makes leases of nodes; one that is not sound is skipped with one warning for each way it is wrong.

    `own`: our node's name, and the lease that we hold there if the node still says so.
    """

    def __init__(self, names: Names, own: Callable[[Node], Lease | None]) -> None:
        self._names = names
        self._own = own
        self._warned: dict[str, str] = {}
        self.versions: tuple[int, ...] = (4, 6)

    def read(self, node: Node) -> Seen:
        try:
            lease = self._own(node) or decode_lease(self._names, node, self.versions)
        except ValueError as error:
            text = str(error)
            if self._warned.get(node.name) != text:
                self._warned[node.name] = text
                _log.warning("node %s is skipped: %s", node.name, text)
            return Seen(node.name, None)
        self._warned.pop(node.name, None)
        return Seen(node.name, lease)


class NodeTable:
    """The leases of all nodes. `first`: the node that has a slice which several were given; else the first by name."""

    def __init__(self, first: str) -> None:
        self._first = first
        self._leases: dict[str, Lease] = {}
        self._holders: dict[Subnets, list[str]] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def replace(self, seen: Iterable[Seen]) -> Snapshot:
        """These are all nodes there are."""
        self._leases.clear()
        self._holders.clear()
        for one in seen:
            if one.lease is not None:
                self._add(one.name, one.lease)
        return Snapshot(tuple(lease for subnets in self._holders if (lease := self._visible(subnets)) is not None))

    def put(self, seen: Seen) -> list[LeaseMessage]:
        """The node is as `seen`: what that changes."""
        before = self._leases.get(seen.name)
        if before == seen.lease:
            return []
        touched = list(dict.fromkeys(lease.subnets for lease in (before, seen.lease) if lease is not None))
        shown = [self._visible(subnets) for subnets in touched]
        self._remove(seen.name)
        if seen.lease is not None:
            self._add(seen.name, seen.lease)
        messages: list[LeaseMessage] = []
        for subnets, old in zip(touched, shown, strict=True):
            new = self._visible(subnets)
            if new is None:
                messages.append(Gone(subnets))
            elif new != old:
                messages.append(Changed(new))
        return messages

    def drop(self, name: str) -> list[LeaseMessage]:
        """The node is gone: what that changes."""
        return self.put(Seen(name, None))

    def _add(self, name: str, lease: Lease) -> None:
        self._leases[name] = lease
        holders = self._holders.setdefault(lease.subnets, [])
        if holders:
            _log.warning("nodes %s and %s have one slice: %s", ", ".join(holders), name, lease)
        holders.append(name)

    def _remove(self, name: str) -> None:
        lease = self._leases.pop(name, None)
        if lease is not None:
            holders = self._holders[lease.subnets]
            holders.remove(name)
            if not holders:
                del self._holders[lease.subnets]

    def _visible(self, subnets: Subnets) -> Lease | None:
        holders = self._holders.get(subnets)
        if not holders:
            return None
        return self._leases[self._first if self._first in holders else min(holders)]
