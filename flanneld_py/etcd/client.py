"""etcd as the store needs it: keys, lists, guarded transactions, leases, and watches that survive their connections.

Each call waits for as long as etcd is away. Each may be carried out twice (transport.py); what that means is said where
it matters.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random, SystemRandom

from flanneld_py.errors import StoreError, UsageError
from flanneld_py.etcd import wire
from flanneld_py.etcd.endpoints import parse_endpoint
from flanneld_py.etcd.tls import TlsFiles
from flanneld_py.etcd.transport import Login, Transport, open_watch, read_stream
from flanneld_py.etcd.verdict import CallError, Trouble, cancelled_watch
from flanneld_py.etcd.wire import Event, Guard, KeyValue, Message, TxnOp, TxnResult

_log = logging.getLogger(__name__)

PAGE = 1000
_STEADY_S = 5.0
"""A watch that lived for so long was a sound one, and the next may be opened at once."""


@dataclass(frozen=True, slots=True)
class EtcdAccess:
    """Where etcd is and who we are to it, as the flags say it. None: not given."""

    endpoints: tuple[str, ...]
    prefix: str
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Listing:
    """Keys in order, as they all were at `revision`."""

    kvs: tuple[KeyValue, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Grant:
    """An etcd lease. `ttl_s` is what etcd granted, which may be more than was asked."""

    id: int
    ttl_s: int


@dataclass(frozen=True, slots=True)
class Events:
    """What happened since the last one, in order. `revision`: everything up to there is told."""

    events: tuple[Event, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Some history is lost, for `reason`: the watch has ended, and only a list tells the state now."""

    reason: str


