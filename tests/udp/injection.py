"""Datagrams made by hand, sent to a node's data path from a namespace, and a look at what comes out of its device."""

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from ipaddress import IPv4Address

from flanneld_py.lab.namespaces import inside
from tests.udp.overlay import DEVICE, PORT

ETH_P_ALL = 3
MARK_SIZE = 16
PACKET_OUTGOING = 4
"""include/uapi/linux/if_packet.h: what the kernel sends to the device, and not what the worker writes to it."""


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) // 2 * 2])) + (data[-1] << 8) * (
        len(data) % 2
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(
    source: str,
    target: str,
    payload: bytes,
    *,
    protocol: int = 253,
    options: bytes = b"",
    ttl: int = 64,
    offset: int = 0,
    ident: int = 7,
    total: int | None = None,
    first: int | None = None,
) -> bytes:
    """A packet whose header checksum is right. `offset`: flags and fragment offset; `total`, `first`: what the fields
    say instead of the truth. Protocol 253 is for experiments (RFC 3692): no stack answers but with an ICMP error."""
    size = 20 + len(options)
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x40 | size // 4 if first is None else first,
        0,
        size + len(payload) if total is None else total,
        ident,
        offset,
        ttl,
        protocol,
        0,
        IPv4Address(source).packed,
        IPv4Address(target).packed,
    )
    head += options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp(
    source: str, target: str, payload: bytes, *, sport: int = 4000, dport: int = 5000, corrupt: bool = False
) -> bytes:
    """A UDP packet; `corrupt`: one bit of its payload is not what the checksum was made of."""
    length = 8 + len(payload)
    pseudo = IPv4Address(source).packed + IPv4Address(target).packed + struct.pack("!BBH", 0, 17, length)
    head = struct.pack("!HHHH", sport, dport, length, 0)
    total = checksum(pseudo + head + payload) or 0xFFFF
    body = payload[:-1] + bytes([payload[-1] ^ 1]) if corrupt else payload
    return ipv4(source, target, struct.pack("!HHHH", sport, dport, length, total) + body, protocol=17)


def send(namespace: str, address: str, datagrams: list[bytes], *, source: str = "0.0.0.0") -> None:
    """Send each as the payload of one datagram to the data path at `address`."""

    def body() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one processor, one lane, one order
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
            sock.bind((source, 0))
            for data in datagrams:
                sock.sendto(data, (address, PORT))

    inside(namespace, body)


class Sniffer:
    """What the worker writes to its device."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def packets(self, until: bytes, timeout_s: float = 10.0) -> list[bytes]:
        """All packets up to the one that holds `until`, which is left out."""
        found: list[bytes] = []
        deadline = time.monotonic() + timeout_s
        while True:
            self._sock.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data, address = self._sock.recvfrom(65600)
            except TimeoutError:
                raise AssertionError(
                    f"the last packet did not come within {timeout_s} s, but {len(found)} others"
                ) from None
            if address[2] == PACKET_OUTGOING:
                continue
            if until in data:
                return found
            found.append(data)


@contextmanager
def sniffing(namespace: str, device: str = DEVICE) -> Iterator[Sniffer]:
    def opened() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        sock.bind((device, ETH_P_ALL))
        return sock

    with closing(inside(namespace, opened)) as sock:
        yield Sniffer(sock)
