"""What the keys in etcd say about leases, read with distrust. sans-I/O but for the log."""

import logging
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from flanneld_py.etcd.wire import KeyValue
from flanneld_py.model.lease import Lease, LeaseAttrs, NodeIdentity
from flanneld_py.model.net import Net
from flanneld_py.store.etcd_keys import Keys, shown
from flanneld_py.store.lease_codec import decode_attrs, decode_identity

_log = logging.getLogger(__name__)
_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class Held:
    """A lease and its key. `writer`: the node of ours that wrote this very lease; None: Go flannel, or an operator."""

    kv: KeyValue
    lease: Lease
    writer: NodeIdentity | None = None


@dataclass(frozen=True, slots=True)
class View:
    """All leases at one revision. `taken`: their subnets, and those of keys that are not sound but hold a place."""

    held: tuple[Held, ...]
    taken: tuple[Net, ...]
    revision: int


def same_node(mine: LeaseAttrs, other: LeaseAttrs) -> bool:
    """Whether both are of one node: by its IPv4 address, as flannel; without one, by its IPv6 address."""
    if mine.public_ip is not None:
        return mine.public_ip == other.public_ip
    return other.public_ip is None and mine.public_ipv6 is not None and mine.public_ipv6 == other.public_ipv6


class LeaseReader:
    """Turns keys into leases; a key or value that is none is skipped with one warning for each version of it."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._warned: OrderedDict[tuple[bytes, int], None] = OrderedDict()

    def lease(self, kv: KeyValue) -> Lease | None:
        try:
            subnets = self._keys.parse_subnet(kv.key)
            return Lease(subnets, decode_attrs(kv.value), reserved=kv.lease == 0)
        except ValueError as error:
            self._warn(kv, f"is skipped, it holds no lease: {error}")
            return None

    def view(self, kvs: Iterable[KeyValue], records: Iterable[KeyValue], revision: int) -> View:
        writers = {kv.key.removeprefix(self._keys.nodes): kv for kv in records}
        held: list[Held] = []
        taken: list[Net] = []
        for kv in kvs:
            taken += self._keys.touched_by(kv.key)
            lease = self.lease(kv)
            if lease is not None:
                record = writers.get(kv.key.removeprefix(self._keys.subnets))
                held.append(Held(kv, lease, self.writer(kv, record)))
        return View(tuple(held), tuple(taken), revision)

    def writer(self, kv: KeyValue, record: KeyValue | None) -> NodeIdentity | None:
        """Who wrote the lease `kv`: a record on another etcd lease is left from an earlier one."""
        if record is None or record.lease != kv.lease:
            return None
        try:
            return decode_identity(record.value)
        except ValueError as error:
            self._warn(record, f"is ignored, it names no node: {error}")
            return None

    def _warn(self, kv: KeyValue, what: str) -> None:
        version = (kv.key, kv.mod_revision)
        if version in self._warned:
            return
        self._warned[version] = None
        if len(self._warned) > _REMEMBERED:
            self._warned.popitem(last=False)
        _log.warning("etcd key %s %s", shown(kv.key), what)
