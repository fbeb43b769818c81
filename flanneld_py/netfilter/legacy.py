"""What the legacy tables of iptables hold of ours, read from the kernel without iptables' programs.

include/uapi/linux/netfilter_ipv4/ip_tables.h: struct ipt_getinfo and struct ipt_get_entries; the IPv6 ones are alike.
"""

import ctypes
import errno
import os
import socket
from contextlib import suppress
from pathlib import Path
from struct import Struct

from flanneld_py.errors import KernelError
from flanneld_py.netfilter.names import IPTABLES_BASE, admission_comment, iptables_chain
from flanneld_py.netlink.netns import Netns, in_netns

_GET_INFO, _GET_ENTRIES = 64, 65  # IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES
_INFO = Struct("=32sI5I5III")
"""Name, valid hooks, entry and underflow of each hook, number of entries, their bytes."""
_ENTRIES = Struct("=32sI4x")
_LEVEL = {4: (socket.AF_INET, socket.IPPROTO_IP), 6: (socket.AF_INET6, socket.IPPROTO_IPV6)}
_TRIES = 100
_NAMES = {4: "ip_tables_names", 6: "ip6_tables_names"}


def legacy_tables(version: int, *, netns: Netns = None) -> tuple[str, ...]:
    """The tables that somebody has used in this namespace; asking for others would make them."""
    path = Path("/proc/thread-self/net") / _NAMES[version]

    def read() -> tuple[str, ...]:
        try:
            return tuple(path.read_text().split())
        except OSError:  # the kernel has no legacy tables, or we may not look
            return ()

    return in_netns(netns, read)


def has_legacy_chains(version: int, instance: str, *, netns: Netns = None) -> bool:
    """Whether a chain of ours is there."""
    wanted = {table: iptables_chain(hook, instance) for hook, (table, _) in IPTABLES_BASE.items()}
    return any(holds(version, table, name, netns) for table, name in wanted.items())


def has_legacy_admissions(version: int, instance: str, *, netns: Netns = None) -> bool:
    """Whether rules of ours are in chains of others."""
    return holds(version, "filter", admission_comment(instance), netns)


def holds(version: int, table: str, text: str, netns: Netns) -> bool:
    """Whether the table has a chain of that name, or a rule with that comment."""
    if table not in legacy_tables(version, netns=netns):
        return False
    # Before either comes the revision of its target or match, which is 0 (struct xt_entry_target and xt_entry_match).
    return b"\0" + text.encode() + b"\0" in in_netns(netns, lambda: _entries(version, table))


def has_chains_like(version: int, start: str, *, netns: Netns = None) -> bool:
    """Whether a legacy table has a chain, or a comment, whose name begins with `start`."""
    return any(
        start.encode() in in_netns(netns, lambda table=table: _entries(version, table))  # type: ignore[misc]
        for table in legacy_tables(version, netns=netns)
    )


def _entries(version: int, table: str) -> bytes:
    """The table as the kernel holds it; b"" if it cannot be read."""
    family, level = _LEVEL[version]
    try:
        with socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW) as sock:
            for _ in range(_TRIES):
                with suppress(BlockingIOError):  # somebody changed the table between the two questions
                    return _ask_entries(sock, level, table.encode())
    except OSError:
        return b""
    raise KernelError(f"cannot read the legacy table {table}: it never rests", errno=errno.EAGAIN)


def _ask_entries(sock: socket.socket, level: int, name: bytes) -> bytes:
    info = _get(sock, level, _GET_INFO, _INFO.pack(name, *(0 for _ in range(13))))
    size = _INFO.unpack(info)[-1]
    return _get(sock, level, _GET_ENTRIES, _ENTRIES.pack(name, size) + bytes(size))[_ENTRIES.size :]


def _get(sock: socket.socket, level: int, option: int, request: bytes) -> bytes:
    """getsockopt with a request in the buffer, which Python's own cannot pass."""
    buffer = ctypes.create_string_buffer(request, len(request))
    length = ctypes.c_uint32(len(request))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.getsockopt(sock.fileno(), level, option, buffer, ctypes.byref(length)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return buffer.raw
