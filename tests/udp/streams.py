"""Traffic whose content is checked while it runs: whoever loses, repeats or changes a byte of it is found out."""

import random
import socket
import struct
import threading
from contextlib import closing

from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.traffic import Endpoint

BLOCK = random.Random(1).randbytes(1_000_003)
"""What is sent, over and over; its length is no multiple of a segment's."""
PIECE = 64 << 10
TCP_INFO_RETRANS = 100
"""include/uapi/linux/tcp.h: where tcpi_total_retrans is in struct tcp_info."""


def tcp_socket(namespace: str) -> socket.socket:
    return inside(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))


class CheckedStream:
    """One TCP stream from pod to pod, as fast as it goes, until it is stopped. Every byte is compared on arrival."""

    def __init__(self, source: Endpoint, target: Endpoint) -> None:
        self._progress = threading.Condition()
        self._verified = 0
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        with closing(tcp_socket(target.namespace)) as listener:
            listener.bind((str(target.address), 0))
            listener.listen(1)
            listener.settimeout(60)
            self._sender = tcp_socket(source.namespace)
            self._sender.settimeout(60)
            self._sender.connect((str(target.address), listener.getsockname()[1]))
            self._receiver, _ = listener.accept()
        self._receiver.settimeout(60)
        self._threads = [threading.Thread(target=body, daemon=True) for body in (self._send, self._receive)]

    def __enter__(self) -> "CheckedStream":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._sender.close()
        self._receiver.close()

    def wait_for(self, size: int, timeout_s: float = 60.0) -> None:
        """Ensure that so many more bytes arrive, and are the right ones."""
        with self._progress:
            goal = self._verified + size
            self._progress.wait_for(lambda: self._verified >= goal or self._failure is not None, timeout_s)
            assert self._failure is None, f"the stream broke: {self._failure!r}"
            missing = goal - self._verified
        assert missing <= 0, f"{missing} of {size} bytes did not arrive within {timeout_s} s"

    def finish(self) -> int:
        """Ensure that all that was sent arrived unchanged; the number of segments that TCP had to send again."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert self._failure is None, f"the stream broke: {self._failure!r}"
        assert self._verified > 0
        info = self._sender.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_RETRANS + 4)
        return int(struct.unpack_from("=I", info, TCP_INFO_RETRANS)[0])

    def _send(self) -> None:
        offset = 0
        try:
            while not self._stop.is_set():
                piece = BLOCK[offset : offset + PIECE]
                self._sender.sendall(piece)
                offset = (offset + len(piece)) % len(BLOCK)
            self._sender.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._fail(error)

    def _receive(self) -> None:
        buffer, offset = bytearray(1 << 20), 0
        view = memoryview(buffer)
        try:
            while size := self._receiver.recv_into(buffer, min(len(buffer), len(BLOCK) - offset)):
                if view[:size] != BLOCK[offset : offset + size]:
                    raise ValueError(f"other bytes arrived than were sent, after {self._verified}")
                offset = (offset + size) % len(BLOCK)
                with self._progress:
                    self._verified += size
                    self._progress.notify_all()
        except (OSError, ValueError) as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._progress:
            self._failure = self._failure or error
            self._progress.notify_all()
