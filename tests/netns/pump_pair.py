"""Two nodes in network namespaces, joined by a veth pair, each with a TUN device and a running pump.

A node's descriptors are opened in its namespace; the pumps run in threads of the test, since a descriptor stays where
it was opened.
"""

import ctypes
import os
import select
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from flanneld_py.dataplane import lpm, pump
from flanneld_py.dataplane.offload import Offload
from flanneld_py.dataplane.tun import Tun, open_tun
from flanneld_py.dataplane.udpsock import UdpSocket, open_udp

PORT = 8285
OUTER_MTU = 1500
MTU = OUTER_MTU - 28
_CLONE_NEWNET = 0x40000000


def ip(*args: str, netns: str | None = None) -> None:
    where = ["-n", netns] if netns else []
    subprocess.run(["ip", *where, *args], check=True, capture_output=True, text=True)


@contextmanager
def inside(netns: str) -> Iterator[None]:
    """This thread is in the namespace meanwhile."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{netns}") as there:  # noqa: PTH123
        if libc.setns(there.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {netns}")
        try:
            yield
        finally:
            libc.setns(home.fileno(), _CLONE_NEWNET)


def public(number: int) -> IPv4Address:
    return IPv4Address(f"192.0.2.{number}")


def subnet(number: int) -> IPv4Network:
    return IPv4Network(f"10.244.{number}.0/24")


def table_image(own: int, peers: dict[int, int], validation: lpm.Validation, mtu: int = MTU) -> bytes:
    """The table of node `own`. `peers`: number of each other node, and its port."""
    entries = [lpm.Peer(public(n), port, mtu, (subnet(n),)) for n, port in peers.items()]
    address = subnet(own).network_address
    return lpm.encode_table(entries, local=[subnet(own)], own=address, validation=validation)


@dataclass
class Node:
    """A namespace with a TUN device. Its pod address is `subnet.1` on the loopback device."""

    number: int
    netns: str
    tun: Tun
    udp: UdpSocket
    encap: pump.Encap
    decap: pump.Decap
    threads: list[threading.Thread] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    def start(self, stop_fd: int) -> None:
        for job in (self._encap_loop, self._decap_loop):
            thread = threading.Thread(target=self._guard, args=(job, stop_fd), daemon=True)
            thread.start()
            self.threads.append(thread)

    def _guard(self, job: Callable[[int], None], stop_fd: int) -> None:
        try:
            job(stop_fd)
        except BaseException as err:
            self.failures.append(err)

    def _encap_loop(self, stop_fd: int) -> None:
        tun, sock = self.tun.fd, self.udp.sock.fileno()
        blocked = False
        while not _stopped(stop_fd, read=() if blocked else (tun,), write=(sock,) if blocked else ()):
            blocked = self.encap.run(tun, sock) == pump.Status.BLOCKED

    def _decap_loop(self, stop_fd: int) -> None:
        tun, sock = self.tun.fd, self.udp.sock.fileno()
        while not _stopped(stop_fd, read=(sock,)):
            self.decap.run(tun, sock)

    def run(self, *command: str, check: bool = True, **kwargs: object) -> subprocess.CompletedProcess[str]:
        full = ["ip", "netns", "exec", self.netns, *command]
        return subprocess.run(full, check=check, capture_output=True, text=True, timeout=60, **kwargs)  # type: ignore[call-overload, no-any-return]


def _stopped(stop_fd: int, read: tuple[int, ...] = (), write: tuple[int, ...] = ()) -> bool:
    readable, _, _ = select.select([stop_fd, *read], write, [])
    return stop_fd in readable


@contextmanager
def pair(
    make: pump.Implementation,
    *,
    wanted: Offload = Offload(),  # noqa: B008
    validation: lpm.Validation = lpm.Validation.STRICT,
    mtu: int = MTU,
    start: bool = True,
) -> Iterator[tuple[Node, Node]]:
    """Nodes 1 and 2, running if `start`. Namespaces and devices are gone afterwards, whatever happens."""
    names = {n: f"pump{os.getpid()}-{n}" for n in (1, 2)}
    with ExitStack() as stack:
        for name in names.values():
            ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)
        ip("link", "add", "eth0", "netns", names[1], "mtu", "1500", "type", "veth", "peer", "eth0", "netns", names[2])
        nodes = []
        for own, other in ((1, 2), (2, 1)):
            nodes.append(_node(stack, make, own, other, names[own], wanted, validation, mtu))
        stop_read, stop_write = os.pipe()
        stack.callback(os.close, stop_read)
        for node in nodes if start else ():
            node.start(stop_read)
        try:
            yield nodes[0], nodes[1]
        finally:
            os.close(stop_write)
            for node in nodes:
                for thread in node.threads:
                    thread.join(10)
        failures = [failure for node in nodes for failure in node.failures]
        if failures:
            raise failures[0]


def _node(
    stack: ExitStack,
    make: pump.Implementation,
    own: int,
    other: int,
    netns: str,
    wanted: Offload,
    validation: lpm.Validation,
    mtu: int,
) -> Node:
    ip("link", "set", "lo", "up", netns=netns)
    ip("address", "add", f"{public(own)}/24", "dev", "eth0", netns=netns)
    ip("link", "set", "eth0", "up", netns=netns)
    with inside(netns):
        tun = open_tun("flannel0", wanted)
        stack.callback(tun.close)
        udp = open_udp(public(own), PORT, wanted)
        stack.callback(udp.sock.close)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    base = subnet(own)
    ip("link", "set", "flannel0", "mtu", str(MTU), netns=netns)
    ip("address", "add", f"{base.network_address}/32", "dev", "flannel0", netns=netns)
    ip("link", "set", "flannel0", "up", netns=netns)
    ip("address", "add", f"{base.network_address + 1}/32", "dev", "lo", netns=netns)
    ip("route", "add", "10.244.0.0/16", "dev", "flannel0", "src", str(base.network_address + 1), netns=netns)
    table = make.table(table_image(own, {other: PORT}, validation, mtu))
    active = tun.offload & udp.offload
    encap = make.encap(table, gso=active.gso)
    decap = make.decap(table, tcp=active.tso, udp=active.uso)
    return Node(own, netns, tun, udp, encap, decap)
