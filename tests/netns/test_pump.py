"""The pumps on real TUN devices and sockets, both implementations."""

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from flanneld_py.dataplane import lpm, pump
from flanneld_py.dataplane.offload import NO_OFFLOAD, Offload
from flanneld_py.dataplane.tun import Tun, open_tun
from flanneld_py.dataplane.wire import Drop
from tests.fuzz.traffic import Packet
from tests.netns.pump_pair import PORT, Node, inside, ip, pair, public, subnet, table_image
from tests.waiting import eventually

MAKERS = {"native": pump.native, "portable": pump.portable}
SO_NO_CHECK = 11
DEADLINE_S = 10.0


@pytest.fixture(params=sorted(MAKERS))
def make(request: pytest.FixtureRequest) -> pump.Implementation:
    return MAKERS[request.param]()


@contextmanager
def sockets(one: Node, other: Node, kind: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A socket bound to the pod address of each node."""
    pair_ = []
    for node in (one, other):
        with inside(node.netns):
            sock = socket.socket(socket.AF_INET, kind)
        sock.settimeout(DEADLINE_S)
        sock.bind((pod(node), 5000))
        pair_.append(sock)
    try:
        yield pair_[0], pair_[1]
    finally:
        for sock in pair_:
            sock.close()


@contextmanager
def on_one_processor() -> Iterator[None]:
    """This thread, and those that it starts. A veth pair keeps the order of what one processor sends, and no other."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def pod(node: Node) -> str:
    return str(subnet(node.number).network_address + 1)


def transfer(a: Node, b: Node, size: int) -> None:
    """`size` bytes by TCP from a pod of `a` to one of `b`, compared."""
    data = os.urandom(size)
    with sockets(a, b, socket.SOCK_STREAM) as (client, server):
        server.listen()
        client.connect(server.getsockname())
        end, _ = server.accept()
        with end:
            end.settimeout(DEADLINE_S)
            client.setblocking(False)
            received, sent = bytearray(), 0
            while len(received) < size:
                readable, writable, _ = select.select([end], [client] if sent < size else [], [], DEADLINE_S)
                assert readable or writable, "the connection is stuck"
                if writable:
                    sent += client.send(memoryview(data)[sent : sent + 1_000_000])
                if readable:
                    received += end.recv(1_000_000)
    assert received == data


def count(of: pump.Pump, name: str) -> int:
    value = of.counters()[name]
    assert isinstance(value, int)
    return value


def drops(of: pump.Pump, reason: Drop) -> int:
    value = of.counters()["drops"]
    assert isinstance(value, tuple)
    return value[reason]


def test_tcp_travels_in_trains(make: pump.Implementation) -> None:
    with pair(make) as (a, b):
        transfer(a, b, 3_000_000)
        eventually("packets leave in trains", lambda: count(a.encap, "train_packets") > 500, a.encap.counters)
        eventually(
            "packets go to the kernel in trains", lambda: count(b.decap, "train_packets") > 500, b.decap.counters
        )
        eventually(
            "what left is counted there",
            lambda: count(b.decap, "packets") == count(a.encap, "packets"),
            b.decap.counters,
        )
        assert count(b.decap, "kernel_errors") == count(a.encap, "kernel_errors") == 0


@pytest.mark.parametrize("missing", ["tso", "uso", "gso", "gro", "all"])
def test_it_works_without_an_offload(make: pump.Implementation, missing: str) -> None:
    wanted = NO_OFFLOAD if missing == "all" else Offload(**{missing: False})
    with pair(make, wanted=wanted) as (a, b):
        assert not getattr(a.tun.offload & a.udp.offload, "tso" if missing == "all" else missing)
        transfer(a, b, 300_000)
        if not wanted.gso:
            assert count(a.encap, "trains") == 0
        if not wanted.tso:
            assert count(b.decap, "trains") == 0


def test_udp_trains_arrive_as_the_datagrams_that_were_sent(make: pump.Implementation) -> None:
    sizes = [1200] * 40 + [300]
    with pair(make) as (a, b), sockets(a, b, socket.SOCK_DGRAM) as (client, server):
        payload = b"".join(bytes([i]) * size for i, size in enumerate(sizes))
        control = [(17, 103, struct.pack("=H", 1200))]
        client.sendmsg([payload], control, 0, server.getsockname())
        received = [server.recv(2000) for _ in sizes]
        assert b"".join(received) == payload
        assert [len(datagram) for datagram in received] == sizes
        eventually("the train is counted", lambda: count(a.encap, "train_packets") >= 41, a.encap.counters)
        if b.tun.offload.uso:
            eventually("the train goes on as one", lambda: count(b.decap, "train_packets") >= 2, b.decap.counters)
        else:
            assert count(b.decap, "trains") == 0


def test_large_datagrams_travel_in_fragments(make: pump.Implementation) -> None:
    data = os.urandom(20_000)
    with pair(make) as (a, b), sockets(a, b, socket.SOCK_DGRAM) as (client, server):
        client.sendto(data, server.getsockname())
        assert server.recv(65535) == data


def test_a_refused_train_is_sent_again_as_single_datagrams(make: pump.Implementation) -> None:
    """Without a UDP checksum the kernel refuses trains (EINVAL), and takes single datagrams."""
    with pair(make) as (a, b):
        a.udp.sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        transfer(a, b, 300_000)
        assert not a.encap.gso
        assert count(a.encap, "replayed") >= 1
        assert count(a.encap, "last_error") == errno.EINVAL
        eventually(
            "what left is counted there",
            lambda: count(a.encap, "packets") == count(b.decap, "packets"),
            b.decap.counters,
        )
        assert drops(a.encap, Drop.SEND_FAILED) == 0


def test_a_full_socket_blocks_and_nothing_is_lost(make: pump.Implementation) -> None:
    """Datagrams that a slow interface keeps fill the send buffer. They leave it in their order."""
    slow = ("root", "tbf", "limit", "1mb", "burst", "2000", "rate")
    with on_one_processor(), pair(make) as (a, b), sockets(a, b, socket.SOCK_DGRAM) as (client, server):
        server.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)
        a.udp.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        # What IPv6 sends on its own may be sent on another processor, which then sends what waits in front of it, too.
        a.run("sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1")
        client.sendto(b"the first finds the neighbour", server.getsockname())
        server.recv(2000)
        a.run("tc", "qdisc", "add", "dev", "eth0", *slow, "80kbit")
        for number in range(60):
            client.sendto(number.to_bytes(2, "big") * 600, server.getsockname())
        eventually("the socket is full", lambda: a.encap.pending, a.encap.counters)
        assert count(a.encap, "packets") < 61
        a.run("tc", "qdisc", "change", "dev", "eth0", *slow, "100mbit")
        assert [server.recv(2000)[:2] for _ in range(60)] == [number.to_bytes(2, "big") for number in range(60)]
        eventually(
            "nothing waits any more", lambda: count(a.encap, "blocked") >= 1 and not a.encap.pending, a.encap.counters
        )
        assert drops(a.encap, Drop.SEND_FAILED) == 0


