"""One NETLINK_NETFILTER socket: nf_tables transactions, and dumps. No library and no `nft` program is needed."""

import errno
import os
import socket
from collections.abc import Callable, Sequence

from flanneld_py.errors import KernelError
from flanneld_py.netfilter.nftcodec import (
    F_ACK,
    NETLINK_NETFILTER,
    NEWCHAIN,
    ChainState,
    RuleState,
    ask_chain,
    ask_chains,
    ask_generation,
    ask_rules,
    ask_table,
    ask_tables,
    batch,
    decode_chain,
    decode_generation,
    decode_rules,
    decode_uses,
)
from flanneld_py.netlink.netns import Netns
from flanneld_py.netlink.socket import NetlinkSocket
from flanneld_py.netlink.wire import NLMSG_ERROR, Message, Refusal, decode_refusal, messages

_ABSENT = frozenset({errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT})
"""How a kernel without nf_tables answers (net/netfilter/nfnetlink.c), or without netfilter, or without that chain."""
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

    def uses(self, family: int, table: str) -> int | None:
        """How many chains, sets and other things are in the table; None: there is no such table."""
        found = self._query(lambda seq: ask_table(seq, family, table))
        return None if found is None else decode_uses(found)

    def chain(self, family: int, table: str, name: str) -> ChainState | None:
        found = self._query(lambda seq: ask_chain(seq, family, table, name))
        return None if found is None else decode_chain(found)

    def base_chains(self) -> list[ChainState]:
        """Those that the kernel calls, of all tables."""
        chains = (decode_chain(one) for one in self._dump(ask_chains) if one.type == NEWCHAIN)
        return [one for one in chains if one.hook is not None]

    def rules(self, family: int, table: str, chain: str) -> list[RuleState]:
        """In order; none if the chain is not there."""
        return decode_rules(self._dump(lambda seq: ask_rules(seq, family, table, chain)))

    def generation(self) -> int | None:
        """A number that is another one after each transaction of anybody; None: there is no nf_tables."""
        found = self._query(ask_generation)
        return None if found is None else decode_generation(found)

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

    def _query(self, ask: Ask) -> Message | None:
        """None: what is asked for is not there."""
        (seq,) = self._sock.sequence(1)
        answer = self._sock.query([ask(seq)], [seq]).get(seq)
        if isinstance(answer, Refusal) and answer.errno not in _ABSENT:
            raise _unreadable(answer.errno)
        return answer if isinstance(answer, Message) else None

    def _dump(self, ask: Ask) -> list[Message]:
        try:
            return self._sock.dump(ask)
        except KernelError as err:
            if err.errno in _ABSENT:
                return []
            raise _unreadable(err.errno) from err


def _unreadable(code: int) -> KernelError:
    hint = "run with CAP_NET_ADMIN in this network namespace" if code == errno.EPERM else None
    return KernelError(f"cannot read the packet filter: {os.strerror(code)}", hint=hint, errno=code)
