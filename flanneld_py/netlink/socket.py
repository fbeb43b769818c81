"""One netlink socket: batches of requests with every answer matched to its request, and dumps.

rtnetlink carries requests out inside sendmsg, in their order, so all answers lie in the receive queue when sendmsg
returns. A request that fails is always answered, with its sequence number, whether or not it asked for an
acknowledgement; one that succeeds is silent unless it did. A batch therefore ends with one NLMSG_NOOP that asks for
its acknowledgement (net/netlink/af_netlink.c netlink_rcv_skb answers it last): when it is there, whatever request was
not answered has succeeded. A thousand requests cost a few system calls instead of a thousand.

If the receive queue overflows, the kernel says so (ENOBUFS) and drops answers: then the batch is sent again in halves,
which is why every request must bear being sent twice.
"""

import os
import socket
from collections.abc import Callable, Iterable, Sequence
from errno import EAGAIN, EINTR, ENOBUFS
from mmap import mmap
from types import TracebackType
from typing import Self

from flanneld_py.errors import KernelError
from flanneld_py.netlink.netns import Netns, in_netns
from flanneld_py.netlink.wire import (
    NETLINK_ADD_MEMBERSHIP,
    NETLINK_CAP_ACK,
    NETLINK_EXT_ACK,
    NETLINK_GET_STRICT_CHK,
    NLM_F_ACK,
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSG_NOOP,
    SOL_NETLINK,
    Message,
    Refusal,
    decode_dump_end,
    decode_refusal,
    encode_message,
    messages,
)

BATCH = 256
"""Requests a sendmsg: more gain nothing, and the loop must breathe between batches."""
_SO_RCVBUFFORCE = 33
_RECEIVE_BYTES = 1 << 20
_ANSWER_BYTES = 1280
"""Receive buffer that one refusal takes: sk_buff and its data (kernel truesize, measured 768) with room."""
_DATAGRAM_BYTES = 1 << 18
"""More than the kernel puts into one datagram of a dump (32 KiB, or one message if that is larger)."""
_DUMP_TRIES = 8
_SEQUENCE_MASK = 0xFFFFFFFF
OPTIONS = (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK)


