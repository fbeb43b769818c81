"""The twin of the C core in Python: the same decisions about packets, byte for byte. Sans-I/O.

It is the data path where no compiler was at hand, and the oracle of the differential tests. The rules of merging, with
their sources in the kernel, stand in `_merge.c`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from struct import Struct

from flanneld_py.dataplane.lpm import NO_PEER, Table, Validation
from flanneld_py.dataplane.wire import (
    FLAG_DF,
    IPV4_MIN,
    PACKET_MAX,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    Drop,
    addresses,
    check_ipv4,
    checksum,
    decrement_ttl,
    get16,
    ones_sum,
)

VNET = Struct("=BBHHHH")
"""include/uapi/linux/virtio_net.h virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset."""
NEEDS_CSUM = 1
GSO_NONE, GSO_TCPV4, GSO_UDP_L4, GSO_ECN = 0, 1, 5, 0x80
NO_VNET = bytes(VNET.size)

BATCH = 256
FLOWS = 8
UDP_COUNT = 64

_FIN, _SYN, _RST, _PSH, _URG, _CWR = 0x01, 0x02, 0x04, 0x08, 0x20, 0x80
_ENDS = _FIN | _PSH
_ALONE = _SYN | _RST | _URG | _CWR
_CHECK_AT = {PROTOCOL_TCP: 16, PROTOCOL_UDP: 6}


# ---- segment ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cut:
    """How a super-packet falls into segments. `header` 0: a plain packet, one segment, its checksum perhaps missing.

    `missing`: (where the checksum begins, where it is to be written) of a plain packet.
    """

    header: int
    mss: int
    count: int
    tcp: bool = False
    missing: tuple[int, int] | None = None

    def largest(self, size: int) -> int:
        """Bytes of the largest segment, of `size` in all."""
        return size if self.count == 1 else self.header + self.mss


def plan_cut(vnet: bytes | memoryview, packet: bytes | bytearray) -> Cut | Drop:
    """The cut of a packet that passed `check_ipv4`, or BAD_OFFLOAD if the virtio_net_hdr does not fit it."""
    flags, gso_type, _, mss, start, offset = VNET.unpack(vnet)
    ip_header = (packet[0] & 0xF) * 4
    if gso_type == GSO_NONE:
        if not flags & NEEDS_CSUM:
            return Cut(0, len(packet), 1)
        if start < ip_header or start + offset + 2 > len(packet):
            return Drop.BAD_OFFLOAD
        return Cut(0, len(packet), 1, missing=(start, start + offset))
    tcp = gso_type & ~GSO_ECN == GSO_TCPV4
    if not tcp and gso_type != GSO_UDP_L4:
        return Drop.BAD_OFFLOAD
    protocol = PROTOCOL_TCP if tcp else PROTOCOL_UDP
    if packet[9] != protocol or get16(packet, 6) & 0x3FFF:
        return Drop.BAD_OFFLOAD
    if not flags & NEEDS_CSUM or start != ip_header or offset != _CHECK_AT[protocol] or mss == 0:
        return Drop.BAD_OFFLOAD
    behind = len(packet) - ip_header
    l4_header = 8
    if tcp:
        l4_header = 20 if behind < 20 else (packet[ip_header + 12] >> 4) * 4
    if (tcp and l4_header < 20) or l4_header >= behind:
        return Drop.BAD_OFFLOAD
    header = ip_header + l4_header
    return Cut(header, mss, -(-(len(packet) - header) // mss), tcp)


def _pieces(cut: Cut, packet: bytearray) -> list[bytes]:
    """The segments of a planned packet whose header is final."""
    if cut.header == 0:
        if cut.missing is not None:
            start, at = cut.missing
            check = checksum(packet[start:])
            packet[at : at + 2] = (0xFFFF if check == 0 and packet[9] == PROTOCOL_UDP else check).to_bytes(2, "big")
        return [bytes(packet)]
    return [_one_segment(cut, packet, index) for index in range(cut.count)]


def _one_segment(cut: Cut, packet: bytearray, index: int) -> bytes:
    ip_header = (packet[0] & 0xF) * 4
    offset = index * cut.mss
    payload = packet[cut.header + offset : cut.header + offset + cut.mss]
    header = packet[: cut.header]
    header[2:4] = (cut.header + len(payload)).to_bytes(2, "big")
    header[4:6] = (get16(header, 4) + index & 0xFFFF).to_bytes(2, "big")
    header[10:12] = b"\0\0"
    header[10:12] = checksum(header[:ip_header]).to_bytes(2, "big")
    length = cut.header - ip_header + len(payload)
    if cut.tcp:
        sequence = int.from_bytes(header[ip_header + 4 : ip_header + 8], "big") + offset & 0xFFFFFFFF
        header[ip_header + 4 : ip_header + 8] = sequence.to_bytes(4, "big")
        if index + 1 < cut.count:
            header[ip_header + 13] &= ~_ENDS & 0xFF
        if index > 0:
            header[ip_header + 13] &= ~_CWR & 0xFF
    else:
        header[ip_header + 4 : ip_header + 6] = length.to_bytes(2, "big")
    at = ip_header + _CHECK_AT[header[9]]
    header[at : at + 2] = b"\0\0"
    check = checksum(header[12:20], bytes((0, header[9])), length.to_bytes(2, "big"), header[ip_header:], payload)
    header[at : at + 2] = (0xFFFF if check == 0 and not cut.tcp else check).to_bytes(2, "big")
    return bytes(header + payload)


def segment(vnet: bytes, packet: bytes) -> tuple[int, list[bytes]]:
    """(why not, segments): the packets that a super-packet stands for, with their checksums."""
    if (drop := check_ipv4(packet, verify=False)) is not Drop.OK:
        return drop, []
    cut = plan_cut(vnet, packet)
    return (cut, []) if isinstance(cut, Drop) else (Drop.OK, _pieces(cut, bytearray(packet)))


# ---- decisions -------------------------------------------------------------------------------------------------------


def outbound(table: Table, frame: bytes) -> tuple[int, int, list[bytes]]:
    """(why not, peer, datagrams) of a frame read from the TUN device: a virtio_net_hdr and a packet.

    The peer is known for TOO_BIG, too; else it is NO_PEER when there is no datagram.
    """
    vnet, packet = frame[: VNET.size], frame[VNET.size :]
    if len(vnet) < VNET.size:
        return Drop.TRUNCATED, NO_PEER, []
    if (drop := check_ipv4(packet, verify=False)) is not Drop.OK:
        return drop, NO_PEER, []
    peer = table.lookup(addresses(packet)[1])
    if peer == NO_PEER:
        return Drop.NO_ROUTE, NO_PEER, []
    if packet[8] <= 1:
        return Drop.TTL_EXPIRED, NO_PEER, []
    cut = plan_cut(vnet, packet)
    if isinstance(cut, Drop):
        return cut, NO_PEER, []
    if cut.largest(len(packet)) > table.peer(peer)[2] and get16(packet, 6) & FLAG_DF:
        return Drop.TOO_BIG, peer, []
    forwarded = bytearray(packet)
    decrement_ttl(forwarded)
    return Drop.OK, peer, _pieces(cut, forwarded)


def inbound(table: Table, outer: int, datagram: bytes) -> tuple[int, bytes]:
    """(why not, packet for the TUN device) of a datagram's payload that came from the outer address `outer`."""
    if table.validation is Validation.STRICT and not table.knows_source(outer):
        return Drop.UNKNOWN_PEER, b""
    if (drop := check_ipv4(datagram, verify=True)) is not Drop.OK:
        return drop, b""
    source, destination = addresses(datagram)
    if table.validation is Validation.STRICT:
        belonging = table.belongs(outer, source)
    elif table.validation is Validation.LOOSE:
        belonging = table.lookup(source) != NO_PEER or table.knows_source(source)
    else:
        belonging = True
    if not belonging:
        return Drop.FOREIGN_SOURCE, b""
    if table.validation is not Validation.OFF and not table.is_local(destination):
        return Drop.FOREIGN_DESTINATION, b""
    packet = bytearray(datagram)
    return (Drop.OK, bytes(packet)) if decrement_ttl(packet) else (Drop.TTL_EXPIRED, b"")


