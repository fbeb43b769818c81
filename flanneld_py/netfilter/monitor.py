"""Tells that somebody has changed nf_tables, whoever and whatever: rules of ours, of iptables-nft or of a firewall.

A kube-proxy may change thousands of rules at a time. The kernel tells of each of them, and once at the end of a
transaction of the new generation; a filter on the socket lets only that through.
"""

import asyncio
import ctypes
import socket
import struct
from contextlib import suppress
from errno import ENOBUFS
from typing import Self

from flanneld_py.errors import KernelError
from flanneld_py.netfilter.nftcodec import NETLINK_NETFILTER, NEWGEN, NFNLGRP_NFTABLES
from flanneld_py.netlink.netns import Netns, in_netns
from flanneld_py.netlink.socket import open_socket

_SO_ATTACH_FILTER = 26
_INSN = struct.Struct("=HBBI")
_LD_HALF, _JEQ, _RET = 0x28, 0x15, 0x06  # include/uapi/linux/bpf_common.h
_RECEIVE_BYTES = 1 << 18
_DATAGRAM_BYTES = 1 << 16


class GenerationMonitor:
    """Hears of every transaction from the moment it is made. KernelError: it cannot listen. Close it with `close`."""

    def __init__(self, *, netns: Netns = None) -> None:
        self._socket = in_netns(
            netns, lambda: open_socket((NFNLGRP_NFTABLES,), _RECEIVE_BYTES, protocol=NETLINK_NETFILTER)
        )
        self._socket.setblocking(False)
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        _attach(self._socket)

    async def wait(self) -> None:
        """Returns when there was a transaction since the last return."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._socket.fileno(), self._readable)
        await self._changed.wait()
        self._changed.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._loop is not None and self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _readable(self) -> None:
        with suppress(BlockingIOError):
            while True:
                try:
                    self._socket.recv(_DATAGRAM_BYTES)
                except OSError as err:
                    if err.errno != ENOBUFS:  # notices were lost: then there was one
                        raise
                self._changed.set()


def generation_filter() -> bytes:
    """Lets through what begins with the notice of a new generation. A load is big-endian, netlink in host order."""
    return b"".join(
        (
            _INSN.pack(_LD_HALF, 0, 0, 4),
            _INSN.pack(_JEQ, 0, 1, socket.htons(NEWGEN)),
            _INSN.pack(_RET, 0, 0, 0xFFFFFFFF),
            _INSN.pack(_RET, 0, 0, 0),
        )
    )


def _attach(sock: socket.socket) -> None:
    program = generation_filter()
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HP", len(program) // _INSN.size, ctypes.addressof(buffer))  # struct sock_fprog
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
    except OSError as err:
        raise KernelError(f"cannot filter netlink notices: {err.strerror}", errno=err.errno or 0) from err
