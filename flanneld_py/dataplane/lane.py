"""A lane: one queue of the TUN device, one socket, and a thread that pumps packets between them, both ways. I/O.

There are as many as processors, at most MOST_LANES. A peer has its lane, chosen by its address (`sockfilter.py`), and
what it sends stays in order. Of the device's packets a lane gets those of the flows whose answers came by it; a flow
without answers in the last 3 s goes by its hash (drivers/net/tun.c tun_automq_select_queue), and the first packets by
another lane may overtake the last ones by this one.

On a veth what arrives is on the processor that it was sent on, and the lane is chosen by that (`UdpWorker.by_sender` is
false): a flow stays on one processor from its pod to the other one, and its data in that processor's cache. The threads
have to stay there too.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Collection
from concurrent.futures import Future
from contextlib import suppress
from itertools import cycle
from queue import Empty, SimpleQueue
from select import POLLIN, POLLOUT, poll
from threading import Thread
from typing import TypeVar

from flanneld_py.dataplane.pump import Decap, Encap

MOST_LANES = 3
"""Each costs 4.4 MiB of memory once it carries packets, and a worker shall stay below 40: it has 25 without."""

T = TypeVar("T")
Gone = Callable[[OSError], None]
"""Called in a lane's thread where a descriptor is of no use any more: the TUN device has been deleted."""


def count_lanes(pump: str) -> int:
    """As many as this process may use processors, at most MOST_LANES; of the portable pump's, one has the interpreter's
    lock at a time, and others would only fight for it."""
    return 1 if pump == "portable" else min(len(os.sched_getaffinity(0)), MOST_LANES)


def choose_processors(lanes: int, allowed: Collection[int]) -> list[int]:
    """Where each lane's thread runs: on a processor whose datagrams are the lane's, if it may; else on one that no
    other lane has, if there is one."""
    processors = sorted(allowed)
    own = [next((one for one in processors if one % lanes == number), None) for number in range(lanes)]
    free = cycle([one for one in processors if one not in own] or processors)
    return [next(free) if one is None else one for one in own]


class Lane:
    """Moves packets from `start` to `stop`. The queue `tun` and the socket must stay open as long as the process."""

    def __init__(self, pumps: tuple[Encap, Decap], tun: int, sock: socket.socket, *, number: int, gone: Gone) -> None:
        self.encap, self.decap = pumps
        self._tun, self._sock = tun, sock
        self._gone = gone
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._moving = False
        self._thread = Thread(target=self._run, name=f"lane {number}", daemon=True)
        self._thread.start()

    def stay_on(self, processors: Collection[int]) -> None:
        """Let the thread run there alone."""
        if self._thread.native_id is not None:
            with suppress(OSError):  # one that was taken from us meanwhile
                os.sched_setaffinity(self._thread.native_id, processors)

    def start(self) -> None:
        self._order(self._move)

    async def stop(self) -> None:
        """Read no more; returns when all that was read is sent, as far as it can be."""
        await self.between(self._rest)

    async def between(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises, called while the pumps do not run; the packets wait for it."""
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
            self.encap.serve(self.decap, self._tun, self._sock.fileno(), self._wake)
        except OSError as error:
            self._moving = False
            self._gone(error)

    def _move(self) -> None:
        self._moving = True

    def _rest(self) -> None:
        """What the socket did not take at once is kept by the pump, and must leave before the end."""
        self._moving = False
        writable = poll()
        writable.register(self._sock, POLLOUT)
        try:
            while self.encap.pending:
                self.encap.run(self._tun, self._sock.fileno(), 0)
                if self.encap.pending:
                    writable.poll()
        except OSError:
            return  # the device is gone, and with it whoever waits for an answer
