"""The TUN device of the userspace data path. I/O."""

import errno
import fcntl
import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from struct import Struct

from flanneld_py.dataplane.offload import Offload
from flanneld_py.errors import KernelError

TUN_PATH = Path("/dev/net/tun")
QUEUE_LENGTH = 5000
"""Packets: a train of 64 must find room beside others (txqueuelen; the kernel's own default is 500)."""

# include/uapi/linux/if_tun.h
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOFFLOAD = 0x400454CA, 0x400454CB, 0x400454D0
_IFF_TUN, _IFF_MULTI_QUEUE, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x0100, 0x1000, 0x4000
_F_CSUM, _F_TSO4, _F_USO4, _F_USO6 = 0x01, 0x02, 0x20, 0x40
# include/uapi/linux/sockios.h
_SIOCSIFTXQLEN = 0x8943

_IFREQ = Struct("=16sH22x")
_IFREQ_INT = Struct("=16si20x")


@dataclass(frozen=True, slots=True)
class Tun:
    """An open queue. `offload`: only `tso` and `uso` are probed here; the rest is as it was asked for."""

    fd: int
    name: str
    offload: Offload

    def close(self) -> None:
        os.close(self.fd)


def open_tun(name: str, wanted: Offload, *, persist: bool = False, queue_length: int = QUEUE_LENGTH) -> Tun:
    """A queue of the device `name`, made if it is missing, non-blocking and with a virtio_net_hdr before every packet.

    `persist`: it stays when the last descriptor is closed. KernelError if there can be no such device.
    """
    try:
        fd = os.open(TUN_PATH, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as err:
        raise _cannot(f"open {TUN_PATH}", err) from err
    try:
        flags = _IFF_TUN | _IFF_MULTI_QUEUE | _IFF_NO_PI | _IFF_VNET_HDR
        try:
            made = fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), flags))
        except OSError as err:
            raise _cannot(f"create the TUN device {name}", err) from err
        name = made[:16].rstrip(b"\0").decode()
        if persist:
            fcntl.ioctl(fd, _TUNSETPERSIST, 1)
        _set_queue_length(name, queue_length)
        return Tun(fd, name, probe_offload(fd, wanted))
    except BaseException:
        os.close(fd)
        raise


def probe_offload(fd: int, wanted: Offload) -> Offload:
    """Switch on what is wanted and what the kernel has, one by one: USO on a TUN device exists since 6.2."""
    base = _F_CSUM | (_F_TSO4 if wanted.tso else 0)
    if wanted.uso and _set_offload(fd, base | _F_USO4 | _F_USO6):  # the kernel takes these two only together
        return wanted
    if _set_offload(fd, base):
        return replace(wanted, uso=False)
    _set_offload(fd, 0)
    return replace(wanted, tso=False, uso=False)


def _set_offload(fd: int, flags: int) -> bool:
    try:
        fcntl.ioctl(fd, _TUNSETOFFLOAD, flags)
    except OSError as err:
        if err.errno != errno.EINVAL:
            raise
        return False
    return True


def _set_queue_length(name: str, length: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        fcntl.ioctl(sock, _SIOCSIFTXQLEN, _IFREQ_INT.pack(name.encode(), length))


def _cannot(what: str, err: OSError) -> KernelError:
    hints = {
        errno.ENOENT: "load the module: modprobe tun; a container needs the device /dev/net/tun",
        errno.ENXIO: "load the module: modprobe tun",
        errno.EPERM: "it needs the capability CAP_NET_ADMIN",
        errno.EACCES: "it needs the capability CAP_NET_ADMIN and access to /dev/net/tun",
        errno.EINVAL: "a device of that name is of another kind, or another program's: ip link delete it",
    }
    code = err.errno or 0
    return KernelError(f"cannot {what}: {err.strerror}", hint=hints.get(code), errno=code)
