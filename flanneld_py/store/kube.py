"""Leases in the Kubernetes API: the cluster's controller gives each node its slice, annotations tell peers the rest.

Side by side with Go flannel's nodes. Nothing here expires, and nothing is given back: a slice is the node's for as long
as there is a Node object.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from random import Random, SystemRandom
from typing import Final

from flanneld_py.kube.access import KubeAccess
from flanneld_py.kube.client import KubeClient
from flanneld_py.kube.listwatch import SILENCE_S, Deleted, Listed, ListWatch
from flanneld_py.model.lease import Lease, LeaseAttrs, LeaseMessage, Snapshot
from flanneld_py.store.base import Condition, LeaseRequest, PublicWishes, Report
from flanneld_py.store.conditions import Conditions
from flanneld_py.store.kube_codec import Names
from flanneld_py.store.kube_config import ConfigFile
from flanneld_py.store.kube_own import NODES, PATIENCE_S, NodeRef, OwnNode
from flanneld_py.store.kube_view import NodeReader, NodeTable, Seen

ALLOC = "alloc"
_ALONE_S = (50.0, 70.0)
"""How often a node that has no peers looks whether its slice is still its own."""
DOUBT_S: Final = (10.0, 20.0)
_DOUBTS: Final = 3
"""How often a list without nodes is not believed."""


class KubeStore:
    """LeaseStore and OwnedNode. `rng` spreads retries, `clock` gives Unix seconds.

    `patience_s`: how long to wait for a slice before an Event is written; `silence_s`: for a word on a watch;
    `doubt_s`: from and to, before nodes are listed again where there were none.
    """

    def __init__(
        self,
        access: KubeAccess,
        report: Report,
        *,
        node: NodeRef,
        names: Names,
        config_path: Path,
        rng: Random | None = None,
        clock: Callable[[], float] = time.time,
        patience_s: float = PATIENCE_S,
        silence_s: float = SILENCE_S,
        doubt_s: tuple[float, float] = DOUBT_S,
    ) -> None:
        self._rng = rng or SystemRandom()
        self._conditions = Conditions(report, "the Kubernetes API answers")
        self._client = KubeClient(access, self._conditions.trouble, self._rng)
        self._file = ConfigFile(config_path, self._conditions)
        self._names = names
        self._own = OwnNode(
            self._client, node, names, self._conditions, rng=self._rng, clock=clock, patience_s=patience_s
        )
        self._reader = NodeReader(names, self._own.lease_in)
        self._silence_s = silence_s
        self._doubt_s = doubt_s
        self._backend = ""

    def describe(self) -> str:
        return f"the Kubernetes API at {self._client.describe()}"

    def config_source(self) -> str:
        return str(self._file.path)

    async def config(self) -> str:
        return await self._file.read()

    def watch_config(self) -> AsyncGenerator[str, None]:
        return self._file.watch()

    async def wishes(self) -> PublicWishes:
        return await self._own.wishes()

    async def stored(self, attrs: LeaseAttrs) -> LeaseAttrs | None:
        return await self._own.stored()

    async def acquire(self, request: LeaseRequest) -> Lease:
        self._backend = request.config.backend.type
        self._reader.versions = tuple(family.version for family in request.config.families)
        return await self._own.acquire(request)

    async def announce(self) -> None:
        await self._own.announce()

    async def release(self, lease: Lease) -> None:
        """Nothing: the slice is the node's until the cluster takes it, and its annotations tell peers what runs on."""

    def watch(self) -> AsyncGenerator[LeaseMessage, None]:
        return self._watch_own() if self._backend == ALLOC else self._watch_all()

    async def _watch_all(self) -> AsyncGenerator[LeaseMessage, None]:
        conversation = ListWatch(self._reader.read, self._rng, silence_s=self._silence_s)
        table = NodeTable(await self._own.name())
        doubts = 0
        async with aclosing(self._client.follow("list nodes", NODES, conversation)) as messages:
            async for message in messages:
                if isinstance(message, Listed):
                    if doubts < _DOUBTS and self._is_doubtful(message, table):
                        doubts += 1
                        await asyncio.sleep(self._rng.uniform(*self._doubt_s))
                        conversation.relist()
                        continue
                    doubts = 0
                    self._conditions.missing("nodes", None)
                    yield table.replace(message.objects)
                    continue
                seen = message.object
                for told in table.drop(seen.name) if isinstance(message, Deleted) else table.put(seen):
                    yield told

    def _is_doubtful(self, listed: Listed[Seen], table: NodeTable) -> bool:
        """A server whose database is not there yet lists nothing, and would take the network from all pods."""
        if listed.objects or not len(table):
            return False
        message = "the Kubernetes API lists no node; the leases known before are kept for now"
        hint = "is its etcd restored, and the right one? kubectl get nodes"
        self._conditions.missing("nodes", Condition(False, message, hint))
        return True

    async def _watch_own(self) -> AsyncGenerator[LeaseMessage, None]:
        """The own lease alone, without a watch: nothing depends on peers."""
        while True:
            lease = await self._own.now()
            yield Snapshot(() if lease is None else (lease,))
            await asyncio.sleep(self._rng.uniform(*_ALONE_S))

    async def close(self) -> None:
        await self._client.close()
