"""Native against portable, on random traffic: `python -m tests.fuzz.differential PACKETS [SEED]`.

Every batch comes from its own seed, which a difference names: `... 1 SEED` plays just that batch again.
"""

import sys
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from random import Random
from typing import Any

from flanneld_py.dataplane import _native as native
from flanneld_py.dataplane import lpm, wire
from flanneld_py.dataplane import pump_portable as portable
from tests.fuzz import traffic

BATCH = 64
OUTERS = [int(IPv4Address(text)) for text in ("192.168.0.2", "192.168.0.3", "172.16.0.2", "203.0.113.9")]
IMAGES = [traffic.image(validation) for validation in lpm.Validation]
TABLES = [(native.Table(image), lpm.Table(image)) for image in IMAGES]


def check_inbound(random: Random) -> int:
    """Judge, merge, and cut again: what comes out is what went in."""
    packets = traffic.stream(random, BATCH, inbound=True, trouble=random.choice((0.0, 0.05, 0.3)))
    ours, theirs = random.choice(TABLES)
    accepted = []
    for packet in packets:
        outer = random.choice(OUTERS)
        verdict = native.inbound(ours, outer, packet)
        assert verdict == portable.inbound(theirs, outer, packet), packet.hex()
        assert native.icmp(0, 0, 1, packet) == wire.icmp(0, 0, 1, packet), packet.hex()
        if wire.check_ipv4(packet, verify=False) is wire.Drop.OK:
            accepted.append(packet)
    tcp, udp = random.choice(((True, True), (True, False), (False, True)))
    frames = native.merge(accepted, tcp=tcp, udp=udp)
    assert frames == portable.merge(accepted, tcp=tcp, udp=udp)
    cut: list[bytes] = []
    for frame in frames:
        drop, pieces = native.segment(frame[:10], frame[10:])
        assert drop == 0
        cut += pieces
    assert sorted(map(without_atomic_id, cut)) == sorted(map(without_atomic_id, accepted))
    by_flow = order_by_flow(cut)
    assert by_flow == order_by_flow(accepted)
    return len(packets)


def without_atomic_id(packet: bytes) -> bytes:
    """With DF the ID means nothing (RFC 6864), and a train with one ID for all is cut with rising ones."""
    if not packet[6] & 0x40:
        return packet
    return packet[:4] + b"\0\0" + packet[6:10] + b"\0\0" + packet[12:]


def order_by_flow(packets: list[bytes]) -> dict[bytes, list[bytes]]:
    flows: dict[bytes, list[bytes]] = {}
    for packet in packets:
        ports = (
            packet[20:24] if packet[9] in {6, 17} and not packet[6] & 0xBF | packet[7] and packet[0] == 0x45 else b""
        )
        flows.setdefault(packet[9:10] + packet[12:20] + ports, []).append(without_atomic_id(packet))
    return flows


def check_outbound(random: Random) -> int:
    ours, theirs = random.choice(TABLES)
    count = 0
    for _ in range(8):
        vnet, packet = traffic.super_packet(random)
        pieces = native.segment(vnet, packet)
        assert pieces == portable.segment(vnet, packet), (vnet.hex(), packet.hex())
        assert native.outbound(ours, vnet + packet) == portable.outbound(theirs, vnet + packet), (vnet + packet).hex()
        count += max(1, len(pieces[1]))
    return count


CHECKS: tuple[Callable[[Random], int], ...] = (check_inbound, check_outbound)


def run(wanted: int, seed: int, report: Callable[[str], Any] = print) -> int:
    """Packets that were compared."""
    done, began, shown = 0, time.monotonic(), 0.0
    while done < wanted:
        try:
            for check in CHECKS:
                done += check(Random(seed))
        except AssertionError as difference:
            raise AssertionError(f"seed {seed}: {difference}") from difference
        seed += 1
        passed = time.monotonic() - began
        if passed > shown + 10:
            shown = passed
            report(f"{done} packets, {done / passed:.0f}/s, next seed {seed}")
    return done


if __name__ == "__main__":
    amount = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    print(run(amount, int(sys.argv[2]) if len(sys.argv) > 2 else 0), "packets, no difference")
