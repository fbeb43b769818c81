"""pyroute2's asyncio sockets on uvloop, whose datagram endpoints refuse AF_NETLINK.

The transport below does what pyroute2 asks of one, with nothing but `add_reader`, which every loop has.
"""

import asyncio
import socket
from typing import Any

from flanneld_py.netlink.lean import AsyncIPRoute, CoreDatagramProtocol

_DATAGRAM_BYTES = 1 << 18


class NetlinkTransport(asyncio.DatagramTransport):
    """Hands each datagram of `sock` to `protocol`; an overflow of the receive queue (ENOBUFS) to `error_received`.

    Closing it leaves `sock` open: who opened it closes it.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: asyncio.DatagramProtocol
    ) -> None:
        super().__init__({"socket": sock})
        self._loop = loop
        self._sock = sock
        self._protocol = protocol
        self._closing = False
        sock.setblocking(False)
        loop.add_reader(sock.fileno(), self._readable)
        protocol.connection_made(self)

    def _readable(self) -> None:
        while not self._closing:
            try:
                data, address = self._sock.recvfrom(_DATAGRAM_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as err:
                self._protocol.error_received(err)
                return
            self._protocol.datagram_received(data, address)

    def sendto(self, data: Any, addr: Any = None) -> None:
        self._sock.sendto(data, addr or (0, 0))

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if self._loop.is_closed():
            return
        self._loop.remove_reader(self._sock.fileno())
        self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()


class LoopIPRoute(AsyncIPRoute):  # type: ignore[misc]
    """AsyncIPRoute on whatever loop runs. Made from an open socket (`use_socket`), which `aclose` closes too."""

    async def setup_endpoint(self) -> None:
        if getattr(self.local, "transport", None) is not None:
            return
        protocol = CoreDatagramProtocol(self.connection_lost, self.enqueue, self._error_event, self.status)
        self.local.transport = NetlinkTransport(self.event_loop, self.socket, protocol)
        self.local.protocol = protocol

    async def aclose(self) -> None:
        """Ends the transport before the descriptor, so that the loop never watches a closed one."""
        self.close()
        await asyncio.sleep(0)
        self.use_socket.close()
