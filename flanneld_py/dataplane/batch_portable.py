"""The two pumps in Python: what `_encap.c`, `_outbox.c` and `_decap.c` do, without recvmmsg and sendmmsg. I/O.

`pump.py` says what they promise. They are slower than the native ones by an order of magnitude, and lose nothing else.
"""

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address
from select import POLLIN, POLLOUT, poll
from struct import Struct

from flanneld_py.dataplane.lpm import Table
from flanneld_py.dataplane.pump_portable import (
    BATCH,
    GSO_TCPV4,
    NO_VNET,
    VNET,
    Train,
    frame,
    inbound,
    merge_trains,
    outbound,
)
from flanneld_py.dataplane.wire import PACKET_MAX, Bucket, Drop, IcmpKind, icmp

UDP_SEGMENT, UDP_GRO = 103, 104
"""include/uapi/linux/udp.h; `socket` does not name them."""
SOL_UDP = 17

_BATCH_BYTES = 128 * 1024
_BATCH_PACKETS = 64
_TRAIN_PACKETS = 64
_TRAIN_BYTES = 65507
_U16 = Struct("=H")
_INT = Struct("=i")
_DEVICE_GONE = {errno.EBADF, errno.EBADFD, errno.ENODEV}
_TELLS = {
    Drop.TTL_EXPIRED: IcmpKind.TIME_EXCEEDED,
    Drop.TOO_BIG: IcmpKind.FRAGMENTATION_NEEDED,
    Drop.NO_ROUTE: IcmpKind.NET_UNREACHABLE,
}

Destination = tuple[str, int]


class Status(IntEnum):
    """What `run` returns; the values are those of `enum io_status`."""

    DRAINED = 0
    MORE = 1
    BLOCKED = 2


@dataclass(slots=True)
class _Counters:
    packets: int = 0
    bytes: int = 0
    trains: int = 0
    train_packets: int = 0
    reads: int = 0
    writes: int = 0
    icmp_sent: int = 0
    icmp_limited: int = 0
    blocked: int = 0
    replayed: int = 0
    kernel_errors: int = 0
    last_error: int = 0
    drops: list[int] = field(default_factory=lambda: [0] * len(Drop))

    def moved(self, packets: int, size: int) -> None:
        self.packets += packets
        self.bytes += size
        if packets > 1:
            self.trains += 1
            self.train_packets += packets

    def error(self, code: int) -> None:
        self.kernel_errors += 1
        self.last_error = code

    def snapshot(self) -> dict[str, int | tuple[int, ...]]:
        return {**asdict(self), "drops": tuple(self.drops)}


def await_work(out: Status, into: Status, tun_fd: int, sock_fd: int, wake_fd: int) -> bool:
    """Wait for what the directions ask for; whether to go on, False once `wake_fd` is readable."""
    waiter = poll()
    waiter.register(wake_fd, POLLIN)
    if out is not Status.BLOCKED:
        waiter.register(tun_fd, POLLIN)
    waiter.register(sock_fd, POLLIN | POLLOUT if out is Status.BLOCKED else POLLIN)
    return all(fd != wake_fd for fd, _ in waiter.poll(0 if Status.MORE in {out, into} else None))


