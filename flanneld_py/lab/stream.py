"""Throughput between two pods: a sender and a receiver, each a process of its own.

Run as a module it is one of the two: `receive PROTOCOL ADDRESS` prints its port, then the result; `send PROTOCOL
ADDRESS PORT SECONDS SIZE` prints the result. Results are JSON, one line.
"""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from struct import pack, unpack_from

from flanneld_py.errors import LabError
from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.process import python_module
from flanneld_py.lab.traffic import Endpoint

CHUNK = 256 << 10
UDP_SIZE = 1200
_IDLE_S = 1.0
_START_S = 15.0
_NUMBER = "!Q"
_END = 0xFFFFFFFFFFFFFFFF
"""The number of the datagrams that end a UDP stream."""
_END_REPEATS = 5


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What arrived. `sent`, `lost`, `reordered`: datagrams, 0 for TCP."""

    protocol: str
    received_bytes: int
    seconds: float
    sent: int = 0
    lost: int = 0
    reordered: int = 0

    @property
    def bits_per_second(self) -> float:
        return self.received_bytes * 8 / self.seconds if self.seconds > 0 else 0.0


def run_stream(source: Endpoint, target: Endpoint, *, protocol: str = "tcp", seconds: float = 2.0) -> StreamReport:
    """Send as fast as goes for that long. LabError if either side fails."""
    size = CHUNK if protocol == "tcp" else UDP_SIZE
    address = str(target.address)
    receiver = _spawn(target, "receive", protocol, address)
    try:
        port = _line(receiver, target, _START_S)
        sender = _spawn(source, "send", protocol, address, port, str(seconds), str(size))
        try:
            sent = json.loads(_line(sender, source, seconds + _START_S))
            got = json.loads(_line(receiver, target, seconds + _START_S))
        finally:
            _finish(sender)
    finally:
        _finish(receiver)
    lost = max(0, sent["count"] - got["count"]) if protocol == "udp" else 0
    count = sent["count"] if protocol == "udp" else 0
    return StreamReport(protocol, got["bytes"], got["seconds"], count, lost, got["reordered"])


def _spawn(place: Endpoint, *arguments: str) -> "subprocess.Popen[str]":
    argv = python_module("flanneld_py.lab.stream", *arguments)
    pipe = subprocess.PIPE
    return inside(
        place.namespace,
        lambda: subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        ),
    )


def _line(worker: "subprocess.Popen[str]", place: Endpoint, timeout_s: float) -> str:
    """The next line that the worker prints; it has a deadline of its own, so this one ends too."""
    assert worker.stdout is not None and worker.stderr is not None  # noqa: S101 - both are pipes, by _spawn
    if line := worker.stdout.readline().strip():
        return line
    with suppress(subprocess.TimeoutExpired):
        worker.wait(timeout_s)
    words = worker.stderr.read().strip().splitlines() if worker.poll() is not None else []
    raise LabError(f"the stream process in {place.name} failed: {words[-1] if words else 'it printed nothing'}")


def _finish(worker: "subprocess.Popen[str]") -> None:
    worker.kill()
    worker.wait()
    for pipe in (worker.stdout, worker.stderr):
        if pipe is not None:
            pipe.close()


def _socket(protocol: str, address: str) -> socket.socket:
    family = socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
    sock.settimeout(_START_S)
    return sock


def _receive(protocol: str, address: str) -> None:
    with _socket(protocol, address) as sock:
        sock.bind((address, 0))
        if protocol == "tcp":
            sock.listen(1)
        print(sock.getsockname()[1], flush=True)
        result = _receive_tcp(sock) if protocol == "tcp" else _receive_udp(sock)
    print(json.dumps(result), flush=True)


def _receive_tcp(listener: socket.socket) -> dict[str, float]:
    connection, _ = listener.accept()
    buffer, total = bytearray(4 * CHUNK), 0
    with connection:
        begin = time.monotonic()
        while size := connection.recv_into(buffer):
            total += size
        return {"bytes": total, "seconds": time.monotonic() - begin, "count": 0, "reordered": 0}


def _receive_udp(sock: socket.socket) -> dict[str, float]:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    buffer = bytearray(65536)
    total = count = reordered = 0
    highest, begin, last = -1, 0.0, 0.0
    with suppress(TimeoutError):
        while True:
            size = sock.recv_into(buffer)
            (number,) = unpack_from(_NUMBER, buffer)
            if number == _END:
                break
            last = time.monotonic()
            if not count:
                begin = last
                sock.settimeout(_IDLE_S)
            total, count = total + size, count + 1
            reordered += number < highest
            highest = max(highest, number)
    return {"bytes": total, "seconds": last - begin, "count": count, "reordered": reordered}


def _send(protocol: str, address: str, port: int, seconds: float, size: int) -> None:
    with _socket(protocol, address) as sock:
        sock.connect((address, port))
        count, payload = 0, bytes(size)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if protocol == "tcp":
                sock.sendall(payload)
            else:
                # A refusal is a datagram that will be missing at the other side, which is what is counted there.
                with suppress(ConnectionRefusedError):
                    sock.send(pack(_NUMBER, count) + payload[8:])
            count += 1
        if protocol == "udp":
            for _ in range(_END_REPEATS):
                with suppress(ConnectionRefusedError):
                    sock.send(pack(_NUMBER, _END))
    print(json.dumps({"count": count}), flush=True)


def main(argv: Sequence[str]) -> int:
    """The process in a pod."""
    try:
        if argv[0] == "receive":
            _receive(argv[1], argv[2])
        else:
            _send(argv[1], argv[2], int(argv[3]), float(argv[4]), int(argv[5]))
    except OSError as err:
        print(f"{argv[0]} {argv[1]} {argv[2]}: {err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