def test_who_may_inject(make: pump.Implementation) -> None:
    """Bad datagrams are dropped by reason, and none of them reaches the pod; a good one after them does."""
    with pair(make) as (a, b), sockets(a, b, socket.SOCK_DGRAM) as (_, server):
        pods = int(subnet(1).network_address) + 9, int(subnet(2).network_address) + 1
        good = Packet(*pods, protocol=17, dport=5000, payload=b"good")
        foreign = Packet(pods[1], pods[1], protocol=17, dport=5000, payload=b"bad")
        elsewhere = Packet(pods[0], pods[0], protocol=17, dport=5000, payload=b"bad")
        bad = {
            Drop.TRUNCATED: [b"", b"x", bytes(19)],
            Drop.NOT_IPV4: [b"\x60" + bytes(60)],
            Drop.BAD_HEADER: [b"\x4f" + good.encode()[1:]],
            Drop.BAD_LENGTH: [good.encode() + b"x", good.encode()[:-1]],
            Drop.FOREIGN_SOURCE: [foreign.encode()],
            Drop.FOREIGN_DESTINATION: [elsewhere.encode()],
        }
        for datagram in (d for datagrams in bad.values() for d in datagrams):
            a.udp.sock.sendto(datagram, (str(public(2)), PORT))
        with inside(a.netns):
            ip("address", "add", "192.0.2.77/24", "dev", "eth0", netns=a.netns)
            stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with stranger:
            stranger.bind(("192.0.2.77", PORT))
            stranger.sendto(good.encode(), (str(public(2)), PORT))
        a.udp.sock.sendto(good.encode(), (str(public(2)), PORT))
        assert server.recv(100) == b"good"
        wanted = {reason: len(datagrams) for reason, datagrams in bad.items()} | {Drop.UNKNOWN_PEER: 1}
        eventually(
            "each is counted by its reason",
            lambda: {reason: drops(b.decap, reason) for reason in wanted} == wanted,
            b.decap.counters,
        )


