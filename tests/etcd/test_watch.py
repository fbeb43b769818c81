"""The watch and the configuration on a real etcd: hostile keys, compaction, restarts, denials."""

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import aclosing

import pytest

from flanneld_py.etcd.client import EtcdClient
from flanneld_py.model.lease import Changed, Gone, Snapshot
from flanneld_py.store.etcd import EtcdStore
from tests.etcd.conftest import Reports, bad
from tests.etcd.nodes import keys, nets, node, request
from tests.etcd.server import Server, free_ports

Stores = Callable[..., EtcdStore]
Clients = Callable[..., EtcdClient]


async def test_watch_tells_of_others_and_of_ourselves(etcd: Server, prefix: str, stores: Stores) -> None:
    store = stores(etcd, prefix)
    own = await store.acquire(request(1))
    async with aclosing(store.watch()) as messages, asyncio.timeout(20):
        assert await anext(messages) == Snapshot((own,))
        peer = await stores(etcd, prefix).acquire(request(2))
        assert await anext(messages) == Changed(peer)
        etcd.ctl("del", f"{prefix}/subnets/{own.key}")
        assert await anext(messages) == Gone(own.subnets)


async def test_watch_tells_when_a_lease_expires(etcd: Server, prefix: str, stores: Stores) -> None:
    lease = await stores(etcd, prefix, ttl_s=5).acquire(request(1))
    async with aclosing(stores(etcd, prefix).watch()) as messages, asyncio.timeout(30):
        assert await anext(messages) == Snapshot((lease,))
        assert await anext(messages) == Gone(lease.subnets)
    assert keys(etcd, prefix) == [], "the record goes with the lease"


HOSTILE_KEYS = [
    "",
    "x",
    "10.5.1.0",
    "10.5.9.7-24",
    "x10.5.9.0-24",
    "10.5.9.0-99",
    "0.0.0.0-0",
    "10.5.9.0-24&",
    "999.1.1.0-24",
]
HOSTILE_VALUES = [
    "",
    "{",
    "[]",
    "null",
    '{"PublicIP":"1.2.3"}',
    '{"PublicIP":5}',
    '{"PublicIP":"224.0.0.1"}',
    "[" * 60_000,
]


async def test_hostile_keys_and_values_are_skipped_with_one_warning(
    etcd: Server, prefix: str, stores: Stores, clients: Clients, caplog: pytest.LogCaptureFixture
) -> None:
    peer = await stores(etcd, prefix).acquire(request(2, previous=nets("10.5.2.0/24")))
    client = clients(etcd.url)
    bad_keys = [f"{prefix}/subnets/{key}".encode() for key in HOSTILE_KEYS] + [
        f"{prefix}/subnets/".encode() + b"\xff\xfe"
    ]
    bad_values = [(f"{prefix}/subnets/10.5.{100 + n}.0-24".encode(), v) for n, v in enumerate(HOSTILE_VALUES)]

    async def spoil() -> None:
        for key in bad_keys:
            await client.put(key, b'{"PublicIP":"192.0.2.66"}')
        for key, value in bad_values:
            await client.put(key, value.encode())
        await client.put(f"{prefix}/subnets/10.5.120.0-24".encode(), b"\xff\x00")

    store = stores(etcd, prefix)
    async with aclosing(store.watch()) as messages, asyncio.timeout(30):
        assert await anext(messages) == Snapshot((peer,))
        await spoil()
        await client.put(f"{prefix}/subnets/{peer.key}".encode(), b"garbage over a good lease")
        third = await stores(etcd, prefix).acquire(request(3))
        assert await anext(messages) == Changed(third), "nothing before it, least of all an empty snapshot"
    caplog.clear()
    caplog.set_level(logging.WARNING)
    fresh = stores(etcd, prefix)
    for _ in range(2):
        await fresh.stored(node(9))
    warnings = [record.getMessage() for record in caplog.records if "is skipped" in record.getMessage()]
    assert len(warnings) == len(bad_keys) + len(bad_values) + 2
    assert all(message.isprintable() for message in warnings)


async def test_compaction_under_the_watch_gives_a_snapshot(servers: Callable[..., Server], stores: Stores) -> None:
    server = servers().start()
    peer = await stores(server, "/p").acquire(request(2))
    async with aclosing(stores(server, "/p").watch()) as messages, asyncio.timeout(60):
        assert await anext(messages) == Snapshot((peer,))
        pending = asyncio.ensure_future(anext(messages))
        server.end()
        # The same member on another port, where the watch cannot follow what happens.
        aside = servers(name=server.name, peer_port=server.peer_port, client_port=free_ports(1)[0]).start()
        aside.ctl("put", "/p/subnets/10.5.200.0-24", '{"PublicIP":"192.0.2.200"}')
        aside.ctl("del", f"/p/subnets/{peer.key}")
        aside.ctl("compact", str(json.loads(aside.ctl("get", "x", "-w", "json").stdout)["header"]["revision"]))
        aside.end()
        server.start()
        message = await pending
    assert isinstance(message, Snapshot)
    assert [str(lease.subnets[0]) for lease in message.leases] == ["10.5.200.0/24"]


