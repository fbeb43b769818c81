"""One case for each rule by which the kernel's GRO joins two packets, or does not. Packets are crafted with scapy."""

from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Packet, Raw

from flanneld_py.dataplane.pump import Implementation
from flanneld_py.dataplane.pump_portable import GSO_TCPV4, GSO_UDP_L4, VNET

DATA = bytes(range(100))
TIMESTAMP = [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]


def ip(**fields: Any) -> IP:
    l3: dict[str, Any] = {"src": "10.244.2.2", "dst": "10.244.1.2", "id": 100, "flags": "DF", "ttl": 64} | fields
    return IP(**l3)


def tcp(step: int = 0, data: bytes = DATA, ip_fields: dict[str, Any] | None = None, **fields: Any) -> Packet:
    """The packet `step` places behind the first of a flow."""
    l4: dict[str, Any] = {
        "sport": 1,
        "dport": 2,
        "seq": 1000 + step * len(DATA),
        "ack": 7,
        "flags": "A",
        "window": 500,
    } | fields
    return ip(**{"id": 100 + step} | (ip_fields or {})) / TCP(**l4) / Raw(data)


def udp(step: int = 0, data: bytes = DATA, ip_fields: dict[str, Any] | None = None, **fields: Any) -> Packet:
    return ip(**{"id": 100 + step} | (ip_fields or {})) / UDP(**{"sport": 1, "dport": 2} | fields) / Raw(data)


def sizes(twin: Implementation, *packets: Packet | bytes) -> list[int]:
    """How many packets each frame stands for; and they are all there."""
    raw = [bytes(packet) for packet in packets]
    counts = []
    for frame in twin.merge(raw):
        _, gso_type, *_ = VNET.unpack(frame[: VNET.size])
        _, pieces = twin.segment(frame[: VNET.size], frame[VNET.size :])
        assert (gso_type != 0) == (len(pieces) > 1)
        counts.append(len(pieces))
    assert sum(counts) == len(raw)
    return counts


def spoilt(packet: Packet, at: int) -> bytes:
    raw = bytearray(bytes(packet))
    raw[at] ^= 1
    return bytes(raw)


def fixed(step: int = 0, make: Callable[..., Packet] = tcp, **ip_fields: Any) -> Packet:
    return make(step, ip_fields={"id": 5} | ip_fields)


MERGED = {
    "tcp in sequence": (tcp(0), tcp(1)),
    "udp": (udp(0), udp(1)),
    "tcp, shorter last": (tcp(0), tcp(1, DATA[:50])),
    "udp, shorter last": (udp(0), udp(1, DATA[:50])),
    "tcp, PSH on the last": (tcp(0), tcp(1, flags="PA")),
    "tcp, FIN on the last": (tcp(0), tcp(1, flags="FA")),
    "tcp, ECE on both": (tcp(0, flags="EA"), tcp(1, flags="EA")),
    "tcp, equal timestamps": (tcp(0, options=TIMESTAMP), tcp(1, options=TIMESTAMP)),
    "equal DSCP and ECN": (tcp(0, ip_fields={"tos": 0xBA}), tcp(1, ip_fields={"id": 101, "tos": 0xBA})),
    "no DF, IDs rise": (
        tcp(0, ip_fields={"id": 0xFFFF, "flags": 0}),
        tcp(1, ip_fields={"id": 0, "flags": 0}),
    ),
    "DF, one ID for all": (fixed(0), fixed(1)),
    "udp, DF, one ID for all": (fixed(0, udp), fixed(1, udp)),
    "sequence wraps": (tcp(seq=2**32 - 50), tcp(1, seq=50)),
}