class EtcdClient:
    """A client for one event loop. `report`: see Transport; `rng` spreads nodes over endpoints and time.

    Raises UsageError for endpoints and TLS files that cannot be used.
    """

    def __init__(self, access: EtcdAccess, report: Callable[[Trouble | None], None], rng: Random | None = None) -> None:
        tls = TlsFiles(access.ca_file or None, access.cert_file or None, access.key_file or None)
        endpoints = tuple(parse_endpoint(text, tls=tls.given) for text in access.endpoints if text.strip())
        if not endpoints:
            raise UsageError("no etcd endpoint is given", hint="give --etcd-endpoints=http://HOST:2379")
        if access.password and not access.username:
            raise UsageError("an etcd password is given without a user", hint="give --etcd-username")
        login = Login(access.username, access.password or "") if access.username else None
        self._rng = rng or SystemRandom()
        self._transport = Transport(endpoints, tls, login, report, self._rng)

    def describe(self) -> str:
        """The endpoints, with commas."""
        return self._transport.describe()

    @property
    def attempts(self) -> int:
        """How many calls were sent or tried so far."""
        return self._transport.attempts

    async def get(self, key: bytes) -> tuple[KeyValue | None, int]:
        """The key, None if it is not there, and the revision at which that was so."""
        answer = await self._transport.call(wire.RANGE, wire.range_request(key))
        kvs = wire.decode_kvs(answer.kvs)
        return (kvs[0] if kvs else None), answer.header.revision

    async def list(self, prefix: bytes, *, revision: int = 0, page: int = PAGE) -> Listing:
        """All keys that begin with `prefix`, read page by page at one revision: `revision`, or the newest (0).

        Raises CallError if `revision` is compacted; a newest one that is compacted between pages is read again.
        """
        while True:
            try:
                return await self._list_at(prefix, revision, page)
            except CallError as failure:
                if revision or "compacted" not in failure.details:
                    raise

    async def _list_at(self, prefix: bytes, revision: int, page: int) -> Listing:
        kvs: list[KeyValue] = []
        start, end = prefix, wire.prefix_end(prefix)
        while True:
            request = wire.range_request(start, end=end, limit=page, revision=revision)
            answer = await self._transport.call(wire.RANGE, request)
            kvs += wire.decode_kvs(answer.kvs)
            revision = revision or answer.header.revision
            if not answer.more:
                return Listing(tuple(kvs), revision)
            start = kvs[-1].key + b"\0"

    async def put(self, key: bytes, value: bytes) -> int:
        """Write the key without a lease, whatever is there; the revision of the write."""
        answer = await self._transport.call(wire.PUT, wire.PUT.request(key=key, value=value))
        return int(answer.header.revision)

    async def txn(self, guards: Sequence[Guard], then: Sequence[TxnOp], otherwise: Sequence[TxnOp] = ()) -> TxnResult:
        """Do `then` if all guards hold, else `otherwise`, as one step.

        If the answer to a first try was lost, its own effect may break the guards of the second: then `succeeded` is
        False, and what `otherwise` finds is our own write. The caller tells it by the lease or the value.
        """
        return wire.decode_txn(await self._transport.call(wire.TXN, wire.encode_txn(guards, then, otherwise)))

    async def grant(self, ttl_s: int) -> Grant:
        """A new etcd lease. Its ID is our choice: a second try finds the first one's lease, and none leaks."""
        lease = self._rng.randrange(1, 1 << 63)
        try:
            answer = await self._transport.call(wire.GRANT, wire.GRANT.request(TTL=ttl_s, ID=lease))
        except CallError as failure:
            if "lease already exists" not in failure.details:
                raise StoreError(f"etcd grants no lease of {ttl_s} s: {failure.details}") from None
            return Grant(lease, ttl_s)
        return Grant(lease, int(answer.TTL))

    async def revoke(self, lease: int) -> None:
        """End an etcd lease and delete the keys on it; a lease that is gone already is no error."""
        try:
            await self._transport.call(wire.REVOKE, wire.REVOKE.request(ID=lease))
        except CallError as failure:
            if "lease not found" not in failure.details:
                raise StoreError(f"etcd does not revoke lease {lease:x}: {failure.details}") from None

    async def keys_on(self, lease: int) -> tuple[bytes, ...] | None:
        """The keys on an etcd lease; None if it is gone."""
        answer = await self._transport.call(wire.TIME_TO_LIVE, wire.TIME_TO_LIVE.request(ID=lease, keys=True))
        return None if answer.TTL < 0 else tuple(answer.keys)

    async def time_to_live(self, lease: int) -> int | None:
        """Seconds until an etcd lease expires; None if it is gone."""
        answer = await self._transport.call(wire.TIME_TO_LIVE, wire.TIME_TO_LIVE.request(ID=lease))
        return None if answer.TTL < 0 else int(answer.TTL)

    async def watch(self, key: bytes, *, end: bytes = b"", revision: int) -> AsyncGenerator[Events | Gap, None]:
        """Everything that happens from `revision` on to `key`, or to the keys in [key, end); ends with a Gap.

        A stream that breaks is opened anew where it stopped, on another endpoint if need be. Raises AccessDenied.
        """
        backoff = self._transport.backoff()
        cluster = 0
        while True:
            request = wire.watch_request(key, end=end, start_revision=revision)
            stream, created = await self._transport.run(partial(open_watch, request))
            opened = asyncio.get_running_loop().time()
            try:
                gap = await self._missed(key, created.header, revision, cluster)
                cluster = created.header.cluster_id
                while gap is None:
                    answer = await read_stream(stream)
                    if answer.canceled:
                        gap = _ended(answer)
                        break
                    revision = max(revision, answer.header.revision + 1)
                    yield Events(wire.decode_events(answer), revision - 1)
                if gap is not None:
                    yield gap
                    return
            except CallError as failure:
                _log.debug("etcd watch of %r broke at revision %d: %s", key, revision, failure)
            finally:
                stream.cancel()
            if asyncio.get_running_loop().time() - opened > _STEADY_S:
                backoff.reset()
            await asyncio.sleep(backoff.next_s())

    async def _missed(self, key: bytes, header: Message, revision: int, cluster: int) -> Gap | None:
        """Whether a watch that was just opened cannot go on where we stopped."""
        if cluster and header.cluster_id != cluster:
            return Gap(f"another etcd cluster answers: {header.cluster_id:x} instead of {cluster:x}")
        if header.revision + 1 < revision:
            # A member that lags behind says so too; a read through the leader knows.
            newest = (await self.get(key))[1]
            if newest + 1 < revision:
                # Such a watch would be silent until etcd gets there: it was restored from a backup, or begun anew.
                return Gap(f"etcd is at revision {newest}, and was at {revision - 1} before")
        return None

    async def close(self) -> None:
        await self._transport.close()


def _ended(answer: Message) -> Gap:
    if answer.compact_revision:
        return Gap(f"history up to revision {answer.compact_revision} is compacted")
    raise cancelled_watch(answer.cancel_reason)
