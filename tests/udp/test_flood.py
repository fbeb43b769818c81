"""A flood of small datagrams from unknown addresses, while a stream runs."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from flanneld_py.lab.namespaces import enter
from tests.udp.overlay import PORT, UdpField
from tests.udp.streams import CheckedStream
from tests.waiting import eventually

MEGABYTE = 1 << 20
BURST = 64


def flood(namespace: str, address: str) -> None:
    """Send for ever, on one core, from ports of an address that no peer has."""
    enter(namespace)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.connect((address, PORT))
        payload = b"\x45" + bytes(31)
        while True:
            for _ in range(BURST):
                try:
                    sock.send(payload)
                except OSError:
                    continue


@contextmanager
def flooding(namespace: str, address: str) -> Iterator[None]:
    child = os.fork()
    if child == 0:
        try:
            flood(namespace, address)
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_an_established_stream_goes_on_under_a_flood(field: UdpField) -> None:
    places = field.endpoints()
    before = field.worker(1)
    with (
        CheckedStream(places["pod1-1"], places["pod2-1"]) as outbound,
        CheckedStream(places["pod2-1"], places["pod1-1"]) as inbound,
        flooding(field.lab.topology.router, field.public(1)),
    ):
        eventually("the flood arrives", lambda: field.worker(1)["strangers"] > before["strangers"] + 10_000)
        for stream in (outbound, inbound):
            stream.wait_for(50 * MEGABYTE)
        outbound.finish()
        inbound.finish()
    after = field.worker(1)
    assert after["inbound"]["drops"] == before["inbound"]["drops"]
    assert after["socket_drops"] == before["socket_drops"]
