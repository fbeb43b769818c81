"""What routers say of narrow ways, from a real router between two namespaces."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flanneld_py.dataplane.narrowing import follow_narrow_ways, open_icmp
from tests.netns.pump_pair import inside, ip

PORT = 8285
FAR = "198.51.100.2"
NODE, ROUTER, END = "node", "router", "end"


@pytest.fixture
def spaces() -> Iterator[dict[str, str]]:
    """A node, and an end behind a router whose second link has an MTU of 1400."""
    names = {role: f"narrow{os.getpid()}-{role}" for role in (NODE, ROUTER, END)}
    try:
        for name in names.values():
            ip("netns", "add", name)
            ip("link", "set", "lo", "up", netns=name)
        for left, right, net, mtu in ((NODE, ROUTER, "192.0.2", 1500), (ROUTER, END, "198.51.100", 1400)):
            ends = (f"to-{right}", names[left], "1"), (f"to-{left}", names[right], "2")
            (one, _, _), (two, _, _) = ends
            ip("link", "add", one, "netns", names[left], "type", "veth", "peer", two, "netns", names[right])
            for dev, name, host in ends:
                ip("address", "add", f"{net}.{host}/24", "dev", dev, netns=name)
                ip("link", "set", dev, "mtu", str(mtu), "up", netns=name)
        ip("route", "add", "default", "via", "192.0.2.2", netns=names[NODE])
        ip("route", "add", "default", "via", "198.51.100.1", netns=names[END])
        with inside(names[ROUTER]):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        yield names
    finally:
        for name in names.values():
            ip("netns", "del", name)


def send(space: str, port: int, size: int) -> None:
    """One datagram with DF, of that many bytes with its headers. The kernel must not know better."""
    with inside(space), closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.setsockopt(socket.IPPROTO_IP, 10, 3)  # IP_MTU_DISCOVER, IP_PMTUDISC_PROBE
        sock.bind(("192.0.2.1", port))
        sock.sendto(bytes(size - 28), (FAR, PORT))


def looks_after(space: str, act: Callable[[], None]) -> int:
    """How often the kernel was looked at until it first was."""

    async def scenario() -> int:
        looks: list[float] = []
        looked = asyncio.Event()

        def look() -> None:
            looks.append(asyncio.get_running_loop().time())
            looked.set()

        with inside(space):
            task = asyncio.create_task(follow_narrow_ways(PORT, look))
            await asyncio.sleep(0)  # it runs until it waits: the socket is open, here
        act()
        async with asyncio.timeout(10):
            await looked.wait()
        task.cancel()
        return len(looks)

    return asyncio.run(scenario())


def test_a_datagram_of_ours_that_is_too_big_leads_to_a_look(spaces: dict[str, str]) -> None:
    assert looks_after(spaces[NODE], lambda: send(spaces[NODE], PORT, 1500)) == 1


def test_hundreds_of_messages_lead_to_one(spaces: dict[str, str]) -> None:
    """The router itself limits what it sends (icmp_ratelimit), so they are made by hand."""
    datagram = b"\x45" + bytes(8) + b"\x11" + bytes(10) + PORT.to_bytes(2, "big") + bytes(6)

    def flood() -> None:
        with (
            inside(spaces[ROUTER]),
            closing(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)) as sock,
        ):
            for _ in range(500):
                sock.sendto(b"\x03\x04\0\0\0\0\x05\x78" + datagram, ("192.0.2.1", 0))

    assert looks_after(spaces[NODE], flood) == 1


@pytest.mark.parametrize("what", ["fits", "another port", "another error"])
def test_nothing_else_is_heard(spaces: dict[str, str], what: str) -> None:
    node = spaces[NODE]
    with inside(node):
        heard = open_icmp(PORT)
    with closing(heard):
        if what == "fits":
            send(node, PORT, 1400)
        elif what == "another port":
            send(node, PORT + 1, 1500)
        else:  # the end has no such port: ICMP type 3, code 3
            send(node, PORT, 1000)
        send(node, PORT, 1499)
        heard.settimeout(10)
        first = heard.recv(1000)
        assert int.from_bytes(first[28 + 2 : 28 + 4], "big") == 1499  # the length of the datagram that it is about
