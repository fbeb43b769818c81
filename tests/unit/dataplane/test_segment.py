"""Super-packets fall into what a network card would have made of them."""

from struct import pack
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.packet import Packet, Raw

from flanneld_py.dataplane.pump import Implementation
from flanneld_py.dataplane.wire import Drop, checksum, ones_sum

DATA = bytes(range(250))


def vnet(gso: int = 1, mss: int = 100, start: int = 20, offset: int = 16, flags: int = 1) -> bytes:
    return pack("=BBHHHH", flags, gso, 0, mss, start, offset)


def tcp(data: bytes = DATA, **fields: Any) -> Packet:
    head = IP(src="10.244.1.2", dst="10.244.2.2", id=0xFFFE, flags="DF", tos=0xB9)
    l4: dict[str, Any] = {"sport": 1, "dport": 2, "seq": 2**32 - 150, "flags": "A"} | fields
    return head / TCP(**l4) / Raw(data)


def udp(data: bytes = DATA) -> Packet:
    return IP(src="10.244.1.2", dst="10.244.2.2", id=7) / UDP(sport=1, dport=2) / Raw(data)


def cut(twin: Implementation, head: bytes, packet: Packet | bytes) -> list[Packet]:
    drop, pieces = twin.segment(head, bytes(packet))
    assert drop == Drop.OK
    for piece in pieces:
        assert ones_sum(piece[:20]) == 0xFFFF
        length = len(piece) - 20
        assert ones_sum(piece[12:20], bytes((0, piece[9])), length.to_bytes(2, "big"), piece[20:]) == 0xFFFF
    return [IP(piece) for piece in pieces]


def test_tcp_is_cut_at_the_segment_size(twin: Implementation) -> None:
    pieces = cut(twin, vnet(), tcp())
    assert [bytes(p[Raw]) for p in pieces] == [DATA[:100], DATA[100:200], DATA[200:]]
    assert [p[TCP].seq for p in pieces] == [2**32 - 150, 2**32 - 50, 50]
    assert [p.id for p in pieces] == [0xFFFE, 0xFFFF, 0]
    assert [p.len for p in pieces] == [140, 140, 90]
    assert {(p.tos, int(p.flags), p.ttl) for p in pieces} == {(0xB9, 2, 64)}


@pytest.mark.parametrize(
    ("flags", "pieces"),
    [
        ("PA", ["A", "A", "PA"]),
        ("FPA", ["A", "A", "FPA"]),
        ("CA", ["AC", "A", "A"]),
        ("EA", ["AE", "AE", "AE"]),
        ("CEFPA", ["AEC", "AE", "FPAE"]),
    ],
)
def test_tcp_flags_stand_where_they_belong(twin: Implementation, flags: str, pieces: list[str]) -> None:
    for gso in (1, 0x81):
        assert [str(p[TCP].flags) for p in cut(twin, vnet(gso), tcp(flags=flags))] == pieces


def test_tcp_options_are_on_every_segment(twin: Implementation) -> None:
    options = [("NOP", None), ("NOP", None), ("Timestamp", (123, 456))]
    for piece in cut(twin, vnet(), tcp(options=options)):
        assert piece[TCP].options == options


def test_udp_is_cut_into_datagrams(twin: Implementation) -> None:
    pieces = cut(twin, vnet(5, offset=6), udp())
    assert [p[UDP].len for p in pieces] == [108, 108, 58]
    assert [p.id for p in pieces] == [7, 8, 9]


def test_a_super_packet_of_one_segment(twin: Implementation) -> None:
    (piece,) = cut(twin, vnet(mss=1000), tcp(flags="FPA"))
    assert piece[TCP].flags == "FPA"


def test_a_plain_packet_stays_as_it_is(twin: Implementation) -> None:
    packet = bytes(tcp())
    assert twin.segment(bytes(10), packet) == (Drop.OK, [packet])


@pytest.mark.parametrize(("make", "offset"), [(tcp, 16), (udp, 6)])
def test_a_missing_checksum_is_completed(twin: Implementation, make: Any, offset: int) -> None:
    whole = bytes(make())
    partial = ones_sum(whole[12:20], bytes((0, whole[9])), (len(whole) - 20).to_bytes(2, "big"))
    unfinished = whole[: 20 + offset] + partial.to_bytes(2, "big") + whole[22 + offset :]
    assert twin.segment(vnet(0, 0, 20, offset), unfinished) == (Drop.OK, [whole])


def test_a_udp_checksum_is_never_zero(twin: Implementation) -> None:
    """RFC 768: a sum that comes out as zero is sent as all ones."""
    base = bytearray(bytes(udp(bytes(4))))
    base[26:28] = b"\0\0"
    pseudo = base[12:20] + bytes((0, 17)) + (len(base) - 20).to_bytes(2, "big")
    base[30:32] = checksum(bytes(base[20:]), bytes(pseudo)).to_bytes(2, "big")  # now all adds up to ffff
    base[26:28] = ones_sum(bytes(pseudo)).to_bytes(2, "big")
    _, (piece,) = twin.segment(vnet(0, 0, 20, 6), bytes(base))
    assert piece[26:28] == b"\xff\xff"
    _, (piece,) = twin.segment(vnet(5, 4, 20, 6), bytes(base))
    assert piece[26:28] == b"\xff\xff"


def with_doff(size: int) -> bytes:
    packet = bytearray(bytes(tcp()))
    packet[32] = size << 4
    return bytes(packet)


WRONG = {
    "segment size 0": (vnet(mss=0), bytes(tcp())),
    "checksum not asked for": (vnet(flags=0), bytes(tcp())),
    "IPv6 segmentation": (vnet(4), bytes(tcp())),
    "UDP fragmentation": (vnet(3), bytes(udp())),
    "unknown kind": (vnet(0x7F), bytes(tcp())),
    "UDP with ECN": (vnet(0x85, offset=6), bytes(udp())),
    "TCP cut as UDP": (vnet(5, offset=6), bytes(tcp())),
    "UDP cut as TCP": (vnet(), bytes(udp())),
    "checksum elsewhere": (vnet(start=24), bytes(tcp())),
    "checksum at another offset": (vnet(offset=6), bytes(tcp())),
    "TCP header too short": (vnet(), with_doff(4)),
    "TCP header beyond the packet": (vnet(), bytes(tcp(b"", dataofs=15))),
    "TCP header cut off": (vnet(), bytes(IP(src="1.1.1.1", dst="2.2.2.2", proto=6) / Raw(bytes(19)))),
    "TCP without payload": (vnet(), bytes(tcp(b""))),
    "UDP without payload": (vnet(5, offset=6), bytes(udp(b""))),
    "a fragment": (vnet(), bytes(IP(src="1.1.1.1", dst="2.2.2.2", flags="MF") / TCP() / Raw(DATA))),
    "plain, checksum beyond the packet": (vnet(0, 0, 20, 300), bytes(tcp())),
    "plain, checksum ends beyond the packet": (vnet(0, 0, 20, len(tcp()) - 21), bytes(tcp())),
    "plain, checksum inside the IP header": (vnet(0, 0, 10, 0), bytes(tcp())),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_header_that_does_not_fit_is_refused(twin: Implementation, case: str) -> None:
    assert twin.segment(*WRONG[case]) == (Drop.BAD_OFFLOAD, [])
