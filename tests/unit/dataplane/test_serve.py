"""A pump that serves: it moves what comes, sleeps when nothing does, and returns when it is woken. Both twins."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv4Network
from select import POLLIN, poll
from typing import Any

import pytest

from flanneld_py.dataplane import lpm, pump, wire
from flanneld_py.dataplane.pump_portable import NO_VNET, VNET
from tests.waiting import eventually, sleeps

HERE, THERE = IPv4Network("10.1.0.0/24"), IPv4Network("10.2.0.0/24")
PATIENCE_MS = 10_000


def image(local: IPv4Network, port: int = 8285) -> bytes:
    peer = lpm.Peer(IPv4Address("127.0.0.1"), port, 1472, (THERE,))
    return lpm.encode_table([peer], local=[local], own=IPv4Address("10.1.0.0"), validation=lpm.Validation.LOOSE)


def packet(size: int = 28, ends: tuple[str, str] = ("10.2.0.2", "10.1.0.2")) -> bytes:
    """An IPv4 packet of an unknown protocol, from there to here."""
    header = bytearray.fromhex("4500 0000 0000 4000 40fd 0000") + b"".join(IPv4Address(end).packed for end in ends)
    header[2:4] = size.to_bytes(2, "big")
    header[10:12] = (wire.checksum(bytes(header)) & 0xFFFF).to_bytes(2, "big")
    return bytes(header) + bytes(size - len(header))


class Served:
    """Both pumps between a UDP socket and a pair of sockets in the TUN device's place, in a thread of their own."""

    def __init__(self, implementation: pump.Implementation, stack: ExitStack) -> None:
        self.implementation = implementation
        self.decap = implementation.decap(implementation.table(image(HERE)))
        self.sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
        self.sock.bind(("127.0.0.1", 0))
        self.encap = implementation.encap(implementation.table(image(HERE)), gso=False)
        self.device, self.tun = map(stack.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        for end in (self.device, self.tun):
            end.setblocking(False)
        self.wake = os.eventfd(0)
        stack.callback(os.close, self.wake)
        self.thread: threading.Thread | None = None
        self.returned: list[Any] = []

    def start(self) -> None:
        def serve() -> None:
            self.encap.serve(self.decap, self.tun.fileno(), self.sock.fileno(), self.wake)
            self.returned.append(True)

        self.thread = threading.Thread(target=serve)
        self.thread.start()

    def stop(self) -> None:
        if self.thread is not None:
            os.eventfd_write(self.wake, 1)
            self.thread.join(10)
            assert not self.thread.is_alive(), "it does not hear that it is woken"
            assert os.eventfd_read(self.wake) == 1, "what wakes is left unread"
            self.thread = None

    def send(self, data: bytes) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(data, self.sock.getsockname())

    def receive(self) -> bytes:
        waiter = poll()
        waiter.register(self.device, POLLIN)
        assert waiter.poll(PATIENCE_MS), "nothing came"
        return self.device.recv(65536)

    def sleeps(self) -> bool:
        assert self.thread is not None
        return sleeps(self.thread)


@pytest.fixture(params=["native", "portable"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with ExitStack() as stack:
        made = Served(pump.choose(request.param), stack)
        stack.callback(made.stop)
        yield made


def test_moves_what_comes_and_sleeps_in_between(served: Served) -> None:
    served.start()
    eventually("it sleeps", served.sleeps)
    for size in (28, 100, 1400):
        served.send(packet(size))
        assert len(served.receive()) == VNET.size + size
    eventually("it sleeps again", served.sleeps)
    served.stop()
    assert served.returned == [True]
    assert served.decap.counters()["packets"] == 3


def test_moves_packets_both_ways(served: Served) -> None:
    """One that leaves is sent from the socket that others come in by."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        served.encap.table = served.implementation.table(image(HERE, peer.getsockname()[1]))
        peer.settimeout(10)
        served.start()
        for size in (28, 1400):
            served.device.send(NO_VNET + packet(size, ("10.1.0.2", "10.2.0.2")))
            data, sender = peer.recvfrom(2000)
            assert (len(data), sender) == (size, served.sock.getsockname())
            served.send(packet(size))
            assert len(served.receive()) == VNET.size + size
        served.stop()
    assert served.encap.counters()["packets"] == 2


def test_a_steady_stream_does_not_keep_it_from_hearing(served: Served) -> None:
    served.start()
    ending, flows = threading.Event(), threading.Event()

    def feed() -> None:
        while not ending.is_set():
            served.send(packet())

    def drain() -> None:
        while not ending.is_set():
            try:
                served.device.recv(65536)
                flows.set()
            except BlockingIOError:
                continue

    threads = [threading.Thread(target=feed), threading.Thread(target=drain)]
    for thread in threads:
        thread.start()
    try:
        assert flows.wait(10)
        served.stop()
    finally:
        ending.set()
        for thread in threads:
            thread.join(10)


def test_a_table_set_in_between_counts_from_then_on(served: Served) -> None:
    """What it makes somebody else's is dropped."""
    served.start()
    served.send(packet())
    served.receive()
    served.stop()
    served.decap.table = served.implementation.table(image(IPv4Network("10.3.0.0/24")))
    served.start()
    served.send(packet())
    eventually("it is read", lambda: not poll_readable(served.sock))
    served.stop()
    assert served.decap.counters()["packets"] == 1


def poll_readable(sock: socket.socket) -> bool:
    waiter = poll()
    waiter.register(sock, POLLIN)
    return bool(waiter.poll(0))
