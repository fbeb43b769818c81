"""A cancellation that meets a wake-up must still end what it is meant to end: SIGTERM comes when it comes."""

import asyncio

import pytest

from tests.unit.daemon.test_leasekeeper import LEASE, ScriptedStore, ignore, keeper
from tests.unit.reconcile.test_loop import Bench

pytestmark = pytest.mark.timeout(20)


async def ends(task: "asyncio.Task[None]") -> bool:
    done, _ = await asyncio.wait({task}, timeout=1)
    if not done:
        task.cancel()
    return bool(done)


@pytest.mark.parametrize("turns", range(4))
async def test_the_reconciler_ends_when_a_change_comes_at_the_same_moment(turns: int) -> None:
    bench = Bench()
    task = asyncio.create_task(bench.loop.run())
    bench.loop.wake()
    await bench.passes.get()
    for _ in range(10):
        await asyncio.sleep(0)  # now it waits for an event
    bench.loop.wake()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    assert await ends(task)


@pytest.mark.parametrize("turns", range(4))
async def test_the_keeper_ends_when_news_of_its_lease_come_at_the_same_moment(turns: int) -> None:
    own = keeper(ScriptedStore(LEASE, LEASE), reacquire=True)
    await own.acquire()
    task = asyncio.create_task(own.run(ignore))
    for _ in range(5):
        await asyncio.sleep(0)
    own.observe(None)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    assert await ends(task)
