"""What daemon and worker say to each other: one JSON object a message on a SOCK_SEQPACKET socket. Sans-I/O.

The daemon asks, the worker answers every question once, in order. `word` names the question:

    hello                        -> build, pid; the worker is ready to be asked
    adopt   base, lanes + a queue of the TUN device for each lane, a socket for each, strangers' socket, load, and the
                          baton of a release, if there is one
                                 -> ok: begins to carry packets; `base`: offloads, and counters to go on from
    load    + load               -> ok: another table
    state   keep                 -> build, worker: whether packets are carried; + load as it was given, if they are;
                                    `keep`: the asker is its daemon from now on, so a linger is over
    stats                        -> counters of both directions, what is active, what the kernel dropped
    release                      -> base, lanes; + queues, sockets, strangers' socket, baton: carries no packets now,
                                    all that was read is sent
    linger  seconds              -> ok: leave after that time, unless a daemon takes it over
    leave   remove               -> ok: end now; `remove`: the TUN device goes too

What follows `+` are descriptors (SCM_RIGHTS). A load is a memory file (memfd_create(2)), so its size has no limit. A
question has a number, and its answer repeats it: the answer that an asker did not wait for is not taken for the next.

The baton is the writing end of a pipe. Whoever adopts writes a byte, and the worker that released leaves; if all ends
are closed without one (the new worker failed, the daemon was killed), it goes on to carry. So there is always one that
carries, and never two.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv4Network
from struct import Struct
from typing import Any

from flanneld_py.dataplane import lpm, sockfilter
from flanneld_py.model.entry import UdpPeer, UdpWorker

VERSION = 3
MAX_BYTES = 16384
MAX_FDS = 64
"""A release is understood also from a worker that has more lanes than one of ours would."""

_LOAD = Struct("=4I")
_MAGIC = 0x4C554446
_VALIDATION = {"off": lpm.Validation.OFF, "loose": lpm.Validation.LOOSE, "strict": lpm.Validation.STRICT}


def encode_message(word: str, **fields: Any) -> bytes:
    return json.dumps({"v": VERSION, "word": word} | fields).encode()


def decode_message(data: bytes) -> tuple[str, dict[str, Any]]:
    """The word and the fields. ValueError: of another version, or no message at all."""
    fields = json.loads(data)
    if not isinstance(fields, dict) or fields.pop("v", None) != VERSION:
        raise ValueError(f"not a message of version {VERSION}")
    return str(fields.pop("word", "")), fields


@dataclass(frozen=True, slots=True)
class Load:
    """What a worker works with. `state` is what it was made from, kept for whoever asks the worker later."""

    state: bytes
    image: bytes
    filter: bytes

    def encode(self) -> bytes:
        head = _LOAD.pack(_MAGIC, len(self.state), len(self.image), len(self.filter))
        return head + self.state + self.image + self.filter

    @classmethod
    def decode(cls, data: bytes) -> "Load":
        """ValueError: the bytes are no load."""
        if len(data) < _LOAD.size:
            raise ValueError("the load is too short")
        magic, state, image, program = _LOAD.unpack_from(data)
        at = _LOAD.size
        if magic != _MAGIC or len(data) != at + state + image + program:
            raise ValueError("the load is of another format")
        return cls(data[at : at + state], data[at + state : at + state + image], data[at + state + image :])


def make_load(worker: UdpWorker, peers: Sequence[UdpPeer]) -> Load:
    """The load for these entries. ValueError: two of them lease one subnet."""
    by_place: dict[tuple[IPv4Address, int, int, tuple[IPv4Address, ...]], list[IPv4Network]] = {}
    for peer in peers:
        by_place.setdefault((peer.address, peer.port, peer.mtu, peer.sources), []).append(peer.subnet)
    table = [
        lpm.Peer(address, port, mtu, tuple(subnets), sources)
        for (address, port, mtu, sources), subnets in by_place.items()
    ]
    validation = _VALIDATION[worker.validation]
    image = lpm.encode_table(table, local=[worker.own], own=worker.own.network_address, validation=validation)
    program = b""
    if validation is lpm.Validation.STRICT:
        program = sockfilter.source_filter({a for peer in table for a in (peer.address, *peer.sources)})
    return Load(_encode_state(worker, peers), image, program)


def _encode_state(worker: UdpWorker, peers: Sequence[UdpPeer]) -> bytes:
    fields = asdict(worker) | {"local": str(worker.local), "own": str(worker.own), "offload": sorted(worker.offload)}
    rows = [
        (str(peer.subnet), str(peer.address), peer.port, peer.mtu, [str(source) for source in peer.sources])
        for peer in peers
    ]
    return json.dumps({"worker": fields, "peers": rows}).encode()


def decode_state(state: bytes) -> tuple[UdpWorker, tuple[UdpPeer, ...]]:
    """The entries that a load was made from. ValueError: they were made by another version."""
    with _of_our_version():
        raw = json.loads(state)
        worker = _worker(raw)
        return worker, tuple(
            UdpPeer(worker.dev, IPv4Network(subnet), IPv4Address(address), port, mtu, tuple(map(IPv4Address, sources)))
            for subnet, address, port, mtu, sources in raw["peers"]
        )


def decode_worker(state: bytes) -> UdpWorker:
    """As `decode_state`, without the peers, of which there may be thousands."""
    with _of_our_version():
        return _worker(json.loads(state))


@contextmanager
def _of_our_version() -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError) as error:
        raise ValueError(f"the worker's state is of another version: {error}") from None


def _worker(raw: dict[str, Any]) -> UdpWorker:
    fields = raw["worker"]
    return UdpWorker(
        **fields
        | {
            "local": IPv4Address(fields["local"]),
            "own": IPv4Network(fields["own"]),
            "offload": frozenset(fields["offload"]),
        }
    )
