"""Real traffic between pods: echo requests from every pod to every pod, a steady probe, streams for throughput.

Sockets are opened inside the pods' namespaces and used from outside. The time of arrival is the kernel's
(SO_TIMESTAMPNS, socket(7)), so that a busy interpreter does not count as a slow network.
"""

import select
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from random import SystemRandom
from struct import calcsize, pack, unpack

from flanneld_py.errors import LabError
from flanneld_py.lab.echo import decode_reply, encode_request
from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.topology import AddrOnLink, Topology
from flanneld_py.model.net import Addr

SO_TIMESTAMPNS = 35
"""include/uapi/asm-generic/socket.h (SO_TIMESTAMPNS_OLD); not in Python's socket module."""
_SOL_RAW, _ICMP_FILTER, _ICMP6_FILTER = 255, 1, 1
"""include/uapi/linux/icmp.h, icmpv6.h: which types the socket is not to see."""
_TIMESPEC = "@ll"
_PAYLOAD = "!IIQ"
"""Target, round or number, time of sending in nanoseconds."""
_PAYLOAD_SIZE = 56
"""So that a packet has the 84 bytes that ping's have."""
_BURST = 32
_RECEIVE_BUFFER = 4 << 20


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A pod as a place for traffic."""

    name: str
    namespace: str
    address: Addr


@dataclass(frozen=True, slots=True)
class PingResult:
    """`rtts_s`: of the replies, in order of sending."""

    sent: int
    rtts_s: tuple[float, ...]

    @property
    def lost(self) -> int:
        return self.sent - len(self.rtts_s)

    @property
    def best_s(self) -> float | None:
        return min(self.rtts_s, default=None)


Matrix = Mapping[tuple[str, str], PingResult]
"""By names of source and target."""


def endpoints(topology: Topology, pods: Mapping[str, Sequence[AddrOnLink]], version: int) -> tuple[Endpoint, ...]:
    """The pods that have an address of that family; `pods`: their addresses as the lab's record has them."""
    return tuple(
        Endpoint(pod.name, pod.namespace, address.ip)
        for pod in topology.pods
        for address in pods.get(pod.name, ())
        if address.version == version
    )


