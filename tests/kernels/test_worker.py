"""The worker process on the running kernel: started, loaded and asked by a supervisor, in a namespace each."""

import asyncio
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flanneld_py.dataplane import link
from flanneld_py.dataplane.supervisor import WorkerSupervisor
from flanneld_py.lab.echo import decode_reply, encode_request
from flanneld_py.model.entry import Desired, Op, UdpPeer, UdpWorker, Verb
from tests.kernels.test_offload import HAS
from tests.netns.pump_pair import MTU, PORT, inside, ip, public, subnet
from tests.netns.test_pump import DEADLINE_S

POLL_S = 0.05


@dataclass(frozen=True)
class Site:
    """A namespace with an underlay, a directory for its worker's socket, and what is asked of the worker."""

    number: int
    netns: str
    directory: Path

    @property
    def worker(self) -> UdpWorker:
        return UdpWorker("flannel0", public(self.number), PORT, subnet(self.number), MTU)

    @property
    def peer(self) -> UdpPeer:
        other = 3 - self.number
        return UdpPeer("flannel0", subnet(other), public(other), PORT, MTU)

    @property
    def pod(self) -> str:
        return str(subnet(self.number).network_address + 1)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a software processor a worker takes its time to load its code."""
    monkeypatch.setattr(link, "ANSWER_S", 80.0)


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[tuple[Site, Site]]:
    made = []
    try:
        for number in (1, 2):
            directory = tmp_path / str(number)
            directory.mkdir()
            made.append(Site(number, f"worker{os.getpid()}-{number}", directory))
            ip("netns", "add", made[-1].netns)
        one, two = made
        ip("link", "add", "eth0", "netns", one.netns, "type", "veth", "peer", "eth0", "netns", two.netns)
        for site in made:
            ip("link", "set", "lo", "up", netns=site.netns)
            ip("address", "add", f"{public(site.number)}/24", "dev", "eth0", netns=site.netns)
            ip("link", "set", "eth0", "up", netns=site.netns)
        yield one, two
    finally:
        for site in made:
            ip("netns", "del", site.netns)


async def start(site: Site) -> WorkerSupervisor:
    """A worker that carries packets; its device is set up as the daemon would."""
    supervisor = WorkerSupervisor(site.directory)
    with inside(site.netns):
        assert await supervisor.apply([Op(Verb.ADD, site.worker), Op(Verb.ADD, site.peer)]) == []
    base = subnet(site.number).network_address
    ip("link", "set", "flannel0", "mtu", str(MTU), "up", netns=site.netns)
    ip("address", "add", f"{base}/32", "dev", "flannel0", netns=site.netns)
    ip("address", "add", f"{base + 1}/32", "dev", "lo", netns=site.netns)
    ip("route", "add", "10.244.0.0/16", "dev", "flannel0", "src", site.pod, netns=site.netns)
    return supervisor


def echo(source: Site, target: Site) -> None:
    with inside(source.netns), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.settimeout(DEADLINE_S)
        sock.sendto(encode_request(4, 9, 1, b"carried"), (target.pod, 0))
        while (reply := decode_reply(4, sock.recv(2000))) is None:
            pass
    assert reply.payload == b"carried"


def has_given_up_privileges(pid: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0 and fields["NoNewPrivs"] == "1"


def test_workers_carry_packets_and_say_what_they_use(sites: tuple[Site, Site]) -> None:
    one, two = sites

    async def scenario() -> None:
        supervisors = [await start(site) for site in sites]
        try:
            await asyncio.to_thread(echo, one, two)
            stats = await supervisors[0].stats()
            assert stats is not None
            assert stats["pump"] == "native"
            assert set(stats["offload"]) == {name for name in ("tso", "uso", "gso", "gro") if getattr(HAS, name)}
            assert stats["outbound"]["packets"] >= 1 and stats["inbound"]["packets"] >= 1
            assert (stats["socket_drops"], stats["strangers"], stats["seen"]) == (0, 0, [])
            known = await supervisors[0].known(Desired())
            assert set(known) == {one.worker.key, one.peer.key}
            assert has_given_up_privileges(stats["pid"])
        finally:
            for site, supervisor in zip(sites, supervisors, strict=True):
                assert await supervisor.apply([Op(Verb.DELETE, site.worker)]) == []
                supervisor.close()

    asyncio.run(scenario())


async def stats_after_a_drop(supervisor: WorkerSupervisor) -> dict[str, Any]:
    for _ in range(int(DEADLINE_S / POLL_S)):
        stats = await supervisor.stats()
        if stats is not None and stats["inbound"]["drops"]:
            return stats
        await asyncio.sleep(POLL_S)
    raise AssertionError("no datagram was dropped in time")


def test_datagrams_of_strangers_are_sorted_out_in_the_kernel(sites: tuple[Site, Site]) -> None:
    """The pump does not even see them."""
    one, two = sites

    async def scenario() -> None:
        supervisor = await start(two)
        try:
            with inside(one.netns), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                ip("address", "add", "192.0.2.77/24", "dev", "eth0", netns=one.netns)
                sender.bind(("192.0.2.77", PORT))
                sender.sendto(b"\x45" + bytes(30), (str(public(2)), PORT))
            with inside(one.netns), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind((str(public(1)), PORT))
                sender.sendto(b"\x45", (str(public(2)), PORT))
            stats = await stats_after_a_drop(supervisor)
            assert stats["inbound"]["drops"] == {"truncated": 1}
            assert (stats["socket_drops"], stats["strangers"]) == (0, 1)
            assert stats["seen"] == [{"outer": "192.0.2.77", "inner": "0.0.0.0", "datagrams": 1}]
        finally:
            assert await supervisor.apply([Op(Verb.DELETE, two.worker)]) == []
            supervisor.close()

    asyncio.run(scenario())
