"""Frames as they pass the devices of a namespace, with the kernel's time stamps (packet(7))."""

import select
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from struct import calcsize, unpack
from types import TracebackType

from flanneld_py.errors import LabError
from flanneld_py.lab.frames import VXLAN_PORTS, Packet, decode_ethernet, decode_ip
from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.topology import ETCD_PORT
from flanneld_py.lab.traffic import SO_TIMESTAMPNS

_ETH_P_ALL = 0x0003
_ARPHRD_ETHER, _ARPHRD_LOOPBACK = 1, 772
"""include/uapi/linux/if_arp.h; frames of other devices, such as a TUN, begin with the IP header."""
_PACKET_OUTGOING = 4
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_TIMESPEC = "@ll"
_SNAPLEN = 65536
_RECEIVE_BUFFER = 8 << 20


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame on a device. `at_ns`: Unix time in nanoseconds. `outgoing`: the namespace sends it on the device."""

    namespace: str
    device: str
    outgoing: bool
    at_ns: int
    size: int
    packet: Packet


class Capture:
    """Frames from some namespaces, all devices but lo or one device only; open from `__enter__` on."""

    def __init__(
        self, namespaces: Sequence[str], device: str | None = None, vxlan_ports: frozenset[int] = VXLAN_PORTS
    ) -> None:
        self._namespaces = tuple(namespaces)
        self._device = device
        self._vxlan_ports = vxlan_ports
        self._stack = ExitStack()
        self._poll = select.poll()
        self._sources: dict[int, tuple[str, socket.socket]] = {}

    def __enter__(self) -> "Capture":
        try:
            for namespace in self._namespaces:
                sock = self._stack.enter_context(self._open(namespace))
                self._poll.register(sock, select.POLLIN)
                self._sources[sock.fileno()] = (namespace, sock)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def frames(self, timeout_s: float | None) -> Iterator[Frame]:
        """Frames as they come, until none came for that long; None waits for ever."""
        while ready := self._poll.poll(None if timeout_s is None else max(0, int(timeout_s * 1000))):
            for fd, _ in ready:
                namespace, sock = self._sources[fd]
                frame = self._receive(namespace, sock)
                if frame is not None:
                    yield frame

    def dropped(self) -> int:
        """How many frames the kernel had no room for since the last time this was asked."""
        layout = "@II"
        return sum(
            int(unpack(layout, sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, calcsize(layout)))[1])
            for _, sock in self._sources.values()
        )

    def _open(self, namespace: str) -> socket.socket:
        def opened() -> socket.socket:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            if self._device is not None:
                sock.bind((self._device, _ETH_P_ALL))
            return sock

        try:
            sock = inside(namespace, opened)
        except OSError as err:
            where = f"{self._device} in {namespace}" if self._device else namespace
            raise LabError(f"cannot capture on {where}: {err.strerror}") from None
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        return sock

    def _receive(self, namespace: str, sock: socket.socket) -> Frame | None:
        try:
            data, ancillary, _, address = sock.recvmsg(_SNAPLEN, socket.CMSG_SPACE(calcsize(_TIMESPEC)))
        except OSError:
            # ENETDOWN: a device of the namespace was deleted; the socket still sees the others.
            return None
        device, _, direction, hardware, _ = address
        if hardware == _ARPHRD_LOOPBACK:
            return None
        at_ns = time.time_ns()
        for level, kind, value in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS) and len(value) == calcsize(_TIMESPEC):
                seconds, nanoseconds = unpack(_TIMESPEC, value)
                at_ns = seconds * 1_000_000_000 + nanoseconds
        decode = decode_ethernet if hardware == _ARPHRD_ETHER else decode_ip
        packet = decode(data, self._vxlan_ports)
        return Frame(namespace, device, direction == _PACKET_OUTGOING, at_ns, len(data), packet)


def is_etcd(packet: Packet) -> bool:
    """Whether it is talk with etcd, which goes on all the time and hides what one wants to see."""
    return packet.protocol == "tcp" and packet.ports is not None and ETCD_PORT in packet.ports


def vxlan_port_option(options: Sequence[tuple[str, object]]) -> frozenset[int]:
    """The ports to take for VXLAN, given the options of the lab's backend."""
    return VXLAN_PORTS | {value for key, value in options if key.lower() == "port" and type(value) is int and value}
