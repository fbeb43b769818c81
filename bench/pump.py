"""How much faster is the native pump than its portable twin? The pure functions of both on equal input, no device.

Rounds are interleaved; a ratio is the median of the ratios within a round. Both twins must give the same result first.
"""

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from random import Random
from statistics import median
from struct import pack, pack_into

from bench.generator import compile_c
from bench.publish import number
from bench.report import facts
from bench.textgrid import Row, columns
from flanneld_py.dataplane import pump
from flanneld_py.dataplane.lpm import Peer, Validation, encode_table
from flanneld_py.errors import FlannelError

PEERS = 10_000
MSS = 1432
SEGMENTS = 44
SMALL = 24
"""Payload of a small packet, which then has 64 bytes."""
_SOURCE, _TARGET = IPv4Address("10.0.0.5"), IPv4Address("10.20.1.7")
_NEEDS_CSUM, _TCPV4 = 1, 1
"""include/uapi/linux/virtio_net.h."""
_TCP, _TCP_CHECKSUM = 6, 16
_HEADERS = 40


@dataclass(frozen=True, slots=True)
class Case:
    """The same work for both twins. `unit`: what is done `count` times by one call."""

    name: str
    unit: str
    count: int
    native: Callable[[], object]
    portable: Callable[[], object]


def run(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench pump", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.1, help="of each twin in a round (default %(default)s)")
    args = parser.parse_args(argv)
    native, portable = pump.choose("native"), pump.choose("portable")
    rows: list[Row] = [("function", "native", "spread", "portable", "spread", "per", "times faster")]
    for case in cases(native, portable):
        if case.native() != case.portable():
            raise FlannelError(f"{case.name}: the twins differ", hint="run pytest tests/property")
        rows.append(_row(case, args.rounds, args.seconds))
    print("\n".join([facts(), *columns(rows), "", _sum_line()]))
    return 0


def _row(case: Case, rounds: int, seconds: float) -> Row:
    pairs = [(_seconds(case.native, seconds), _seconds(case.portable, seconds)) for _ in range(rounds)]
    native, portable = ([pair[side] / case.count * 1e9 for pair in pairs] for side in (0, 1))
    ratio = median(slow / fast for fast, slow in pairs)
    return (
        case.name,
        *(cell for taken in (native, portable) for cell in (f"{number(median(taken))} ns", _spread(taken))),
        case.unit,
        number(ratio),
    )


def _spread(samples: Sequence[float]) -> str:
    return f"{number(min(samples))}..{number(max(samples))}"


def _seconds(call: Callable[[], object], enough: float) -> float:
    """Seconds of one call, over as many as take `enough`; at least one."""
    calls, begin = 0, time.perf_counter()
    while (taken := time.perf_counter() - begin) < enough or not calls:
        call()
        calls += 1
    return taken / calls


def cases(native: pump.Implementation, portable: pump.Implementation) -> list[Case]:
    """What the pumps do to packets, on packets as TCP sends them."""
    vnet, packet = super_packet(SEGMENTS)
    segments = portable.segment(vnet, packet)[1]
    image = peer_table(PEERS)
    tables = (native.table(image), portable.table(image))
    random = Random(1)
    asked = [int(IPv4Address("10.0.0.0")) + random.randrange(1 << 24) for _ in range(1000)]
    frame, small = vnet + packet, portable.segment(*super_packet(2, SMALL))[1][0]
    twins = (native, portable)

    def both(name: str, unit: str, count: int, work: Callable[[pump.Implementation, object], object]) -> Case:
        one, other = (
            (lambda twin=twin, table=table: work(twin, table)) for twin, table in zip(twins, tables, strict=True)
        )
        return Case(name, unit, count, one, other)

    source = int(IPv4Address("172.18.1.12"))
    return [
        both("segment 64 KiB", "segment", len(segments), lambda twin, _: twin.segment(vnet, packet)),
        both("outbound 64 KiB", "segment", len(segments), lambda twin, table: twin.outbound(table, frame)),
        both("inbound 1,472 B", "packet", 1, lambda twin, table: twin.inbound(table, source, segments[0])),
        both("inbound 64 B", "packet", 1, lambda twin, table: twin.inbound(table, source, small)),
        both(f"merge {len(segments)} segments", "segment", len(segments), lambda twin, _: twin.merge(segments)),
        both(
            f"lookup among {PEERS:,} peers",
            "look-up",
            len(asked),
            lambda _, table: [table.lookup(address) for address in asked],  # type: ignore[attr-defined]
        ),
    ]


def peer_table(count: int) -> bytes:
    """A table of nodes with a /24 each; the first one's network is ours."""
    first = int(IPv4Address("10.0.0.0"))
    peers = [
        Peer(IPv4Address("172.16.0.1") + index, 8285, 1472, (IPv4Network((first + 256 * (index + 1), 24)),))
        for index in range(count)
    ]
    own = IPv4Network((first, 24))
    return encode_table(peers, local=(own,), own=IPv4Address(first), validation=Validation.OFF)


def super_packet(segments: int, mss: int = MSS) -> tuple[bytes, bytes]:
    """(virtio_net_hdr, packet) as a TUN device gives a TCP packet that is to be cut into so many segments."""
    payload = Random(2).randbytes(mss * segments)
    packet = bytearray(_HEADERS) + payload
    pack_into("!BBHHHBBH4s4s", packet, 0, 0x45, 0, len(packet), 1, 0x4000, 64, _TCP, 0, _SOURCE.packed, _TARGET.packed)
    pack_into("!H", packet, 10, _checksum(packet[:20]))
    pack_into("!HHIIBBHHH", packet, 20, 40000, 5201, 1000, 2000, 5 << 4, 0x10, 512, 0, 0)
    pseudo = _SOURCE.packed + _TARGET.packed + pack("!HH", _TCP, len(packet) - 20)
    # What the kernel leaves to the device: the sum of the pseudo header, not inverted.
    pack_into("!H", packet, 20 + _TCP_CHECKSUM, ~_checksum(pseudo) & 0xFFFF)
    vnet = pack("=BBHHHH", _NEEDS_CSUM, _TCPV4, _HEADERS, mss, 20, _TCP_CHECKSUM)
    return vnet, bytes(packet)


def _checksum(data: bytes | bytearray) -> int:
    """RFC 1071."""
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _sum_line() -> str:
    """Every way to sum that this processor has, over a packet of the usual size."""
    folder = Path(pump.__file__).parent
    here = Path(__file__).parent / "sums"
    program = compile_c("sums", [here / "sums.c", folder / "_checksum.c", folder / "_checksum.h"])
    result = subprocess.run([program, str(MSS + _HEADERS)], capture_output=True, text=True, check=True)
    speeds: dict[str, float] = json.loads(result.stdout)
    slowest = min(speeds.values())
    ways = (f"{name} {speed / 1e9:.1f} GB/s ({number(speed / slowest)})" for name, speed in speeds.items())
    return f"checksum of {MSS + _HEADERS:,} B, best of several: {', '.join(ways)}"