# ---- merge -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Train:
    """Packets of one flow, in order. `header` 0: not a train, and nothing joins it."""

    packets: list[bytes]
    header: int = 0
    size: int = 0
    ends: int = 0
    fixed_id: bool = False
    mss: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = len(self.packets[0])
        self.mss = self.size - self.header


def merge(packets: Sequence[bytes], *, tcp: bool = True, udp: bool = True) -> list[bytes]:
    """Frames for the TUN device, a virtio_net_hdr and a packet each, in the order in which their first packets came.

    ValueError for more than BATCH packets, or one that `check_ipv4` would not let pass.
    """
    return [frame(train) for train in merge_trains(packets, tcp=tcp, udp=udp)]


def merge_trains(packets: Sequence[bytes], *, tcp: bool, udp: bool) -> list[Train]:
    if len(packets) > BATCH:
        raise ValueError(f"{len(packets)} packets are more than the {BATCH} of a batch")
    trains: list[Train] = []
    flows: list[Train] = []
    for packet in packets:
        if check_ipv4(packet, verify=False) is not Drop.OK:
            raise ValueError("not an IPv4 packet")
        header = _ports_header(packet)
        if header == 0:
            flows = [train for train in flows if train.packets[0][12:20] != packet[12:20]]
            trains.append(Train([packet]))
            continue
        mergeable = _may_merge(packet, header, tcp, udp)
        train = next((t for t in flows if _flow(t.packets[0]) == _flow(packet)), None)
        if train is not None:
            if mergeable and _joins(train, packet, header):
                if _append(train, packet):
                    flows.remove(train)
                continue
            flows = [t for t in flows if t is not train]
        starts = mergeable and not (packet[9] == PROTOCOL_TCP and packet[IPV4_MIN + 13] & _ENDS)
        trains.append(Train([packet], header if starts else 0))
        if starts:
            flows = [*flows[-(FLOWS - 1) :], trains[-1]]
    return trains