APART: dict[str, tuple[Packet | bytes, Packet | bytes]] = {
    "tcp, gap in sequence": (tcp(0), tcp(1, seq=1101)),
    "tcp, the same again": (tcp(0), tcp(1, seq=1000)),
    "tcp, other ACK": (tcp(0), tcp(1, ack=8)),
    "tcp, other window": (tcp(0), tcp(1, window=501)),
    "tcp, other timestamp": (tcp(0, options=TIMESTAMP), tcp(1, options=[*TIMESTAMP[:2], ("Timestamp", (1, 3))])),
    "tcp, options on one": (tcp(0), tcp(1, options=TIMESTAMP)),
    "tcp, ECE on one": (tcp(0), tcp(1, flags="EA")),
    "tcp, CWR on the first": (tcp(0, flags="CA"), tcp(1)),
    "tcp, CWR on the second": (tcp(0), tcp(1, flags="CA")),
    "tcp, CWR on both": (tcp(0, flags="CA"), tcp(1, flags="CA")),
    "tcp, reserved bit on one": (tcp(0), tcp(1, reserved=1)),
    "tcp, PSH on the first": (tcp(0, flags="PA"), tcp(1)),
    "tcp, FIN on the first": (tcp(0, flags="FA"), tcp(1)),
    "tcp, SYN": (tcp(0, flags="SA"), tcp(1, flags="SA")),
    "tcp, RST": (tcp(0), tcp(1, flags="RA")),
    "tcp, URG": (tcp(0, flags="UA"), tcp(1, flags="UA")),
    "tcp, other urgent pointer": (tcp(0), tcp(1, urgptr=1)),
    "tcp, empty": (tcp(0, b""), tcp(0, b"", ip_fields={"id": 101})),
    "tcp, longer second": (tcp(0, DATA[:50]), tcp(1, DATA, seq=1050)),
    "tcp, wrong checksum on the first": (spoilt(tcp(0), 60), tcp(1)),
    "tcp, wrong checksum on the second": (tcp(0), spoilt(tcp(1), 60)),
    "udp, wrong checksum": (udp(0), spoilt(udp(1), 60)),
    "udp, no checksum": (udp(0, chksum=0), udp(1, chksum=0)),
    "udp, longer second": (udp(0, DATA[:50]), udp(1)),
    "udp, empty": (udp(0, b""), udp(1, b"")),
    "udp, length below the packet's": (udp(0), udp(1, len=50)),
    "wrong IP checksum": (spoilt(tcp(0), 10), tcp(1)),
    "other TTL": (tcp(0), tcp(1, ip_fields={"id": 101, "ttl": 63})),
    "other DSCP": (tcp(0), tcp(1, ip_fields={"id": 101, "tos": 0xB8})),
    "other ECN": (tcp(0), tcp(1, ip_fields={"id": 101, "tos": 3})),
    "DF on one": (tcp(0), tcp(1, ip_fields={"id": 101, "flags": 0})),
    "no DF, one ID for all": (fixed(0, flags=0), fixed(1, flags=0)),
    "ID jumps": (tcp(0), tcp(1, ip_fields={"id": 102})),
    "udp, ID jumps": (udp(0), udp(1, ip_fields={"id": 102})),
    "other source": (tcp(0), tcp(1, ip_fields={"id": 101, "src": "10.244.2.3"})),
    "other destination": (tcp(0), tcp(1, ip_fields={"id": 101, "dst": "10.244.1.3"})),
    "other port": (tcp(0), tcp(1, sport=3)),
    "other protocol": (tcp(0), udp(1)),
    "reserved IP flag": (tcp(0, ip_fields={"flags": 4}), tcp(1, ip_fields={"id": 101, "flags": 4})),
    "first fragments": (udp(0, ip_fields={"flags": 1}), udp(1, ip_fields={"id": 101, "flags": 1})),
    "later fragments": (udp(0, ip_fields={"frag": 9}), udp(1, ip_fields={"id": 101, "frag": 9})),
    "IP options": (
        tcp(0, ip_fields={"options": [b"\x01" * 4]}),
        tcp(1, ip_fields={"id": 101, "options": [b"\x01" * 4]}),
    ),
    "icmp": (ip() / ICMP() / Raw(DATA), ip(id=101) / ICMP() / Raw(DATA)),
}


@pytest.mark.parametrize("case", MERGED)
def test_joined(twin: Implementation, case: str) -> None:
    assert sizes(twin, *MERGED[case]) == [2]


@pytest.mark.parametrize("case", APART)
def test_left_apart_and_unchanged(twin: Implementation, case: str) -> None:
    packets = [bytes(packet) for packet in APART[case]]
    assert twin.merge(packets) == [bytes(VNET.size) + packet for packet in packets]


