"""Where a packet goes, and which packets count."""

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.packet import Packet, Raw

from flanneld_py.dataplane import _native, stamp
from flanneld_py.dataplane.lpm import NO_PEER, Peer, Validation, encode_table
from flanneld_py.dataplane.pump import Implementation, choose
from flanneld_py.dataplane.pump_portable import GSO_TCPV4, VNET
from flanneld_py.dataplane.wire import Drop, ones_sum
from flanneld_py.errors import ConfigError

PEERS = (
    Peer(IPv4Address("192.0.2.2"), 8285, 1400, (IPv4Network("10.244.2.0/24"),), (IPv4Address("172.16.0.2"),)),
    Peer(IPv4Address("192.0.2.3"), 9999, 600, (IPv4Network("10.244.3.0/24"),)),
)
STRICT, LOOSE, OFF = Validation.STRICT, Validation.LOOSE, Validation.OFF


def table(twin: Implementation, validation: Validation = STRICT) -> Any:
    local = [IPv4Network("10.244.1.0/24")]
    return twin.table(encode_table(PEERS, local=local, own=IPv4Address("10.244.1.0"), validation=validation))


def udp(source: str = "10.244.2.9", destination: str = "10.244.1.9", **fields: Any) -> Packet:
    l3: dict[str, Any] = {"src": source, "dst": destination, "ttl": 64} | fields
    return IP(**l3) / UDP() / Raw(b"hello")


def out(size: int = 100, **fields: Any) -> bytes:
    l3: dict[str, Any] = {"src": "10.244.1.9", "dst": "10.244.2.9", "ttl": 64} | fields
    return bytes(IP(**l3) / UDP() / Raw(bytes(size)))


# ---- inbound ---------------------------------------------------------------------------------------------------------

PEER, EXTRA, OTHER, STRANGER = "192.0.2.2", "172.16.0.2", "192.0.2.3", "203.0.113.1"

VERDICTS: list[tuple[str, Packet | bytes, Drop, Drop, Drop]] = [
    # outer source, inner packet, strict, loose, off
    (PEER, udp(), Drop.OK, Drop.OK, Drop.OK),
    (EXTRA, udp(), Drop.OK, Drop.OK, Drop.OK),
    (PEER, udp(source=PEER), Drop.OK, Drop.OK, Drop.OK),
    (OTHER, udp(), Drop.FOREIGN_SOURCE, Drop.OK, Drop.OK),
    (OTHER, udp(source=PEER), Drop.FOREIGN_SOURCE, Drop.OK, Drop.OK),
    (STRANGER, udp(), Drop.UNKNOWN_PEER, Drop.OK, Drop.OK),
    (PEER, udp(source="10.244.9.9"), Drop.FOREIGN_SOURCE, Drop.FOREIGN_SOURCE, Drop.OK),
    (PEER, udp(source="10.244.1.9"), Drop.FOREIGN_SOURCE, Drop.FOREIGN_SOURCE, Drop.OK),
    (PEER, udp(destination="10.244.3.9"), Drop.FOREIGN_DESTINATION, Drop.FOREIGN_DESTINATION, Drop.OK),
    (PEER, udp(destination="255.255.255.255"), Drop.FOREIGN_DESTINATION, Drop.FOREIGN_DESTINATION, Drop.OK),
    (PEER, udp(ttl=1), Drop.TTL_EXPIRED, Drop.TTL_EXPIRED, Drop.TTL_EXPIRED),
    (PEER, udp(ttl=0), Drop.TTL_EXPIRED, Drop.TTL_EXPIRED, Drop.TTL_EXPIRED),
    (PEER, udp(frag=10), Drop.OK, Drop.OK, Drop.OK),
    (PEER, udp(options=[b"\1" * 40]), Drop.OK, Drop.OK, Drop.OK),
    (PEER, b"", Drop.TRUNCATED, Drop.TRUNCATED, Drop.TRUNCATED),
    (PEER, bytes(19), Drop.TRUNCATED, Drop.TRUNCATED, Drop.TRUNCATED),
    (PEER, b"\x60" + bytes(39), Drop.NOT_IPV4, Drop.NOT_IPV4, Drop.NOT_IPV4),
    (PEER, bytes(udp()) + b"x", Drop.BAD_LENGTH, Drop.BAD_LENGTH, Drop.BAD_LENGTH),
    (PEER, udp(chksum=1), Drop.BAD_CHECKSUM, Drop.BAD_CHECKSUM, Drop.BAD_CHECKSUM),
    (STRANGER, b"", Drop.UNKNOWN_PEER, Drop.TRUNCATED, Drop.TRUNCATED),
]


@pytest.mark.parametrize("validation", [STRICT, LOOSE, OFF], ids=lambda v: v.name.lower())
@pytest.mark.parametrize("case", range(len(VERDICTS)))
def test_inbound_verdict(twin: Implementation, validation: Validation, case: int) -> None:
    outer, packet, *verdicts = VERDICTS[case]
    wanted = verdicts[(STRICT, LOOSE, OFF).index(validation)]
    drop, accepted = twin.inbound(table(twin, validation), int(IPv4Address(outer)), bytes(packet))
    assert Drop(drop) is wanted
    assert bool(accepted) == (wanted is Drop.OK)


