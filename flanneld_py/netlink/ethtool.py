"""Features of a device that rtnetlink does not know: whether it leaves transmit checksums to what is below it.

The ioctl is older than ethtool's netlink family (Linux 5.6), and one word in and out (include/uapi/linux/ethtool.h
struct ethtool_value). It speaks of all transmit checksums at once; a VXLAN device has one, tx-checksum-ip-generic.
"""

import errno
import fcntl
import os
import socket
from array import array
from collections.abc import Sequence
from struct import Struct

from flanneld_py.model.entry import Desired, Entry, Failure, Key, Op, TxChecksum, Verb
from flanneld_py.netlink.hints import failure
from flanneld_py.netlink.netns import Netns, in_netns

_SIOCETHTOOL = 0x8946
"""include/uapi/linux/sockios.h."""
_GTXCSUM, _STXCSUM = 0x16, 0x17
_IFREQ = Struct("=16sQ") if Struct("P").size == 8 else Struct("=16sI")
"""include/uapi/linux/if.h struct ifreq: the name, then a pointer."""
_VALUE = "I"
IFNAMSIZ = 16
"""include/uapi/linux/if.h; with the zero at the end."""


class EthtoolApplier:
    """TxChecksum entries in `netns`, our own namespace if None. The setting goes with its device: it is not deleted."""

    handles: frozenset[type[Entry]] = frozenset({TxChecksum})

    def __init__(self, *, netns: Netns = None) -> None:
        self._netns = netns

    async def known(self, desired: Desired) -> dict[Key, Entry]:
        """The desired ones as their devices have them; none for a device that is not there."""
        wanted = [entry for entry in desired.entries.values() if isinstance(entry, TxChecksum)]
        if not wanted:
            return {}
        known: dict[Key, Entry] = {}
        with self._socket() as sock:
            for entry in wanted:
                try:
                    known[entry.key] = TxChecksum(entry.dev, _read(sock, entry.dev), entry.why)
                except OSError:
                    continue
        return known

    async def apply(self, ops: Sequence[Op]) -> list[Failure]:
        with self._socket() as sock:
            failures = (_apply(sock, op) for op in ops)
            return [refused for refused in failures if refused is not None]

    def _socket(self) -> socket.socket:
        return in_netns(self._netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))


def _apply(sock: socket.socket, op: Op) -> Failure | None:
    entry = op.entry
    if not isinstance(entry, TxChecksum):
        raise TypeError(f"{entry} is not a feature of a device")
    if op.verb is Verb.DELETE:
        return None
    try:
        _ethtool(sock, entry.dev, _STXCSUM, int(entry.on))
        if _read(sock, entry.dev) is entry.on:
            return None
    except OSError as err:
        if err.errno != errno.EOPNOTSUPP:
            return failure(op, err.errno or 0, hint=_hint(entry, err.errno))
    # A request that the driver turns down, or that another feature forbids, is no error to the kernel.
    return Failure(op, "the device does not let it be changed", errno=errno.EOPNOTSUPP, hint=_mend(entry), cannot=True)


def _hint(entry: TxChecksum, code: int | None) -> str | None:
    return f"there is no interface {entry.dev}" if code == errno.ENODEV else None


def _mend(entry: TxChecksum) -> str:
    return f"see: ethtool -k {entry.dev}; or leave TxChecksum out of the network config"


def _read(sock: socket.socket, dev: str) -> bool:
    return bool(_ethtool(sock, dev, _GTXCSUM, 0))


def _ethtool(sock: socket.socket, dev: str, command: int, value: int) -> int:
    """The value after the call. OSError: the kernel's answer."""
    if len(dev.encode()) >= IFNAMSIZ:
        # The kernel would cut the name, and speak of another device.
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    words = array(_VALUE, (command, value))
    address, _ = words.buffer_info()
    fcntl.ioctl(sock, _SIOCETHTOOL, _IFREQ.pack(dev.encode(), address))
    return words[1]
