"""The reconciler makes the kernel look like the plans, and is the only caller of appliers.

Rule 1: nothing else writes. Rule 2: every op may run twice. Rule 3: a delete touches only entries that carry our mark.

Two kinds of wake-up lead to a pass. `wake`: what we want has changed; the pass subtracts from what it knows, and reads
nothing. `look_again`: what is there may have changed; the pass reads the kernel first. The timer looks again too, so a
lost notice costs time, never correctness. Passes are spaced, so that a burst of events costs a few of them.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from flanneld_py.errors import KernelError
from flanneld_py.model.entry import Desired, Entry, Failure, Key, Op, Scope
from flanneld_py.reconcile.applier import Applier
from flanneld_py.reconcile.diff import after, diff

log = logging.getLogger(__name__)

DesiredNow = Callable[[bool], Awaitable[Desired]]
"""Computes what we want. True: facts about the node may have changed, so read them anew."""


@dataclass(frozen=True, slots=True)
class Intervals:
    """Seconds. `resync`: the slow timer. `spacing`: the least time between two passes; it doubles from the first to the
    last value while events keep coming, so that one event is served at once and a thousand cost a few passes."""

    resync_s: float = 60.0
    spacing_first_s: float = 0.01
    spacing_last_s: float = 0.1
    retry_first_s: float = 0.1
    retry_last_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How reconciling goes. `repaired`: ops of the last pass that found something other than it had left it."""

    passes: int = 0
    repaired: int = 0
    last_pass: float = 0.0
    entries: int = 0
    failures: Mapping[Key, Failure] = field(default_factory=dict)


