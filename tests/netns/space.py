"""Fixtures: a fresh network namespace for each test, removed whatever happens to the test."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import netns as namespaces

from flanneld_py.netlink.netns import in_netns
from flanneld_py.netlink.socket import NetlinkSocket
from tests.waiting import eventually

PREFIX = "fltest-"
_FOLDER = Path("/run/netns")
_numbers = count(1)


@dataclass(frozen=True)
class Namespace:
    name: str

    @property
    def path(self) -> str:
        return str(_FOLDER / self.name)

    def ip(self, *arguments: str) -> str:
        return self._run("ip", "-n", self.name, *arguments)

    def ip_json(self, *arguments: str) -> list[dict[str, Any]]:
        return list(json.loads(self._run("ip", "-n", self.name, "-d", "-j", *arguments) or "[]"))

    def bridge(self, *arguments: str) -> str:
        return self._run("bridge", "-n", self.name, *arguments)

    def bridge_json(self, *arguments: str) -> list[dict[str, Any]]:
        return list(json.loads(self._run("bridge", "-n", self.name, "-d", "-j", *arguments) or "[]"))

    def batch(self, lines: list[str]) -> None:
        """Many `ip` commands in one process."""
        subprocess.run(
            ["ip", "-n", self.name, "-batch", "-"], input="\n".join(lines), text=True, check=True, timeout=60
        )

    @staticmethod
    def _run(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
def no_leftovers() -> None:
    """Namespaces of test runs that were killed: their process is gone, so nobody else removes them."""
    for name in namespaces.listnetns():
        pid = name.removeprefix(PREFIX).split("-")[0]
        if name.startswith(PREFIX) and pid.isdigit() and not Path(f"/proc/{pid}").exists():
            namespaces.remove(name)


@contextmanager
def _fresh() -> Iterator[Namespace]:
    name = f"{PREFIX}{os.getpid()}-{next(_numbers)}"
    namespaces.create(name)
    try:
        space = Namespace(name)
        space.ip("link", "set", "lo", "up")
        yield space
    finally:
        namespaces.remove(name)


@pytest.fixture
def netns(no_leftovers: None) -> Iterator[Namespace]:
    """A namespace with nothing but a loopback device, which is up."""
    with _fresh() as space:
        yield space


@pytest.fixture
def node(netns: Namespace) -> Namespace:
    """A namespace with an underlay: `eth0`, 192.0.2.1/24 and 2001:db8::1/64, its peer `wire0` in the same namespace."""
    netns.ip("link", "add", "eth0", "type", "veth", "peer", "name", "wire0")
    netns.ip("link", "set", "eth0", "up")
    netns.ip("link", "set", "wire0", "up")
    netns.ip("addr", "add", "192.0.2.1/24", "dev", "eth0")
    netns.ip("addr", "add", "2001:db8::1/64", "dev", "eth0", "nodad")
    eventually("the kernel makes the IPv6 route of the link", lambda: netns.ip("-6", "route", "show", "2001:db8::/64"))
    return netns


@pytest.fixture
def netns_beside(no_leftovers: None) -> Iterator[Namespace]:
    """A second namespace, empty."""
    with _fresh() as space:
        yield space


def vxlan(space: Namespace, name: str = "flannel.1") -> None:
    """Somebody's VXLAN device as ours would be, and up."""
    settings = ["id", "1", "dstport", "8472", "local", "192.0.2.1", "dev", "eth0", "nolearning"]
    space.ip("link", "add", name, "type", "vxlan", *settings)
    space.ip("link", "set", name, "up")


@contextmanager
def udp_socket(space: Namespace, port: int) -> Iterator[None]:
    """A UDP socket that holds `port` in the namespace."""
    sock = in_netns(space.path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sock:
        sock.bind(("0.0.0.0", port))
        yield


class CountingSocket:
    """Stands before a socket and counts the system calls that go through it."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name not in {"send", "sendmsg", "recv", "recvfrom", "recvmsg", "recvmsg_into", "recv_into", "recvfrom_into"}:
            return method

        def counted(*arguments: Any) -> Any:
            self.count += 1
            return method(*arguments)

        return counted


@contextmanager
def counted_calls(sock: NetlinkSocket) -> Iterator[CountingSocket]:
    """Counts what `sock` asks of the kernel inside the block."""
    inner = sock._socket
    counting = CountingSocket(inner)
    sock._socket = counting  # type: ignore[assignment]
    try:
        yield counting
    finally:
        sock._socket = inner
