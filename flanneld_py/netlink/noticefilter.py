"""A classic BPF program that keeps uninteresting notices out of a netlink socket's receive queue."""

import ctypes
import socket
import struct
from collections.abc import Collection

from flanneld_py.errors import KernelError
from flanneld_py.netlink.codec import (
    RT_TABLE_MAIN,
    RTM_DELNEIGH,
    RTM_DELROUTE,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
)

_SO_ATTACH_FILTER = 26
_INSN = struct.Struct("=HBBI")
"""include/uapi/linux/filter.h struct sock_filter: code, jump if true, jump if false, operand."""
# include/uapi/linux/bpf_common.h: BPF_LD|BPF_ABS of a word, half word and byte; BPF_JMP|BPF_JEQ|BPF_K; BPF_RET|BPF_K
_LD_WORD, _LD_HALF, _LD_BYTE, _JEQ, _RET = 0x20, 0x28, 0x30, 0x15, 0x06
_TYPE, _RTM_TABLE, _NDM_IFINDEX = 4, 16 + 4, 16 + 4  # offsets from the netlink header on
_ALL, _NOTHING = 0xFFFFFFFF, 0
_MOST_DEVICES = 200  # a conditional jump spans at most 255 instructions


def attach_filter(sock: socket.socket, indexes: Collection[int]) -> None:
    """Replaces the socket's filter by `filter_program(indexes)`. KernelError: the kernel refuses it."""
    program = filter_program(indexes)
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HP", len(program) // _INSN.size, ctypes.addressof(buffer))  # struct sock_fprog
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
    except OSError as err:
        raise KernelError(f"cannot filter netlink notices: {err.strerror}", errno=err.errno or 0) from err


def filter_program(indexes: Collection[int]) -> bytes:
    """Lets through: routes of the main table; neighbours and FDB entries of the devices `indexes` (all, where there
    are more than one jump spans); every other type. Looks at a datagram's first message, since a notice has one.

    Classic BPF loads are big-endian and netlink is in host order, so the constants are swapped instead.
    """
    few = len(indexes) <= _MOST_DEVICES
    devices = sorted(indexes) if few else []
    route, neighbour = 5, 7
    drop = neighbour + 1 + len(devices)
    accept = drop + 1
    return b"".join(
        (
            _INSN.pack(_LD_HALF, 0, 0, _TYPE),
            _jump(1, socket.htons(RTM_NEWNEIGH), neighbour),
            _jump(2, socket.htons(RTM_DELNEIGH), neighbour),
            _jump(3, socket.htons(RTM_NEWROUTE), route),
            _jump(4, socket.htons(RTM_DELROUTE), route, accept),
            _INSN.pack(_LD_BYTE, 0, 0, _RTM_TABLE),
            _jump(6, RT_TABLE_MAIN, accept, drop),
            _INSN.pack(_LD_WORD, 0, 0, _NDM_IFINDEX) if few else _INSN.pack(_RET, 0, 0, _ALL),
            *(_jump(neighbour + 1 + at, socket.htonl(index), accept) for at, index in enumerate(devices)),
            _INSN.pack(_RET, 0, 0, _NOTHING),
            _INSN.pack(_RET, 0, 0, _ALL),
        )
    )


def _jump(at: int, value: int, equal: int, unequal: int | None = None) -> bytes:
    """The instruction at position `at` that goes to `equal` or `unequal` (None: the next)."""
    return _INSN.pack(_JEQ, equal - at - 1, 0 if unequal is None else unequal - at - 1, value)
