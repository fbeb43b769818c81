"""One NETLINK_NETFILTER socket: nf_tables transactions, and dumps. No library and no `nft` program is needed."""

import errno
import os
import socket
from collections.abc import Callable, Sequence

from flanneld_py.errors import KernelError
from flanneld_py.netfilter.nftcodec import (
    F_ACK,
    NETLINK_NETFILTER,
    ChainState,
    RuleState,
    ask_chains,
    ask_generation,
    ask_rules,
    ask_tables,
    batch,
    decode_chains,
    decode_generation,
    decode_rules,
    decode_tables,
)
from flanneld_py.netlink.netns import Netns
from flanneld_py.netlink.socket import NetlinkSocket
from flanneld_py.netlink.wire import NLMSG_ERROR, Message, Refusal, decode_refusal, messages

_ABSENT = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT})
"""How a kernel without nf_tables answers (net/netfilter/nfnetlink.c), or without netfilter at all."""
_DATAGRAM_BYTES = 1 << 18
Change = tuple[int, int, bytes]
"""Message type, flags and body."""
Ask = Callable[[int], bytes]


class NftSocket:
    """Raises KernelError where the kernel cannot be read. A kernel without nf_tables has no tables."""

    def __init__(self, *, netns: Netns = None) -> None:
        self._sock = NetlinkSocket(netns=netns, protocol=NETLINK_NETFILTER)

    def close(self) -> None:
        self._sock.close()

    def is_there(self) -> bool:
        """Whether the kernel has nf_tables."""
        try:
            self._sock.dump(ask_tables)
        except KernelError as err:
            if err.errno in _ABSENT:
                return False
            raise
        return True

    def tables(self) -> list[tuple[int, str]]:
        """Family and name of each."""
        return decode_tables(self._dump(ask_tables))

    def chains(self) -> list[ChainState]:
        return decode_chains(self._dump(ask_chains))

    def rules(self, family: int, table: str) -> list[RuleState]:
        """Of all chains of the table, in order; none if it is not there."""
        return decode_rules(self._dump(lambda seq: ask_rules(seq, family, table)))

    def generation(self) -> int | None:
        """A number that is another one after each transaction of anybody; None: there is no nf_tables."""
        (seq,) = self._sock.sequence(1)
        answer = self._sock.query([ask_generation(seq)], [seq]).get(seq)
        return decode_generation(answer) if isinstance(answer, Message) else None

    def commit(self, changes: Sequence[Change]) -> Refusal | None:
        """Do all of `changes`, or none; the first refusal, if there is one."""
        first, *_ = self._sock.sequence(len(changes) + 2)
        last = len(changes) - 1
        # One acknowledgement, of the last change, tells that the transaction went through.
        marked = [(kind, flags | (F_ACK if at == last else 0), body) for at, (kind, flags, body) in enumerate(changes)]
        raw = self._sock.raw
        raw.send(batch(marked, first))
        refused: list[Refusal] = []
        done = False
        while True:
            try:
                data, address = raw.recvfrom(_DATAGRAM_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError as err:
                return Refusal(err.errno or 0, "the answer was lost")
            for message in messages(data) if address[0] == 0 else ():
                if message.type != NLMSG_ERROR or not first <= message.seq <= first + len(changes) + 1:
                    continue
                refusal = decode_refusal(message)
                if refusal is not None:
                    refused.append(refusal)
                done = done or message.seq == first + len(changes)
        if refused or done:
            return refused[0] if refused else None
        return Refusal(errno.ENOBUFS, "the answer was lost")

    def _dump(self, ask: Ask) -> list[Message]:
        try:
            return self._sock.dump(ask)
        except KernelError as err:
            if err.errno in _ABSENT or err.errno == errno.ENOENT:
                return []
            hint = "run with CAP_NET_ADMIN in this network namespace" if err.errno == errno.EPERM else None
            why = os.strerror(err.errno)
            raise KernelError(f"cannot read the packet filter: {why}", hint=hint, errno=err.errno) from err
