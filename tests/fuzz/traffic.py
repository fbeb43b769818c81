"""Packets for the tests of the data path: right ones, and right ones that were then spoilt. All from a seed."""

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from random import Random
from struct import pack

from flanneld_py.dataplane.lpm import Peer, Validation, encode_table
from flanneld_py.dataplane.wire import checksum

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
DF, MF = 0x4000, 0x2000
TIMESTAMP = b"\1\1\x08\x0a" + bytes(8)

OWN = IPv4Address("10.244.1.0")
PEERS = tuple(
    Peer(IPv4Address(f"192.168.0.{i}"), 8285, 1400, (IPv4Network(f"10.244.{i}.0/24"),), (IPv4Address(f"172.16.0.{i}"),))
    for i in range(2, 6)
)
LOCAL = (IPv4Network("10.244.1.0/24"),)


def image(validation: Validation = Validation.STRICT) -> bytes:
    return encode_table(PEERS, local=LOCAL, own=OWN, validation=validation)


@dataclass(frozen=True, slots=True)
class Packet:
    """What an IPv4 packet says; `encode` makes it true, checksums included."""

    source: int
    destination: int
    protocol: int = 6
    sport: int = 1000
    dport: int = 2000
    sequence: int = 0
    ack: int = 7
    flags: int = ACK
    window: int = 500
    urgent: int = 0
    tcp_options: bytes = b""
    ip_options: bytes = b""
    tos: int = 0
    ttl: int = 64
    ident: int = 0
    fragment: int = DF
    udp_checksum: bool = True
    payload: bytes = b""

    def encode(self) -> bytes:
        body = self._l4()
        size = 20 + len(self.ip_options) + len(body)
        ends = pack("!II", self.source & 0xFFFFFFFF, self.destination & 0xFFFFFFFF)
        start = bytes((0x45 + len(self.ip_options) // 4, self.tos))
        head = start + pack("!HHHBBH", size & 0xFFFF, self.ident & 0xFFFF, self.fragment, self.ttl, self.protocol, 0)
        check = checksum(head + ends + self.ip_options)
        return head[:10] + check.to_bytes(2, "big") + ends + self.ip_options + body

    def _l4(self) -> bytes:
        ports = pack("!HH", self.sport, self.dport)
        if self.protocol == 6:
            offset = (5 + len(self.tcp_options) // 4) << 4
            numbers = pack("!II", self.sequence & 0xFFFFFFFF, self.ack & 0xFFFFFFFF)
            rest = pack("!HHH", self.window, 0, self.urgent) + self.tcp_options + self.payload
            return self._checked(ports + numbers + bytes((offset, self.flags)) + rest, 16)
        if self.protocol == 17:
            body = ports + pack("!HH", 8 + len(self.payload), 0) + self.payload
            return self._checked(body, 6) if self.udp_checksum else body
        if self.protocol == 1:
            body = bytes((8, 0, 0, 0)) + ports + self.payload
            return body[:2] + checksum(body).to_bytes(2, "big") + body[4:]
        return ports + self.payload

    def _checked(self, body: bytes, at: int) -> bytes:
        pseudo = pack("!IIHH", self.source, self.destination, self.protocol, len(body))
        check = checksum(pseudo, body)
        if check == 0 and self.protocol == 17:
            check = 0xFFFF
        return body[:at] + check.to_bytes(2, "big") + body[at + 2 :]


def new_flow(random: Random, *, inbound: bool) -> Packet:
    """The first packet of a flow between a pod of ours and one of a peer's."""
    ours, theirs = int(OWN) + random.randrange(2, 5), (int(OWN) & ~0xFFFF) + (random.randrange(2, 6) << 8) + 2
    return Packet(
        source=theirs if inbound else ours,
        destination=ours if inbound else theirs,
        protocol=random.choices((6, 17, 1, 47), (12, 8, 1, 1))[0],
        sport=random.randrange(1000, 1003),
        sequence=random.choice((0, 5, 0xFFFFFF00, random.getrandbits(32))),
        tcp_options=random.choice((b"", TIMESTAMP, TIMESTAMP, bytes(40))),
        ident=random.choice((0, 0xFFFE, random.getrandbits(16))),
        fragment=random.choice((DF, DF, 0)),
        payload=random.randbytes(random.choice((1, 2, 63, 64, 65, 100, 127, 128, 129, 200, 201))),
    )


_TWEAKS = (
    lambda p, r: replace(p, flags=p.flags ^ (1 << r.randrange(8))),
    lambda p, r: replace(p, flags=p.flags | PSH),
    lambda p, r: replace(p, flags=p.flags | FIN),
    lambda p, r: replace(p, payload=p.payload[: r.randrange(len(p.payload) + 1)]),
    lambda p, r: replace(p, payload=p.payload + b"x"),
    lambda p, r: replace(p, tos=r.choice((0, 1, 2, 3, 0xB8))),
    lambda p, r: replace(p, ttl=r.choice((0, 1, 2, 63, 255))),
    lambda p, r: replace(p, ident=p.ident + r.choice((-1, 1, 7))),
    lambda p, r: replace(p, fragment=r.choice((0, DF, MF, 0x8000, MF | 3, 185))),
    lambda p, r: replace(p, sequence=p.sequence + r.choice((-1, 1, 1400))),
    lambda p, r: replace(p, ack=p.ack + 1),
    lambda p, r: replace(p, window=p.window + 1),
    lambda p, r: replace(p, urgent=1),
    lambda p, r: replace(p, tcp_options=r.choice((b"", TIMESTAMP, b"\1\1\x08\x0a" + b"\1" * 8))),
    lambda p, r: replace(p, ip_options=r.choice((b"\1" * 4, b"\1" * 40))),
    lambda p, r: replace(p, udp_checksum=False),
)


def spoil(random: Random, packet: bytes) -> bytes:
    """A packet as a broken or hostile sender might make it."""
    kind = random.randrange(5)
    if kind == 0:
        return packet[: random.randrange(len(packet) + 1)]
    if kind == 1:
        return packet + random.randbytes(random.randrange(1, 9))
    if kind == 2:
        return random.randbytes(random.randrange(80))
    changed = bytearray(packet)
    for _ in range(random.randrange(1, 4)):
        at = random.randrange(min(len(changed), 48)) if kind == 3 else random.randrange(len(changed))
        changed[at] = random.choice((0, 0xFF, changed[at] ^ (1 << random.randrange(8)), random.getrandbits(8)))
    return bytes(changed)


def stream(random: Random, count: int, *, inbound: bool, trouble: float = 0.1) -> list[bytes]:
    """`count` packets of a few interleaved flows; a share of `trouble` of them does not fit, half of that is spoilt."""
    flows = [new_flow(random, inbound=inbound) for _ in range(random.randrange(1, 12))]
    fixed = [random.random() < 0.3 for _ in flows]
    packets: list[bytes] = []
    while len(packets) < count:
        at = random.randrange(len(flows))
        for _ in range(random.randrange(1, 9)):
            packet = flows[at]
            if random.random() < trouble:
                packet = random.choice(_TWEAKS)(packet, random)
                if random.random() < 0.3:
                    packet = random.choice(_TWEAKS)(packet, random)
            encoded = packet.encode()
            packets.append(spoil(random, encoded) if random.random() < trouble / 2 else encoded)
            flows[at] = replace(
                flows[at],
                sequence=flows[at].sequence + len(packet.payload),
                ident=flows[at].ident + (0 if fixed[at] else 1),
            )
            if packet.flags != flows[at].flags and random.random() < 0.5:
                break
    return packets[:count]


def super_packet(random: Random) -> tuple[bytes, bytes]:
    """(virtio_net_hdr, packet) as a TUN device hands them over; some of them are wrong."""
    base = new_flow(random, inbound=False)
    tcp = base.protocol == 6
    flags = base.flags | random.choice((0, FIN, PSH, FIN | PSH, CWR, ECE))
    size = random.choice((0, 1, 47, 48, 49, 1000, 3000, random.randrange(6000)))
    packet = replace(base, flags=flags, payload=random.randbytes(size)).encode()
    mss = random.choice((48, 100, 536, 1348, 1400))
    offset = 16 if tcp else 6
    if base.protocol not in (6, 17) or random.random() < 0.2:
        needs = random.choice((0, 1)) if base.protocol in (6, 17) else 0
        vnet = pack("=BBHHHH", needs, 0, 0, 0, 20 if needs else 0, offset if needs else 0)
    else:
        gso = (1 if tcp else 5) | random.choice((0, 0, 0, 0x80 if tcp else 0))
        vnet = pack("=BBHHHH", 1, gso, 0, mss, 20, offset)
    if random.random() < 0.1:
        changed = bytearray(vnet)
        changed[random.randrange(10)] = random.choice((0, 1, 5, 6, 16, 20, 0xFF, random.getrandbits(8)))
        vnet = bytes(changed)
    if random.random() < 0.1:
        packet = spoil(random, packet)
    return vnet, packet