def test_inbound_costs_one_ttl_and_nothing_else(twin: Implementation) -> None:
    before = udp()
    drop, after = twin.inbound(table(twin), int(IPv4Address(PEER)), bytes(before))
    assert drop == Drop.OK
    wanted = before.copy()
    wanted.ttl = 63
    assert after == bytes(wanted)


# ---- outbound --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "drop", "peer"),
    [
        (out(), Drop.OK, 0),
        (out(dst="10.244.3.9"), Drop.OK, 1),
        (out(dst="10.244.9.9"), Drop.NO_ROUTE, NO_PEER),
        (out(dst="224.0.0.1"), Drop.NO_ROUTE, NO_PEER),
        (out(ttl=1), Drop.TTL_EXPIRED, NO_PEER),
        (out(ttl=0), Drop.TTL_EXPIRED, NO_PEER),
        (out(1372, flags="DF"), Drop.OK, 0),
        (out(1373, flags="DF"), Drop.TOO_BIG, 0),
        (out(1373), Drop.OK, 0),
        (out(573, dst="10.244.3.9", flags="DF"), Drop.TOO_BIG, 1),
        (b"", Drop.TRUNCATED, NO_PEER),
        (b"\x60" + bytes(47), Drop.NOT_IPV4, NO_PEER),
        (out() + b"x", Drop.BAD_LENGTH, NO_PEER),
    ],
)
def test_outbound_verdict(twin: Implementation, packet: bytes, drop: Drop, peer: int) -> None:
    got, where, datagrams = twin.outbound(table(twin), bytes(10) + packet)
    assert (Drop(got), where) == (drop, peer)
    assert [ones_sum(datagram[:20]) for datagram in datagrams] == ([0xFFFF] if drop is Drop.OK else [])
    assert all(datagram[8] == 63 for datagram in datagrams)


def test_a_frame_without_its_header_is_truncated(twin: Implementation) -> None:
    assert twin.outbound(table(twin), bytes(9)) == (Drop.TRUNCATED, NO_PEER, [])


def test_a_super_packet_is_too_big_if_its_segments_are(twin: Implementation) -> None:
    whole = bytes(IP(src="10.244.1.9", dst="10.244.2.9", flags="DF") / TCP() / Raw(bytes(4000)))
    fits = VNET.pack(1, GSO_TCPV4, 0, 1360, 20, 16)
    assert twin.outbound(table(twin), fits + whole)[0] == Drop.OK
    above = VNET.pack(1, GSO_TCPV4, 0, 1361, 20, 16)
    assert twin.outbound(table(twin), above + whole)[:2] == (Drop.TOO_BIG, 0)
    assert twin.outbound(table(twin), above + bytes(IP(whole[:6] + b"\0\0" + whole[8:])))[0] == Drop.OK


def test_every_segment_of_a_super_packet_costs_one_ttl(twin: Implementation) -> None:
    whole = bytes(IP(src="10.244.1.9", dst="10.244.2.9", ttl=9) / TCP() / Raw(bytes(4000)))
    vnet = VNET.pack(1, GSO_TCPV4, 0, 1360, 20, 16)
    _, _, datagrams = twin.outbound(table(twin), vnet + whole)
    assert [datagram[8] for datagram in datagrams] == [8, 8, 8]
    assert {ones_sum(datagram[:20]) for datagram in datagrams} == {0xFFFF}


# ---- choice ----------------------------------------------------------------------------------------------------------


def test_choice() -> None:
    assert choose("portable").name == "portable"
    assert choose("native").name == "native"
    assert choose("auto").name == "native"
    with pytest.raises(ConfigError, match="auto, native, portable"):
        choose("fast")


def test_auto_does_without_the_native_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "flanneld_py.dataplane._native", None)
    chosen = choose("auto")
    assert chosen.name == "portable"
    assert "_native" in chosen.why
    with pytest.raises(ConfigError, match="native pump cannot be loaded"):
        choose("native")


@pytest.mark.parametrize("wanted", ["auto", "native"])
def test_a_native_one_of_other_sources_is_refused(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamp, "sum_sources", lambda _: "those of this week")
    monkeypatch.setattr(_native, "SOURCES", "those of last week")
    with pytest.raises(ConfigError, match=r"built from other sources.*pip install --editable"):
        choose(wanted)
    monkeypatch.delattr(_native, "SOURCES")
    with pytest.raises(ConfigError, match="other sources"):
        choose(wanted)


def test_a_native_one_without_its_sources_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel brings the module that belongs to it."""
    monkeypatch.setattr(_native, "SOURCES", "")
    monkeypatch.setattr(stamp, "sum_sources", lambda folder: "")
    assert choose("auto").name == "native"


def test_any_change_of_the_sources_changes_their_sum(tmp_path: Path) -> None:
    assert stamp.sum_sources(tmp_path) == ""
    seen = set()
    for name, text in (("a.c", "int x;"), ("a.c", "int y;"), ("b.h", ""), ("b.h", "x"), ("c.py", "x = 1")):
        (tmp_path / name).write_text(text)
        seen.add(stamp.sum_sources(tmp_path))
    assert len(seen) == 4


def test_a_pump_takes_only_its_own_table(twin: Implementation) -> None:
    if twin.name == "portable":
        return
    with pytest.raises(TypeError, match="table of the native pump"):
        twin.encap(object())
    pump = twin.encap(table(twin))
    with pytest.raises(TypeError, match="table of the native pump"):
        pump.table = None
    assert pump.table is not None
