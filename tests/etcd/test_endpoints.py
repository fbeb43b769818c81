"""Several endpoints, dead ones, silent ones, and servers that are no etcd."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from flanneld_py.etcd import transport
from flanneld_py.etcd.client import EtcdClient, Events
from flanneld_py.etcd.wire import prefix_end
from tests.etcd.conftest import Reports
from tests.etcd.server import Server, free_ports

Clients = Callable[..., EtcdClient]
Servers = Callable[..., Server]

PASSWORD = "correct-horse-battery"


def says(*words: str) -> Callable[[Any], bool]:
    return lambda trouble: trouble is not None and all(word in str(trouble) for word in words)


async def test_dead_endpoint_is_passed_over(
    etcd: Server, clients: Clients, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flanneld_py.etcd.transport.DEADLINE_S", 20.0)  # a slow machine is no dead endpoint
    dead = f"http://127.0.0.1:{free_ports(1)[0]}"
    for _ in range(4):  # each begins at a random endpoint
        client = clients(dead, etcd.url)
        await client.get(b"x")
    assert reports.seen == [], "one that answers is enough"


async def test_no_endpoint_answers(clients: Clients, reports: Reports) -> None:
    ports = free_ports(2)
    client = clients(*(f"http://127.0.0.1:{port}" for port in ports))
    task = asyncio.ensure_future(client.get(b"x"))
    trouble = await reports.until(says("connection refused"))
    assert all(f"etcd at http://127.0.0.1:{port} does not answer: connection refused" in str(trouble) for port in ports)
    assert trouble.hint
    task.cancel()
    await asyncio.wait([task])


async def test_waits_grow_while_etcd_is_away(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attempts are counted against the time that the client itself asked to sleep."""
    client = clients(f"http://127.0.0.1:{free_ports(1)[0]}")
    slept: list[float] = []
    enough, real_sleep = asyncio.Event(), asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if sum(slept) > 600:
            enough.set()
            await asyncio.Event().wait()
        await real_sleep(0)

    monkeypatch.setattr("flanneld_py.etcd.transport.asyncio.sleep", sleep)
    task = asyncio.ensure_future(client.get(b"x"))
    await asyncio.wait_for(enough.wait(), 60)
    task.cancel()
    await asyncio.wait([task])
    assert client.attempts == len(slept) < 700, "ten minutes away: about one attempt each one and a half seconds"
    assert slept[0] <= 0.1 and max(slept) <= 2


async def test_name_that_does_not_resolve(clients: Clients, reports: Reports) -> None:
    task = asyncio.ensure_future(clients("http://etcd.invalid:2379").get(b"x"))
    await reports.until(says("etcd.invalid cannot be resolved"))
    task.cancel()
    await asyncio.wait([task])


async def test_member_that_hangs_is_passed_over(servers: Servers, clients: Clients, etcd: Server) -> None:
    """SIGSTOP: connections stay, answers do not come, as behind a firewall that began to drop."""
    stopped = servers().start()
    client = clients(stopped.url, etcd.url)
    client._transport._current = 0
    await client.put(b"/hang", b"")
    assert stopped.process is not None
    stopped.process.send_signal(signal.SIGSTOP)
    await asyncio.wait_for(client.put(b"/hang", b""), 30)
    assert (await client.get(b"/hang"))[0] is not None


@pytest.fixture
def cluster(servers: Servers) -> list[Server]:
    members = [servers() for _ in range(3)]
    for member in members:
        member.cluster = ",".join(other.peer for other in members)
        member.launch()
    for member in members:
        member.wait()
    return members


async def test_loss_of_members_loses_no_put_and_no_event(cluster: list[Server], clients: Clients) -> None:
    writer, watcher = (clients(*(member.url for member in cluster)) for _ in range(2))
    seen: list[tuple[bytes, int]] = []
    """A put whose answer does not come in time is made again, and is another event."""

    async def follow() -> None:
        async with aclosing(watcher.watch(b"/f/", end=prefix_end(b"/f/"), revision=1)) as messages:
            async for message in messages:
                assert isinstance(message, Events)
                seen.extend((event.kv.key, event.kv.mod_revision) for event in message.events)
                if seen and seen[-1][0] == b"/f/299":
                    return

    follower = asyncio.ensure_future(follow())
    for number in range(300):
        if number in (100, 200):
            cluster[0].end(signal.SIGKILL)
            if number == 100:
                cluster[0].start()
        await writer.put(f"/f/{number}".encode(), b"")
    await asyncio.wait_for(follower, 60)
    assert len(seen) == len(set(seen))
    assert len({key for key, _ in seen}) == 300


async def test_silently_dead_watch_is_noticed(
    servers: Servers, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member that is stopped keeps the connection open and says nothing; only unanswered pings tell."""
    quick = {"grpc.keepalive_time_ms": 1000, "grpc.keepalive_timeout_ms": 1000, "grpc.http2.ping_timeout_ms": 1000}
    options = dict(transport._OPTIONS) | quick
    monkeypatch.setattr(transport, "_OPTIONS", list(options.items()))
    members = [servers(extra=["--grpc-keepalive-min-time=500ms"]) for _ in range(3)]
    for member in members:
        member.cluster = ",".join(other.peer for other in members)
        member.launch()
    for member in members:
        member.wait()
    watcher, writer = clients(*(member.url for member in members)), clients(members[1].url, members[2].url)
    watcher._transport._current = 0
    revision = await writer.put(b"/d", b"1")
    async with aclosing(watcher.watch(b"/d", revision=revision)) as messages, asyncio.timeout(60):
        assert isinstance(await anext(messages), Events)
        assert members[0].process is not None
        members[0].process.send_signal(signal.SIGSTOP)
        await writer.put(b"/d", b"2")
        told = await anext(messages)
        while isinstance(told, Events) and not told.events:
            told = await anext(messages)
    assert isinstance(told, Events) and told.events[0].kv.value == b"2"


async def test_lost_quorum_is_named(cluster: list[Server], clients: Clients, reports: Reports) -> None:
    client = clients(cluster[0].url)
    await client.put(b"/q", b"")
    for member in cluster[1:]:
        member.end(signal.SIGKILL)
    task = asyncio.ensure_future(client.put(b"/q", b"1"))
    await reports.until(lambda trouble: trouble is not None)
    for member in cluster[1:]:
        member.launch()
    await asyncio.wait_for(task, 60)
    assert reports.seen[-1] is None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b'{"etcdserver":"2.3.8","etcdcluster":"2.3.0"}', ("is etcd 2.3.8", "3.3 or later")),
        (b"<html>hello</html>", ("is not etcd",)),
        (b'["etcdserver"]', ("is not etcd",)),
    ],
)
async def test_what_is_not_etcd_is_named(answer: bytes, words: Any, clients: Clients, reports: Reports) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(answer), answer))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        task = asyncio.ensure_future(clients(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}").get(b"x"))
        await reports.until(says(*words))
        task.cancel()
        await asyncio.wait([task])