def _flow(packet: bytes) -> bytes:
    return packet[9:10] + packet[12:24]


def _ports_header(packet: bytes) -> int:
    """Bytes in front of the payload if the packet has readable ports, else 0."""
    size = len(packet)
    if packet[0] != 0x45 or get16(packet, 6) & ~FLAG_DF:
        return 0
    if packet[9] == PROTOCOL_UDP and size >= IPV4_MIN + 8:
        return IPV4_MIN + 8
    if packet[9] != PROTOCOL_TCP or size < IPV4_MIN + 20:
        return 0
    l4 = (packet[IPV4_MIN + 12] >> 4) * 4
    return IPV4_MIN + l4 if l4 >= 20 and IPV4_MIN + l4 <= size else 0


def _may_merge(packet: bytes, header: int, tcp: bool, udp: bool) -> bool:
    if len(packet) == header:
        return False
    if packet[9] == PROTOCOL_TCP:
        if not tcp or packet[IPV4_MIN + 13] & _ALONE:
            return False
    elif not udp or get16(packet, IPV4_MIN + 4) != len(packet) - IPV4_MIN or get16(packet, IPV4_MIN + 6) == 0:
        return False
    length = len(packet) - IPV4_MIN
    pseudo = bytes((0, packet[9], length >> 8, length & 0xFF))
    return ones_sum(packet[:IPV4_MIN]) == 0xFFFF and ones_sum(pseudo, packet[12:]) == 0xFFFF


def _joins(train: Train, packet: bytes, header: int) -> bool:
    head = train.packets[0]
    payload = len(packet) - header
    if header != train.header or payload > train.mss or train.size + payload > PACKET_MAX:
        return False
    if packet[1] != head[1] or packet[8] != head[8] or (packet[6] ^ head[6]) & FLAG_DF >> 8:
        return False
    if packet[9] == PROTOCOL_TCP and not _tcp_follows(train, packet):
        return False
    step = get16(packet, 4) - get16(head, 4) & 0xFFFF
    if len(train.packets) == 1 and step == 0 and get16(head, 6) & FLAG_DF:
        train.fixed_id = True
        return True
    return step == (0 if train.fixed_id else len(train.packets))


def _tcp_follows(train: Train, packet: bytes) -> bool:
    head = train.packets[0]
    sequence = int.from_bytes(head[24:28], "big") + train.size - train.header & 0xFFFFFFFF
    return (
        int.from_bytes(packet[24:28], "big") == sequence
        and packet[28:33] == head[28:33]
        and not (packet[33] ^ head[33]) & ~_ENDS
        and packet[34:36] == head[34:36]
        and packet[38 : train.header] == head[38 : train.header]  # urgent pointer and options
    )


def _append(train: Train, packet: bytes) -> bool:
    """Whether the packet ends the train that it joined."""
    payload = len(packet) - train.header
    train.packets.append(packet)
    train.size += payload
    if packet[9] == PROTOCOL_TCP:
        train.ends = packet[IPV4_MIN + 13] & _ENDS
        return payload < train.mss or bool(train.ends)
    return payload < train.mss or len(train.packets) == UDP_COUNT


def frame(train: Train) -> bytes:
    """What is written to the TUN device for a train."""
    head = train.packets[0]
    if len(train.packets) == 1:
        return NO_VNET + head
    protocol = head[9]
    tcp = protocol == PROTOCOL_TCP
    at = _CHECK_AT[protocol]
    vnet = VNET.pack(NEEDS_CSUM, GSO_TCPV4 if tcp else GSO_UDP_L4, train.header, train.mss, IPV4_MIN, at)
    header = bytearray(head[: train.header])
    header[2:4] = train.size.to_bytes(2, "big")
    header[10:12] = b"\0\0"
    header[10:12] = checksum(header[:IPV4_MIN]).to_bytes(2, "big")
    length = train.size - IPV4_MIN
    if tcp:
        header[IPV4_MIN + 13] |= train.ends
    else:
        header[IPV4_MIN + 4 : IPV4_MIN + 6] = length.to_bytes(2, "big")
    pseudo = ones_sum(header[12:20], bytes((0, protocol)), length.to_bytes(2, "big"))
    header[IPV4_MIN + at : IPV4_MIN + at + 2] = pseudo.to_bytes(2, "big")
    return vnet + bytes(header) + b"".join(packet[train.header :] for packet in train.packets)
