"""A TUN device that stays when nobody has it open. rtnetlink cannot make one (drivers/net/tun.c tun_validate)."""

import fcntl
import os
from struct import Struct

# include/uapi/linux/if_tun.h
_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TUN, _IFF_MULTI_QUEUE, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x0100, 0x1000, 0x4000
_FLAGS = _IFF_TUN | _IFF_MULTI_QUEUE | _IFF_NO_PI | _IFF_VNET_HDR
_IFREQ = Struct("=16sH22x")
_DEVICE = "/dev/net/tun"


def make_tun(name: str) -> None:
    """Ensure that the device is there, in the calling thread's network namespace. OSError: the kernel's answer."""
    fd = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), _FLAGS))
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    finally:
        os.close(fd)
