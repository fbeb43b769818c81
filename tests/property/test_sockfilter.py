"""The program that keeps strangers from the pump, by the rules of classic BPF and on real sockets."""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from ipaddress import IPv4Address
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanneld_py.dataplane.offload import Offload
from flanneld_py.dataplane.sockfilter import (
    MOST_RANGES,
    STRANGERS,
    TO_A_PUMP,
    merge_ranges,
    source_filter,
    which_pump,
)
from flanneld_py.dataplane.strangers import choose_socket, open_strangers
from flanneld_py.dataplane.udpsock import open_beside, open_udp

ADDRESSES = st.integers(0, (1 << 32) - 1)
LOOPBACK = IPv4Address("127.0.0.1")


def place(program: bytes, source: int, processor: int = 0) -> int:
    """The socket that gets a datagram from `source`: classic BPF's own rules for the instructions that are used."""
    code: list[tuple[int, int, int, int]] = [
        struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)
    ]
    at = a = x = 0
    for _ in range(len(code)):
        opcode, true, false, value = code[at]
        at += 1
        match opcode:
            case 0x20:
                a = {0xFFF0000C: source, 0xFFFFF024: processor}[value]
            case 0x94:
                a %= value
            case 0x04:
                a += value
            case 0x07:
                x = a
            case 0x24:
                a = a * value & 0xFFFFFFFF
            case 0x74:
                a >>= value
            case 0x87:
                a = x
            case 0x05:
                at += value
            case 0x15:
                at += true if a == value else false
            case 0x35:
                at += true if a >= value else false
            case 0x25:
                at += true if a > value else false
            case 0x06:
                return value
            case 0x16:
                return a
    raise AssertionError("the program does not end")


def run(program: bytes, source: int) -> bool:
    """Whether the pump gets it, if there is one only."""
    found = place(which_pump(1) + program, source)
    assert found in (0, STRANGERS)
    return found == 0


@given(st.sets(ADDRESSES, max_size=60), st.lists(ADDRESSES, max_size=20))
def test_with_few_sources_the_pump_gets_just_theirs(sources: set[int], others: list[int]) -> None:
    program = source_filter(map(IPv4Address, sources))
    for address in (*sources, *others, *(s + 1 & 0xFFFFFFFF for s in sources), *(s - 1 & 0xFFFFFFFF for s in sources)):
        assert run(program, address) == (address in sources)


@given(st.sets(ADDRESSES, min_size=1, max_size=60), st.integers(1, 20))
def test_merged_ranges_hold_every_address_and_do_not_overlap(addresses: set[int], most: int) -> None:
    ranges = merge_ranges(sorted(addresses), most)
    assert len(ranges) <= most
    assert all(any(first <= address <= last for first, last in ranges) for address in addresses)
    assert all(before[1] < after[0] for before, after in pairwise(ranges))


@given(ADDRESSES, st.integers(1, 8), st.integers(0, 200))
def test_a_pump_gets_what_arrives_on_its_processor(source: int, pumps: int, processor: int) -> None:
    program = which_pump(pumps) + source_filter([IPv4Address(source)])
    order = [0, *range(2, pumps + 1)]
    assert place(program, source, processor) == order[processor % pumps]
    assert place(program, source ^ 1, processor) == STRANGERS


@given(ADDRESSES, st.integers(1, 8), st.integers(0, 200))
def test_a_sender_keeps_its_pump_on_whatever_processor_it_arrives(source: int, pumps: int, processor: int) -> None:
    program = which_pump(pumps, by_sender=True) + source_filter([IPv4Address(source)])
    assert place(program, source, processor) == place(program, source) in {0, *range(2, pumps + 1)}
    assert place(program, source ^ 1, processor) == STRANGERS


@given(ADDRESSES, st.integers(2, 4), st.sampled_from([1, 2, 4, 8, 10, 16, 256]))
def test_senders_at_any_distance_are_divided_among_all_pumps(first: int, pumps: int, distance: int) -> None:
    sources = [first + distance * number & 0xFFFFFFFF for number in range(40)]
    program = which_pump(pumps, by_sender=True) + source_filter(map(IPv4Address, sources))
    assert {place(program, source) for source in sources} == {0, *range(2, pumps + 1)}


def test_a_program_for_ten_thousand_scattered_sources_is_taken_by_the_kernel_and_keeps_no_peer_out() -> None:
    sources = [IPv4Address(0x0A000000 + 7919 * number) for number in range(10_000)]
    program = source_filter(sources)
    assert len(which_pump(4) + program) // 8 <= 4096
    assert len(merge_ranges([int(source) for source in sources], MOST_RANGES)) == MOST_RANGES
    assert all(run(program, int(source)) for source in sources)
    with sockets() as (pump, _):
        assert choose_socket([pump], program)


def test_the_kernel_sorts_as_the_program_says() -> None:
    program = source_filter([IPv4Address("127.0.0.2"), IPv4Address("192.0.2.7")])
    with sockets() as (pump, strangers), sender("127.0.0.2") as known, sender("127.0.0.3") as stranger:
        assert choose_socket([pump], program)
        for sock in (stranger, known, stranger):
            sock.sendto(sock.getsockname()[0].encode(), pump.getsockname())
        assert everything(pump) == [b"127.0.0.2"]
        assert everything(strangers) == [b"127.0.0.3"] * 2


def test_without_a_program_the_pump_gets_all() -> None:
    """Also those whom the kernel's own choice among two sockets would give to the other."""
    with sockets() as (pump, strangers):
        assert choose_socket([pump], source_filter([]))
        for again in range(2):
            for number in range(40):
                with sender("127.0.0.2") as sock:
                    sock.sendto(bytes([number]), pump.getsockname())
            assert len(everything(pump)) == 40 * again
            assert len(everything(strangers)) == 40 * (1 - again)
            assert not choose_socket([pump], b"")


@pytest.mark.parametrize("by_sender", [False, True])
def test_the_kernel_gives_each_pump_what_is_its(by_sender: bool) -> None:
    """Over loopback a datagram arrives where it was sent. Both ways to sort, and on every processor that we have."""
    allowed = os.sched_getaffinity(0)
    with ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, allowed)
        udp = open_udp(LOOPBACK, 0, Offload())
        pump = stack.enter_context(udp.sock)
        strangers = stack.enter_context(open_strangers(pump))
        other = stack.enter_context(open_beside(udp, buffer_bytes=1 << 20).sock)
        known = stack.enter_context(sender("127.0.0.2"))
        source = int(IPv4Address("127.0.0.2"))
        code = which_pump(2, by_sender=True) + TO_A_PUMP
        for program in (source_filter([IPv4Address(source)]), b""):
            assert choose_socket([pump, other], program, by_sender=by_sender) == bool(program)
            for processor in allowed:
                os.sched_setaffinity(0, {processor})
                known.sendto(str(processor).encode(), pump.getsockname())
                number = int(place(code, source) > STRANGERS) if by_sender else processor % 2
                assert everything((pump, other)[number]) == [str(processor).encode()]
            assert everything(pump) + everything(other) + everything(strangers) == []


@contextmanager
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    with open_udp(LOOPBACK, 0, Offload()).sock as pump, open_strangers(pump) as strangers:
        yield pump, strangers


@contextmanager
def sender(address: str) -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.bind((address, 0))
        yield sock


def everything(sock: socket.socket) -> list[bytes]:
    """What is queued. Over loopback a datagram is there when sending it returns."""
    found = []
    try:
        while True:
            found.append(sock.recv(100))
    except BlockingIOError:
        return found
