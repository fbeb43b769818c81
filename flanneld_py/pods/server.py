"""The socket on which the CNI plugin's launcher asks, and the threads that answer.

Threads, not the daemon's event loop: every step is a short blocking call of the kernel, and neither side should wait
for the other. Each has a netlink socket of its own in the node's namespace, opened where `serve` is called.
"""

import contextlib
import logging
import os
import socket
import threading
import time
from array import array
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from struct import Struct

from flanneld_py.errors import FlannelError
from flanneld_py.netlink.socket import OPTIONS, NetlinkSocket
from flanneld_py.netlink.wire import SOL_NETLINK
from flanneld_py.pods.attach import Handles, Pods, Task, Unfinished, error_document
from flanneld_py.pods.exchange import (
    BEGIN,
    DECLINED,
    ERROR,
    MAX_BYTES,
    RESULT,
    SOCKET,
    NotForUs,
    parse_question,
)

log = logging.getLogger(__name__)

THREADS = 16
"""Making queues for the kernel's one lock on network configuration, but removing mostly waits for its readers."""
PATIENCE_S = 5.0
CLOSING_S = 1.0
"""An order to stop ends the daemon within two seconds. What is cut off then is the launcher's to undo."""
_BACKLOG = 128
_UCRED = Struct("=iII")
"""struct ucred: pid, uid, gid (unix(7))."""
_DESCRIPTORS = (5, 6)


class PodServer:
    """Answers from `start` until `close`. `subnet_file`: the daemon's own; the socket stands beside it."""

    def __init__(self, subnet_file: Path) -> None:
        self._path = subnet_file.parent / SOCKET
        self._pods = Pods(subnet_file, SOCKET)
        self._socket: socket.socket | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """FlannelError: a socket cannot be made. The threads live on in the caller's network namespace."""
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(NetlinkSocket()) for _ in range(THREADS)]
            self._socket = _listen(self._path)
            stack.pop_all()
        for number, sock in enumerate(socks):
            target = partial(self._run, self._socket, sock)
            self._threads.append(threading.Thread(target=target, name=f"pods-{number}", daemon=True))
            self._threads[-1].start()

    def remove_socket(self) -> None:
        """Nobody is tempted to ask: that of a daemon before is gone."""
        with contextlib.suppress(OSError):
            self._path.unlink()

    def close(self) -> None:
        """No question is taken any more; one that has begun is answered first, if that does not take too long."""
        if self._socket is None:
            return
        self.remove_socket()
        # What waits in accept() hears of this; it would not hear of a close.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        end = time.monotonic() + CLOSING_S
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._socket.close()
        self._socket = None

    def _run(self, listener: socket.socket, sock: NetlinkSocket) -> None:
        with sock:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                try:
                    with connection:
                        self._serve(connection, sock)
                except Exception:
                    log.exception("a question of the CNI plugin was not answered")

    def _serve(self, connection: socket.socket, sock: NetlinkSocket) -> None:
        connection.settimeout(PATIENCE_S)
        uid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1]
        if uid not in (0, os.geteuid()):
            log.warning("a question of the CNI plugin by user %d is refused", uid)
            return
        try:
            with _received(connection) as (data, handles):
                question = parse_question(data)
                task = self._pods.prepare(question, handles, sock)
                what = f"{question.command} {question.ifname} of container {question.container}"
                try:
                    _carry_out(task, connection, sock, what)
                finally:
                    task.close()
        except NotForUs as reason:
            log.debug("left to the CNI plugin: %s", reason)
            _say(connection, DECLINED + str(reason).encode(errors="replace")[:1000])


def _carry_out(task: Task, connection: socket.socket, sock: NetlinkSocket, what: str) -> None:
    if not _say(connection, BEGIN):
        return
    try:
        answer = RESULT + task.run(sock)
    except Unfinished as error:
        log.error("%s: %s", what, error)
        answer = ERROR + error_document(error)
    if _say(connection, answer):
        log.debug("%s: done", what)
        return
    log.warning("%s: nobody waits for the answer any more, so it is undone", what)
    try:
        task.undo(sock)
    except Unfinished as error:
        log.error("%s: %s", what, error)


def _say(connection: socket.socket, message: bytes) -> bool:
    """Whether the launcher can hear it."""
    try:
        connection.send(message, socket.MSG_NOSIGNAL)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _received(connection: socket.socket) -> Iterator[tuple[bytes, Handles]]:
    """A question and its descriptors, closed afterwards. NotForUs: it is not whole."""
    sizes = socket.CMSG_SPACE(max(_DESCRIPTORS) * array("i").itemsize)
    try:
        data, control, marks, _ = connection.recvmsg(MAX_BYTES, sizes, socket.MSG_CMSG_CLOEXEC)
    except OSError as error:
        raise NotForUs(f"there is no question: {error}") from None
    fds = array("i")
    for level, kind, content in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    try:
        if marks & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(fds) not in _DESCRIPTORS:
            raise NotForUs("the question is not whole")
        inner = socket.socket(fileno=os.dup(fds[0]))
        with inner:
            if inner.family != socket.AF_NETLINK:
                raise NotForUs("the first descriptor is no netlink socket")
            for option in OPTIONS:
                with contextlib.suppress(OSError):
                    inner.setsockopt(SOL_NETLINK, option, 1)
            conf6 = fds[5] if len(fds) == max(_DESCRIPTORS) else -1
            yield data, Handles(NetlinkSocket(given=inner), fds[1], fds[2], fds[3], fds[4], conf6)
    finally:
        for fd in fds:
            os.close(fd)


def _listen(path: Path) -> socket.socket:
    """Open to the owner alone. The directory is locked by this daemon, so that a socket there is a dead one's."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    folder = -1
    mask = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        # By the directory's descriptor, since an address has room for 107 bytes only.
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        sock.bind(f"/proc/self/fd/{folder}/{path.name}")
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise FlannelError(
            f"cannot make the socket {path}: {error.strerror or error}", hint="give another --subnet-file"
        ) from error
    finally:
        os.umask(mask)
        if folder >= 0:
            os.close(folder)
    return sock
