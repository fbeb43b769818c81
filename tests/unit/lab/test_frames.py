import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NS, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from flanneld_py.lab.frames import Echo, Packet, decode_ethernet, decode_ip, side_by_side

A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
ETHER = Ether(src=A, dst=B)
INNER = Ether(src="0a:00:00:00:00:01", dst="0a:00:00:00:00:02") / IP(src="10.244.1.2", dst="10.244.2.2", ttl=63)
ECHO = INNER / ICMP(type=8, id=77, seq=5) / Raw(b"x" * 56)
TUNNEL = ETHER / IP(src="172.18.1.11", dst="172.18.1.12") / UDP(sport=4242, dport=8472) / VXLAN(flags=8, vni=1) / ECHO
SIX = IPv6(src="fd00::1", dst="fd00::2", hlim=9)


def lines(frame: object) -> tuple[str, ...]:
    return decode_ethernet(bytes(frame)).layers  # type: ignore[call-overload]


CASES = [
    (ETHER / ARP(op=1, psrc="10.0.0.1", pdst="10.0.0.2"), "ARP who has 10.0.0.2? tell 10.0.0.1"),
    (ETHER / ARP(op=2, hwsrc=A, psrc="10.0.0.1", pdst="10.0.0.2"), f"ARP 10.0.0.1 is at {A}"),
    (
        ETHER / IP(src="10.0.0.1", dst="10.0.0.2") / ICMP(type=0, id=3, seq=4) / b"ab",
        "ICMP echo reply id 3 seq 4 len 2",
    ),
    (ETHER / IP(src="10.0.0.1", dst="10.0.0.2") / ICMP(type=3, code=4), "ICMP unreachable code 4"),
    (ETHER / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=53, dport=99) / b"abcd", "UDP 53 > 99 len 12"),
    (
        ETHER / IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=5, dport=6, flags="SA", seq=1, ack=2),
        "TCP 5 > 6 [S.] seq 1 ack 2 len 0",
    ),
    (ETHER / SIX / ICMPv6EchoRequest(id=9, seq=8, data=b"abc"), "ICMPv6 echo request id 9 seq 8 len 3"),
    (ETHER / SIX / ICMPv6ND_NS(tgt="fd00::3"), "ICMPv6 neighbour solicitation fd00::3"),
    (ETHER / SIX / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2), "UDP 1 > 2 len 8"),
    (ETHER / SIX / IPv6ExtHdrFragment(offset=2, nh=17) / b"12345678", "fragment at 16, 8 bytes"),
    (ETHER / IP(src="10.0.0.1", dst="10.0.0.2", frag=3, flags="MF", proto=17) / b"12345678", "8 bytes of protocol 17"),
    (Ether(src=A, dst=B, type=0x88CC) / b"abc", "type 0x88cc, 3 bytes"),
]


@pytest.mark.parametrize(("frame", "last"), CASES, ids=[last for _, last in CASES])
def test_last_layer(frame: object, last: str) -> None:
    assert lines(frame)[-1] == last
    assert lines(frame)[0].startswith(f"Ethernet {A} > {B}")


def test_vlan_is_named() -> None:
    assert lines(ETHER / Dot1Q(vlan=12) / IP(dst="10.0.0.2"))[0] == f"Ethernet {A} > {B} vlan 12"


def test_ipv4_line_has_ttl_length_and_df() -> None:
    frame = ETHER / IP(src="10.0.0.1", dst="10.0.0.2", ttl=7, flags="DF", tos=0x10) / UDP()
    assert lines(frame)[1] == "IPv4 10.0.0.1 > 10.0.0.2 ttl 7 len 28 DF tos 0x10"


def test_vxlan_has_an_inner_packet() -> None:
    packet = decode_ethernet(bytes(TUNNEL))
    assert packet.layers[2:] == ("UDP 4242 > 8472 len 114", "VXLAN vni 1")
    assert packet.inner is not None
    assert packet.innermost.echo == Echo(request=True, ident=77, seq=5)
    assert (str(packet.dst), str(packet.innermost.dst), packet.innermost.ttl) == ("172.18.1.12", "10.244.2.2", 63)


def test_vxlan_in_vxlan_is_not_followed() -> None:
    outer = ETHER / IP(dst="1.2.3.4") / UDP(dport=8472) / VXLAN(flags=8, vni=2) / TUNNEL
    packet = decode_ethernet(bytes(outer))
    assert packet.inner is not None
    assert packet.inner.inner is None


def test_vxlan_port_may_be_another() -> None:
    frame = bytes(ETHER / IP(dst="1.2.3.4") / UDP(dport=7777) / VXLAN(flags=8, vni=2) / ECHO)
    assert decode_ethernet(frame).inner is None
    assert decode_ethernet(frame, frozenset({7777})).inner is not None


def test_vxlan_without_the_vni_flag_is_malformed() -> None:
    frame = ETHER / IP(dst="1.2.3.4") / UDP(dport=8472) / VXLAN(flags=0, vni=2) / ECHO
    assert lines(frame)[-1].startswith("VXLAN cut short or malformed")


def test_total_length_below_the_header_is_said() -> None:
    frame = bytearray(bytes(ETHER / IP(src="10.0.0.1", dst="10.0.0.2", len=10) / UDP()))
    assert decode_ethernet(bytes(frame)).layers[-1] == "bad length: 10 is less than the header's 20"


def test_padding_after_the_packet_is_not_payload() -> None:
    frame = bytes(ETHER / IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=1, dport=2, flags="A")) + bytes(6)
    assert decode_ethernet(frame).layers[-1].endswith("len 0")


@given(st.binary(max_size=200))
def test_any_bytes_decode(data: bytes) -> None:
    for packet in (decode_ethernet(data), decode_ip(data)):
        assert packet.layers
        assert all(line for line in packet.layers)


@given(st.sampled_from([bytes(frame) for frame, _ in CASES] + [bytes(TUNNEL)]), st.data())
def test_frame_cut_anywhere_and_changed_anywhere_decodes(frame: bytes, data: st.DataObject) -> None:
    changed = bytearray(frame[: data.draw(st.integers(0, len(frame)))])
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=8)):
        if place < len(changed):
            changed[place] = value
    packet = decode_ethernet(bytes(changed))
    assert packet.layers
    assert side_by_side(packet, 80)


def test_side_by_side_puts_inner_to_the_right() -> None:
    rows = side_by_side(decode_ethernet(bytes(TUNNEL)), 150)
    assert len(rows) == 4
    assert rows[1].startswith("IPv4 172.18.1.11 > 172.18.1.12")
    assert rows[1].endswith("| IPv4 10.244.1.2 > 10.244.2.2 ttl 63 len 84")
    assert len({row.index("|") for row in rows}) == 1


@pytest.mark.parametrize("width", [60, 76, 90])
def test_side_by_side_in_a_narrow_place_wraps_but_stays_side_by_side(width: int) -> None:
    packet = decode_ethernet(bytes(TUNNEL))
    rows = side_by_side(packet, width)
    assert max(map(len, rows)) <= width
    cut = rows[0].index("|")
    assert {row.index("|") for row in rows} == {cut}
    assert packet.inner is not None
    for half, layers in ((slice(0, cut), packet.layers), (slice(cut + 1, None), packet.inner.layers)):
        assert " ".join(row[half] for row in rows).split() == " ".join(layers).split()


def test_side_by_side_of_a_plain_packet_is_its_layers() -> None:
    assert side_by_side(Packet(layers=("a", "b")), 60) == ["a", "b"]
