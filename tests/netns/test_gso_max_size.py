"""What the kernel's TCP makes of a device's gso_max_size, on which the udp backend counts."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address

import pytest

from flanneld_py.backend.udp import OVERHEAD_BYTES, UdpBackend
from flanneld_py.model.node import ExternalInterface, NodeFacts
from flanneld_py.netlink.netns import in_netns
from tests.netns.space import Namespace

PORT = 7000
HEADERS = 52
"""IPv4's and TCP's, the latter with timestamps."""
ETH_P_IP = 0x0800
SENT_BYTES = 1 << 20
TRAIN_BYTES, TRAIN_DATAGRAMS = 65507, 64


def facts(underlay_mtu: int) -> NodeFacts:
    return NodeFacts(ExternalInterface("eth0", 1, underlay_mtu, IPv4Address("192.0.2.1")), "flanneld test")


@pytest.fixture
def wire(netns: Namespace, netns_beside: Namespace) -> Iterator[tuple[Namespace, Namespace]]:
    """10.0.0.1 and 10.0.0.2, joined by a veth pair."""
    netns.ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", netns_beside.name)
    for number, space in enumerate((netns, netns_beside), 1):
        space.ip("addr", "add", f"10.0.0.{number}/24", "dev", "eth0")
        space.ip("link", "set", "eth0", "up")
    yield netns, netns_beside


def super_packets(sender: Namespace, receiver: Namespace) -> list[int]:
    """Payload bytes of each packet of a bulk transfer, as it comes out of the sender's device."""
    with ExitStack() as stack:
        raw = stack.enter_context(in_netns(receiver.path, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * SENT_BYTES)
        raw.bind(("eth0", ETH_P_IP))
        raw.settimeout(10)
        listener = in_netns(receiver.path, lambda: socket.create_server(("10.0.0.2", PORT)))
        stack.enter_context(listener)
        client = in_netns(sender.path, lambda: socket.create_connection(("10.0.0.2", PORT)))
        stack.enter_context(client)
        taker = stack.enter_context(listener.accept()[0])
        client.settimeout(10)
        found: list[int] = []
        left = SENT_BYTES
        while left > 0:
            client.sendall(bytes(min(left, 1 << 18)))
            expected = min(left, 1 << 18)
            taker.recv(expected, socket.MSG_WAITALL)
            left -= expected
        while sum(found) < SENT_BYTES:
            packet = raw.recv(1 << 17)
            if int.from_bytes(packet[22:24], "big") == PORT:
                found.append(len(packet) - (packet[0] & 15) * 4 - (packet[32] >> 4) * 4)
        return found


@pytest.mark.parametrize("underlay_mtu", [600, 1500, 9000])
def test_a_super_packet_is_one_full_train(wire: tuple[Namespace, Namespace], underlay_mtu: int) -> None:
    sender, receiver = wire
    mtu = underlay_mtu - OVERHEAD_BYTES
    size = UdpBackend().gso_max_size(facts(underlay_mtu))
    sender.ip("link", "set", "eth0", "mtu", str(mtu), "gso_max_size", str(size))
    receiver.ip("link", "set", "eth0", "mtu", str(mtu))
    full = min(TRAIN_DATAGRAMS, TRAIN_BYTES // mtu) * (mtu - HEADERS)
    assert max(super_packets(sender, receiver)) == full


def test_the_kernels_own_size_is_more_than_a_train(wire: tuple[Namespace, Namespace]) -> None:
    """What the setting is for."""
    sender, receiver = wire
    for space in wire:
        space.ip("link", "set", "eth0", "mtu", "1472")
    assert max(super_packets(sender, receiver)) > min(TRAIN_DATAGRAMS, TRAIN_BYTES // 1472) * (1472 - HEADERS)