@pytest.mark.parametrize(
    ("switches", "make"), [({"tcp": False}, tcp), ({"udp": False}, udp)], ids=["tcp off", "udp off"]
)
def test_a_protocol_that_is_switched_off_is_left_alone(
    twin: Implementation, switches: dict[str, bool], make: Callable[..., Packet]
) -> None:
    assert len(twin.merge([bytes(make(0)), bytes(make(1))], **switches)) == 2


@pytest.mark.parametrize("ends", ["PA", "FA"])
def test_psh_and_fin_end_a_train_and_stay_in_it(twin: Implementation, ends: str) -> None:
    packets = [tcp(0), tcp(1), tcp(2, flags=ends), tcp(3), tcp(4)]
    assert sizes(twin, *packets) == [3, 2]
    assert TCP(twin.merge([bytes(p) for p in packets])[0][30:]).flags == ends


def test_a_shorter_packet_ends_a_train(twin: Implementation) -> None:
    assert sizes(twin, tcp(0), tcp(1, DATA[:50]), tcp(2, seq=1150), tcp(3, seq=1250)) == [2, 2]
    assert sizes(twin, udp(0), udp(1, DATA[:50]), udp(2), udp(3)) == [2, 2]


def test_a_udp_train_ends_at_64(twin: Implementation) -> None:
    assert sizes(twin, *(udp(step) for step in range(100))) == [64, 36]


def test_a_train_stays_below_64_kib(twin: Implementation) -> None:
    data = bytes(1400)
    packets = [tcp(step, data, seq=1000 + step * 1400) for step in range(60)]
    assert sizes(twin, *packets) == [46, 14]


def test_fixed_and_rising_ids_do_not_mix(twin: Implementation) -> None:
    def ids(*values: int) -> list[Packet]:
        return [tcp(step, ip_fields={"id": value}) for step, value in enumerate(values)]

    assert sizes(twin, *ids(5, 5, 5, 6)) == [3, 1]
    assert sizes(twin, *ids(5, 6, 6, 7)) == [2, 2]


def test_interleaved_flows_are_merged_each_for_itself(twin: Implementation) -> None:
    packets = [tcp(step, sport=port) for step in range(4) for port in range(1, 6)]
    assert sizes(twin, *packets) == [4] * 5


def test_more_flows_than_are_watched_keep_their_order(twin: Implementation) -> None:
    packets = [tcp(step, sport=port) for step in range(2) for port in range(1, 12)]
    assert sizes(twin, *packets) == [1] * 22


def test_a_pure_ack_is_not_overtaken(twin: Implementation) -> None:
    ack = tcp(2, b"", ack=9)
    assert sizes(twin, tcp(0), tcp(1), ack, tcp(2, ip_fields={"id": 103})) == [2, 1, 1]


def test_a_fragment_is_not_overtaken_by_a_train_of_its_flow(twin: Implementation) -> None:
    fragment = udp(2, ip_fields={"flags": 1})
    frames = twin.merge([bytes(p) for p in (udp(0), udp(1), fragment, udp(3))])
    assert [len(frame) for frame in frames] == [10 + 28 + 200, 10 + 128, 10 + 128]
    assert frames[1][10:] == bytes(fragment)


@pytest.mark.parametrize(("make", "kind"), [(tcp, GSO_TCPV4), (udp, GSO_UDP_L4)], ids=["tcp", "udp"])
def test_a_super_packet_says_what_the_kernel_needs(
    twin: Implementation, make: Callable[..., Packet], kind: int
) -> None:
    (frame,) = twin.merge([bytes(make(step)) for step in range(3)])
    header = 40 if make is tcp else 28
    assert VNET.unpack(frame[:10]) == (1, kind, header, 100, 20, 16 if make is tcp else 6)
    packet = IP(frame[10:])
    assert packet.len == len(frame) - 10 == header + 300
    assert bytes(packet[Raw]) == DATA * 3
    wanted = packet.copy()
    del wanted.chksum
    assert IP(bytes(wanted)).chksum == packet.chksum
    if make is udp:
        assert packet[UDP].len == 308


def test_more_than_a_batch_or_no_packet_is_refused(twin: Implementation) -> None:
    with pytest.raises(ValueError, match="256"):
        twin.merge([bytes(tcp())] * 257)
    for wrong in (b"", b"\x45", b"\x60" + bytes(39), bytes(tcp()) + b"x"):
        with pytest.raises(ValueError, match="not an IPv4 packet"):
            twin.merge([wrong])
