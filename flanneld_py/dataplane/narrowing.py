"""What routers say of ways that are too narrow for our datagrams. I/O.

The kernel takes note of it (a route exception), fragments what follows, and tells nobody: a socket hears of an error
only where the next call on it then fails (IP_RECVERR), which would cost the pump a packet. A copy of the ICMP message
comes to a raw socket instead, so that senders learn of the narrow way at once and not at the next look at the kernel.
"""

import array
import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Callable

from flanneld_py.dataplane.readiness import readable

log = logging.getLogger(__name__)

SETTLES_S = 0.05
"""The copy comes before the kernel takes note (net/ipv4/ip_input.c ip_protocol_deliver_rcu)."""
SPACING_S = 1.0
"""Between two looks. Anybody can send such messages."""

_SO_ATTACH_FILTER, _ICMP_FILTER = 26, 1
_SOL_RAW = 255
_UNREACHABLE, _FRAGMENTATION_NEEDED = 3, 4
_QUEUE_BYTES = 16384
_INSN = struct.Struct("=HBBI")
# include/uapi/linux/bpf_common.h: BPF_LDX|BPF_B|BPF_MSH; BPF_LD|BPF_IND of a byte and a half word;
# BPF_JMP|BPF_JEQ|BPF_K; BPF_RET|BPF_K
_LDX_HEADER, _LD_BYTE, _LD_HALF, _JEQ, _RET = 0xB1, 0x50, 0x48, 0x15, 0x06


def open_icmp(port: int) -> socket.socket:
    """Gets ICMP "fragmentation needed" about UDP datagrams from `port`, and nothing else.

    PermissionError: there is no CAP_NET_RAW.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 1)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _QUEUE_BYTES)
        sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << _UNREACHABLE) & 0xFFFFFFFF))
        program = array.array("B", _program(port))
        address, size = program.buffer_info()
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", size // _INSN.size, address))
        _drain(sock)  # what came before the filter
    except BaseException:
        sock.close()
        raise
    return sock


def _program(port: int) -> bytes:
    """Offsets are from the outer header; the one in the message is our own datagram's, which has no options."""
    code = (
        (_LDX_HEADER, 0, 0, 0),
        (_LD_BYTE, 0, 0, 1),
        (_JEQ, 0, 5, _FRAGMENTATION_NEEDED),
        (_LD_BYTE, 0, 0, 8 + 9),
        (_JEQ, 0, 3, socket.IPPROTO_UDP),
        (_LD_HALF, 0, 0, 8 + 20),
        (_JEQ, 0, 1, port),
        (_RET, 0, 0, 0xFFFFFFFF),
        (_RET, 0, 0, 0),
    )
    return b"".join(_INSN.pack(*insn) for insn in code)


async def follow_narrow_ways(port: int, look_again: Callable[[], None]) -> None:
    """Call `look_again` when a way has become narrower, however many say so; for ever, if it may be heard at all."""
    try:
        sock = open_icmp(port)
    except PermissionError:
        log.warning(
            "without CAP_NET_RAW nobody tells us of a way that has become narrower: it is noticed within a minute"
        )
        return
    with sock:
        while True:
            await readable(sock)
            await asyncio.sleep(SETTLES_S)
            _drain(sock)
            look_again()
            await asyncio.sleep(SPACING_S)


def _drain(sock: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        for _ in range(_QUEUE_BYTES):
            sock.recv(1)
