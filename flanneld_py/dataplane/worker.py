"""The process that carries the udp backend's packets: two loops, one a direction, and a socket for its orders.

    python -m flanneld_py.dataplane.worker LISTEN_FD

The daemon opens the TUN device and the UDP socket and hands both over, so this process needs no privilege and gives
all up. It outlives the daemon: a daemon that ends, or crashes, is a connection that closes, and packets go on; the next
one connects and finds out what is loaded. `control.py` says what the two say to each other.
"""

import array
import asyncio
import errno
import fcntl
import os
import signal
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import uvloop

from flanneld_py.dataplane import control, pump
from flanneld_py.dataplane.build import BUILD
from flanneld_py.dataplane.directions import Inbound, Outbound
from flanneld_py.dataplane.memfile import read_memfile, write_memfile
from flanneld_py.dataplane.offload import Offload
from flanneld_py.dataplane.privileges import drop_all, set_name
from flanneld_py.dataplane.wire import Drop

_TUNSETPERSIST = 0x400454CB
_SO_ATTACH_FILTER, _SO_DETACH_FILTER, _SO_MEMINFO = 26, 27, 55
_MEMINFO = struct.Struct("=9I")
_MEMINFO_DROPS = 8  # include/uapi/linux/sock_diag.h SK_MEMINFO_DROPS

Answer = tuple[dict[str, Any], Sequence[int]]


class Carrier:
    """Descriptors, pumps and what they were loaded with, from `adopt` on."""

    def __init__(
        self, tun: int, sock: socket.socket, load: control.Load, base: dict[str, Any], gone: Callable[[OSError], None]
    ) -> None:
        self.tun, self.sock, self.load = tun, sock, load
        self._base = base
        worker, _ = control.decode_state(load.state)
        self.implementation = pump.choose(worker.pump)
        offload = Offload(**{name: name in base["offload"] for name in ("tso", "uso", "gso", "gro")})
        table = self.implementation.table(load.image)
        self.encap = self.implementation.encap(table, gso=offload.gso)
        self.decap = self.implementation.decap(table, tcp=offload.tso, udp=offload.uso)
        self._gro = offload.gro
        self._filter(load.filter)
        self.inbound = Inbound(self.decap, tun, sock.fileno(), gone)
        self.outbound = Outbound(self.encap, tun, sock.fileno(), gone, uvloop.new_event_loop)

    def start(self) -> None:
        self.inbound.start()
        self.outbound.start()

    async def stop(self) -> None:
        self.inbound.stop()
        await self.outbound.stop()

    def reload(self, load: control.Load) -> None:
        table = self.implementation.table(load.image)
        self._filter(load.filter)
        self.encap.table = table
        self.decap.table = table
        self.load = load

    def _filter(self, program: bytes) -> None:
        """Let the kernel drop what no peer sends; a kernel that takes no such program leaves it to the pump."""
        if not program:
            try:
                self.sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
            return
        code = array.array("B", program)
        address, size = code.buffer_info()
        self.sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", size // 8, address))

    @property
    def offload(self) -> list[str]:
        """What is in use now; a refusal of the kernel withdraws some of it while packets flow."""
        used = {"tso": self.decap.tcp, "uso": self.decap.udp, "gso": self.encap.gso, "gro": self._gro}
        return [name for name, on in used.items() if on]

    def counters(self) -> dict[str, Any]:
        """Both directions, on top of what a worker before us has counted."""
        both: dict[str, Any] = {}
        for name, found in (("outbound", self.encap.counters()), ("inbound", self.decap.counters())):
            both[name] = _added(_named(found), self._base.get(name, {}))
        return both

    def stats(self) -> dict[str, Any]:
        memory = _MEMINFO.unpack(self.sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))
        return self.counters() | {
            "pump": self.implementation.name,
            "why": self.implementation.why,
            "offload": self.offload,
            "socket_drops": memory[_MEMINFO_DROPS],
        }

    def remove_device(self) -> None:
        fcntl.ioctl(self.tun, _TUNSETPERSIST, 0)