async def test_restart_of_etcd_loses_no_event(servers: Callable[..., Server], stores: Stores, reports: Reports) -> None:
    server = servers().start()
    store = stores(server, "/p")
    own = await store.acquire(request(1))
    async with aclosing(store.watch()) as messages, asyncio.timeout(60):
        assert await anext(messages) == Snapshot((own,))
        pending = asyncio.ensure_future(anext(messages))
        server.end()
        await reports.until(bad("connection refused"))
        server.start()
        peer = await stores(server, "/p").acquire(request(2))
        assert await pending == Changed(peer)
    assert any(report.ok for report in reports.seen)


async def test_etcd_begun_anew_gives_a_snapshot(servers: Callable[..., Server], stores: Stores) -> None:
    server = servers().start()
    own = await stores(server, "/p").acquire(request(1))
    async with aclosing(stores(server, "/p").watch()) as messages, asyncio.timeout(60):
        assert await anext(messages) == Snapshot((own,))
        pending = asyncio.ensure_future(anext(messages))
        server.end()
        server.wipe()
        server.start()
        assert await pending == Snapshot(())


async def test_missing_configuration_is_waited_for(etcd: Server, prefix: str, stores: Stores, reports: Reports) -> None:
    store = stores(etcd, prefix)
    waiting = asyncio.ensure_future(store.config())
    condition = await reports.until(bad("no network configuration"))
    assert f"put {prefix}/config" in condition.hint and etcd.url in condition.hint
    etcd.ctl("put", f"{prefix}/config", '{"Network":"10.5.0.0/16"}')
    assert await asyncio.wait_for(waiting, 20) == '{"Network":"10.5.0.0/16"}'
    assert reports.seen[-1].ok


async def test_changed_configuration_is_told_once(etcd: Server, prefix: str, stores: Stores) -> None:
    store = stores(etcd, prefix)
    etcd.ctl("put", f"{prefix}/config", "one")
    assert await store.config() == "one"
    etcd.ctl("put", f"{prefix}/config", "one")
    etcd.ctl("put", f"{prefix}/config", "two")
    async with aclosing(store.watch_config()) as texts, asyncio.timeout(20):
        assert await anext(texts) == "two"
        pending = asyncio.ensure_future(anext(texts))
        etcd.ctl("del", f"{prefix}/config")
        etcd.ctl("put", f"{prefix}/config", "three")
        assert await pending == "three"


async def test_permission_lost_under_the_watch_is_told_and_waited_for(
    servers: Callable[..., Server], stores: Stores, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flanneld_py.store.etcd._DENIED_WAIT_S", 0.1)
    server = servers().start()
    for words in ("user add root:pw", "user grant-role root root", "user add f:pw", "role add net"):
        server.ctl(*words.split())
    may = ["role", "grant-permission", "net", "--prefix=true", "readwrite", "/p"]
    server.ctl(*may)
    server.ctl("user", "grant-role", "f", "net")
    server.ctl("auth", "enable")
    store = stores(server, "/p", access={"username": "f", "password": "pw"})
    own = await store.acquire(request(1))
    async with aclosing(store.watch()) as messages, asyncio.timeout(60):
        assert await anext(messages) == Snapshot((own,))
        pending = asyncio.ensure_future(anext(messages))
        server.ctl("--user=root:pw", "role", "revoke-permission", "net", "--prefix=true", "/p")
        server.end()
        server.start()
        assert "grant-permission" in (await reports.until(bad("permission denied"))).hint
        server.ctl("--user=root:pw", *may)
        assert await pending == Snapshot((own,))
    assert reports.seen[-1].ok


async def test_authentication_turned_on_under_the_configuration_is_told_and_waited_for(
    servers: Callable[..., Server], stores: Stores, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flanneld_py.store.etcd._DENIED_WAIT_S", 0.1)
    server = servers().start()
    for words in ("put /p/config one", "user add root:pw", "user grant-role root root"):
        server.ctl(*words.split())
    store = stores(server, "/p")
    assert await store.config() == "one"
    server.ctl("put", "/p/config", "two")
    async with aclosing(store.watch_config()) as texts, asyncio.timeout(60):
        assert await anext(texts) == "two"
        pending = asyncio.ensure_future(anext(texts))
        server.ctl("auth", "enable")
        server.end()
        server.start()
        assert "--etcd-username" in (await reports.until(bad("user name is empty"))).hint
        server.ctl("--user=root:pw", "put", "/p/config", "three")
        assert not pending.done()
        server.ctl("--user=root:pw", "auth", "disable")
        assert await pending == "three"
    assert reports.seen[-1].ok
