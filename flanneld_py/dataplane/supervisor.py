"""Starts the worker, keeps it loaded, takes a running one over, hands its work to a newer one. The Applier for
UdpWorker and UdpPeer.

What is known is what the worker itself says: a daemon that restarts asks, and finds peers and settings as they are.
"""

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flanneld_py.dataplane import control, pump
from flanneld_py.dataplane.build import BUILD
from flanneld_py.dataplane.lane import count_lanes
from flanneld_py.dataplane.link import WorkerError, WorkerGone, WorkerLink, WorkerStuck, closing_all
from flanneld_py.dataplane.memfile import read_memfile, write_memfile
from flanneld_py.dataplane.offload import Offload
from flanneld_py.dataplane.strangers import open_strangers
from flanneld_py.dataplane.tun import open_tun
from flanneld_py.dataplane.udpsock import BUFFER_BYTES, open_beside, open_udp
from flanneld_py.errors import ConfigError, KernelError
from flanneld_py.model.entry import Desired, Entry, Failure, Key, Op, UdpPeer, UdpWorker, Verb

log = logging.getLogger(__name__)

SOCKET = "udp-worker.sock"
PARTING_S = 1.0
STEADY_S = 5.0
"""A worker that ends sooner is not started again at once."""
_ENVIRONMENT = ("PATH", "LANG", "LC_", "TZ", "LD_", "MALLOC_", "PYTHON")
"""Beginnings of the names of variables that a worker gets. The daemon's own may be secret."""