@contextmanager
def _borrowed(fd: int) -> Iterator[socket.socket]:
    """The descriptor as a socket object that does not close it."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, fileno=fd)
    try:
        yield sock
    finally:
        sock.detach()


@dataclass(slots=True)
class _Message:
    """One datagram, or a train of equal ones of which the last may be shorter."""

    to: Destination
    datagrams: list[bytes]
    open: bool
    size: int
    bytes: int
    refused: bool = False
    retried: bool = False


class Encap:
    """TUN device to UDP socket."""

    def __init__(self, table: Table, *, gso: bool = True) -> None:
        self.table = table
        self.gso = gso
        self._queue: list[_Message] = []
        self._counters = _Counters()
        self._bucket = Bucket()

    @property
    def pending(self) -> bool:
        return bool(self._queue)

    def counters(self) -> dict[str, int | tuple[int, ...]]:
        return self._counters.snapshot()

    def run(self, tun_fd: int, sock_fd: int, batches: int = 8) -> Status:
        with _borrowed(sock_fd) as sock:
            status = Status.MORE if self._flush(sock) else Status.BLOCKED
            for _ in range(batches):
                if status is not Status.MORE:
                    break
                drained = self._read_batch(tun_fd)
                if not self._flush(sock):
                    return Status.BLOCKED
                status = Status.DRAINED if drained else Status.MORE
        return status

    def serve(self, decap: "Decap", tun_fd: int, sock_fd: int, wake_fd: int) -> None:
        going = True
        while going:
            into, out = decap.run(tun_fd, sock_fd), self.run(tun_fd, sock_fd)
            going = await_work(out, into, tun_fd, sock_fd, wake_fd)

    def _read_batch(self, tun_fd: int) -> bool:
        """Whether there is nothing more to read."""
        table = self.table
        size = 0
        for _ in range(_BATCH_PACKETS):
            try:
                data = os.read(tun_fd, VNET.size + PACKET_MAX)
            except BlockingIOError:
                return True
            self._counters.reads += 1
            drop, peer, datagrams = outbound(table, data)
            if drop:
                self._refuse(table, Drop(drop), peer, tun_fd, data[VNET.size :])
                continue
            address, port, mtu = table.peer(peer)
            for datagram in datagrams:
                self._add((str(IPv4Address(address)), port), datagram, trains=self.gso and len(datagrams[0]) <= mtu)
            size += len(data)
            if size >= _BATCH_BYTES:
                break
        return False

    def _add(self, to: Destination, datagram: bytes, *, trains: bool) -> None:
        size = len(datagram)
        newest = next((message for message in reversed(self._queue) if message.to == to), None)
        if trains and newest and newest.open and size <= newest.size and newest.bytes + size <= _TRAIN_BYTES:
            newest.datagrams.append(datagram)
            newest.bytes += size
            newest.open = size == newest.size and len(newest.datagrams) < _TRAIN_PACKETS
        else:
            self._queue.append(_Message(to, [datagram], trains, size, size))

    def _flush(self, sock: socket.socket) -> bool:
        """Whether all is sent; else the socket is full."""
        while self._queue:
            message = self._queue[0]
            if len(message.datagrams) > 1 and not message.refused:
                sent = self._send_train(sock, message)
            else:
                sent = self._send_singly(sock, message)
            if not sent:
                self._counters.blocked += 1
                return False
            if not message.datagrams:
                self._queue.pop(0)
        return True

    def _send_train(self, sock: socket.socket, message: _Message) -> bool:
        control = [(SOL_UDP, UDP_SEGMENT, _U16.pack(message.size))]
        try:
            sock.sendmsg(message.datagrams, control, socket.MSG_DONTWAIT, message.to)
        except BlockingIOError:
            return False
        except OSError as err:
            self._train_failed(message, err.errno or 0)
            return True
        self._counters.writes += 1
        self._counters.moved(len(message.datagrams), message.bytes)
        message.datagrams.clear()
        return True

    def _train_failed(self, message: _Message, code: int) -> None:
        self._counters.error(code)
        if code in {errno.EIO, errno.EINVAL, errno.EMSGSIZE}:  # udp(7): no checksum offload, or above the MTU
            self._counters.replayed += 1
            message.refused = True
            message.open = False
            self.gso = self.gso and code == errno.EMSGSIZE
        elif message.retried:
            self._counters.drops[Drop.SEND_FAILED] += len(message.datagrams)
            message.datagrams.clear()
        message.retried = True

    def _send_singly(self, sock: socket.socket, message: _Message) -> bool:
        while message.datagrams:
            datagram = message.datagrams[0]
            try:
                sock.sendmsg([datagram], [], socket.MSG_DONTWAIT, message.to)
            except BlockingIOError:
                return False
            except OSError as err:
                self._counters.error(err.errno or 0)
                message.open = False
                if not message.retried and err.errno != errno.EMSGSIZE:  # perhaps the echo of an earlier one (ICMP)
                    message.retried = True
                    continue
                self._counters.drops[Drop.TOO_BIG if err.errno == errno.EMSGSIZE else Drop.SEND_FAILED] += 1
            else:
                self._counters.writes += 1
                self._counters.moved(1, len(datagram))
            message.datagrams.pop(0)
        return True

    def _refuse(self, table: Table, drop: Drop, peer: int, tun_fd: int, packet: bytes) -> None:
        self._counters.drops[drop] += 1
        if drop not in _TELLS:
            return
        mtu = table.peer(peer)[2] if drop is Drop.TOO_BIG else 0
        error = icmp(_TELLS[drop], mtu, table.own, packet)
        if not error:
            return
        if not self._bucket.take(time.monotonic_ns()):
            self._counters.icmp_limited += 1
            return
        try:
            os.write(tun_fd, NO_VNET + error)
        except OSError as err:
            self._counters.error(err.errno or 0)
        else:
            self._counters.icmp_sent += 1


class Decap:
    """UDP socket to TUN device."""

    def __init__(self, table: Table, *, tcp: bool = True, udp: bool = True) -> None:
        self.table = table
        self.tcp = tcp
        self.udp = udp
        self._counters = _Counters()
        self._bucket = Bucket()

    def counters(self) -> dict[str, int | tuple[int, ...]]:
        return self._counters.snapshot()

    def run(self, tun_fd: int, sock_fd: int, batches: int = 8) -> Status:
        status = Status.MORE
        with _borrowed(sock_fd) as sock:
            for _ in range(batches):
                if status is not Status.MORE:
                    break
                packets, drained = self._receive_batch(sock)
                for start in range(0, len(packets), BATCH):
                    for train in merge_trains(packets[start : start + BATCH], tcp=self.tcp, udp=self.udp):
                        self._write(tun_fd, train)
                status = Status.DRAINED if drained else Status.MORE
        return status

    def _receive_batch(self, sock: socket.socket) -> tuple[list[bytes], bool]:
        """(packets that count, whether there is nothing more to read)."""
        table, packets, size = self.table, list[bytes](), 0
        for _ in range(_BATCH_PACKETS):
            try:
                data, control, flags, sender = sock.recvmsg(
                    PACKET_MAX, socket.CMSG_SPACE(_INT.size), socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                return packets, True
            except OSError as err:
                if err.errno in {errno.EBADF, errno.ENOTSOCK}:
                    raise
                self._counters.error(err.errno or 0)  # the echo of a datagram that we sent (ICMP)
                continue
            self._counters.reads += 1
            if flags & socket.MSG_TRUNC:
                self._counters.drops[Drop.OVERSIZE] += 1
                continue
            sizes = [_INT.unpack(value)[0] for level, kind, value in control if (level, kind) == (SOL_UDP, UDP_GRO)]
            step = sizes[0] if sizes and sizes[0] > 0 else max(len(data), 1)
            outer = int(IPv4Address(sender[0]))
            for at in range(0, len(data) or 1, step):
                datagram = data[at : at + step]
                drop, packet = inbound(table, outer, datagram)
                if drop:
                    self._refuse(table, Drop(drop), sock, sender, datagram)
                else:
                    packets.append(packet)
            size += len(data)
            if size >= _BATCH_BYTES:
                break
        return packets, False

    def _refuse(self, table: Table, drop: Drop, sock: socket.socket, sender: Destination, packet: bytes) -> None:
        """A packet whose TTL ends here is answered by the way that it came."""
        self._counters.drops[drop] += 1
        error = icmp(IcmpKind.TIME_EXCEEDED, 0, table.own, packet) if drop is Drop.TTL_EXPIRED else b""
        if not error:
            return
        if not self._bucket.take(time.monotonic_ns()):
            self._counters.icmp_limited += 1
            return
        try:
            sock.sendto(error, socket.MSG_DONTWAIT, sender)
        except OSError as err:
            self._counters.error(err.errno or 0)
        else:
            self._counters.icmp_sent += 1

    def _write(self, tun_fd: int, train: Train) -> None:
        count = len(train.packets)
        code = self._write_frame(tun_fd, frame(train))
        if code == 0:
            self._counters.moved(count, sum(map(len, train.packets)))
        elif count > 1 and code in {errno.EINVAL, errno.EOPNOTSUPP, errno.EMSGSIZE}:
            self._counters.replayed += 1
            singles = [self._write_frame(tun_fd, NO_VNET + packet) for packet in train.packets]
            for packet, failed in zip(train.packets, singles, strict=True):
                if failed:
                    self._counters.drops[Drop.WRITE_FAILED] += 1
                else:
                    self._counters.moved(1, len(packet))
            if 0 in singles:
                self._withdraw(train)
        else:
            self._counters.drops[Drop.WRITE_FAILED] += count

    def _withdraw(self, train: Train) -> None:
        """The kernel takes the packets one by one, so merging is what it does not like."""
        if frame(train)[1] == GSO_TCPV4:
            self.tcp = False
        else:
            self.udp = False

    def _write_frame(self, tun_fd: int, data: bytes) -> int:
        """0, or the errno. OSError if the device is gone."""
        try:
            os.write(tun_fd, data)
        except OSError as err:
            self._counters.error(err.errno or 0)
            if err.errno in _DEVICE_GONE:
                raise
            return err.errno or errno.EIO
        self._counters.writes += 1
        return 0