def test_a_new_table_is_used_from_the_next_run_on(make: pump.Implementation) -> None:
    with pair(make) as (a, b), sockets(a, b, socket.SOCK_DGRAM) as (client, server):
        client.sendto(b"one", server.getsockname())
        assert server.recv(100) == b"one"
        a.encap.table = make.table(table_image(1, {}, lpm.Validation.STRICT))
        before = drops(a.encap, Drop.NO_ROUTE)

        def is_dropped() -> bool:
            client.sendto(b"two", server.getsockname())
            return drops(a.encap, Drop.NO_ROUTE) > before

        # More than one, since a run that had begun may still go on with the old table.
        eventually("the drop is counted", is_dropped, a.encap.counters)
        a.encap.table = make.table(table_image(1, {2: PORT}, lpm.Validation.STRICT))
        sent = count(a.encap, "packets")

        def goes_on() -> bool:
            client.sendto(b"three", server.getsockname())
            return count(a.encap, "packets") > sent

        eventually("it goes on", goes_on, a.encap.counters)
        while (got := server.recv(100)) == b"two":
            pass
        assert got == b"three"


def raw_sender(node: Node) -> socket.socket:
    with inside(node.netns):
        return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)


def icmp_listener(node: Node) -> socket.socket:
    with inside(node.netns):
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    sock.settimeout(DEADLINE_S)
    return sock


def expect_icmp(sock: socket.socket, kind: int, code: int) -> bytes:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        packet = sock.recv(2000)
        if packet[20:22] == bytes((kind, code)):
            return packet
    raise AssertionError(f"no ICMP {kind}/{code}")


def test_a_ttl_that_ends_at_the_far_node_is_told_to_the_sender(make: pump.Implementation) -> None:
    with pair(make) as (a, b), raw_sender(a) as sender, icmp_listener(a) as listener:
        ends = int(subnet(1).network_address) + 1, int(subnet(2).network_address) + 1
        sender.sendto(Packet(*ends, protocol=17, ttl=2, payload=b"x").encode(), (pod(b), 0))
        packet = expect_icmp(listener, 11, 0)
        assert socket.inet_ntoa(packet[12:16]) == str(subnet(2).network_address)
        eventually(
            "both are counted",
            lambda: drops(b.decap, Drop.TTL_EXPIRED) == count(b.decap, "icmp_sent") == 1,
            b.decap.counters,
        )


def test_a_path_that_is_too_narrow_is_told_to_a_pod(make: pump.Implementation) -> None:
    """The error comes from the node's own address, which the kernel takes from a TUN device only for another host."""
    with pair(make, mtu=1000) as (a, b), raw_sender(a) as sender, capture(a) as sniffer:
        ends = int(subnet(1).network_address) + 1, int(subnet(2).network_address) + 1
        packet = Packet(*ends, protocol=17, payload=bytes(1200))
        sender.sendto(packet.encode(), (pod(b), 0))
        error = expect_icmp(sniffer, 3, 4)
        assert error[26:28] == (1000).to_bytes(2, "big")
        eventually("the drop is counted", lambda: drops(a.encap, Drop.TOO_BIG) == 1, a.encap.counters)