class WorkerSupervisor:
    """`directory`: where the worker's socket is. `on_gone` is called when a worker has ended by itself.

    `keep`: this is the worker's daemon, not a command that only asks or ends it.
    """

    handles: frozenset[type[Entry]] = frozenset({UdpWorker, UdpPeer})

    def __init__(self, directory: Path, *, keep: bool = True) -> None:
        self.on_gone: Callable[[], None] = lambda: None
        self._path = directory / SOCKET
        self._fresh = self._path.with_suffix(".new")
        self._keep = keep
        # Of our own, or of a worker that we started: the files may have been replaced since this process began.
        self._builds = {BUILD}
        self._link: WorkerLink | None = None
        self._started = 0.0
        self._children: list[subprocess.Popen[bytes]] = []
        self._worker: UdpWorker | None = None
        self._peers: dict[Key, UdpPeer] = {}

    async def known(self, desired: Desired) -> dict[Key, Entry]:
        """What the running worker holds; nothing if none runs. A worker of another build, or of another container,
        which it ends with, is known as such."""
        self._worker, self._peers = None, {}
        try:
            link = await self._connected()
            answer, fds = await link.ask_for_fds("state", keep=self._keep)
            with closing_all(fds):
                if not fds:
                    return {}
                state = control.Load.decode(read_memfile(fds[0])).state
            worker, peers = control.decode_state(state)
        except WorkerGone:
            self._forget()
            return {}
        except WorkerStuck as error:
            log.error("the udp worker is ended: %s", error)
            await self._end()
            return {}
        except ValueError as error:
            log.warning("the running worker is of another version and is replaced: %s", error)
            await self._end()
            return {}
        build = f"{answer['build']} in another container" if link.elsewhere else answer["build"]
        self._worker = worker if build in self._builds else replace(worker, build=build)
        self._peers = {peer.key: peer for peer in peers}
        return {self._worker.key: self._worker, **self._peers}

    async def apply(self, ops: Sequence[Op]) -> list[Failure]:
        """One load for all of `ops`. If there is no worker to be had, each of them fails for the same reason."""
        before, worker, remake = self._worker, self._worker, False
        peers = dict(self._peers)
        for op in ops:
            if isinstance(op.entry, UdpPeer):
                peers.pop(op.entry.key, None)
                if op.verb is not Verb.DELETE:
                    peers[op.entry.key] = op.entry
            elif isinstance(op.entry, UdpWorker):
                worker = None if op.verb is Verb.DELETE else op.entry
                remake = remake or op.verb in (Verb.ADD, Verb.RECREATE)
        try:
            if worker is None:
                await self._end()
            else:
                await self._realize(worker, peers, before, remake=remake)
        except (WorkerError, KernelError, OSError, ValueError) as error:
            self._forget()
            text, hint = getattr(error, "message", str(error)), getattr(error, "hint", None)
            code = getattr(error, "errno", 0) or 0
            return [Failure(op, text, code, hint) for op in ops if op.verb is not Verb.DELETE]
        self._worker, self._peers = worker, peers
        return []

    async def _realize(
        self, worker: UdpWorker, peers: dict[Key, UdpPeer], before: UdpWorker | None, *, remake: bool
    ) -> None:
        load = control.make_load(worker, tuple(peers.values()))
        if remake or before is None or worker.must_restart(before):
            await self._end()
            await self._start(worker, load)
        elif before.build != worker.build:
            await self._hand_over(load)
        else:
            await self._load(load)

    async def _load(self, load: control.Load) -> None:
        memory = write_memfile("load", load.encode())
        with closing_all([memory]):
            await (await self._connected()).ask("load", [memory])

    async def _start(self, worker: UdpWorker, load: control.Load) -> None:
        """A new worker on new queues of the device and new sockets."""
        wanted = Offload(**{name: name in worker.offload for name in ("tso", "uso", "gso", "gro")})
        lanes = count_lanes(_pump_of(worker))
        room = BUFFER_BYTES // lanes
        with contextlib.ExitStack() as opened:
            # First what no other process can have as well: a queue would take packets away from it.
            udp = open_udp(worker.local, worker.port, wanted, buffer_bytes=room)
            opened.enter_context(udp.sock)
            strangers = opened.enter_context(open_strangers(udp.sock))
            tuns = []
            for _ in range(lanes):
                tuns.append(open_tun(worker.dev, wanted, persist=True))
                opened.callback(tuns[-1].close)
            others = [opened.enter_context(open_beside(udp, buffer_bytes=room).sock) for _ in tuns[1:]]
            offload = tuns[0].offload & udp.offload
            base = {"offload": [name for name in ("tso", "uso", "gso", "gro") if getattr(offload, name)]}
            fds = [tun.fd for tun in tuns] + [sock.fileno() for sock in (udp.sock, *others, strangers)]
            await self._adopt(fds, load, base, lanes)
        log.info("%s: offload %s, %d lanes with %d bytes of buffer", worker, offload, lanes, udp.receive_buffer)

    async def _hand_over(self, load: control.Load) -> None:
        """A new worker on the descriptors of the running one: what is queued on them waits, and is not lost.

        If anything fails before the new one carries, the old one goes on.
        """
        old = await self._connected()
        self._link = None  # that it ends is now as it should be
        try:
            link = await self._spawn()
            try:
                answer, fds = await old.ask_for_fds("release")
            except BaseException:
                await link.end(remove=False)
                raise
            with closing_all(fds):
                await self._adopt(fds, load, answer["base"], int(answer["lanes"]), link)
        except BaseException:
            old.close()
            raise
        await old.end(remove=False)
        self._reap()
        log.info("the worker of build %s was replaced by one of build %s", old.build, link.build)

    async def _adopt(
        self, fds: Sequence[int], load: control.Load, base: dict[str, Any], lanes: int, link: WorkerLink | None = None
    ) -> None:
        """A new worker (`link`, if it runs already) carries. `fds`: as in its question, but for the load."""
        before = 2 * lanes + 1
        link = link or await self._spawn()
        memory = write_memfile("load", load.encode())
        try:
            with closing_all([memory]):
                answer = await link.ask("adopt", [*fds[:before], memory, *fds[before:]], base=base, lanes=lanes)
        except BaseException:
            await link.end(remove=False)
            self._reap()
            raise
        self._fresh.rename(self._path)
        if answer["why"]:
            log.warning(
                "packets are carried by the %s pump, many times slower than the native one: %s",
                answer["pump"],
                answer["why"],
            )
        self._link, self._started = link, time.monotonic()

    async def _spawn(self) -> WorkerLink:
        """A worker process that is ready. Until it carries it has a name of its own, and leaves when nobody asks it."""
        self._start_process()
        link = await WorkerLink.connect(self._fresh, self._ended)
        self._builds.add(link.build)
        return link

    def _start_process(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as listener:
            self._fresh.unlink(missing_ok=True)
            mask = os.umask(0o177)
            try:
                listener.bind(str(self._fresh))
            finally:
                os.umask(mask)
            listener.listen()
            command = [sys.executable, "-m", "flanneld_py.dataplane.worker", str(listener.fileno())]
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                env={name: value for name, value in os.environ.items() if name.startswith(_ENVIRONMENT)},
                pass_fds=(listener.fileno(),),
                start_new_session=True,
            )
        self._children.append(child)

    async def _end(self) -> None:
        """No worker of ours runs afterwards."""
        with contextlib.suppress(WorkerGone):
            link = await self._connected()
            self._link = None
            await link.end(remove=False)
        self._forget()
        for path in (self._path, self._fresh):
            path.unlink(missing_ok=True)

    async def _connected(self) -> WorkerLink:
        """WorkerGone: no worker listens."""
        if self._link is None:
            try:
                self._link = await WorkerLink.connect(self._path, self._ended)
            except WorkerGone:
                # One that a daemon started and told to carry, and was killed before it could give it the name.
                self._link = await WorkerLink.connect(self._fresh, self._ended)
                self._fresh.rename(self._path)
        return self._link

    def _ended(self, link: WorkerLink) -> None:
        self._reap()
        if link is not self._link:
            return
        lived = time.monotonic() - self._started
        log.error("the udp worker has ended by itself after %.0f s; starting another", lived)
        self._forget()
        wait = 0.0 if lived > STEADY_S else STEADY_S
        asyncio.get_running_loop().call_later(wait, self.on_gone)

    def _reap(self) -> None:
        self._children = [child for child in self._children if child.poll() is None]

    def _forget(self) -> None:
        self._reap()
        if self._link is not None:
            self._link.close()
        self._link, self._worker, self._peers = None, None, {}

    async def stats(self) -> dict[str, Any] | None:
        """The worker's counters, and what it uses; None: no worker carries packets."""
        if self._worker is None or self._link is None:
            return None
        try:
            return await self._link.ask("stats")
        except WorkerStuck as error:
            log.error("no statistics: %s", error)
            self.on_gone()
            return None
        except WorkerError as error:
            log.warning("no statistics: %s", error)
            return None

    async def linger(self, seconds: float) -> None:
        """Tell the worker, if there is one, to go on for a while without us, and then to free device and port."""
        with contextlib.suppress(WorkerError, TimeoutError):
            async with asyncio.timeout(PARTING_S):
                await (await self._connected()).ask("linger", seconds=seconds)

    def close(self) -> None:
        """Leave the worker to itself."""
        self._forget()
        for child in self._children:
            child.returncode = 0  # nobody waits for it, and Popen need not warn of that
        self._children.clear()


def _pump_of(worker: UdpWorker) -> str:
    """The one that the worker will find. Where it finds none, it says so itself."""
    try:
        return pump.choose(worker.pump).name
    except ConfigError:
        return worker.pump
