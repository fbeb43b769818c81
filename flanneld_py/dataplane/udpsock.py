"""The UDP socket of the userspace data path. I/O."""

import errno
import os
import socket
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from flanneld_py.dataplane.batch_portable import SOL_UDP, UDP_GRO, UDP_SEGMENT
from flanneld_py.dataplane.offload import Offload, gro_is_right
from flanneld_py.errors import KernelError

BUFFER_BYTES = 32 * 1024 * 1024
"""Of all pumps of a port together, asked for in both directions. Bursts of trains outrun a process that is not
scheduled for a moment."""

# include/uapi/asm-generic/socket.h, include/uapi/linux/in.h; `socket` does not name them
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_IP_MTU_DISCOVER, _IP_PMTUDISC_WANT = 10, 1


@dataclass(frozen=True, slots=True)
class UdpSocket:
    """An open socket. `offload`: only `gso` and `gro` are probed here. The buffers are as granted, in bytes."""

    sock: socket.socket
    offload: Offload
    receive_buffer: int
    send_buffer: int


def open_udp(address: IPv4Address, port: int, wanted: Offload, *, buffer_bytes: int = BUFFER_BYTES) -> UdpSocket:
    """A bound, non-blocking socket, the first of its port (`strangers.py` adds another).

    KernelError if the address is not ours, or the port is taken.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as alone:
                alone.bind((str(address), port))  # which SO_REUSEPORT would not refuse beside another one of root's
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((str(address), port))
        except OSError as err:
            raise _cannot_bind(address, port, err) from err
        return _prepare(sock, wanted, buffer_bytes)
    except BaseException:
        sock.close()
        raise


def open_beside(first: UdpSocket, *, buffer_bytes: int) -> UdpSocket:
    """Another socket of the same port, with the same offloads."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made = _prepare(sock, first.offload, buffer_bytes)
        sock.bind(first.sock.getsockname())
        return made
    except BaseException:
        sock.close()
        raise


def _prepare(sock: socket.socket, wanted: Offload, buffer_bytes: int) -> UdpSocket:
    # Packets without DF may still be longer than a way's MTU: those leave as fragments, all others with DF set.
    sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_WANT)
    return UdpSocket(
        sock,
        probe_offload(sock, wanted),
        _set_buffer(sock, _SO_RCVBUFFORCE, socket.SO_RCVBUF, buffer_bytes),
        _set_buffer(sock, _SO_SNDBUFFORCE, socket.SO_SNDBUF, buffer_bytes),
    )


def probe_offload(sock: socket.socket, wanted: Offload, *, release: str | None = None) -> Offload:
    """Switch on what is wanted and what the kernel `release` (default: the running one) does right."""
    gro = wanted.gro and gro_is_right(release or os.uname().release) and _has(sock, UDP_GRO, 1)
    if not gro:
        _has(sock, UDP_GRO, 0)
    # Zero means that the socket sends no trains by itself; every sendmsg says it (udp(7)).
    return replace(wanted, gso=wanted.gso and _has(sock, UDP_SEGMENT, 0), gro=gro)


def _has(sock: socket.socket, option: int, value: int) -> bool:
    try:
        sock.setsockopt(SOL_UDP, option, value)
    except OSError as err:
        if err.errno not in {errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EINVAL}:
            raise
        return False
    return True


def _set_buffer(sock: socket.socket, force: int, plain: int, size: int) -> int:
    """Bytes granted: beyond net.core.[rw]mem_max only with CAP_NET_ADMIN. The kernel reports twice what it grants."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, plain, size)
    return sock.getsockopt(socket.SOL_SOCKET, plain) // 2


def _cannot_bind(address: IPv4Address, port: int, err: OSError) -> KernelError:
    hints = {
        errno.EADDRINUSE: f"find its owner: ss -lunp sport = :{port}; or set another Port in the network configuration",
        errno.EADDRNOTAVAIL: "no interface has that address: ip -4 address",
        errno.EACCES: "a port below 1024 needs the capability CAP_NET_BIND_SERVICE",
    }
    code = err.errno or 0
    return KernelError(f"cannot bind UDP {address}:{port}: {err.strerror}", hint=hints.get(code), errno=code)
