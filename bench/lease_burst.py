"""What do leases cost a node: 1,000 at once, one alone, and none while etcd is away."""

import argparse
import asyncio
import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, ip_network
from random import Random

from bench.cost import cpu_s, rss_mib
from bench.report import Figure, render
from flanneld_py.backend.vxlan import VtepData, VxlanBackend
from flanneld_py.daemon.planner import Planner
from flanneld_py.etcd.client import EtcdAccess, EtcdClient
from flanneld_py.etcd.wire import Delete
from flanneld_py.host.sysctl import SysctlApplier
from flanneld_py.lab import build, process
from flanneld_py.lab.build import Lab
from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.state import ETCD
from flanneld_py.lab.topology import ETCD_PREFIX, Firewall, LabSpec, Wiring
from flanneld_py.model.entry import Desired, Route
from flanneld_py.model.lease import Lease, LeaseAttrs
from flanneld_py.model.node import ExternalInterface, NodeFacts
from flanneld_py.netlink.applier import NetlinkApplier
from flanneld_py.netlink.monitor import EntryNotice, Monitor
from flanneld_py.reconcile.applier import Applier, Dispatcher
from flanneld_py.reconcile.loop import DesiredNow, Reconciler
from flanneld_py.store.lease_codec import encode_attrs

NETWORK = IPv4Network("10.0.0.0/8")
DEADLINE_S = 60.0
IDLE_S = 0.25
"""The daemon spaces its passes while events keep coming; a single lease comes after a pause."""
VNI = 77
"""Of the device that stands beside the daemon's own."""


def lease(number: int, vni: int = 1) -> Lease:
    """The lease of a node that is not there; its subnet lies in the upper half of the network."""
    subnet = IPv4Network((int(NETWORK.network_address) + (0x8000 + number) * 256, 24))
    data = VtepData(vni, f"0a:00:00:00:{number >> 8:02x}:{number & 255:02x}").format()
    return Lease((subnet,), LeaseAttrs(IPv4Address("198.18.0.1") + number, None, "vxlan", data))


def run(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench lease_burst", description=__doc__)
    parser.add_argument("--leases", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--away", type=float, default=10.0, metavar="SECONDS", help="how long etcd stays away")
    args = parser.parse_args(argv)
    build.require_root("python -m bench lease_burst")
    spec = LabSpec(
        name="bench-burst", nodes=1, pods=1, networks=(NETWORK,), wiring=Wiring.PLAIN, firewall=Firewall.NONE
    )
    with build.temporary(spec, Silent()) as lab:
        figures = inside(
            lab.topology.nodes[0].namespace, lambda: asyncio.run(_measure(lab, args.leases, args.rounds, args.away))
        )
    print(render(figures))
    return 0


async def _measure(lab: Lab, count: int, rounds: int, away_s: float) -> list[Figure]:
    pid = lab.record.processes[lab.topology.nodes[0].name].pid
    client = EtcdClient(EtcdAccess((lab.topology.etcd_url,), ETCD_PREFIX), lambda trouble: None, Random(1))
    kernel, burst = [], []
    for _ in range(rounds):
        kernel.append(await _program(count))
        burst.append(await _burst(client, pid, range(count)))
    rss = rss_mib(pid)
    single = [await _one(client, number) * 1000 for number in range(count, count + 20 * rounds)]
    await client.close()
    process.end([lab.record.processes[ETCD]])
    before = cpu_s(pid)
    await asyncio.sleep(away_s)
    idle = (cpu_s(pid) - before) / away_s * 100
    return [
        Figure(f"{count} leases known to the kernel, planning included", "s CPU", kernel, 0.2 * count / 1000),
        Figure(f"{count} leases put in etcd, the whole daemon", "s CPU", burst),
        Figure("one lease put in etcd to its route in the kernel", "ms", single, 10),
        Figure(f"etcd away for {away_s:g} s, the whole daemon", "% CPU", [idle], 1),
        Figure(f"RSS with {count} leases", "MiB", [rss], 70),
    ]


async def _program(count: int) -> float:
    """CPU seconds of planning and programming `count` peers on a VXLAN device of its own, removed again after."""
    public = IPv4Address("198.18.255.1")
    facts = NodeFacts(
        ExternalInterface("eth0", 2, 1500, public, None, public), "bench", {f"flannel.{VNI}": "0a:ff:00:00:00:01"}
    )
    own = Lease((ip_network("10.1.0.0/24"),), LeaseAttrs(public))
    planner = Planner(VxlanBackend((4,), vni=VNI, port=4790), (NETWORK,), (), "bench")
    leases: list[Lease] = []

    async def desired(read: bool) -> Desired:
        return planner.plan(own, leases, facts, {}, frozenset())

    async def nothing(read: bool) -> Desired:
        return Desired(scope=planner.plan(own, (), facts, {}, frozenset()).scope)

    async with NetlinkApplier() as kernel:
        applier = Dispatcher([kernel, SysctlApplier()])
        await _settle(applier, desired)
        leases = [lease(10_000 + number, VNI) for number in range(count)]
        begin = time.process_time()
        ops = await _settle(applier, desired)
        taken = time.process_time() - begin
        await _settle(applier, nothing)
    if ops != 3 * count:
        raise RuntimeError(f"{ops} ops instead of {3 * count}")
    return taken


async def _settle(applier: Applier, desired: DesiredNow) -> int:
    """One pass that reads the kernel; the ops that it took."""
    loop = Reconciler(applier, desired, on_pass=lambda progress: None, jitter=lambda: 0.5)
    progress = await loop.settle()
    if progress.failures:
        raise RuntimeError(str(next(iter(progress.failures.values()))))
    return progress.repaired


async def _burst(client: EtcdClient, pid: int, numbers: range) -> float:
    """CPU seconds of the daemon from the first put to the last route; the leases are deleted again, not counted."""
    leases = [lease(number) for number in numbers]
    async with Monitor((), (NETWORK,)) as monitor:
        before = cpu_s(pid)
        await asyncio.gather(*(client.put(_key(one), encode_attrs(one.attrs)) for one in leases))
        await _routes(monitor, leases, gone=False)
        taken = cpu_s(pid) - before
        await asyncio.gather(*(client.txn((), (Delete(_key(one)),)) for one in leases))
        await _routes(monitor, leases, gone=True)
    return taken


async def _one(client: EtcdClient, number: int) -> float:
    """Seconds from the start of a put to the notice of the route."""
    one = lease(number)
    await asyncio.sleep(IDLE_S)
    async with Monitor((), (NETWORK,)) as monitor:
        begin = time.perf_counter()
        await client.put(_key(one), encode_attrs(one.attrs))
        await _routes(monitor, [one], gone=False)
        taken = time.perf_counter() - begin
        await client.txn((), (Delete(_key(one)),))
        await _routes(monitor, [one], gone=True)
    return taken


async def _routes(monitor: Monitor, leases: Sequence[Lease], *, gone: bool) -> None:
    """Wait until the route of each lease has come or gone."""
    left = {one.subnets[0] for one in leases}
    async with asyncio.timeout(DEADLINE_S):
        while left:
            notice = await anext(monitor)
            if isinstance(notice, EntryNotice) and isinstance(notice.entry, Route) and notice.gone == gone:
                left.discard(notice.entry.dst)


def _key(one: Lease) -> bytes:
    return f"{ETCD_PREFIX}/subnets/{one.key}".encode()
