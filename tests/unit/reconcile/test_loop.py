"""The loop on a kernel in memory: when it reads, when it acts, what it tries again and what it does not."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from ipaddress import ip_address, ip_network

import pytest

from flanneld_py.errors import KernelError
from flanneld_py.model.entry import Desired, Entry, Failure, Key, Op, Route, Scope, Sysctl, Verb
from flanneld_py.reconcile.diff import after
from flanneld_py.reconcile.loop import Intervals, Progress, Reconciler

QUICK = Intervals(resync_s=3600, spacing_first_s=0, spacing_last_s=0, retry_first_s=0.001, retry_last_s=0.002)


def route(third: int, via: str = "192.0.2.2") -> Route:
    return Route(ip_network(f"10.244.{third}.0/24"), "eth0", ip_address(via))


class MemoryKernel:
    """Holds entries in a dict and refuses what `refuse` says; counts reads."""

    handles = frozenset({Route, Sysctl})

    def __init__(self) -> None:
        self.state: dict[Key, Entry] = {}
        self.reads = 0
        self.applied: list[Op] = []
        self.refuse: Callable[[Op], Failure | None] = lambda op: None
        self.unreadable: list[KernelError] = []

    async def known(self, desired: Desired) -> dict[Key, Entry]:
        self.reads += 1
        if self.unreadable:
            raise self.unreadable.pop(0)
        return dict(self.state)

    async def apply(self, ops: Sequence[Op]) -> list[Failure]:
        self.applied += ops
        failures = [failure for op in ops if (failure := self.refuse(op)) is not None]
        failed = {failure.op for failure in failures}
        self.state = after(self.state, tuple(op for op in ops if op not in failed))
        return failures


class Bench:
    """A reconciler that runs, what it wants, and a way to wait for its passes."""

    def __init__(self, *entries: Entry) -> None:
        self.kernel = MemoryKernel()
        self.entries: tuple[Entry, ...] = entries
        self.passes: asyncio.Queue[Progress] = asyncio.Queue()
        self.loop = Reconciler(
            self.kernel, self.desired, on_pass=self.passes.put_nowait, jitter=lambda: 0.5, intervals=QUICK
        )

    async def desired(self, read: bool) -> Desired:
        return Desired({entry.key: entry for entry in self.entries}, Scope(), {})

    async def passes_until(self, condition: Callable[[], bool]) -> Progress:
        async with asyncio.timeout(10):
            while True:
                progress = await self.passes.get()
                if condition():
                    return progress


async def test_the_first_pass_reads_and_later_events_do_not() -> None:
    bench = Bench(route(1))
    await bench.loop.settle()
    assert bench.kernel.reads == 1
    task = asyncio.create_task(bench.loop.run())
    bench.entries = (route(1), route(2))
    bench.loop.wake()
    await bench.passes_until(lambda: route(2).key in bench.kernel.state)
    task.cancel()
    assert bench.kernel.reads == 1
    assert bench.kernel.applied == [Op(Verb.ADD, route(1)), Op(Verb.ADD, route(2))]


async def test_many_events_cost_few_passes() -> None:
    bench = Bench(route(1))
    await bench.loop.settle()
    task = asyncio.create_task(bench.loop.run())
    for third in range(2, 200):
        bench.entries = (*bench.entries, route(third))
        bench.loop.wake()
    await bench.passes_until(lambda: len(bench.kernel.state) == 199)
    task.cancel()
    assert bench.loop.progress.passes <= 3


def is_mended(bench: Bench) -> bool:
    return bench.kernel.state == {route(1).key: route(1)}


async def test_a_notice_of_loss_or_change_makes_it_look_and_repair() -> None:
    for gone, found in ((True, route(1)), (False, route(1, via="192.0.2.99"))):
        bench = Bench(route(1))
        await bench.loop.settle()
        task = asyncio.create_task(bench.loop.run())
        bench.kernel.state = {} if gone else {found.key: found}
        bench.loop.notice(found, gone=gone)
        progress = await bench.passes_until(partial(is_mended, bench))
        task.cancel()
        assert bench.kernel.reads == 2
        assert progress.repaired == 1


async def test_the_echo_of_what_it_did_itself_is_no_reason_to_look() -> None:
    bench = Bench(route(1))
    await bench.loop.settle()
    task = asyncio.create_task(bench.loop.run())
    bench.loop.notice(route(1), gone=False)
    bench.loop.notice(route(77), gone=True)
    bench.loop.notice(route(78), gone=False)
    bench.entries = (route(1), route(2))
    bench.loop.wake()
    await bench.passes_until(lambda: route(2).key in bench.kernel.state)
    task.cancel()
    assert bench.kernel.reads == 1


async def test_a_foreign_entry_on_our_device_is_looked_at() -> None:
    bench = Bench(route(1))

    async def desired(read: bool) -> Desired:
        return Desired({}, Scope(devices=frozenset({"flannel.1"})), {})

    bench.loop = Reconciler(bench.kernel, desired, on_pass=bench.passes.put_nowait, jitter=lambda: 0.5, intervals=QUICK)
    await bench.loop.settle()
    task = asyncio.create_task(bench.loop.run())
    bench.loop.notice(replace(route(3), dev="flannel.1"), gone=False)
    await bench.passes_until(lambda: bench.kernel.reads == 2)
    task.cancel()


async def test_what_fails_is_tried_again_until_it_works_and_the_rest_is_done_at_once() -> None:
    bench = Bench(route(1), route(2))
    tries: list[Op] = []

    def refuse(op: Op) -> Failure | None:
        if op.entry == route(1):
            tries.append(op)
        return Failure(op, "network is unreachable") if op.entry == route(1) and len(tries) < 3 else None

    bench.kernel.refuse = refuse
    first = await bench.loop.settle()
    assert set(first.failures) == {route(1).key}
    assert route(2).key in bench.kernel.state
    task = asyncio.create_task(bench.loop.run())
    last = await bench.passes_until(lambda: route(1).key in bench.kernel.state)
    task.cancel()
    assert last.failures == {}
    assert len(tries) == 3


async def test_what_is_refused_for_good_is_tried_once_and_forgotten_when_somebody_mends_it() -> None:
    wanted = Sysctl("net/ipv4/ip_forward", "1")
    bench = Bench(wanted)
    bench.kernel.state = {wanted.key: replace(wanted, value="0")}
    bench.kernel.refuse = lambda op: Failure(op, "read-only file system", hint="sysctl -w", cannot=True)
    for _ in range(3):
        await bench.loop.settle()
    assert len(bench.kernel.applied) == 1
    assert set(bench.loop.progress.failures) == {wanted.key}
    bench.kernel.state = {wanted.key: wanted}
    await bench.loop.settle()
    assert bench.loop.progress.failures == {}
    assert len(bench.kernel.applied) == 1


async def test_difference_tells_and_touches_nothing() -> None:
    bench = Bench(route(1))
    bench.kernel.state = {route(9).key: route(9)}
    assert await bench.loop.difference() == (Op(Verb.ADD, route(1)), Op(Verb.DELETE, route(9)))
    assert bench.kernel.applied == []


BROKEN = KernelError("the kernel broke off a dump: no buffer space", errno=105)


async def test_a_kernel_that_cannot_be_read_is_told_once_and_read_again(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(route(1))
    await bench.loop.settle()
    bench.kernel.unreadable = [BROKEN, BROKEN, BROKEN]
    bench.kernel.state = {}
    caplog.set_level("INFO")
    task = asyncio.create_task(bench.loop.run())
    bench.loop.look_again()
    await bench.passes_until(partial(is_mended, bench))
    task.cancel()
    assert bench.kernel.reads == 5
    assert [message for message in caplog.messages if "kernel" in message] == [
        f"cannot compare the kernel with what we want, and try again: {BROKEN}",
        "mended: the kernel is read again",
    ]


async def test_facts_that_cannot_be_read_are_asked_for_again() -> None:
    bench = Bench(route(1))
    await bench.loop.settle()
    broken = [BROKEN]

    async def desired(read: bool) -> Desired:
        if broken:
            raise broken.pop()
        return await bench.desired(read)

    bench.loop._desired_now = desired
    bench.entries = (route(2),)
    task = asyncio.create_task(bench.loop.run())
    bench.loop.wake()
    await bench.passes_until(lambda: set(bench.kernel.state) == {route(2).key})
    task.cancel()


async def test_a_kernel_that_never_could_be_read_ends_the_loop() -> None:
    bench = Bench(route(1))
    bench.kernel.unreadable = [BROKEN]
    bench.loop.wake()
    with pytest.raises(KernelError, match="broke off a dump"):
        await bench.loop.run()


async def test_what_a_pass_ends_with_is_not_taken_for_a_failed_read() -> None:
    bench = Bench(route(1))
    await bench.loop.settle()

    def end(progress: Progress) -> None:
        raise KernelError("cannot add link flannel.1: operation not permitted")

    bench.loop._on_pass = end
    bench.loop.wake()
    with pytest.raises(KernelError, match="not permitted"):
        await bench.loop.run()