class NetlinkSocket:
    """Not for use by several threads. `groups`: RTNLGRP_* to listen to. Raises KernelError if it cannot be opened."""

    def __init__(
        self,
        *,
        netns: Netns = None,
        groups: Iterable[int] = (),
        receive_bytes: int = _RECEIVE_BYTES,
        protocol: int = socket.NETLINK_ROUTE,
        given: socket.socket | None = None,
    ) -> None:
        """`given`: an open netlink socket of whatever namespace, which is ours from here on."""
        self._socket = given or in_netns(netns, lambda: open_socket(groups, receive_bytes, protocol=protocol))
        # Mapped, since a bytearray is filled with zeros: this takes no memory before something was received into it.
        self._buffer = memoryview(mmap(-1, _DATAGRAM_BYTES))
        self._next = 1
        room = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.batch = max(1, min(BATCH, room // _ANSWER_BYTES))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def raw(self) -> socket.socket:
        """The socket itself, for requests that are not answered one by one."""
        return self._socket

    def close(self) -> None:
        self._socket.close()

    def sequence(self, count: int) -> range:
        """`count` sequence numbers that no other request on this socket has in flight; never 0, the notices' own."""
        if self._next + count > _SEQUENCE_MASK:
            self._next = 1
        first = self._next
        self._next += count
        return range(first, self._next)

    def execute(self, requests: Sequence[bytes], seqs: Sequence[int]) -> dict[int, Refusal]:
        """Carries out `requests`, whose sequence numbers are `seqs`; the refused ones, by sequence number."""
        refused: dict[int, Refusal] = {}

        def answer(message: Message) -> None:
            if message.type == NLMSG_ERROR and (refusal := decode_refusal(message)) is not None:
                refused[message.seq] = refusal

        self._exchange(requests, seqs, answer, self.batch)
        return refused

    def query(self, requests: Sequence[bytes], seqs: Sequence[int]) -> dict[int, Message | Refusal]:
        """The one message, or the refusal, that each request is answered with. Not for dumps."""
        answers: dict[int, Message | Refusal] = {}

        def answer(message: Message) -> None:
            refusal = decode_refusal(message) if message.type == NLMSG_ERROR else message
            if refusal is not None:
                answers[message.seq] = refusal

        self._exchange(requests, seqs, answer, max(1, self.batch // 8))  # an answer takes a page or two
        return answers

    def dump(self, encode: Callable[[int], bytes]) -> list[Message]:
        """All messages of the dump that `encode(seq)` asks for.

        A dump during which the tables changed may miss an object, and is taken again; on a table that never rests the
        last one counts, since whoever compares looks again anyway. KernelError if the kernel refuses.
        """
        found: list[Message] = []
        for _ in range(_DUMP_TRIES):
            (seq,) = self.sequence(1)
            self._socket.send(encode(seq))
            found, complete = self._read_dump(seq)
            if complete:
                break
        return found

    def _read_dump(self, seq: int) -> tuple[list[Message], bool]:
        found: list[Message] = []
        complete = True
        while True:
            try:
                data = self._receive()
            except OSError as err:
                if err.errno != ENOBUFS:  # says that a notice was lost, which no dump is
                    raise KernelError(f"cannot read from netlink: {err.strerror}", errno=err.errno or 0) from err
                complete = False
                continue
            for message in messages(data):
                if message.seq != seq:
                    continue
                complete = complete and not message.flags & NLM_F_DUMP_INTR
                if message.type == NLMSG_DONE:
                    code = decode_dump_end(message)
                    if code not in {0, EINTR, EAGAIN}:
                        raise KernelError(f"the kernel broke off a dump: {os.strerror(code)}", errno=code)
                    return found, complete and code == 0
                if message.type == NLMSG_ERROR:
                    refusal = decode_refusal(message) or Refusal(0)
                    why = refusal.text or os.strerror(refusal.errno)
                    raise KernelError(f"the kernel refuses a dump: {why}", errno=refusal.errno)
                found.append(message)

    def _exchange(
        self, requests: Sequence[bytes], seqs: Sequence[int], answer: Callable[[Message], None], size: int
    ) -> None:
        for start in range(0, len(requests), size):
            self._transact(requests[start : start + size], seqs[start : start + size], answer)

    def _transact(self, requests: Sequence[bytes], seqs: Sequence[int], answer: Callable[[Message], None]) -> None:
        (barrier,) = self.sequence(1)
        self._socket.send(b"".join((*requests, encode_message(NLMSG_NOOP, NLM_F_ACK, barrier, b""))))
        ours, answered = set(seqs), set[int]()

        def noted(message: Message) -> None:
            answered.add(message.seq)
            answer(message)

        if self._drain(barrier, ours, noted):
            return
        if len(requests) == 1:
            if answered:  # nfnetlink reads no further than a request that needs CAP_NET_ADMIN and lacks it
                return
            raise KernelError("the kernel lost the answer to a netlink request", errno=ENOBUFS)
        half = len(requests) // 2
        self._transact(requests[:half], seqs[:half], answer)
        self._transact(requests[half:], seqs[half:], answer)

    def _drain(self, barrier: int, ours: set[int], answer: Callable[[Message], None]) -> bool:
        """Reads answers up to the barrier; whether none was lost."""
        lost = False
        while True:
            try:
                data = self._receive(socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            except OSError as err:
                if err.errno != ENOBUFS:
                    raise KernelError(f"cannot read from netlink: {err.strerror}", errno=err.errno or 0) from err
                lost = True
                continue
            for message in messages(data):
                if message.seq == barrier:
                    return not lost
                if message.seq in ours:
                    answer(message)

    def _receive(self, flags: int = 0) -> bytes:
        count, _, marks, address = self._socket.recvmsg_into([self._buffer], 0, flags)
        if address[0] != 0:  # only the kernel has port 0; any process may send to ours
            return b""
        if marks & socket.MSG_TRUNC:
            raise OSError(ENOBUFS, "netlink datagram larger than the buffer")
        return bytes(self._buffer[:count])


def open_socket(
    groups: Iterable[int],
    receive_bytes: int,
    options: Iterable[int] = OPTIONS,
    *,
    protocol: int = socket.NETLINK_ROUTE,
) -> socket.socket:
    """A bound socket in the caller's network namespace, with those of `options` that the kernel knows."""
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    except OSError as err:
        raise KernelError(f"cannot open a netlink socket: {err.strerror}", errno=err.errno or 0) from err
    try:
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_bytes)
        except PermissionError:  # no CAP_NET_ADMIN: net.core.rmem_max bounds it, and batches become smaller
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        for option in options:
            _set_if_known(sock, option)
        sock.bind((0, 0))
        for group in groups:
            sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
    except OSError as err:
        sock.close()
        raise KernelError(f"cannot set up a netlink socket: {err.strerror}", errno=err.errno or 0) from err
    return sock


def _set_if_known(sock: socket.socket, option: int) -> None:
    """Kernels before 4.12 and 4.20 lack extended acknowledgements and strict checking: less text, larger dumps."""
    try:
        sock.setsockopt(SOL_NETLINK, option, 1)
    except OSError:
        return