def test_a_pod_hears_that_there_is_no_way(make: pump.Implementation) -> None:
    """The error's source is the node's own address: from a TUN device the kernel takes that only with accept_local."""
    netns = f"pump{os.getpid()}-pod"
    with pair(make) as (a, _):
        ip("netns", "add", netns)
        try:
            ip("link", "add", "pod0", "netns", a.netns, "type", "veth", "peer", "eth0", "netns", netns)
            for name, device, address in ((a.netns, "pod0", "10.244.1.129/25"), (netns, "eth0", "10.244.1.130/25")):
                ip("address", "add", address, "dev", device, netns=name)
                ip("link", "set", device, "up", netns=name)
            ip("route", "add", "default", "via", "10.244.1.129", netns=netns)
            with inside(a.netns):
                Path("/proc/sys/net/ipv4/conf/flannel0/accept_local").write_text("1")
            with inside(netns):
                client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with client:
                client.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
                client.settimeout(DEADLINE_S)
                client.connect(("10.244.99.1", 5000))
                client.send(b"to nobody")
                with pytest.raises(OSError, match="Network is unreachable"):
                    client.recv(100)
            eventually("the answer is counted", lambda: count(a.encap, "icmp_sent") == 1, a.encap.counters)
        finally:
            ip("netns", "del", netns)


@contextmanager
def capture(node: Node) -> Iterator[socket.socket]:
    """IPv4 packets as they pass the TUN device, in both directions."""
    with inside(node.netns):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    with sock:
        sock.bind((node.tun.name, 0x0800))
        sock.settimeout(DEADLINE_S)
        yield sock


def test_an_own_port_of_a_peer_is_used(make: pump.Implementation) -> None:
    with pair(make) as (a, b):
        with inside(b.netns):
            other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with other, sockets(a, b, socket.SOCK_DGRAM) as (client, server):
            other.bind((str(public(2)), 9999))
            other.settimeout(0.2)
            a.encap.table = make.table(table_image(1, {2: 9999}, lpm.Validation.STRICT))
            got: list[bytes] = []

            def arrives() -> bool:
                # A pump that is at work keeps its table until it has looked for more: the first may go the old way.
                client.sendto(b"by another port", server.getsockname())
                with suppress(TimeoutError):
                    got.append(other.recv(2000))
                return bool(got)

            eventually("a datagram at the other port", arrives)
            datagram = got[0]
            assert datagram.endswith(b"by another port")
            assert datagram[8] == 63


@contextmanager
def lone_tun() -> Iterator[tuple[str, Tun]]:
    netns = f"pump{os.getpid()}-lone"
    ip("netns", "add", netns)
    try:
        with inside(netns):
            tun = open_tun("flannel0", Offload())
        yield netns, tun
        tun.close()
    finally:
        ip("netns", "del", netns)


def test_a_device_that_is_gone_is_an_error(make: pump.Implementation) -> None:
    table = make.table(table_image(1, {2: PORT}, lpm.Validation.OFF))
    encap, decap = make.encap(table, gso=True), make.decap(table, tcp=True, udp=True)
    packet = Packet(int(subnet(2).network_address), int(subnet(1).network_address), protocol=17).encode()
    with lone_tun() as (netns, tun), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.sendto(packet, sock.getsockname())
        assert encap.run(tun.fd, sock.fileno()) == pump.Status.DRAINED
        ip("link", "del", "flannel0", netns=netns)
        with pytest.raises(OSError, match="File descriptor in bad state"):
            encap.run(tun.fd, sock.fileno())
        with pytest.raises(OSError, match="File descriptor in bad state"):
            decap.run(tun.fd, sock.fileno())


def test_a_device_that_is_down_loses_packets_and_counts_them(make: pump.Implementation) -> None:
    table = make.table(table_image(1, {2: PORT}, lpm.Validation.OFF))
    decap = make.decap(table, tcp=True, udp=True)
    packet = Packet(int(subnet(2).network_address), int(subnet(1).network_address), protocol=17).encode()
    with lone_tun() as (_, tun), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.sendto(packet, sock.getsockname())
        assert decap.run(tun.fd, sock.fileno()) == pump.Status.DRAINED
        assert drops(decap, Drop.WRITE_FAILED) == 1
        assert count(decap, "last_error") == errno.EIO
