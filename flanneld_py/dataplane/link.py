"""The daemon's end of the conversation with a worker. I/O."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flanneld_py.dataplane import control
from flanneld_py.dataplane.peer import is_elsewhere, peer_pid
from flanneld_py.dataplane.readiness import readable
from flanneld_py.errors import FlannelError

ANSWER_S = 10.0
"""A worker answers in milliseconds; one that was just started has to load its code first."""
LEAVE_S = 2.0


class WorkerError(FlannelError):
    """The worker refuses, or does not answer."""


class WorkerGone(WorkerError):
    """There is no worker, or it has ended."""


class WorkerStuck(WorkerError):
    """It does not answer; `end` ends it all the same."""


class WorkerLink:
    """One connection to a worker, and a hold on its process. Questions are asked one at a time.

    `on_end` is called when the process ends, however that comes about, unless the link was closed before. `build`: what
    the worker runs. `elsewhere`: it is another container's, and ends with that; we may not even see the process, and
    then `on_end` is not called.
    """

    def __init__(self, sock: socket.socket, on_end: Callable[["WorkerLink"], None]) -> None:
        self._sock = sock
        self._on_end = on_end
        self._lock = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._pidfd: int | None = None
        self._pid = 0
        self._ended = asyncio.Event()
        self._number = 0
        self._closed = self._stuck = False
        self.elsewhere = False
        self.build = ""

    @classmethod
    async def connect(cls, path: Path, on_end: Callable[["WorkerLink"], None]) -> "WorkerLink":
        """WorkerGone: nobody listens at `path`, or only a process that was ended: it did not answer, or in a language
        that we do not speak, since it is of another version."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        link = cls(sock, on_end)
        try:
            try:
                sock.connect(str(path))
            except OSError as error:
                raise WorkerGone(f"no worker answers at {path}: {error.strerror}") from error
            pid = peer_pid(sock)
            link.elsewhere = is_elsewhere(pid)
            with contextlib.suppress(ProcessLookupError):
                link._hold(pid)
            try:
                hello = await link.ask("hello")
            except WorkerGone:
                raise
            except WorkerError as error:
                await link.end(remove=False)
                raise WorkerGone(f"a worker was ended: {error}") from error
            if not link.elsewhere:
                link._hold(int(hello["pid"]))
            link.build = str(hello["build"])
        except ProcessLookupError:
            link.close()
            raise WorkerGone("the worker has ended") from None
        except BaseException:
            link.close()
            raise
        return link

    def _hold(self, pid: int) -> None:
        """Watch the process. A listener is of the pid that made it, until the worker that it was made for runs."""
        if pid in (0, self._pid, os.getpid()):
            return
        self._drop_process()
        self._pidfd = os.pidfd_open(pid)
        self._pid = pid
        self._loop.add_reader(self._pidfd, self._end)

    def _end(self) -> None:
        self._ended.set()
        self._drop_process()
        self._on_end(self)

    def _drop_process(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def close(self) -> None:
        """Leave the worker to itself."""
        self._drop_process()
        self._closed = True
        if not self._lock.locked():
            self._sock.close()
            return
        with contextlib.suppress(OSError):  # whoever waits for an answer wakes up, and closes
            self._sock.shutdown(socket.SHUT_RDWR)

    async def end(self, *, remove: bool) -> None:
        """Ensure that the process has ended; `remove`: its TUN device goes with it. Calls no `on_end`."""
        self._on_end = _ignore
        if not self._stuck:
            with contextlib.suppress(WorkerError):
                await self.ask("leave", remove=remove)
        if self._pidfd is not None:
            try:
                async with asyncio.timeout(0 if self._stuck else LEAVE_S):
                    await self._ended.wait()
            except TimeoutError:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                await self._ended.wait()
        elif self.elsewhere and not self._stuck:
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(LEAVE_S):
                    await self._parted()
        self.close()

    async def _parted(self) -> None:
        """Returns when the worker has closed its side."""
        data = b"-"
        while data:
            await readable(self._sock)
            data, given, _, _ = socket.recv_fds(self._sock, control.MAX_BYTES, control.MAX_FDS)
            _close_all(given)

    async def ask(self, word: str, fds: Sequence[int] = (), **fields: Any) -> dict[str, Any]:
        """The fields of the answer; descriptors in it are closed."""
        answer, given = await self.ask_for_fds(word, fds, **fields)
        _close_all(given)
        return answer

    async def ask_for_fds(self, word: str, fds: Sequence[int] = (), **fields: Any) -> tuple[dict[str, Any], list[int]]:
        """The answer, and the descriptors in it, which the caller closes. WorkerError, WorkerStuck, WorkerGone."""
        async with self._lock:
            self._number += 1
            try:
                if self._closed:
                    raise WorkerGone("the link to the worker is closed")
                if self._stuck:
                    raise WorkerStuck("the worker has not answered before")
                socket.send_fds(self._sock, [control.encode_message(word, number=self._number, **fields)], list(fds))
                async with asyncio.timeout(ANSWER_S):
                    answer, given = await self._answer()
            except TimeoutError:
                self._stuck = True
                raise WorkerStuck(f"the worker does not answer {word!r} within {ANSWER_S:.0f} s") from None
            except OSError as error:
                raise WorkerGone(f"the worker has ended: {error.strerror}") from error
            finally:
                if self._closed:
                    self._sock.close()
        if "error" in answer:
            _close_all(given)
            raise WorkerError(f"the worker refuses {word!r}: {answer['error']}")
        return answer, given

    async def _answer(self) -> tuple[dict[str, Any], list[int]]:
        """The answer to the last question; those to questions whose asker has given up are thrown away."""
        while True:
            await readable(self._sock)
            data, given, _, _ = socket.recv_fds(self._sock, control.MAX_BYTES, control.MAX_FDS)
            if not data:
                raise WorkerGone("the worker has ended")
            try:
                _, answer = control.decode_message(data)
            except ValueError as error:
                _close_all(given)
                raise WorkerError(f"the worker's answer cannot be read: {error}") from None
            if answer.pop("number", None) == self._number:
                return answer, given
            _close_all(given)


def _ignore(link: WorkerLink) -> None:
    """Nobody is to be told."""


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


@contextlib.contextmanager
def closing_all(fds: Sequence[int]) -> Iterator[None]:
    try:
        yield
    finally:
        _close_all(fds)
