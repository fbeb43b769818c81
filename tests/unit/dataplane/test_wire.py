"""One packet: checks, TTL, checksum, ICMP errors."""

from random import Random

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Packet, Raw

from flanneld_py.dataplane import _native, wire
from flanneld_py.dataplane.pump import Implementation
from flanneld_py.dataplane.wire import Bucket, Drop, IcmpKind, check_ipv4, decrement_ttl, ones_sum

OWN = 0x0AF40100


def test_native_knows_as_many_drops() -> None:
    assert len(Drop) == _native.DROPS


@pytest.mark.parametrize("size", [*range(70), 127, 128, 129, 191, 192, 193, 1399, 1400, 65535])
def test_every_way_to_sum_agrees_with_the_plainest(size: int) -> None:
    data = Random(size).randbytes(size)
    for content in (data, b"\xff" * size, bytes(size)):
        padded = content + b"\0" * (size & 1)
        total = sum(padded[i] << 8 | padded[i + 1] for i in range(0, len(padded), 2))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        ways = _native.sum_ways(content)
        assert len(ways) >= 2
        assert {*ways, ones_sum(content)} == {total}


def test_parts_are_summed_as_one() -> None:
    data = Random(1).randbytes(301)
    assert ones_sum(data) == ones_sum(data[:20], data[20:200], data[200:])


WHOLE = bytes(IP(src="10.244.2.2", dst="10.244.1.2", options=[b"\1" * 4]) / UDP() / Raw(b"abc"))
HEADERS = {
    Drop.OK: [WHOLE],
    Drop.TRUNCATED: [b"", WHOLE[:1], WHOLE[:19]],
    Drop.NOT_IPV4: [b"\x65" + WHOLE[1:], b"\x05" + WHOLE[1:], bytes(40)],
    Drop.BAD_HEADER: [b"\x44" + WHOLE[1:], b"\x40" + WHOLE[1:], b"\x4f" + WHOLE[1:], WHOLE[:23]],
    Drop.BAD_LENGTH: [WHOLE + b"x", WHOLE[:-1], WHOLE[:2] + b"\0\0" + WHOLE[4:]],
    Drop.BAD_CHECKSUM: [WHOLE[:10] + b"\0\1" + WHOLE[12:], WHOLE[:8] + b"\x01" + WHOLE[9:]],
}


@pytest.mark.parametrize(("drop", "packet"), [(d, p) for d, packets in HEADERS.items() for p in packets])
def test_a_header_is_checked(drop: Drop, packet: bytes) -> None:
    assert check_ipv4(packet, verify=True) is drop
    unverified = Drop.OK if drop is Drop.BAD_CHECKSUM else drop
    assert check_ipv4(packet, verify=False) is unverified


def test_ttl_keeps_the_header_checksum_right() -> None:
    for ttl in range(2, 256):
        for protocol in (0, 1, 6, 17, 254, 255):
            packet = bytearray(bytes(IP(src="10.244.2.2", dst="10.244.1.2", ttl=ttl, proto=protocol, id=ttl * 257)))
            assert decrement_ttl(packet)
            assert packet[8] == ttl - 1
            assert ones_sum(packet) == 0xFFFF
    for ttl in (0, 1):
        packet = bytearray(bytes(IP(ttl=ttl)))
        before = bytes(packet)
        assert not decrement_ttl(packet)
        assert packet == before


@pytest.mark.parametrize(
    ("kind", "kind_and_code"),
    [
        (IcmpKind.NET_UNREACHABLE, (3, 0)),
        (IcmpKind.FRAGMENTATION_NEEDED, (3, 4)),
        (IcmpKind.TIME_EXCEEDED, (11, 0)),
    ],
)
@pytest.mark.parametrize("size", [0, 8, 527, 528, 529, 1400])
def test_an_icmp_error_quotes_as_much_as_it_may(
    twin: Implementation, kind: IcmpKind, kind_and_code: tuple[int, int], size: int
) -> None:
    offender = bytes(IP(src="10.244.1.9", dst="10.250.0.1", ttl=1) / TCP() / Raw(bytes(size)))
    error = twin.icmp(kind, 1372, OWN, offender)
    packet = IP(error)
    assert (packet.src, packet.dst, packet.ttl, packet.id) == ("10.244.1.0", "10.244.1.9", 64, 0)
    assert (packet.tos, int(packet.flags), packet.len) == (0xC0, 0, len(error))
    assert (packet[ICMP].type, packet[ICMP].code) == kind_and_code
    next_hop = 1372 if kind is IcmpKind.FRAGMENTATION_NEEDED else 0
    assert error[24:28] == next_hop.to_bytes(4, "big")
    assert error[28:] == offender[:548]
    assert ones_sum(error[:20]) == ones_sum(error[20:]) == 0xFFFF


TOLD = {
    "udp": IP(src="10.244.1.9", dst="10.250.0.1") / UDP(),
    "echo request": IP(src="10.244.1.9", dst="10.250.0.1") / ICMP(),
    "timestamp request": IP(src="10.244.1.9", dst="10.250.0.1") / ICMP(type=13),
    "first fragment": IP(src="10.244.1.9", dst="10.250.0.1", flags="MF") / UDP(),
    "header of 60 bytes": IP(src="10.244.1.9", dst="10.250.0.1", options=[b"\1" * 40]) / UDP(),
}
UNTOLD = {
    "unreachable": IP(src="10.244.1.9", dst="10.250.0.1") / ICMP(type=3),
    "time exceeded": IP(src="10.244.1.9", dst="10.250.0.1") / ICMP(type=11),
    "redirect": IP(src="10.244.1.9", dst="10.250.0.1") / ICMP(type=5),
    "icmp of an unknown type": IP(src="10.244.1.9", dst="10.250.0.1") / ICMP(type=200),
    "icmp without a type": IP(src="10.244.1.9", dst="10.250.0.1", proto=1),
    "later fragment": IP(src="10.244.1.9", dst="10.250.0.1", frag=1) / Raw(b"x"),
    "to a group": IP(src="10.244.1.9", dst="224.0.0.1") / UDP(),
    "to all": IP(src="10.244.1.9", dst="255.255.255.255") / UDP(),
    "from nobody": IP(src="0.0.0.0", dst="10.250.0.1") / UDP(),
    "from loopback": IP(src="127.0.0.1", dst="10.250.0.1") / UDP(),
    "from a group": IP(src="224.0.0.9", dst="10.250.0.1") / UDP(),
}


@pytest.mark.parametrize("case", TOLD)
def test_a_sender_is_told(twin: Implementation, case: str) -> None:
    assert twin.icmp(IcmpKind.NET_UNREACHABLE, 0, OWN, bytes(TOLD[case]))


@pytest.mark.parametrize("case", UNTOLD)
def test_no_error_about(twin: Implementation, case: str) -> None:
    packet: Packet = UNTOLD[case]
    assert twin.icmp(IcmpKind.NET_UNREACHABLE, 0, OWN, bytes(packet)) == b""


def test_errors_are_limited_to_a_burst_and_a_rate() -> None:
    bucket = Bucket()
    start = 10**12
    assert [bucket.take(start) for _ in range(51)] == [True] * 50 + [False]
    assert not bucket.take(start + Bucket.ONE_NS - 1)
    assert bucket.take(start + Bucket.ONE_NS)
    assert sum(bucket.take(start + 10**12) for _ in range(100)) == 50


def test_addresses_are_those_of_the_packet() -> None:
    assert wire.addresses(WHOLE) == (0x0AF40202, 0x0AF40102)
