"""A daemon that starts again finds the routes of the run before, and must know its peers before it judges them."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Iterator
from ipaddress import IPv4Address, ip_network
from itertools import count
from pathlib import Path
from random import Random

import pytest
import uvloop

from flanneld_py.daemon.app import _overlay
from flanneld_py.daemon.board import Board
from flanneld_py.daemon.options import parse_options
from flanneld_py.daemon.setup import prepare
from flanneld_py.daemon.stores import Opened
from flanneld_py.host.identity import read_identity
from flanneld_py.lab import wiring
from flanneld_py.lab.namespaces import inside
from flanneld_py.model.lease import Lease, LeaseAttrs, LeaseMessage
from flanneld_py.netlink.socket import NetlinkSocket
from flanneld_py.observe.status import Stage, Status
from flanneld_py.reconcile.loop import Reconciler
from tests.daemon.field import ip, ip_json
from tests.fakes.store import MemoryCluster, MemoryStore
from tests.waiting import DEADLINE_S, POLL_S

NUMBERS = count(1)
PEER = Lease((ip_network("10.77.9.0/24"),), LeaseAttrs(IPv4Address("192.0.2.9"), None, "host-gw"))
GONE = "10.77.8.0/24"


class SlowStore(MemoryStore):
    """Its snapshot comes when it is told to."""

    def __init__(self, cluster: MemoryCluster) -> None:
        super().__init__(cluster, lambda _: None, Random(1))
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def watch(self) -> AsyncGenerator[LeaseMessage, None]:
        self.asked.set()
        await self.may_answer.wait()
        async for message in super().watch():
            yield message


@pytest.fixture
def namespace() -> Iterator[str]:
    """A node with the routes that a run before has left: to a peer, and to one that is no more."""
    name = f"sn{os.getpid()}-{next(NUMBERS)}"
    wiring.create_namespace(name)
    try:
        ip(name, "link add eth0 type veth peer name wire0")
        ip(name, "link set wire0 up")
        ip(name, "link set eth0 up")
        ip(name, "address add 192.0.2.1/24 dev eth0")
        for number in (8, 9):
            ip(name, f"route add 10.77.{number}.0/24 via 192.0.2.{number} dev eth0 proto 241")
        yield name
    finally:
        wiring.remove_namespace(name)


def routes(namespace: str) -> set[str]:
    return {route["dst"] for route in ip_json(namespace, "route", "show", "proto", "241")}


async def ready(board: Board) -> None:
    for _ in range(int(DEADLINE_S / POLL_S)):
        if board.status.stage is Stage.READY:
            return
        await asyncio.sleep(POLL_S)
    pytest.fail(f"not ready within {DEADLINE_S:.0f} s: {board.status}")


def test_nothing_is_reconciled_before_the_peers_are_known(
    namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        cluster = MemoryCluster(text='{"Network": "10.77.0.0/16", "Backend": {"Type": "host-gw"}}')
        cluster.write(PEER)
        store = SlowStore(cluster)
        begun: list[bool] = []
        run = Reconciler.run

        async def observed(self: Reconciler) -> None:
            begun.append(store.may_answer.is_set())
            await run(self)

        monkeypatch.setattr(Reconciler, "run", observed)
        options = parse_options([f"--subnet-file={tmp_path}/subnet.env", "--iface=eth0"], {})
        board = Board(tmp_path, Status(Stage.STARTING, time.time(), os.getpid(), "0", "node1"), notify_socket=None)
        with NetlinkSocket() as sock:
            opened = Opened(store)
            setup = await prepare(options, read_identity("0"), opened, sock, board)
            task = asyncio.create_task(_overlay(options, setup, opened, sock, board))
            await store.asked.wait()
            for _ in range(20):
                await asyncio.sleep(0)  # every task of the daemon has begun
            assert begun == []
            assert routes(namespace) == {GONE, "10.77.9.0/24"}
            store.may_answer.set()
            await ready(board)
            assert begun == [True]
            assert routes(namespace) == {"10.77.9.0/24"}
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def loop() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(scenario())

    inside(namespace, loop)
