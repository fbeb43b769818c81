"""Opening the TUN device and the socket, and probing what they can do."""

import fcntl
import os
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from flanneld_py.dataplane.offload import NO_OFFLOAD, Offload, gro_is_right, kernel_version
from flanneld_py.dataplane.tun import QUEUE_LENGTH, open_tun
from flanneld_py.dataplane.udpsock import open_udp, probe_offload
from flanneld_py.errors import KernelError
from tests.kernels.test_offload import HAS
from tests.netns.pump_pair import inside, ip

LOOPBACK = IPv4Address("127.0.0.1")


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"pump{os.getpid()}-dev"
    ip("netns", "add", name)
    try:
        ip("link", "set", "lo", "up", netns=name)
        with inside(name):
            yield name
    finally:
        ip("netns", "del", name)


def links() -> list[str]:
    """Devices of this thread's namespace."""
    return [line.split(":")[0].strip() for line in Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]]


def test_a_tun_device_comes_with_a_long_queue_and_goes_with_its_descriptor(netns: str) -> None:
    tun = open_tun("flannel0", Offload())
    assert "flannel0" in links()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = fcntl.ioctl(sock, 0x8942, b"flannel0".ljust(40, b"\0"))  # SIOCGIFTXQLEN
    assert int.from_bytes(request[16:20], "little") == QUEUE_LENGTH
    assert not os.get_blocking(tun.fd)
    assert not os.get_inheritable(tun.fd)
    tun.close()
    assert "flannel0" not in links()


def test_a_persistent_device_stays_and_is_taken_over(netns: str) -> None:
    open_tun("flannel0", Offload(), persist=True).close()
    assert "flannel0" in links()
    open_tun("flannel0", Offload(), persist=True).close()


@pytest.mark.parametrize("wanted", [Offload(), NO_OFFLOAD, Offload(uso=False), Offload(tso=False)], ids=str)
def test_only_what_is_wanted_is_switched_on(netns: str, wanted: Offload) -> None:
    tun = open_tun("flannel0", wanted)
    udp = open_udp(LOOPBACK, 0, wanted)
    found = wanted & HAS
    assert (tun.offload.tso, tun.offload.uso) == (found.tso, found.uso)
    assert (udp.offload.gso, udp.offload.gro) == (found.gso, found.gro)
    assert udp.sock.getsockopt(17, 104) == found.gro
    tun.close()
    udp.sock.close()


def test_a_name_of_another_kind_is_said(netns: str) -> None:
    ip("link", "add", "flannel0", "type", "bridge", netns=netns)
    with pytest.raises(KernelError, match=r"TUN device flannel0.*another kind"):
        open_tun("flannel0", Offload())


def test_another_programs_device_is_said(netns: str) -> None:
    """Go flannel's, say, which has one queue."""
    ip("tuntap", "add", "dev", "flannel0", "mode", "tun", netns=netns)
    with pytest.raises(KernelError, match="or another program's: ip link delete it"):
        open_tun("flannel0", Offload())


def test_a_device_has_as_many_queues_as_are_opened(netns: str) -> None:
    first, second = open_tun("flannel0", Offload()), open_tun("flannel0", Offload())
    assert first.name == second.name == "flannel0"
    assert first.offload == second.offload
    first.close()
    second.close()
    assert "flannel0" not in links()


def test_a_taken_port_is_said(netns: str) -> None:
    with open_udp(LOOPBACK, 8285, Offload()).sock, pytest.raises(KernelError, match=r"127\.0\.0\.1:8285.*ss -lunp"):
        open_udp(LOOPBACK, 8285, Offload())


def test_an_address_that_is_not_ours_is_said(netns: str) -> None:
    with pytest.raises(KernelError, match="no interface has that address"):
        open_udp(IPv4Address("198.51.100.1"), 8285, Offload())


def test_buffers_are_as_large_as_asked_for(netns: str) -> None:
    udp = open_udp(LOOPBACK, 0, Offload(), buffer_bytes=9_000_000)
    assert (udp.receive_buffer, udp.send_buffer) == (9_000_000, 9_000_000)
    udp.sock.close()


@pytest.mark.parametrize(
    ("release", "right"),
    [
        ("5.11.22", False),
        ("5.10.0-32-amd64", False),
        ("5.12.0", True),
        ("6.1.0-rc1+", True),
        ("10.0", True),
        ("odd", False),
    ],
)
def test_gro_only_on_kernels_that_do_it_right(release: str, right: bool) -> None:
    assert gro_is_right(release) is right
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert probe_offload(sock, Offload(), release=release).gro is right
        assert sock.getsockopt(17, 104) == right


def test_offload_reads_well() -> None:
    assert str(Offload(uso=False)) == "tso+gso+gro"
    assert str(NO_OFFLOAD) == "none"
    assert Offload(uso=False) & Offload(gro=False) == Offload(uso=False, gro=False)
    assert kernel_version("6.18.44-fc-v669") == (6, 18)
