"""The process that carries the udp backend's packets: a thread for each lane, and a loop that hears orders.

    python -m flanneld_py.dataplane.worker LISTEN_FD

The daemon opens the TUN device's queues and the UDP sockets and hands all of them over, so this process needs no
privilege and gives all up. It outlives the daemon: a daemon that ends, or crashes, is a connection that closes, and
packets go on; the next one connects and finds out what is loaded. `control.py` says what the two say to each other.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from flanneld_py.dataplane import control
from flanneld_py.dataplane.build import BUILD
from flanneld_py.dataplane.carrier import Carrier, Descriptors
from flanneld_py.dataplane.memfile import read_memfile, write_memfile
from flanneld_py.dataplane.privileges import drop_all, set_name
from flanneld_py.dataplane.readiness import readable
from flanneld_py.errors import FlannelError
from flanneld_py.eventloop import new_event_loop

UNCLAIMED_S = 30.0
"""A worker that nobody has told to carry packets by then was started by a daemon that is no more."""

Answer = tuple[dict[str, Any], Sequence[int]]


class Worker:
    """Answers questions on connections to `listener`, one after another."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._carrier: Carrier | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._baton: int | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._questions: dict[str, Callable[[dict[str, Any], list[int]], Awaitable[Answer]]] = {
            "hello": self._hello,
            "adopt": self._adopt,
            "load": self._load,
            "state": self._state,
            "stats": self._stats,
            "release": self._release,
            "linger": self._stay_for,
            "leave": self._take_leave,
        }
        self.done: asyncio.Future[None] = self._loop.create_future()

    def start(self) -> None:
        self._loop.add_reader(self._listener.fileno(), self._accept)
        self._loop.call_later(UNCLAIMED_S, self._leave_if_unclaimed)

    def _leave_if_unclaimed(self) -> None:
        if self._carrier is None:
            self._leave(False)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._serve(connection))
        self._connections.add(task)
        task.add_done_callback(self._parted)

    def _parted(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        if not self._connections:
            self._leave_if_unclaimed()

    async def _serve(self, connection: socket.socket) -> None:
        with connection:
            while True:
                await readable(connection)
                try:
                    data, fds, _, _ = socket.recv_fds(connection, control.MAX_BYTES, control.MAX_FDS)
                except OSError:
                    return
                if not data:
                    return
                fields, given = await self._answer(data, fds)
                try:
                    socket.send_fds(connection, [control.encode_message("answer", **fields)], list(given))
                except OSError:
                    return
                finally:
                    for fd in given:
                        os.close(fd)

    async def _answer(self, data: bytes, fds: list[int]) -> Answer:
        """The answer to one message, and descriptors that go with it and are closed afterwards."""
        number = None
        try:
            word, fields = control.decode_message(data)
            number = fields.get("number")
            found, given = await self._questions[word](fields, fds)
        except FlannelError as error:
            return {"number": number, "error": str(error)}, ()
        except (ValueError, KeyError, TypeError, OSError) as error:
            return {"number": number, "error": f"{type(error).__name__}: {error}"}, ()
        else:
            return {"number": number} | found, given
        finally:
            for fd in fds:
                os.close(fd)

    async def _hello(self, fields: dict[str, Any], fds: list[int]) -> Answer:
        return {"build": BUILD, "pid": os.getpid()}, ()

    async def _adopt(self, fields: dict[str, Any], fds: list[int]) -> Answer:
        lanes = int(fields["lanes"])
        tuns, socks, (others, memory, *baton) = fds[:lanes], fds[lanes : 2 * lanes], fds[2 * lanes :]
        if self._carrier is not None:
            raise ValueError("this worker carries packets already")
        load = control.Load.decode(read_memfile(memory))
        with contextlib.ExitStack() as undo:
            *pumps, strangers = (undo.enter_context(socket.socket(fileno=os.dup(fd))) for fd in (*socks, others))
            kept = list(map(os.dup, tuns))
            for fd in kept:
                undo.callback(os.close, fd)
            carrier = Carrier(Descriptors(kept, pumps, strangers), load, fields["base"], self._gone)
            undo.pop_all()
        self._carrier = carrier
        self._carrier.start()
        for fd in baton:
            with contextlib.suppress(BrokenPipeError):
                os.write(fd, b"1")
        return {"ok": True, "pump": self._carrier.implementation.name, "why": self._carrier.implementation.why}, ()

    async def _load(self, fields: dict[str, Any], fds: list[int]) -> Answer:
        (memory,) = fds
        await self._need().reload(control.Load.decode(read_memfile(memory)))
        return {"ok": True}, ()

    async def _state(self, fields: dict[str, Any], fds: list[int]) -> Answer:
        if fields["keep"]:
            self._stay()
        answer = {"build": BUILD, "pid": os.getpid(), "worker": self._carrier is not None}
        if self._carrier is None:
            return answer, ()
        return answer, (write_memfile("state", self._carrier.load.encode()),)

    async def _stats(self, fields: dict[str, Any], fds: list[int]) -> Answer:
        return await self._need().stats() | {"pid": os.getpid(), "build": BUILD}, ()

    async def _release(self, fields: dict[str, Any], fds: list[int]) -> Answer:
        carrier = self._need()
        if self._baton is not None:
            raise ValueError("this worker is handing over already")
        self._baton, given = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._loop.add_reader(self._baton, self._handed_over)
        try:
            await carrier.stop()
            answer = {"base": await carrier.base(), "lanes": len(carrier.held.tuns)}
            return answer, (*map(os.dup, carrier.held.filenos()), given)
        except BaseException:
            os.close(given)
            raise

    def _handed_over(self) -> None:
        """Somebody carries in our place, or nobody is left who could."""
        baton, self._baton = self._baton, None
        if baton is None:
            return
        self._loop.remove_reader(baton)
        taken = os.read(baton, 1)
        os.close(baton)
        if taken:
            self._leave(False)
        else:
            self._need().start()

    def _stay(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None

    async def _stay_for(self, fields: dict[str, Any], fds: list[int]) -> Answer:
        seconds = float(fields["seconds"])
        self._stay()
        self._linger = self._loop.call_later(seconds, self._leave, True)
        return {"ok": True}, ()

    async def _take_leave(self, fields: dict[str, Any], fds: list[int]) -> Answer:
        self._loop.call_soon(self._leave, bool(fields["remove"]))
        return {"ok": True}, ()

    def _need(self) -> Carrier:
        if self._carrier is None:
            raise ValueError("this worker carries no packets")
        return self._carrier

    def _leave(self, remove: bool) -> None:
        if remove and self._carrier is not None:
            self._carrier.remove_device()
        if not self.done.done():
            self.done.set_result(None)

    def _gone(self, error: OSError) -> None:
        """The device is no more; whoever deleted it, the daemon starts a worker for the next one. Any thread."""
        self._loop.call_soon_threadsafe(self._leave, False)


async def _main(listener: socket.socket) -> None:
    worker = Worker(listener)
    worker.start()
    loop = asyncio.get_running_loop()
    # A terminal's ^C goes to the whole group; only an order, or SIGTERM to this process itself, ends it.
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    loop.add_signal_handler(signal.SIGTERM, worker._leave, True)
    await worker.done


def main(argv: Sequence[str]) -> None:
    """Carry packets until ordered to leave."""
    listener = socket.socket(fileno=int(argv[0]))
    listener.setblocking(False)
    listener.listen()  # again, and as this process: a daemon learns from the socket who is behind it
    set_name("flanneld-udp")
    drop_all()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_main(listener))


if __name__ == "__main__":
    main(sys.argv[1:])