class Reconciler:
    """`jitter`: a number in [0, 1) each time; spreads the nodes' timers. `on_pass` hears of every pass."""

    def __init__(
        self,
        applier: Applier,
        desired: DesiredNow,
        *,
        on_pass: Callable[[Progress], None],
        jitter: Callable[[], float],
        intervals: Intervals = Intervals(),
    ) -> None:
        self._applier = applier
        self._desired_now = desired
        self._on_pass = on_pass
        self._jitter = jitter
        self._intervals = intervals
        self._desired = Desired()
        self._known: dict[Key, Entry] = {}
        self._event = asyncio.Event()
        self._must_read = True
        self._retry_s = intervals.retry_first_s
        self._unread: str | None = None
        self._lock = asyncio.Lock()
        self.progress = Progress()

    def wake(self) -> None:
        """What we want has changed."""
        self._event.set()

    def look_again(self) -> None:
        """What is there may have changed."""
        self._must_read = True
        self._event.set()

    def notice(self, entry: Entry, *, gone: bool) -> None:
        """The kernel tells of `entry`; look again unless it is as we want it, or none of our business."""
        key = entry.key
        wanted = self._desired.entries.get(key)
        if gone:
            # Our own delete and create of one key may arrive in either order, so the value is not compared.
            surprise = wanted is not None
        elif wanted is not None:
            surprise = wanted != entry
        else:
            surprise = key in self._known or self._desired.scope.holds(entry)
        if surprise:
            self._known.pop(key, None)
            self.look_again()

    @property
    def desired(self) -> Desired:
        """What was wanted at the last pass."""
        return self._desired

    @property
    def is_read(self) -> bool:
        """Whether the kernel could be read when that was last tried."""
        return self._unread is None

    @property
    def scope(self) -> Scope:
        return self._desired.scope

    async def run(self) -> None:
        """Passes, for ever. KernelError: the kernel cannot be read for the first of them."""
        spacing = self._intervals.spacing_first_s
        while True:
            busy = self._event.is_set()
            spacing = min(2 * spacing, self._intervals.spacing_last_s) if busy else self._intervals.spacing_first_s
            await self._pause()
            async with self._lock:
                # Who cannot read at all shall end; what was read before will be readable again.
                await self._pass(patient=self.progress.passes > 0)
            await asyncio.sleep(spacing)

    async def settle(self) -> Progress:
        """One pass now, reading the kernel first. KernelError: it cannot be read."""
        async with self._lock:
            self._must_read = True
            await self._pass(patient=False)
        return self.progress

    async def difference(self) -> tuple[Op, ...]:
        """What a pass would do now, without doing it."""
        async with self._lock:
            desired = await self._desired_now(True)
            return diff(desired.entries, await self._applier.known(desired))

    async def _pause(self) -> None:
        waits = [self._intervals.resync_s * (0.9 + 0.2 * self._jitter())]
        if self._unread is not None or any(not failure.cannot for failure in self.progress.failures.values()):
            waits.append(self._retry_s)
            self._retry_s = min(self._retry_s * 2, self._intervals.retry_last_s)
        else:
            self._retry_s = self._intervals.retry_first_s
        try:
            # Not wait_for: before Python 3.12 it loses a cancellation that meets the event (CPython issue 86296).
            async with asyncio.timeout(min(waits)):
                await self._event.wait()
        except TimeoutError:
            self._must_read = True

    async def _pass(self, *, patient: bool) -> None:
        """`patient`: a kernel that cannot be read is told, and left as it is until the next pass reads it again."""
        read, self._must_read = self._must_read, False
        self._event.clear()
        try:
            desired = await self._desired_now(read)
            known = await self._applier.known(desired) if read else self._known
        except KernelError as error:
            self._must_read = True
            if not patient:
                raise
            self._say_unread(str(error))
            return
        self._say_unread(None)
        self._desired = desired
        ops = tuple(op for op in diff(desired.entries, known) if not self._is_hopeless(op))
        failures = await self._applier.apply(ops) if ops else []
        self._settle(desired, known, ops, failures, read)

    def _say_unread(self, why: str | None) -> None:
        if why is not None and why != self._unread:
            log.error("cannot compare the kernel with what we want, and try again: %s", why)
        elif why is None and self._unread is not None:
            log.info("mended: the kernel is read again")
        self._unread = why

    def _is_hopeless(self, op: Op) -> bool:
        """The same op was refused for good before: said once, with the mend, and not tried in a loop."""
        before = self.progress.failures.get(op.entry.key)
        return before is not None and before.cannot and before.op == op

    def _settle(
        self, desired: Desired, known: dict[Key, Entry], ops: tuple[Op, ...], failures: list[Failure], read: bool
    ) -> None:
        failed = {failure.op.entry.key: failure for failure in failures}
        done = tuple(op for op in ops if op.entry.key not in failed)
        # Kept by identity: the next diff then compares pointers, not fields.
        self._known = {
            key: desired.entries.get(key, entry) if desired.entries.get(key) == entry else entry
            for key, entry in after(known, done).items()
            if key not in failed
        }
        kept = {
            key: failure
            for key, failure in self.progress.failures.items()
            if failure.cannot and key in desired.entries and known.get(key) != desired.entries[key]
        }
        self._say(desired, ops, kept | failed)
        self.progress = Progress(
            passes=self.progress.passes + 1,
            repaired=len(ops) if read else 0,
            last_pass=time.time(),
            entries=len(desired.entries),
            failures=kept | failed,
        )
        self._on_pass(self.progress)

    def _say(self, desired: Desired, ops: tuple[Op, ...], failures: Mapping[Key, Failure]) -> None:
        for key, failure in failures.items():
            before = self.progress.failures.get(key)
            if before is None or before.reason != failure.reason:
                owner = desired.owners.get(key)
                log.error("%s%s", failure, f" (for {owner})" if owner else "")
        for key in self.progress.failures.keys() - failures.keys():
            log.info("mended: %s", self.progress.failures[key].op.entry)
        for op in ops:
            log.log(
                logging.DEBUG,
                "%s%s",
                op,
                f" (for {desired.owners[op.entry.key]})" if op.entry.key in desired.owners else "",
            )
