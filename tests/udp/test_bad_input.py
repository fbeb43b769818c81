"""Datagrams that no honest node sends: none is forwarded, each is counted by its reason, and nothing else suffers."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest

from flanneld_py.lab import build
from flanneld_py.lab.progress import Silent
from tests.udp.conftest import spec_of
from tests.udp.injection import ipv4, send, sniffing, udp
from tests.udp.overlay import UdpField
from tests.waiting import eventually

VALIDATIONS = ("strict", "loose", "off")
MARK = b"not to be forwarded: "
LAST = b"the last of the test's packets"
RECORD_ROUTE = bytes([7, 7, 4, 0, 0, 0, 0, 0])


@dataclass(frozen=True)
class Ground:
    """`first` and `second`: a pod's address on each node; `stranger`: one inside the network that no peer leases."""

    field: UdpField
    validation: str
    first: str
    second: str
    stranger: str = "10.244.255.9"

    def counted(self) -> dict[str, int]:
        """Node 1's inbound drops, as the command shows them."""
        answer = self.field.call(1, "status", "-o", "json", f"--subnet-file={self.field.folder(1)}/subnet.env")
        return dict(json.loads(answer.stdout)["worker"]["inbound"]["drops"])

    def deliver(self, datagrams: list[bytes], place: str = "node2") -> tuple[list[bytes], dict[str, int]]:
        """What came out of node 1's device when these came to it from `place`, and the drops by reason."""
        before = self.counted()
        space = self.field.lab.topology.namespace(place)
        end = udp(self.second, self.first, LAST)
        with sniffing(self.field.namespace(1)) as sniffer:
            send(space, self.field.public(1), datagrams)
            send(self.field.namespace(2), self.field.public(1), [end])
            came = [packet for packet in sniffer.packets(LAST) if MARK in packet]
        after = self.counted()
        return came, {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}


@pytest.fixture(scope="module", params=VALIDATIONS)
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    spec = spec_of(("SourceValidation", request.param))
    try:
        field = UdpField(spec)
        for number in (1, 2):
            field.wait_well(number)
        places = field.endpoints()
        yield Ground(field, request.param, str(places["pod1-1"].address), str(places["pod2-1"].address))
        assert field.lost_pings() == {}
        assert field.log(1).count("the udp worker has ended") == 0
    finally:
        build.down(spec.name, Silent())


def test_what_is_no_whole_ipv4_packet_is_dropped(ground: Ground) -> None:
    good = ipv4(ground.second, ground.first, MARK)
    six = bytes([0x60, 0, 0, 0, 0, len(MARK), 59, 64]) + bytes(32) + MARK
    cases = {
        "truncated": [good[:size] for size in range(20)],
        "not_ipv4": [six, b"\x00" + good[1:], b"\xf5" + good[1:]],
        "bad_header": [ipv4(ground.second, ground.first, MARK, first=0x40 | words) for words in (0, 4, 15)],
        "bad_length": [ipv4(ground.second, ground.first, MARK, total=total) for total in (0, 19, len(good) + 1, 65535)],
        "bad_checksum": [good[:10] + bytes([good[10] ^ 0x40]) + good[11:]],
    }
    for reason, datagrams in cases.items():
        came, dropped = ground.deliver(datagrams)
        assert (came, dropped) == ([], {reason: len(datagrams)})


def test_inner_addresses_that_the_sender_has_no_right_to(ground: Ground) -> None:
    checked = ground.validation != "off"
    foreign = ipv4(ground.stranger, ground.first, MARK)
    came, dropped = ground.deliver([foreign])
    assert (len(came), dropped) == ((0, {"foreign_source": 1}) if checked else (1, {}))
    elsewhere = ipv4(ground.second, "192.0.2.77", MARK)
    came, dropped = ground.deliver([elsewhere])
    assert (len(came), dropped) == ((0, {"foreign_destination": 1}) if checked else (1, {}))


def test_an_unknown_outer_address(ground: Ground) -> None:
    """Strict: kept away by the kernel, before the worker sees it."""
    before = ground.field.worker(1)
    came, dropped = ground.deliver([ipv4(ground.second, ground.first, MARK)] * 3, place="router")
    if ground.validation == "strict":
        assert came == []
        after = ground.field.worker(1)
        assert (after["strangers"] - before["strangers"], dropped) == (3, {})
        assert after["socket_drops"] == before["socket_drops"]
        assert ground.field.worker(1)["filtered"]
    else:
        assert (len(came), dropped) == (3, {})
        assert not ground.field.worker(1)["filtered"]


