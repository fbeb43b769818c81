"""One loop a direction: readiness of a descriptor, one call of a pump. I/O.

They do not wait for each other: a bulk transfer one way must not delay the answers that come the other way.
"""

import asyncio
import threading
from collections.abc import Callable

from flanneld_py.dataplane.pump import Decap, Encap, Status

Gone = Callable[[OSError], None]
"""Called where a descriptor is of no use any more: the TUN device has been deleted."""


class Inbound:
    """UDP socket to TUN device, in the loop that it is made in."""

    def __init__(self, decap: Decap, tun: int, sock: int, gone: Gone) -> None:
        self._decap, self._tun, self._sock, self._gone = decap, tun, sock, gone
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        self._loop.add_reader(self._sock, self._readable)

    def stop(self) -> None:
        self._loop.remove_reader(self._sock)

    def _readable(self) -> None:
        try:
            self._decap.run(self._tun, self._sock)
        except OSError as error:
            self.stop()
            self._gone(error)


class Outbound:
    """TUN device to UDP socket, in a thread with a loop of its own."""

    def __init__(
        self, encap: Encap, tun: int, sock: int, gone: Gone, new_loop: Callable[[], asyncio.AbstractEventLoop]
    ):
        self._encap, self._tun, self._sock, self._gone = encap, tun, sock, gone
        self._loop = new_loop()
        self._thread = threading.Thread(target=self._run, name="outbound", daemon=True)

    def start(self) -> None:
        if not self._thread.is_alive():
            self._thread.start()
        self._loop.call_soon_threadsafe(self._listen)

    async def stop(self) -> None:
        """Read no more; returns when all that was read is sent, as far as it can be."""
        home = asyncio.get_running_loop()
        done: asyncio.Future[None] = home.create_future()

        def finish() -> None:
            self._loop.remove_reader(self._tun)
            self._loop.remove_writer(self._sock)
            try:
                sent = self._flush()
            except OSError:
                sent = True
            if sent:
                home.call_soon_threadsafe(_resolve, done)
            else:
                self._loop.add_writer(self._sock, finish)

        self._loop.call_soon_threadsafe(finish)
        await done

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _listen(self) -> None:
        self._loop.add_reader(self._tun, self._readable)

    def _readable(self) -> None:
        try:
            blocked = self._encap.run(self._tun, self._sock) == Status.BLOCKED
        except OSError as error:
            self._loop.remove_reader(self._tun)
            self._gone(error)
            return
        if blocked:
            # What the socket cannot take stays in the device's queue, where the kernel drops and counts what overflows.
            self._loop.remove_reader(self._tun)
            self._loop.add_writer(self._sock, self._writable)

    def _writable(self) -> None:
        try:
            sent = self._flush()
        except OSError as error:
            self._loop.remove_writer(self._sock)
            self._gone(error)
            return
        if sent:
            self._loop.remove_writer(self._sock)
            self._listen()

    def _flush(self) -> bool:
        """Whether nothing is kept that the socket did not take. Reads nothing."""
        if self._encap.pending:
            self._encap.run(self._tun, self._sock, 0)
        return not self._encap.pending


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
