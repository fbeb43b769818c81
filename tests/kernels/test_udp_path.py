"""The udp data path between two namespaces, with both pumps, on whatever the running kernel has."""

import ctypes
import errno
import fcntl
import hashlib
import os
import socket
import threading
from struct import pack

from flanneld_py.dataplane import pump
from flanneld_py.dataplane.offload import NO_OFFLOAD
from flanneld_py.dataplane.wire import Drop
from flanneld_py.lab.echo import decode_reply, encode_request
from tests.kernels.test_offload import HAS, RELEASE, SEGMENT, SOL_UDP, UDP_SEGMENT
from tests.netns.pump_pair import Node, inside, pair
from tests.netns.test_pump import DEADLINE_S, count, drops, pod, sockets
from tests.waiting import eventually

SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17
TRAINS_WITHOUT_CHECKSUM_OFFLOAD = RELEASE >= (6, 11)
"""Linux 6.11 sends trains also through devices that leave checksums to the system (10154dbded6d); before: EIO."""


def ping(a: Node, b: Node, size: int) -> None:
    """Three echo requests with `size` bytes of data, each answered with the same."""
    with inside(a.netns):
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with sock:
        sock.bind((pod(a), 0))
        sock.settimeout(DEADLINE_S)
        for number in range(3):
            payload = os.urandom(size)
            sock.sendto(encode_request(4, 7, number, payload), (pod(b), 0))
            reply = None
            while reply is None:
                reply = decode_reply(4, sock.recv(70_000))
            assert (reply.ident, reply.seq) == (7, number)
            assert reply.payload == payload


def send(client: socket.socket, data: bytes) -> None:
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)


def transfer(a: Node, b: Node, size: int) -> None:
    """`size` bytes by TCP from a pod of `a` to one of `b`, which arrive as they were sent."""
    data = os.urandom(size)
    received = hashlib.sha256()
    with inside(b.netns):
        server = socket.create_server((pod(b), 0))
    with inside(a.netns):
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with server, client:
        client.settimeout(DEADLINE_S)
        client.bind((pod(a), 0))
        client.connect(server.getsockname())
        end, _ = server.accept()
        with end:
            end.settimeout(DEADLINE_S)
            sender = threading.Thread(target=send, args=(client, data), daemon=True)
            sender.start()
            while part := end.recv(1_000_000):
                received.update(part)
            sender.join(DEADLINE_S)
    assert received.digest() == hashlib.sha256(data).digest()


def switch_checksum_offload_off(node: Node) -> None:
    """As `ethtool -K eth0 tx off`."""
    value = ctypes.create_string_buffer(pack("=II", ETHTOOL_STXCSUM, 0))
    with inside(node.netns), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCETHTOOL, pack("=16sQ16x", b"eth0", ctypes.addressof(value)))


def test_small_and_fragmented_packets_are_answered(make: pump.Implementation) -> None:
    with pair(make) as (a, b):
        for size in (56, 4000):
            ping(a, b, size)
            ping(b, a, size)


def test_a_stream_arrives_whole_and_in_trains(make: pump.Implementation) -> None:
    with pair(make) as (a, b):
        assert a.tun.offload & a.udp.offload == HAS
        transfer(a, b, 600_000)
        eventually("packets leave in trains", lambda: count(a.encap, "train_packets") > 100, a.encap.counters)
        eventually(
            "what left is counted there",
            lambda: count(b.decap, "packets") == count(a.encap, "packets"),
            b.decap.counters,
        )
        assert count(a.encap, "kernel_errors") == count(b.decap, "kernel_errors") == 0


def test_a_stream_arrives_whole_without_any_offload(make: pump.Implementation) -> None:
    with pair(make, wanted=NO_OFFLOAD) as (a, b):
        transfer(a, b, 300_000)
        assert count(a.encap, "trains") == count(b.decap, "trains") == 0


def test_a_train_of_datagrams_arrives_as_it_was_sent(make: pump.Implementation) -> None:
    parts = [os.urandom(SEGMENT) for _ in range(30)] + [os.urandom(300)]
    with pair(make) as (a, b), sockets(a, b, socket.SOCK_DGRAM) as (client, server):
        control = [(SOL_UDP, UDP_SEGMENT, pack("=H", SEGMENT))]
        client.sendmsg([b"".join(parts)], control, 0, server.getsockname())
        received = [server.recv(2000) for _ in parts]
        assert [len(part) for part in received] == [len(part) for part in parts]
        assert hashlib.sha256(b"".join(received)).digest() == hashlib.sha256(b"".join(parts)).digest()
        eventually("each is counted", lambda: count(a.encap, "packets") >= len(parts), a.encap.counters)
        assert count(b.decap, "kernel_errors") == 0


def test_a_device_that_cannot_checksum_costs_the_trains_and_no_packet(make: pump.Implementation) -> None:
    """udp(7): UDP_SEGMENT fails with EIO there. It is sent again in single datagrams, and not tried any more."""
    with pair(make) as (a, b):
        switch_checksum_offload_off(a)
        transfer(a, b, 300_000)
        eventually(
            "what left is counted there",
            lambda: count(b.decap, "packets") == count(a.encap, "packets"),
            b.decap.counters,
        )
        assert drops(a.encap, Drop.SEND_FAILED) == 0
        if TRAINS_WITHOUT_CHECKSUM_OFFLOAD:
            assert a.encap.gso and count(a.encap, "train_packets") > 0
            return
        assert not a.encap.gso
        assert count(a.encap, "last_error") == errno.EIO
        replayed = count(a.encap, "replayed")
        assert replayed >= 1
        transfer(a, b, 300_000)
        assert count(a.encap, "replayed") == replayed
