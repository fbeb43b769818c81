"""The client on a real server: lists, transactions, leases, watches, its end."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import aclosing
from random import Random
from typing import Any

import pytest

from flanneld_py.etcd.client import EtcdAccess, EtcdClient, Events, Gap
from flanneld_py.etcd.verdict import CallError
from flanneld_py.etcd.wire import COMPACT, Delete, Find, Guard, Put
from tests.etcd.conftest import soon
from tests.etcd.server import Server

Clients = Callable[..., EtcdClient]
Servers = Callable[..., Server]

PASSWORD = "correct-horse-battery"


def says(*words: str) -> Callable[[Any], bool]:
    return lambda trouble: trouble is not None and all(word in str(trouble) for word in words)


async def test_list_reads_all_pages_at_one_revision(etcd: Server, prefix: str, clients: Clients) -> None:
    client = clients(etcd.url)
    for number in range(7):
        await client.put(f"{prefix}/{number}".encode(), b"v")
    listing = await client.list(f"{prefix}/".encode(), page=3)
    assert [kv.key for kv in listing.kvs] == [f"{prefix}/{n}".encode() for n in range(7)]
    await client.put(f"{prefix}/7".encode(), b"v")
    assert await client.list(f"{prefix}/".encode(), page=3, revision=listing.revision) == listing


async def test_list_of_a_compacted_revision_is_an_answer(etcd: Server, prefix: str, clients: Clients) -> None:
    client = clients(etcd.url)
    revision = await client.put(f"{prefix}/a".encode(), b"1")
    newest = await client.put(f"{prefix}/a".encode(), b"2")
    await client._transport.call(COMPACT, COMPACT.request(revision=newest))
    with pytest.raises(CallError, match="compacted"):
        await client.list(f"{prefix}/".encode(), revision=revision)


async def test_transaction_runs_one_branch(etcd: Server, prefix: str, clients: Clients) -> None:
    client, key = clients(etcd.url), f"{prefix}/k".encode()
    first = await client.txn([Guard(key, 0)], [Put(key, b"1"), Find(key)], [Find(key)])
    assert first.succeeded and first.found[0][0].value == b"1"
    second = await client.txn([Guard(key, 0)], [Put(key, b"2")], [Find(key)])
    assert not second.succeeded and second.found[0][0].value == b"1"
    assert (await client.txn([Guard(key, first.revision)], [Delete(key)])).succeeded
    assert (await client.get(key))[0] is None


class SameLease(Random):
    """Chance that gives the same lease ID each time."""

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        return super().randrange(start) if stop is None else 0x7117


async def test_grant_made_twice_is_one_lease(etcd: Server, clients: Clients) -> None:
    client = EtcdClient(EtcdAccess((etcd.url,), "/"), lambda _: None, SameLease())
    try:
        first, second = await client.grant(600), await client.grant(600)
        assert first == second and first.ttl_s == 600
        await client.revoke(first.id)
        await client.revoke(first.id)
        assert await client.keys_on(first.id) is None
    finally:
        await client.close()


async def test_watch_goes_on_after_the_history_is_compacted_behind_it(
    etcd: Server, prefix: str, clients: Clients
) -> None:
    client, key = clients(etcd.url), f"{prefix}/k".encode()
    old = await client.put(key, b"1")
    newest = await client.put(key, b"2")
    await client._transport.call(COMPACT, COMPACT.request(revision=newest))
    async with aclosing(client.watch(key, revision=newest)) as messages, asyncio.timeout(20):
        told = await anext(messages)
        assert isinstance(told, Events) and [event.kv.value for event in told.events] == [b"2"]
    async with aclosing(client.watch(key, revision=old)) as messages, asyncio.timeout(20):
        assert [type(message) async for message in messages] == [Gap]


async def test_nothing_runs_after_close(etcd: Server, prefix: str) -> None:
    client = EtcdClient(EtcdAccess((etcd.url,), "/"), lambda _: None)
    messages = client.watch(f"{prefix}/k".encode(), revision=1)
    pending = asyncio.ensure_future(anext(messages))
    await soon(lambda: client.attempts > 0)
    pending.cancel()
    await asyncio.wait([pending])
    await messages.aclose()
    await client.close()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:  # gRPC's own, which end with the calls
        _, pending_still = await asyncio.wait(left, timeout=20)
        assert not pending_still


_FORKS = """
import asyncio, os, sys
from flanneld_py.etcd.client import EtcdAccess, EtcdClient

async def main() -> None:
    client = EtcdClient(EtcdAccess(endpoints=(sys.argv[1],), prefix=sys.argv[2]), lambda _: None)
    await client.put(sys.argv[2].encode(), b"v")
    child = os.fork()
    if not child:
        print(len(os.listdir("/proc/self/task")), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    await client.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("environment", [{}, {"GRPC_ENABLE_FORK_SUPPORT": "1"}])
async def test_a_child_has_no_threads_of_grpc(
    etcd: Server, prefix: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They crash one of some hundred children before it becomes the program that was to be run."""
    monkeypatch.delenv("GRPC_ENABLE_FORK_SUPPORT")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _FORKS, etcd.url, prefix, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    assert (child.returncode, out) == (0, b"1\n")
