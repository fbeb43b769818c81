"""The socket for datagrams of unknown outer addresses: how many came, and a few of them, looked at. I/O.

Nobody waits for it, so a flood costs no wake-up: its queue holds some tens of datagrams, and the kernel counts the rest
as lost. All that reaches it is a stranger's; what the pump's own socket loses is lost for want of room.
"""

import array
import contextlib
import errno
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flanneld_py.dataplane import sockfilter
from flanneld_py.dataplane.batch_portable import SOL_UDP, UDP_GRO

_SO_ATTACH_REUSEPORT_CBPF, _SO_MEMINFO = 51, 55
_MEMINFO = struct.Struct("=9I")
_MEMINFO_DROPS = 8  # include/uapi/linux/sock_diag.h SK_MEMINFO_DROPS
_QUEUE_BYTES = 32768
_HEADER_BYTES = 20
_LOOKS = 128
"""Datagrams read at a time: more than the queue holds."""
MOST_PLACES = 64
KEPT_S = 600.0


def open_strangers(first: socket.socket) -> socket.socket:
    """A second socket on the port of `first`, which gets nothing until `choose_socket` says so; to be opened before
    further ones for a pump."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _QUEUE_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Before there are two: without a program the kernel would divide the senders among them.
        _attach(first, sockfilter.ALL_TO_THE_FIRST)
        # A device merges datagrams before the program is asked: if the socket that their hash falls on wants trains.
        with contextlib.suppress(OSError):  # Linux before 5.0 has none
            sock.setsockopt(SOL_UDP, UDP_GRO, first.getsockopt(SOL_UDP, UDP_GRO))
        sock.bind(first.getsockname())
    except BaseException:
        sock.close()
        raise
    return sock


def choose_socket(pumps: Sequence[socket.socket], program: bytes, *, by_sender: bool = False) -> bool:
    """Let `program` say which datagrams are strangers'; False: it says nothing, or too much for this kernel.

    It may be too long for net.core.optmem_max, which was 20 KiB before Linux 6.7. None is a stranger's then.
    """
    which = sockfilter.which_pump(len(pumps), by_sender=by_sender)
    if program:
        try:
            _attach(pumps[0], which + program)
        except OSError as error:
            if error.errno not in {errno.ENOMEM, errno.EINVAL, errno.EPERM}:
                raise
        else:
            return True
    _attach(pumps[0], which + sockfilter.TO_A_PUMP)
    return False


def _attach(sock: socket.socket, program: bytes) -> None:
    code = array.array("B", program)
    address, size = code.buffer_info()
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, struct.pack("HP", size // 8, address))


def socket_drops(sock: socket.socket) -> int:
    """Datagrams that the socket did not take, since it was opened."""
    return int(_MEMINFO.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))[_MEMINFO_DROPS])


@dataclass(slots=True)
class _Place:
    datagrams: int
    last: float


class Strangers:
    """Counts on from `before`, the count of an earlier process with this socket."""

    def __init__(self, sock: socket.socket, before: int) -> None:
        self._sock = sock
        self._others = before - socket_drops(sock)
        self._places: dict[tuple[str, str], _Place] = {}

    def look(self) -> None:
        """Read what is queued."""
        now = time.monotonic()
        with contextlib.suppress(BlockingIOError):
            for _ in range(_LOOKS):
                data, (outer, _) = self._sock.recvfrom(_HEADER_BYTES)
                self._others += 1
                if len(data) == _HEADER_BYTES and data[0] >> 4 == 4:
                    self._note((outer, socket.inet_ntoa(data[12:16])), now)
        self._places = {key: place for key, place in self._places.items() if now - place.last < KEPT_S}

    def _note(self, key: tuple[str, str], now: float) -> None:
        place = self._places.get(key)
        if place is None:
            if len(self._places) >= MOST_PLACES:
                # The least seen goes: whoever makes addresses up drives out what he made up before.
                del self._places[min(self._places, key=lambda other: self._places[other].datagrams)]
            place = self._places[key] = _Place(0, now)
        place.datagrams += 1
        place.last = now

    @property
    def count(self) -> int:
        """All that came and is no longer queued."""
        return self._others + socket_drops(self._sock)

    @property
    def places(self) -> list[dict[str, Any]]:
        """Outer and inner source of those that were looked at, and how many; MOST_PLACES, of the last KEPT_S."""
        return [
            {"outer": outer, "inner": inner, "datagrams": place.datagrams}
            for (outer, inner), place in self._places.items()
        ]
