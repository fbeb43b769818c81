"""The socket filter, by the rules of classic BPF and on a real socket."""

import array
import socket
import struct
from ipaddress import IPv4Address
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from flanneld_py.dataplane.sockfilter import MOST_RANGES, merge_ranges, source_filter

ADDRESSES = st.integers(0, (1 << 32) - 1)
_SO_ATTACH_FILTER = 26


def run(program: bytes, source: int) -> bool:
    """Whether a datagram from `source` passes: classic BPF's own rules for the instructions that the filter uses."""
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    at = 0
    for _ in range(len(code)):
        opcode, true, false, value = code[at]
        at += 1
        match opcode:
            case 0x20:
                loaded = source
            case 0x05:
                at += value
            case 0x35:
                at += true if loaded >= value else false
            case 0x25:
                at += true if loaded > value else false
            case 0x06:
                return bool(value)
    raise AssertionError("the program does not end")


@given(st.sets(ADDRESSES, max_size=60), st.lists(ADDRESSES, max_size=20))
def test_with_few_sources_just_they_pass(sources: set[int], others: list[int]) -> None:
    program = source_filter(map(IPv4Address, sources))
    for address in (*sources, *others, *(s + 1 & 0xFFFFFFFF for s in sources), *(s - 1 & 0xFFFFFFFF for s in sources)):
        assert run(program, address) == (address in sources)


@given(st.sets(ADDRESSES, min_size=1, max_size=60), st.integers(1, 20))
def test_merged_ranges_hold_every_address_and_do_not_overlap(addresses: set[int], most: int) -> None:
    ranges = merge_ranges(sorted(addresses), most)
    assert len(ranges) <= most
    assert all(any(first <= address <= last for first, last in ranges) for address in addresses)
    assert all(before[1] < after[0] for before, after in pairwise(ranges))


def test_a_program_for_ten_thousand_scattered_sources_is_taken_by_the_kernel_and_keeps_no_peer_out() -> None:
    sources = [IPv4Address(0x0A000000 + 7919 * number) for number in range(10_000)]
    program = source_filter(sources)
    assert len(program) // 8 <= 4096
    assert len(merge_ranges([int(source) for source in sources], MOST_RANGES)) == MOST_RANGES
    assert all(run(program, int(source)) for source in sources)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        attach(sock, program)


def test_the_kernel_drops_what_the_program_says() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as known,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        known.bind(("127.0.0.2", 0))
        stranger.bind(("127.0.0.3", 0))
        receiver.bind(("127.0.0.1", 0))
        attach(receiver, source_filter([IPv4Address("127.0.0.2"), IPv4Address("192.0.2.7")]))
        for sender in (stranger, known, stranger):
            sender.sendto(sender.getsockname()[0].encode(), receiver.getsockname())
        receiver.settimeout(5)
        assert receiver.recv(100) == b"127.0.0.2"
        receiver.setblocking(False)
        try:
            late = receiver.recv(100)
        except BlockingIOError:
            late = b""
        assert late == b""


def attach(sock: socket.socket, program: bytes) -> None:
    code = array.array("B", program)
    address, size = code.buffer_info()
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", size // 8, address))
