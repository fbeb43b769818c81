"""What the running kernel has of the offloads, found by the probes, and what it then really does."""

import fcntl
import os
import select
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address
from struct import pack, unpack

import pytest

from flanneld_py.dataplane.offload import Offload, kernel_version
from flanneld_py.dataplane.tun import Tun, open_tun
from flanneld_py.dataplane.udpsock import BUFFER_BYTES, open_udp
from tests.netns.pump_pair import inside, ip
from tests.netns.test_pump import DEADLINE_S

RELEASE = kernel_version(os.uname().release)
HAS = Offload(tso=True, uso=RELEASE >= (6, 2), gso=True, gro=RELEASE >= (5, 12))
"""USO on TUN devices: 399e0827642f of Linux 6.2. UDP_GRO is there since 5.0, and used from 5.12 on."""

LOOPBACK = IPv4Address("127.0.0.1")
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
TUNGETIFF, IFF_VNET_HDR = 0x800454D2, 0x4000
GSO_TCPV4, GSO_UDP_L4 = 1, 5
SEGMENT, SEGMENTS = 1200, 10


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"offload{os.getpid()}"
    ip("netns", "add", name)
    try:
        ip("link", "set", "lo", "up", netns=name)
        with inside(name):
            yield name
    finally:
        ip("netns", "del", name)


@pytest.fixture
def tun(netns: str) -> Iterator[Tun]:
    """A device that is up, with a route behind it."""
    made = open_tun("flannel0", Offload())
    try:
        ip("link", "set", "flannel0", "mtu", "1472", "up", netns=netns)
        ip("address", "add", "10.244.1.1/16", "dev", "flannel0", netns=netns)
        yield made
    finally:
        made.close()


def next_frame(tun: Tun, protocol: int) -> bytes:
    """The next frame with an IPv4 packet of `protocol`: virtio_net_hdr and packet."""
    while True:
        readable, _, _ = select.select([tun.fd], [], [], DEADLINE_S)
        assert readable, f"no packet of protocol {protocol}"
        frame = os.read(tun.fd, 70_000)
        if frame[10] >> 4 == 4 and frame[10 + 9] == protocol:
            return frame


def test_the_probes_find_what_this_kernel_has(netns: str) -> None:
    tun = open_tun("flannel0", Offload())
    udp = open_udp(LOOPBACK, 0, Offload())
    with udp.sock:
        assert tun.offload & udp.offload == HAS
        assert udp.sock.getsockopt(SOL_UDP, UDP_GRO) == HAS.gro
        assert udp.sock.getsockopt(SOL_UDP, UDP_SEGMENT) == 0
    tun.close()


def test_frames_have_a_virtio_net_hdr(tun: Tun) -> None:
    _, flags = unpack("=16sH22x", fcntl.ioctl(tun.fd, TUNGETIFF, bytes(40)))
    assert flags & IFF_VNET_HDR


def test_buffers_are_granted_beyond_the_limit_of_the_system(netns: str) -> None:
    udp = open_udp(LOOPBACK, 0, Offload())
    with udp.sock:
        assert (udp.receive_buffer, udp.send_buffer) == (BUFFER_BYTES, BUFFER_BYTES)


def test_a_train_of_a_pod_comes_as_one_frame_only_where_there_is_uso(tun: Tun) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        control = [(SOL_UDP, UDP_SEGMENT, pack("=H", SEGMENT))]
        sock.sendmsg([bytes(SEGMENT * SEGMENTS)], control, 0, ("10.244.2.1", 5000))
    frames = [next_frame(tun, 17) for _ in range(1 if HAS.uso else SEGMENTS)]
    headers = 10 + 20 + 8
    if HAS.uso:
        assert (frames[0][1], unpack("=H", frames[0][4:6])[0]) == (GSO_UDP_L4, SEGMENT)
        assert len(frames[0]) == headers + SEGMENT * SEGMENTS
    else:
        assert {(frame[1], len(frame)) for frame in frames} == {(0, headers + SEGMENT)}


def test_a_train_is_taken_for_a_pod_only_where_there_is_uso(tun: Tun) -> None:
    """A frame as `merge` makes it. Where the kernel refuses it, the probe must have said so."""
    payload = bytes(SEGMENT * 2)
    packet = bytearray(pack("!BBHHHBBH", 0x45, 0, 28 + len(payload), 0, 0, 64, 17, 0))
    packet += IPv4Address("10.244.2.1").packed + IPv4Address("10.244.1.1").packed
    packet[10:12] = pack("!H", ones(packet))
    packet += pack("!HHHH", 5000, 5001, 8 + len(payload), 0)
    pseudo = packet[12:20] + pack("!HH", 17, 8 + len(payload))
    packet[26:28] = pack("!H", ~ones(pseudo) & 0xFFFF)
    header = pack("=BBHHHH", 1, GSO_UDP_L4, 28, SEGMENT, 20, 6)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as pod:
        pod.settimeout(DEADLINE_S)
        pod.bind(("10.244.1.1", 5001))
        if not tun.offload.uso:
            with pytest.raises(OSError, match="Invalid argument"):
                os.write(tun.fd, header + packet + payload)
            return
        os.write(tun.fd, header + packet + payload)
        assert [len(pod.recv(5000)) for _ in range(2)] == [SEGMENT, SEGMENT]


def ones(data: bytes | bytearray) -> int:
    """RFC 1071, for an even number of bytes."""
    total: int = sum(unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def test_a_train_is_received_as_one_only_where_gro_is_right(netns: str) -> None:
    receiver = open_udp(LOOPBACK, 0, Offload())
    with receiver.sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        control = [(SOL_UDP, UDP_SEGMENT, pack("=H", SEGMENT))]
        sender.sendmsg([bytes(SEGMENT * SEGMENTS)], control, 0, receiver.sock.getsockname())
        receiver.sock.settimeout(DEADLINE_S)
        data, said, _, _ = receiver.sock.recvmsg(70_000, 100)
    if HAS.gro:
        assert len(data) == SEGMENT * SEGMENTS
        assert [(level, kind, unpack("=i", value)[0]) for level, kind, value in said] == [(SOL_UDP, UDP_GRO, SEGMENT)]
    else:
        assert (len(data), said) == (SEGMENT, [])