def _named(counters: dict[str, int | tuple[int, ...]]) -> dict[str, Any]:
    """`drops` by reason, without the reasons that did not occur."""
    drops = counters["drops"]
    counted = drops if isinstance(drops, tuple) else ()
    by_reason = {Drop(index).name.lower(): number for index, number in enumerate(counted) if number}
    return {name: number for name, number in counters.items() if name != "drops"} | {"drops": by_reason}


def _added(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    found = dict(other)
    for name, value in one.items():
        found[name] = _added(value, other.get(name, {})) if isinstance(value, dict) else value + other.get(name, 0)
    return found


class Worker:
    """Answers questions on connections to `listener`, one after another."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._carrier: Carrier | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._questions: dict[str, Callable[[dict[str, Any], list[int]], Awaitable[Answer]]] = {
            "hello": self._hello,
            "adopt": self._adopt,
            "load": self._load,
            "state": self._state,
            "stats": self._stats,
            "release": self._release,
            "resume": self._resume,
            "linger": self._stay_for,
            "leave": self._take_leave,
        }
        self.done: asyncio.Future[None] = self._loop.create_future()

    def start(self) -> None:
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        connection.setblocking(False)
        task = self._loop.create_task(self._serve(connection))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, connection: socket.socket) -> None:
        with connection:
            while True:
                await _readable(connection)
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
        try:
            word, fields = control.decode_message(data)
            found = await self._questions[word](fields, fds)
        except (ValueError, KeyError, TypeError, OSError) as error:
            return {"error": f"{type(error).__name__}: {error}"}, ()
        else:
            return found
        finally:
            for fd in fds:
                os.close(fd)

    async def _hello(self, fields: dict[str, Any], fds: list[int]) -> Answer:
        return {"build": BUILD, "pid": os.getpid()}, ()

    async def _adopt(self, fields: dict[str, Any], fds: list[int]) -> Answer:
        tun, sock, memory = fds
        if self._carrier is not None:
            raise ValueError("this worker carries packets already")
        load = control.Load.decode(read_memfile(memory))
        kept = socket.socket(fileno=os.dup(sock))
        self._carrier = Carrier(os.dup(tun), kept, load, fields["base"], self._gone)
        self._carrier.start()
        return {"ok": True, "pump": self._carrier.implementation.name, "why": self._carrier.implementation.why}, ()

    async def _load(self, fields: dict[str, Any], fds: list[int]) -> Answer:
        (memory,) = fds
        self._need().reload(control.Load.decode(read_memfile(memory)))
        return {"ok": True}, ()

    async def _state(self, fields: dict[str, Any], fds: list[int]) -> Answer:
        answer = {"build": BUILD, "pid": os.getpid(), "worker": self._carrier is not None}
        if self._carrier is None:
            return answer, ()
        return answer, (write_memfile("state", self._carrier.load.encode()),)

    async def _stats(self, fields: dict[str, Any], fds: list[int]) -> Answer:
        return self._need().stats() | {"pid": os.getpid(), "build": BUILD}, ()

    async def _release(self, fields: dict[str, Any], fds: list[int]) -> Answer:
        carrier = self._need()
        await carrier.stop()
        base = carrier.counters() | {"offload": carrier.offload}
        return {"base": base}, (os.dup(carrier.tun), os.dup(carrier.sock.fileno()))

    async def _resume(self, fields: dict[str, Any], fds: list[int]) -> Answer:
        self._need().start()
        return {"ok": True}, ()

    async def _stay_for(self, fields: dict[str, Any], fds: list[int]) -> Answer:
        seconds = float(fields["seconds"])
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


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock.fileno(), lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(sock.fileno())


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
    set_name("flanneld-udp")
    drop_all()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(listener))


if __name__ == "__main__":
    main(sys.argv[1:])
