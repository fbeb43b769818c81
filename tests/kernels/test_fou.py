"""The wire format of the udp backend is that of the kernel's own foo-over-udp with protocol 4 (ip-fou(8)).

Node 1 runs a pump; node 2 has an ipip device with that encapsulation, and nothing in userspace.
"""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from flanneld_py.dataplane import pump
from tests.kernels.test_udp_path import ping, switch_checksum_offload_off, transfer
from tests.netns.pump_pair import MTU, PORT, Node, ip, pair, public, subnet
from tests.netns.test_pump import count, pod, sockets
from tests.waiting import eventually

FOU = ("fou", "add", "port", str(PORT), "ipproto", "4")
IPIP = ("link", "add", "flannel0", "type", "ipip", "local", str(public(2)))
ENCAP = ("encap", "fou", "encap-sport", str(PORT), "encap-dport", str(PORT))


@pytest.fixture(scope="module", autouse=True)
def modules() -> None:
    """Skips where the kernel has no such modules."""
    name = f"fou{os.getpid()}"
    ip("netns", "add", name)
    try:
        for words in (FOU, (*IPIP, *ENCAP)):
            done = subprocess.run(["ip", "-n", name, *words], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"this kernel has no fou or no ipip ({done.stderr.strip()}): the formats stay uncompared")
    finally:
        ip("netns", "del", name)


@contextmanager
def pump_and_kernel(make: pump.Implementation) -> Iterator[tuple[Node, Node]]:
    """Node 1 with a running pump, and node 2, whose device and socket are the kernel's."""
    with pair(make, start=False) as (a, b):
        b.udp.sock.close()
        ip("link", "del", "flannel0", netns=b.netns)
        ip(*FOU, netns=b.netns)
        ip(*IPIP, *ENCAP, netns=b.netns)
        base = subnet(2).network_address
        ip("link", "set", "flannel0", "mtu", str(MTU), "up", netns=b.netns)
        ip("address", "add", f"{base}/32", "dev", "flannel0", netns=b.netns)
        way = ("via", str(public(1)), "dev", "flannel0", "onlink", "src", pod(b))
        ip("route", "add", str(subnet(1)), *way, netns=b.netns)
        # A veth pair hands unfinished inner checksums on, which a network card would finish.
        switch_checksum_offload_off(b)
        stop_read, stop_write = os.pipe()
        try:
            a.start(stop_read)
            yield a, b
        finally:
            os.close(stop_write)
            for thread in a.threads:
                thread.join(10)
            os.close(stop_read)


def test_the_kernel_and_a_pump_understand_each_other(make: pump.Implementation) -> None:
    with pump_and_kernel(make) as (a, b):
        for size in (56, 4000):
            ping(a, b, size)
            ping(b, a, size)
        transfer(a, b, 300_000)
        transfer(b, a, 300_000)
        assert count(a.encap, "kernel_errors") == count(a.decap, "kernel_errors") == 0
        drops = a.decap.counters()["drops"]
        assert isinstance(drops, tuple) and not any(drops)


def test_the_bytes_on_the_wire_are_the_inner_packet_alone(make: pump.Implementation) -> None:
    """What the kernel sends, taken by a plain socket in the pump's place."""
    with pump_and_kernel(make) as (a, b), sockets(a, b, socket.SOCK_DGRAM) as (client, server):
        client.sendto(b"there", server.getsockname())
        data, back = server.recvfrom(100)
        assert (data, back[0]) == (b"there", pod(a))
        sent = count(a.decap, "packets")
        server.sendto(b"and back", back)
        assert client.recv(100) == b"and back"
        eventually("the answer is counted", lambda: count(a.decap, "packets") == sent + 1, a.decap.counters)
        assert count(a.decap, "bytes") >= 28 + len(b"and back")
