"""The native pump decides as the portable one, and a table as a naive list does."""

from ipaddress import IPv4Address, IPv4Network
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flanneld_py.dataplane import lpm, pump
from flanneld_py.dataplane.pump_portable import VNET
from tests.fuzz import traffic
from tests.fuzz.differential import CHECKS, OUTERS, TABLES

native, portable = pump.native(), pump.portable()

prefixes = st.builds(
    lambda base, length: IPv4Network((base >> (32 - length) << (32 - length) if length else 0, length)),
    st.one_of(st.integers(0, 2**32 - 1), st.integers(0x0AF40000, 0x0AF40FFF)),
    st.integers(0, 32),
)


@given(st.integers(0, 2**64), st.integers(0, len(CHECKS) - 1))
@settings(deadline=None, max_examples=200)
def test_twins_agree_on_traffic(seed: int, check: int) -> None:
    assert CHECKS[check](Random(seed)) > 0


@given(st.lists(prefixes, max_size=40, unique=True), st.lists(st.integers(0, 2**32 - 1), max_size=20))
@settings(deadline=None)
def test_lookup_is_that_of_a_naive_list(nets: list[IPv4Network], extra: list[int]) -> None:
    peers = [lpm.Peer(IPv4Address(i + 1), 8285, 1472, (net,)) for i, net in enumerate(nets)]
    image = lpm.encode_table(peers, local=[], own=IPv4Address(0), validation=lpm.Validation.OFF)
    tables = (native.table(image), portable.table(image))
    edges = [edge for net in nets for edge in (int(net.network_address), int(net.broadcast_address))]
    near = {edge + step for edge in edges for step in (-1, 0, 1) if 0 <= edge + step < 2**32}
    for address in (*near, *extra):
        holding = [(net.prefixlen, i) for i, net in enumerate(nets) if IPv4Address(address) in net]
        wanted = max(holding)[1] if holding else lpm.NO_PEER
        assert [table.lookup(address) for table in tables] == [wanted, wanted]


@given(st.binary(max_size=100))
@settings(deadline=None)
def test_any_bytes_are_judged_alike(data: bytes) -> None:
    for ours, theirs in TABLES:
        for outer in OUTERS:
            assert native.inbound(ours, outer, data) == portable.inbound(theirs, outer, data)
        assert native.outbound(ours, data) == portable.outbound(theirs, data)
    for kind in range(3):
        assert native.icmp(kind, 1400, 1, data) == portable.icmp(kind, 1400, 1, data)


@given(st.integers(0, 2**64), st.binary(min_size=VNET.size, max_size=VNET.size))
@settings(deadline=None)
def test_any_vnet_header_is_judged_alike(seed: int, vnet: bytes) -> None:
    _, packet = traffic.super_packet(Random(seed))
    assert native.segment(vnet, packet) == portable.segment(vnet, packet)


@given(st.integers(0, len(traffic.image()) - 1), st.binary(min_size=1, max_size=4), st.integers(0, 400))
@settings(deadline=None)
def test_a_spoilt_image_is_judged_alike(at: int, change: bytes, length: int) -> None:
    image = bytearray(traffic.image())
    image[at : at + len(change)] = change
    data = bytes(image[: length if length < 300 else None])

    def verdict(make: pump.Implementation) -> str:
        try:
            make.table(data)
        except ValueError as err:
            return str(err)
        return "taken"

    assert verdict(native) == verdict(portable)


def test_a_table_of_the_other_kind_is_refused() -> None:
    with pytest.raises(TypeError):
        native.inbound(TABLES[0][1], 1, b"")
