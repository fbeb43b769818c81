"""What a worker tells the one that carries on after it."""

import asyncio
import socket
from contextlib import closing

from flanneld_py.dataplane import control, pump
from flanneld_py.dataplane.carrier import Carrier, Descriptors
from flanneld_py.dataplane.strangers import open_strangers
from flanneld_py.model.entry import UdpPeer, UdpWorker
from tests.netns.pump_pair import MTU, PORT, Node, inside, pair, public, subnet
from tests.netns.test_pump import SO_NO_CHECK, sockets
from tests.waiting import DEADLINE_S


def strangers_of(node: Node) -> socket.socket:
    with inside(node.netns):
        return open_strangers(node.udp.sock)


def test_trains_that_were_refused_for_once_are_tried_again_by_the_next_worker() -> None:
    with (
        pair(pump.native(), start=False) as (a, b),
        sockets(a, b, socket.SOCK_DGRAM) as (client, server),
        closing(strangers_of(a)) as strangers,
    ):
        a.udp.sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)  # without a checksum there are no trains: EINVAL
        worker = UdpWorker(a.tun.name, public(1), PORT, subnet(1), MTU)
        load = control.make_load(worker, [UdpPeer(a.tun.name, subnet(2), public(2), PORT, MTU)])

        async def scenario() -> None:
            failures: list[OSError] = []
            held = Descriptors([a.tun.fd], [a.udp.sock], strangers)
            carrier = Carrier(held, load, {"offload": ["uso", "gso"]}, failures.append)
            carrier.start()
            async with asyncio.timeout(DEADLINE_S):
                while "gso" in (await carrier.stats())["offload"]:
                    for _ in range(20):
                        client.sendto(b"train", server.getsockname())
            assert sorted((await carrier.base())["offload"]) == ["gso", "uso"]
            await carrier.stop()
            assert not failures

        asyncio.run(scenario())
