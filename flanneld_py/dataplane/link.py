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
from flanneld_py.errors import FlannelError

ANSWER_S = 10.0
"""A worker answers in milliseconds; one that was just started has to load its code first."""
LEAVE_S = 2.0


class WorkerError(FlannelError):
    """The worker refuses, or does not answer."""


class WorkerGone(WorkerError):
    """There is no worker, or it has ended."""


class WorkerLink:
    """One connection to a worker, and a hold on its process. Questions are asked one at a time.

    `on_end` is called when the process ends, however that comes about, unless the link was closed before.
    """

    def __init__(self, sock: socket.socket, on_end: Callable[["WorkerLink"], None]) -> None:
        self._sock = sock
        self._on_end = on_end
        self._lock = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._pidfd: int | None = None
        self._ended = asyncio.Event()

    @classmethod
    async def connect(cls, path: Path, on_end: Callable[["WorkerLink"], None]) -> "WorkerLink":
        """WorkerGone: nobody listens at `path`."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        link = cls(sock, on_end)
        try:
            try:
                sock.connect(str(path))
            except OSError as error:
                raise WorkerGone(f"no worker answers at {path}: {error.strerror}") from error
            hello = await link.ask("hello")
            try:
                link._hold(os.pidfd_open(int(hello["pid"])))
            except ProcessLookupError:
                raise WorkerGone("the worker has ended") from None
        except BaseException:
            link.close()
            raise
        return link

    def _hold(self, pidfd: int) -> None:
        self._pidfd = pidfd
        self._loop.add_reader(pidfd, self._end)

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
        self._sock.close()

    async def end(self, *, remove: bool) -> None:
        """Ensure that the process has ended; `remove`: its TUN device goes with it. Calls no `on_end`."""
        self._on_end = _ignore
        with contextlib.suppress(WorkerError):
            await self.ask("leave", remove=remove)
        if self._pidfd is not None:
            try:
                async with asyncio.timeout(LEAVE_S):
                    await self._ended.wait()
            except TimeoutError:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                await self._ended.wait()
        self.close()

    async def ask(self, word: str, fds: Sequence[int] = (), **fields: Any) -> dict[str, Any]:
        """The fields of the answer; descriptors in it are closed."""
        answer, given = await self.ask_for_fds(word, fds, **fields)
        for fd in given:
            os.close(fd)
        return answer

    async def ask_for_fds(self, word: str, fds: Sequence[int] = (), **fields: Any) -> tuple[dict[str, Any], list[int]]:
        """The answer, and the descriptors in it, which the caller closes. WorkerError, WorkerGone."""
        async with self._lock:
            try:
                socket.send_fds(self._sock, [control.encode_message(word, **fields)], list(fds))
                async with asyncio.timeout(ANSWER_S):
                    await _readable(self._sock)
                data, given, _, _ = socket.recv_fds(self._sock, control.MAX_BYTES, control.MAX_FDS)
            except TimeoutError:
                raise WorkerError(f"the worker does not answer {word!r} within {ANSWER_S:.0f} s") from None
            except OSError as error:
                raise WorkerGone(f"the worker has ended: {error.strerror}") from error
        if not data:
            raise WorkerGone("the worker has ended")
        _, answer = control.decode_message(data)
        if "error" in answer:
            for fd in given:
                os.close(fd)
            raise WorkerError(f"the worker refuses {word!r}: {answer['error']}")
        return answer, given


def _ignore(link: WorkerLink) -> None:
    """Nobody is to be told."""


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock.fileno(), lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(sock.fileno())


@contextlib.contextmanager
def closing_all(fds: Sequence[int]) -> Iterator[None]:
    try:
        yield
    finally:
        for fd in fds:
            os.close(fd)