def test_a_peer_that_sends_from_elsewhere_is_a_named_finding(ground: Ground) -> None:
    """Packets of the second node's pods, from the router's address, as if behind a NAT."""
    field = ground.field

    def warnings() -> list[str]:
        ground.deliver([ipv4(ground.second, ground.first, MARK)] * 3, place="router")
        return [text for text in field.ask(1)["warnings"] if "do not publish" in text]

    if ground.validation != "strict":
        assert warnings() == []
        return
    eventually("the finding is told", warnings, lambda: field.worker(1))
    (text,) = warnings()
    assert f"{field.subnets(2)[0]} ({field.public(2)}) from {field.lab.topology.etcd_address}" in text
    assert text in field.call(1, "status", f"--subnet-file={field.folder(1)}/subnet.env").stdout
    assert field.log(1).count("do not publish") == 1


def test_a_peer_may_send_from_its_own_address_and_from_its_subnet_only(ground: Ground) -> None:
    own = ipv4(ground.field.public(2), ground.first, MARK)
    came, dropped = ground.deliver([own])
    assert (len(came), dropped) == (1, {})
    ours = ipv4(ground.first, ground.first, MARK)
    came, dropped = ground.deliver([ours])
    assert (len(came), dropped) == ((1, {}) if ground.validation == "off" else (0, {"foreign_source": 1}))


def test_fragments_and_options_are_forwarded_as_they_are(ground: Ground) -> None:
    payload = MARK.ljust(64, b".")
    packets = [
        ipv4(ground.second, ground.first, payload, offset=0x2000),
        ipv4(ground.second, ground.first, payload, offset=8),
        ipv4(ground.second, ground.first, payload, options=RECORD_ROUTE),
    ]
    came, dropped = ground.deliver(packets)
    assert dropped == {}
    assert len(came) == len(packets)
    for sent, arrived in zip(packets, came, strict=True):
        assert arrived[8] == sent[8] - 1  # one hop; all else but the header's checksum is as it was
        assert (arrived[:8], arrived[9], arrived[12:]) == (sent[:8], sent[9], sent[12:])


def test_corrupted_packets_arrive_corrupted_and_on_their_own(ground: Ground) -> None:
    """Equal packets of one flow, such as are merged: those with a wrong checksum keep it."""
    body = [MARK + bytes([65 + number]) * 200 for number in range(6)]
    packets = [udp(ground.second, ground.first, text, corrupt=number in (1, 4)) for number, text in enumerate(body)]
    came, dropped = ground.deliver(packets)
    assert dropped == {}
    texts = b"".join(packet[28:] for packet in came)
    assert texts == b"".join(packet[28:] for packet in packets)
    for number in (1, 4):
        (alone,) = [packet for packet in came if packets[number][28:] in packet]
        assert alone[26:] == packets[number][26:]


def test_one_datagram_that_holds_a_train_is_checked_packet_by_packet(ground: Ground) -> None:
    """Equal sizes in one burst, which the kernel may hand over as one buffer (UDP_GRO): only the bad one is lost."""
    packets = [ipv4(ground.second, ground.first, MARK + b"%04d" % number) for number in range(20)]
    packets[7] = b"\x65" + packets[7][1:]
    came, dropped = ground.deliver(packets)
    assert dropped == {"not_ipv4": 1}
    numbers = [int(packet[20 + len(MARK) :]) for packet in came]
    assert numbers == [number for number in range(20) if number != 7]
    assert all(before < after for before, after in pairwise(numbers))


def test_packets_whose_life_ends_here_are_answered_and_not_forwarded(ground: Ground) -> None:
    before = ground.field.worker(1)["inbound"]["icmp_sent"]
    came, dropped = ground.deliver([ipv4(ground.second, ground.first, MARK, ttl=1)])
    assert (came, dropped) == ([], {"ttl_expired": 1})
    eventually("a time exceeded was sent", lambda: ground.field.worker(1)["inbound"]["icmp_sent"] == before + 1)
