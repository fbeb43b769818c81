"""Who makes entries real. An applier is an adapter for some types of entries; the dispatcher puts several together."""

from collections.abc import Sequence
from itertools import groupby
from typing import Protocol

from flanneld_py.model.entry import Desired, Entry, Failure, Key, Op


class Applier(Protocol):
    """Makes entries of the types in `handles` real, and reads them back."""

    handles: frozenset[type[Entry]]

    async def known(self, desired: Desired) -> dict[Key, Entry]:
        """What is there and either ours by `desired.scope`, or in the way of one of `desired.entries`."""

    async def apply(self, ops: Sequence[Op]) -> list[Failure]:
        """Do `ops` in order, each whether or not the one before failed; the ones that failed.

        Every op may run twice: adding what is there as it should be, or deleting what is gone, is no failure.
        """


class Dispatcher:
    """Several appliers as one; ops keep their order across appliers."""

    def __init__(self, appliers: Sequence[Applier]) -> None:
        self._appliers = tuple(appliers)
        self._of = {kind: applier for applier in appliers for kind in applier.handles}
        self.handles = frozenset(self._of)

    async def known(self, desired: Desired) -> dict[Key, Entry]:
        known: dict[Key, Entry] = {}
        for applier in self._appliers:
            known |= await applier.known(desired)
        return known

    async def apply(self, ops: Sequence[Op]) -> list[Failure]:
        failures: list[Failure] = []
        for applier, run in groupby(ops, key=lambda op: self._of[type(op.entry)]):
            failures += await applier.apply(list(run))
        return failures
