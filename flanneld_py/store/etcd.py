"""Leases in etcd, side by side with Go flannel's nodes: configuration and watch; the own lease is in etcd_holder."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from random import Random, SystemRandom

from flanneld_py.errors import AccessDenied
from flanneld_py.etcd.client import EtcdAccess, EtcdClient, Events
from flanneld_py.etcd.wire import prefix_end
from flanneld_py.model.config import EXAMPLE
from flanneld_py.model.lease import Changed, Gone, Lease, LeaseAttrs, LeaseMessage, Snapshot
from flanneld_py.store.base import Condition, LeaseRequest, Report
from flanneld_py.store.conditions import Conditions
from flanneld_py.store.etcd_holder import LeaseHolder
from flanneld_py.store.etcd_keys import Keys, shown
from flanneld_py.store.etcd_view import LeaseReader

_log = logging.getLogger(__name__)

TTL_S = 86_400
"""How long a lease lives without renewal, as flannel's."""
_DENIED_WAIT_S = 5.0


class EtcdStore:
    """LeaseStore and Renewable. `rng` picks subnets and spreads retries, `clock` gives Unix seconds."""

    def __init__(
        self,
        access: EtcdAccess,
        report: Report,
        *,
        ttl_s: int = TTL_S,
        rng: Random | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        rng = rng or SystemRandom()
        self._conditions = Conditions(report)
        self._client = EtcdClient(access, self._conditions.trouble, rng)
        self._keys = Keys(access.prefix)
        self._reader = LeaseReader(self._keys)
        self._prefix = access.prefix
        self._config = ""
        self._holder = LeaseHolder(
            self._client, self._keys, self._reader, self._conditions, ttl_s=ttl_s, rng=rng, clock=clock
        )

    def describe(self) -> str:
        return f"etcd {self._client.describe()} below {self._prefix}"

    def config_source(self) -> str:
        return self.describe()

    async def config(self) -> str:
        while True:
            kv, revision = await self._client.get(self._keys.config)
            if kv is not None:
                self._conditions.missing("config", None)
                self._config = kv.value.decode(errors="replace")
                return self._config
            self._conditions.missing("config", self._config_missing())
            async with aclosing(self._client.watch(self._keys.config, revision=revision + 1)) as changes:
                async for change in changes:
                    if not isinstance(change, Events) or change.events:
                        break

    def _config_missing(self) -> Condition:
        key = shown(self._keys.config)
        endpoint = self._client.describe().partition(",")[0]
        message = f"no network configuration in etcd at {key}"
        return Condition(False, message, f"create it: etcdctl --endpoints={endpoint} put {key} '{EXAMPLE}' (v3 API)")

    async def watch_config(self) -> AsyncGenerator[str, None]:
        while True:
            try:
                async with aclosing(self._config_texts()) as texts:
                    async for text in texts:
                        if text != self._config:
                            self._config = text
                            yield text
            except AccessDenied as error:
                self._conditions.denied("watch_config", error)
                await asyncio.sleep(_DENIED_WAIT_S)

    async def _config_texts(self) -> AsyncGenerator[str, None]:
        """The configuration as it is now, then each one after it, until there is a gap."""
        kv, revision = await self._client.get(self._keys.config)
        self._conditions.denied("watch_config", None)
        if kv is not None:
            yield kv.value.decode(errors="replace")
        async with aclosing(self._client.watch(self._keys.config, revision=revision + 1)) as changes:
            async for change in changes:
                if not isinstance(change, Events):
                    return
                for event in change.events:
                    if event.deleted:
                        _log.warning("network configuration %s was deleted", shown(self._keys.config))
                    else:
                        yield event.kv.value.decode(errors="replace")

    async def stored(self, attrs: LeaseAttrs) -> LeaseAttrs | None:
        return await self._holder.stored(attrs)

    async def acquire(self, request: LeaseRequest) -> Lease:
        return await self._holder.acquire(request)

    async def renew(self, lease: Lease) -> Lease:
        return await self._holder.renew(lease)

    async def release(self, lease: Lease) -> None:
        await self._holder.release(lease)

    async def watch(self) -> AsyncGenerator[LeaseMessage, None]:
        known: dict[bytes, Lease] = {}
        started = False
        while True:
            try:
                listing = await self._client.list(self._keys.subnets)
                self._conditions.denied("watch", None)
                leases = {kv.key: self._reader.lease(kv) or known.get(kv.key) for kv in listing.kvs}
                known = {key: lease for key, lease in leases.items() if lease is not None}
                yield Snapshot(tuple(known.values()))
                started = True
                async with aclosing(self._changes(listing.revision + 1, known)) as changes:
                    async for message in changes:
                        yield message
            except AccessDenied as error:
                if not started:
                    raise
                self._conditions.denied("watch", error)
                await asyncio.sleep(_DENIED_WAIT_S)

    async def _changes(self, revision: int, known: dict[bytes, Lease]) -> AsyncGenerator[LeaseMessage, None]:
        """Changes, also made to `known`, until there is a gap. A key that turns to garbage keeps its last lease."""
        end = prefix_end(self._keys.subnets)
        async with aclosing(self._client.watch(self._keys.subnets, end=end, revision=revision)) as batches:
            async for batch in batches:
                if not isinstance(batch, Events):
                    _log.info("etcd watch of leases: %s; reading all leases again", batch.reason)
                    return
                for event in batch.events:
                    if not event.deleted:
                        lease = self._reader.lease(event.kv)
                        if lease is not None:
                            known[event.kv.key] = lease
                            yield Changed(lease)
                    elif (gone := known.pop(event.kv.key, None)) is not None:
                        yield Gone(gone.subnets)

    async def close(self) -> None:
        await self._client.close()
