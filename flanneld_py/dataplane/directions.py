"""One thread a direction: a pump that serves, and orders that come in between. I/O.

The directions do not wait for each other, since a bulk transfer one way must not delay the answers that come the other
way; nor do they wait for the loop that hears the daemon: it takes no part while packets flow.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from select import POLLIN, POLLOUT, poll
from threading import Thread
from typing import TypeVar

from flanneld_py.dataplane.pump import Encap, Pump

T = TypeVar("T")
Gone = Callable[[OSError], None]
"""Called in a direction's thread where a descriptor is of no use any more: the TUN device has been deleted."""


class Direction:
    """Moves packets one way from `start` to `stop`. The descriptors must stay open as long as the process."""

    def __init__(self, name: str, pump: Pump, tun: int, sock: int, gone: Gone) -> None:
        self._pump, self._tun, self._sock, self._gone = pump, tun, sock, gone
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._moving = False
        Thread(target=self._run, name=name, daemon=True).start()

    def start(self) -> None:
        self._order(self._move)

    async def stop(self) -> None:
        """Read no more; returns when all that was read is sent, as far as it can be."""
        await self.between(self._rest)

    async def between(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises, called while the pump does not run; the packets wait for it."""
        done: Future[T] = Future()

        def order() -> None:
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

        self._order(order)
        return await asyncio.wrap_future(done)

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.put(order)
        os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        woken = poll()
        woken.register(self._wake, POLLIN)
        while True:
            if self._moving:
                self._serve()
            woken.poll()
            os.eventfd_read(self._wake)
            try:
                while True:
                    self._orders.get_nowait()()
            except Empty:
                pass

    def _serve(self) -> None:
        try:
            self._pump.serve(self._tun, self._sock, self._wake)
        except OSError as error:
            self._moving = False
            self._gone(error)

    def _move(self) -> None:
        self._moving = True

    def _rest(self) -> None:
        self._moving = False


class Outbound(Direction):
    """TUN device to UDP socket: what the socket does not take at once is kept, and must leave before the end."""

    def __init__(self, encap: Encap, tun: int, sock: int, gone: Gone) -> None:
        self._encap = encap
        super().__init__("outbound", encap, tun, sock, gone)

    def _rest(self) -> None:
        super()._rest()
        writable = poll()
        writable.register(self._sock, POLLOUT)
        try:
            while self._encap.pending:
                self._encap.run(self._tun, self._sock, 0)
                if self._encap.pending:
                    writable.poll()
        except OSError:
            return  # the device is gone, and with it whoever waits for an answer
