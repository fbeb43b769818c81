"""A pump that serves, on a real TUN device and a socket that is full at times. Both implementations."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from flanneld_py.dataplane import pump
from tests.netns.pump_pair import Node, ip, pair, public
from tests.netns.test_pump import MAKERS, count, sockets
from tests.waiting import eventually, sleeps

SO_RCVBUFFORCE = 33
DATAGRAMS = 200
"""More than a pump holds: some still wait at the device when the socket is full."""


@contextmanager
def serving(*nodes: Node) -> Iterator[list[threading.Thread]]:
    """A lane's thread for each node."""
    with ExitStack() as stack:
        threads = []
        for node in nodes:
            wake = os.eventfd(0)
            stack.callback(os.close, wake)
            serve = (node.decap, node.tun.fd, node.udp.sock.fileno(), wake)
            threads.append(threading.Thread(target=node.encap.serve, args=serve))
            threads[-1].start()
            stack.callback(threads[-1].join, 10)
            stack.callback(os.eventfd_write, wake, 1)
        yield threads


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_pump_that_serves_waits_for_room_at_the_socket(name: str) -> None:
    """Datagrams to a neighbour that does not answer yet stay in the kernel, and fill the send buffer."""
    make: pump.Implementation = MAKERS[name]()
    with (
        pair(make, start=False) as (a, b),
        sockets(a, b, socket.SOCK_DGRAM) as (client, server),
        serving(b),
    ):
        a.udp.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        ip("link", "set", "eth0", "arp", "off", netns=b.netns)
        server.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        a.run("sysctl", "-qw", "net.ipv4.neigh.eth0.mcast_solicit=1000")  # on a slow machine it shall not give up
        ip("neigh", "flush", "dev", "eth0", netns=a.netns)
        mac = b.run("cat", "/sys/class/net/eth0/address").stdout.strip()
        for number in range(DATAGRAMS):
            client.sendto(number.to_bytes(2, "big") * 600, server.getsockname())

        def is_full() -> bool:
            with serving(a) as (thread,):
                eventually("it has nothing to do", lambda: sleeps(thread))
            return a.encap.pending

        eventually("the socket is full", is_full)
        assert count(a.encap, "packets") < DATAGRAMS
        with serving(a) as (thread,):
            eventually("it waits for room", lambda: sleeps(thread))
            ip("neigh", "replace", str(public(2)), "lladdr", mac, "dev", "eth0", netns=a.netns)
            got = [server.recv(2000)[:2] for _ in range(DATAGRAMS)]
        # Not their order: what comes while the kernel sends what it kept for the neighbour may overtake that.
        assert sorted(got) == [number.to_bytes(2, "big") for number in range(DATAGRAMS)]
        assert not a.encap.pending
        assert count(a.encap, "packets") == DATAGRAMS
