"""Real etcd servers: one for the session, with a prefix for each test, and others as a test needs them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from flanneld_py.etcd.client import EtcdAccess, EtcdClient
from flanneld_py.store import etcd_holder
from flanneld_py.store.base import Condition
from flanneld_py.store.etcd import EtcdStore
from tests.etcd.certificates import Authority
from tests.etcd.server import Server

_numbers = count(1)


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("etcd"))
    try:
        yield server.start()
    finally:
        server.end()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Makes servers that are not started yet; all end with the test."""
    made: list[Server] = []

    def make(**options: Any) -> Server:
        made.append(Server(tmp_path, **{"name": f"s{len(made)}"} | options))
        return made[-1]

    try:
        yield make
    finally:
        for server in made:
            server.end()


@pytest.fixture
def prefix() -> str:
    return f"/test/{next(_numbers)}"


@dataclass
class Reports:
    """What a store or client told about its state; `until` waits for one that fits."""

    seen: list[Any] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self, report: Any) -> None:
        self.seen.append(report)
        self.changed.set()

    async def until(self, fits: Callable[[Any], bool], deadline_s: float = 20) -> Any:
        async with asyncio.timeout(deadline_s):
            while not any(fits(report) for report in self.seen):
                self.changed.clear()
                await self.changed.wait()
        return next(report for report in self.seen if fits(report))


async def soon(check: Callable[[], bool], deadline_s: float = 20) -> None:
    """Let the other tasks run until `check` is true."""
    async with asyncio.timeout(deadline_s):
        while not check():  # noqa: ASYNC110 - a counter inside the client has no event to wait for
            await asyncio.sleep(0)


def bad(words: str) -> Callable[[Condition], bool]:
    return lambda condition: not condition.ok and words in condition.message


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
async def clients(reports: Reports) -> AsyncIterator[Callable[..., EtcdClient]]:
    made: list[EtcdClient] = []

    def make(*endpoints: str, **access: Any) -> EtcdClient:
        made.append(EtcdClient(EtcdAccess(endpoints, "/unused", **access), reports))
        return made[-1]

    yield make
    for client in made:
        await client.close()


@pytest.fixture
async def stores(reports: Reports, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., EtcdStore]]:
    """They take the time to leave nothing behind, also on a slow machine."""
    monkeypatch.setattr(etcd_holder, "_COURTESY_S", 5.0)
    made: list[EtcdStore] = []

    def make(server: Server, prefix: str, *, access: dict[str, Any] | None = None, **options: Any) -> EtcdStore:
        made.append(EtcdStore(EtcdAccess((server.url,), prefix, **(access or {})), reports, **options))
        return made[-1]

    yield make
    for store in made:
        await store.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ca")


@pytest.fixture
def tls_server(authority: Authority, servers: Callable[..., Server]) -> Server:
    cert, key = authority.issue("server")
    server: Server = servers(tls=[f"--cert-file={cert}", f"--key-file={key}"])
    return server.start()