def ping_matrix(places: Sequence[Endpoint], *, count: int = 3, timeout_s: float = 1.0) -> Matrix:
    """Echo requests from each place to each other one, all at once, `count` times."""
    if not places:
        return {}
    version = places[0].address.version
    ident = SystemRandom().randrange(1, 0x10000)
    rtts: dict[tuple[str, str], dict[int, float]] = {
        (one.name, other.name): {} for one in places for other in places if one != other
    }
    with ExitStack() as stack:
        sockets = {place.name: stack.enter_context(_opened(place.namespace, version)) for place in places}
        poll = select.poll()
        sources = {}
        for name, sock in sockets.items():
            poll.register(sock, select.POLLIN)
            sources[sock.fileno()] = (name, sock)

        def receive(wait_ms: int) -> None:
            for fd, _ in poll.poll(wait_ms):
                source, sock = sources[fd]
                for target, turn, rtt_s in _replies(sock, version, ident):
                    if target < len(places) and (source, places[target].name) in rtts:
                        rtts[source, places[target].name][turn] = rtt_s

        for turn in range(count):
            for number, (source, target) in enumerate((a, b) for a in range(len(places)) for b in range(len(places))):
                if source != target:
                    _send(sockets[places[source].name], places[target].address, ident, target, turn)
                if number % _BURST == 0:
                    receive(0)
            deadline = time.monotonic() + timeout_s
            while any(turn not in got for got in rtts.values()) and (left := deadline - time.monotonic()) > 0:
                receive(int(left * 1000) + 1)
            receive(0)  # a busy interpreter may come too late for what is there
    return {pair: PingResult(count, tuple(got[turn] for turn in sorted(got))) for pair, got in rtts.items()}


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What became of numbered echo requests. `arrived`: numbers in order of arrival, repeats included.

    `unsent`: the kernel refused to send them (no route, say). `longest_gap_s`: between two arrivals.
    """

    sent: int
    arrived: tuple[int, ...]
    unsent: tuple[int, ...]
    rtts_s: Mapping[int, float]
    longest_gap_s: float

    @property
    def lost(self) -> tuple[int, ...]:
        return tuple(sorted(set(range(self.sent)) - set(self.arrived)))

    @property
    def duplicates(self) -> int:
        return len(self.arrived) - len(set(self.arrived))

    @property
    def reordered(self) -> int:
        """How many arrived after a later one."""
        highest, late = -1, 0
        for number in self.arrived:
            late += number < highest
            highest = max(highest, number)
        return late


class Probe:
    """Echo requests at a steady rate from one pod to an address, until it is stopped; a thread of its own."""

    def __init__(self, source: Endpoint, target: Addr, rate_hz: float = 200.0) -> None:
        self._source, self._target, self._period_s = source, target, 1 / rate_hz
        self._stop = threading.Event()
        self._arrived: list[tuple[int, float, float]] = []
        self._unsent: list[int] = []
        self._sent = 0
        self._linger_s = 0.0
        self._failure: BaseException | None = None
        self._progress = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"probe from {source.name}", daemon=True)

    def __enter__(self) -> "Probe":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for(self, arrivals: int, timeout_s: float) -> bool:
        """Whether that many more replies arrived within the time."""
        with self._progress:
            goal = len(self._arrived) + arrivals
            return self._progress.wait_for(lambda: len(self._arrived) >= goal or self._failure is not None, timeout_s)

    def stop(self, linger_s: float = 1.0) -> ProbeReport:
        """Stop sending, wait for what is still on its way, and say what became of all."""
        self._linger_s = linger_s
        self._stop.set()
        self._thread.join()
        if self._failure is not None:
            raise LabError(f"the probe from {self._source.name} to {self._target} failed: {self._failure}")
        times = [at for _, _, at in self._arrived]
        gaps = [after - before for before, after in pairwise(times)]
        return ProbeReport(
            sent=self._sent,
            arrived=tuple(number for number, _, _ in self._arrived),
            unsent=tuple(self._unsent),
            rtts_s={number: rtt for number, rtt, _ in self._arrived},
            longest_gap_s=max(gaps, default=0.0),
        )

    def _run(self) -> None:
        try:
            with _opened(self._source.namespace, self._target.version) as sock:
                self._loop(sock)
        except BaseException as err:
            with self._progress:
                self._failure = err
                self._progress.notify_all()

    def _loop(self, sock: socket.socket) -> None:
        ident = SystemRandom().randrange(1, 0x10000)
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        due = time.monotonic()
        while not self._stop.is_set():
            if (wait_s := due - time.monotonic()) <= 0:
                try:
                    _send(sock, self._target, ident, 0, self._sent)
                except OSError:
                    self._unsent.append(self._sent)
                self._sent += 1
                due += self._period_s
                continue
            if poll.poll(max(1, int(wait_s * 1000))):
                self._take(sock, ident)
        end = time.monotonic() + self._linger_s
        while len(self._arrived) + len(self._unsent) < self._sent and (wait_s := end - time.monotonic()) > 0:
            if poll.poll(int(wait_s * 1000) + 1):
                self._take(sock, ident)
        self._take(sock, ident)  # a busy interpreter may come too late for what is there

    def _take(self, sock: socket.socket, ident: int) -> None:
        replies = list(_replies(sock, self._target.version, ident))
        with self._progress:
            self._arrived += [(number, rtt_s, time.monotonic()) for _, number, rtt_s in replies]
            self._progress.notify_all()


@contextmanager
def _opened(namespace: str, version: int) -> Iterator[socket.socket]:
    """A raw ICMP socket in the namespace that sees echo replies only."""
    family, protocol = {
        4: (socket.AF_INET, socket.IPPROTO_ICMP),
        6: (socket.AF_INET6, socket.IPPROTO_ICMPV6),
    }[version]
    sock = inside(namespace, lambda: socket.socket(family, socket.SOCK_RAW, protocol))
    with sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        if version == 4:
            sock.setsockopt(_SOL_RAW, _ICMP_FILTER, pack("=I", ~(1 << 0) & 0xFFFFFFFF))
        else:
            words = [0xFFFFFFFF] * 8
            words[129 // 32] &= ~(1 << 129 % 32)
            sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, pack("=8I", *words))
        yield sock


def _send(sock: socket.socket, address: Addr, ident: int, target: int, number: int) -> None:
    """Send one request. A full queue is waited out; OSError: the kernel has no way to the address."""
    payload = pack(_PAYLOAD, target, number, time.time_ns()).ljust(_PAYLOAD_SIZE, b"\0")
    message = encode_request(address.version, ident, number & 0xFFFF, payload)
    try:
        sock.sendto(message, (str(address), 0))
    except BlockingIOError:
        select.select([], [sock], [], 1.0)
        sock.sendto(message, (str(address), 0))


def _replies(sock: socket.socket, version: int, ident: int) -> Iterator[tuple[int, int, float]]:
    """(target, number, round-trip time in seconds) of each reply that waits in the socket."""
    while True:
        try:
            data, ancillary, _, _ = sock.recvmsg(2048, socket.CMSG_SPACE(calcsize(_TIMESPEC)))
        except BlockingIOError:
            return
        arrival_ns = time.time_ns()
        for level, kind, value in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS) and len(value) == calcsize(_TIMESPEC):
                seconds, nanoseconds = unpack(_TIMESPEC, value)
                arrival_ns = seconds * 1_000_000_000 + nanoseconds
        reply = decode_reply(version, data)
        if reply is None or reply.ident != ident or len(reply.payload) < calcsize(_PAYLOAD):
            continue
        target, number, sent_ns = unpack(_PAYLOAD, reply.payload[: calcsize(_PAYLOAD)])
        yield target, number, max(0, arrival_ns - sent_ns) / 1e9
