"""The table: images, longest prefix, who may send."""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from struct import pack_into
from typing import Any

import pytest

from flanneld_py.dataplane.lpm import NO_PEER, Peer, Table, Validation, encode_table
from flanneld_py.dataplane.pump import Implementation

OWN = IPv4Address("10.244.1.0")
LOCAL = [IPv4Network("10.244.1.0/24")]


def peer(number: int, *subnets: str, sources: tuple[str, ...] = ()) -> Peer:
    nets = tuple(IPv4Network(net) for net in subnets)
    return Peer(IPv4Address(f"192.0.2.{number}"), 8285, 1472, nets, tuple(map(IPv4Address, sources)))


def image(*peers: Peer, validation: Validation = Validation.STRICT) -> bytes:
    return encode_table(peers, local=LOCAL, own=OWN, validation=validation)


def number(address: str) -> int:
    return int(IPv4Address(address))


NESTED = image(
    peer(1, "10.244.0.0/16", "0.0.0.0/1"), peer(2, "10.244.2.0/24", "10.244.3.255/32"), peer(3, "255.0.0.0/8")
)


@pytest.mark.parametrize(
    ("address", "owner"),
    [
        ("0.0.0.0", 0),
        ("10.243.255.255", 0),
        ("10.244.1.255", 0),
        ("10.244.2.0", 1),
        ("10.244.2.255", 1),
        ("10.244.3.0", 0),
        ("10.244.3.254", 0),
        ("10.244.3.255", 1),
        ("10.244.4.0", 0),
        ("127.255.255.255", 0),
        ("128.0.0.0", NO_PEER),
        ("254.255.255.255", NO_PEER),
        ("255.0.0.0", 2),
        ("255.255.255.255", 2),
    ],
)
def test_the_longest_prefix_wins(twin: Implementation, address: str, owner: int) -> None:
    assert twin.table(NESTED).lookup(number(address)) == owner


def test_ten_thousand_peers(twin: Implementation) -> None:
    base = number("10.0.0.0")
    peers = [
        Peer(IPv4Address(base + 2**24 + i), 8285, 1472, (IPv4Network((base + 256 * i, 24)),)) for i in range(10_000)
    ]
    table = twin.table(image(*peers))
    assert [table.lookup(base + 256 * i + i % 256) for i in range(10_000)] == list(range(10_000))
    assert table.lookup(base + 256 * 10_000) == NO_PEER


def test_an_empty_table_routes_nothing(twin: Implementation) -> None:
    assert twin.table(image()).lookup(number("10.244.2.2")) == NO_PEER


def test_a_subnet_of_two_peers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"10\.244\.2\.0/24 is leased by 192\.0\.2\.1 and 192\.0\.2\.2"):
        image(peer(1, "10.244.2.0/24"), peer(2, "10.244.2.0/24"))


GOOD = image(peer(1, "10.244.2.0/24", sources=("172.16.0.1",)), peer(2, "10.244.3.0/24"))
SOURCES, RANGES = 32, 32 + 3 * 8
OWNERS = RANGES + 4 * 4
LOCALS = OWNERS + 4 * 4


def changed(at: int, format_: str, *values: int) -> bytes:
    data = bytearray(GOOD)
    pack_into(f"={format_}", data, at, *values)
    return bytes(data)


WRONG: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "too short"),
    "cut in the header": (GOOD[:31], "too short"),
    "cut": (GOOD[:-1], "length"),
    "longer": (GOOD + b"x", "length"),
    "magic": (changed(0, "I", 1), "format or byte order"),
    "validation": (changed(4, "I", 3), "header is unknown"),
    "reserved": (changed(28, "I", 1), "header is unknown"),
    "more peers than there are": (changed(12, "I", 2**32 - 1), "length"),
    "first range": (changed(RANGES, "I", 1), "begin at"),
    "ranges not sorted": (changed(RANGES + 8, "I", 0), "ranges are not sorted"),
    "owner": (changed(OWNERS + 4, "I", 2), "names no peer"),
    "sources not sorted": (changed(SOURCES + 8, "Q", 0), "sources are not sorted"),
    "source of no peer": (changed(SOURCES + 16, "Q", 2**64 - 2), "names no peer"),
    "local upside down": (changed(LOCALS, "II", 2, 1), "local"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_image_is_refused(twin: Implementation, case: str) -> None:
    data, reason = WRONG[case]
    with pytest.raises(ValueError, match=reason):
        twin.table(data)


def test_the_good_image_is_taken(twin: Implementation) -> None:
    assert twin.table(GOOD).lookup(number("10.244.3.1")) == 1


Belongs = Callable[[str, str], bool]


@pytest.fixture
def belongs() -> Belongs:
    table: Any = Table(GOOD)
    return lambda outer, inner: table.belongs(number(outer), number(inner))


def test_belonging(belongs: Belongs) -> None:
    assert belongs("192.0.2.1", "10.244.2.9")
    assert belongs("172.16.0.1", "10.244.2.9")
    assert belongs("192.0.2.1", "192.0.2.1")
    assert belongs("192.0.2.1", "172.16.0.1")
    assert not belongs("192.0.2.2", "10.244.2.9")
    assert not belongs("192.0.2.1", "192.0.2.2")
    assert not belongs("192.0.2.1", "10.244.9.9")
