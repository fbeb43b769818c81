"""The filter program, run by an interpreter of the three instructions it uses; the kernel's own is in tests/netns."""

import struct

import pytest

from flanneld_py.netlink.codec import RTM_DELNEIGH, RTM_DELROUTE, RTM_NEWNEIGH, RTM_NEWROUTE
from flanneld_py.netlink.noticefilter import filter_program

LOADS = {0x20: (">I", 4), 0x28: (">H", 2), 0x30: (">B", 1)}


def passes(program: bytes, packet: bytes) -> bool:
    code = list(struct.iter_unpack("=HBBI", program))
    at, accumulator = 0, 0
    for _ in range(len(code)):
        op, equal, unequal, operand = code[at]
        if op == 0x06:
            return bool(operand)
        if op == 0x15:
            at += 1 + (equal if accumulator == operand else unequal)
            continue
        layout, size = LOADS[op]
        if operand + size > len(packet):  # the kernel drops what ends before it
            return False
        accumulator = struct.unpack_from(layout, packet, operand)[0]
        at += 1
    raise AssertionError("the program does not end")


def route(kind: int, table: int) -> bytes:
    return struct.pack("=IHHII", 28, kind, 0, 0, 0) + struct.pack("=BBBBBBBBI", 2, 24, 0, 0, table, 3, 0, 1, 0)


def neighbour(kind: int, index: int) -> bytes:
    return struct.pack("=IHHII", 28, kind, 0, 0, 0) + struct.pack("=BBHiHBB", 2, 0, 0, index, 2, 0, 0)


@pytest.mark.parametrize("indexes", [[], [4], [4, 70000], list(range(1000, 1200))])
def test_neighbours_of_our_devices_alone_pass(indexes: list[int]) -> None:
    program = filter_program(indexes)
    for kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
        assert all(passes(program, neighbour(kind, index)) for index in indexes)
        assert not passes(program, neighbour(kind, 5))


def test_with_very_many_devices_every_neighbour_passes() -> None:
    program = filter_program(range(1000, 1300))
    assert passes(program, neighbour(RTM_NEWNEIGH, 5))
    assert not passes(program, route(RTM_NEWROUTE, 255))


@pytest.mark.parametrize("indexes", [[], [4, 5]])
def test_routes_of_the_main_table_and_all_links_pass(indexes: list[int]) -> None:
    program = filter_program(indexes)
    for kind in (RTM_NEWROUTE, RTM_DELROUTE):
        assert passes(program, route(kind, 254))
        assert not passes(program, route(kind, 255))
    assert passes(program, struct.pack("=IHHII", 32, 16, 0, 0, 0) + bytes(16))
