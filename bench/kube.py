"""What does a cluster of many nodes cost the daemon of one, in a container's limits, against a real API server?"""

import argparse
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from tempfile import mkdtemp

from pyroute2 import IPRoute

from bench.cgroup import Group, limited
from bench.cost import cpu_s, rss_mib
from bench.report import Figure, render
from flanneld_py.errors import LabError
from flanneld_py.lab import build, kubeobjects, process
from flanneld_py.lab.kubeapi import Api
from flanneld_py.lab.kubernetes import API_SERVER, ETCD, ControlPlane, Site
from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.process import Process, python_module
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.state import LabDirectory
from flanneld_py.lab.wiring import create_namespace, remove_namespace

NETWORK = IPv4Network("10.0.0.0/8")
ADDRESS = IPv4Address("198.18.0.1")
SPACE = "bench-kube"
OWN = "node-0"
DEADLINE_S = 120.0
POLL_S = 0.005
IMAGES = 25
BOUND_NODES = 1000
"""How many must fit into what published manifests give; what more of them need is shown."""
LARGE_MIB = 256
PREFIX = "flannel.alpha.coreos.com/"


@dataclass(frozen=True, slots=True)
class Limits:
    """`cpus`: None for all there are."""

    memory_mib: int
    cpus: float | None


@dataclass(frozen=True, slots=True)
class Start:
    """One start of the daemon, until all peers were in the kernel."""

    ready_s: float
    cpu_s: float
    rss_mib: float
    anonymous_mib: float
    peak_mib: float
    throttled_s: float
    idle_percent: float


def run(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench kube", description=__doc__)
    parser.add_argument("--nodes", default="100,1000,5000", metavar="N,...")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, default=50, metavar="MIB", help=f"up to {BOUND_NODES} nodes; beyond: 256")
    parser.add_argument("--cpus", type=float, default=0.1, help="0: without a limit alone")
    parser.add_argument("--idle", type=float, default=20.0, metavar="SECONDS", help="for how long to look at it after")
    args = parser.parse_args(argv)
    build.require_root("python -m bench kube")
    figures: list[Figure] = []
    with _control_plane() as (control, folder):
        known = 0
        for count in map(int, args.nodes.split(",")):
            _add_nodes(control.api, known, count)
            known = count
            memory = args.memory if count <= BOUND_NODES else LARGE_MIB
            for cpus in (args.cpus, None) if args.cpus else (None,):
                starts = [_start(control, folder, count, Limits(memory, cpus), args.idle) for _ in range(args.rounds)]
                figures += _figures(count, Limits(memory, cpus), starts)
    print(render(figures))
    return 0


def _figures(count: int, limits: Limits, starts: Sequence[Start]) -> list[Figure]:
    where = f"{count} nodes, " + ("all CPUs" if limits.cpus is None else f"{limits.cpus:g} CPU")
    bound_s = None if count > BOUND_NODES else 2.0 if limits.cpus is None else 10.0
    bound_mib = None if count > BOUND_NODES else limits.memory_mib
    return [
        Figure(f"{where}: start to ready", "s", [one.ready_s for one in starts], bound_s),
        Figure(f"{where}: CPU until ready", "s CPU", [one.cpu_s for one in starts]),
        Figure(f"{where}: throttled until ready", "s", [one.throttled_s for one in starts]),
        Figure(f"{where}: memory that must fit", "MiB", [one.anonymous_mib for one in starts], bound_mib),
        Figure(f"{where}: peak, files and kernel included", "MiB", [one.peak_mib for one in starts], bound_mib),
        Figure(f"{where}: RSS", "MiB", [one.rss_mib for one in starts]),
        Figure(f"{where}: after that", "% CPU", [one.idle_percent for one in starts]),
    ]


@contextmanager
def _control_plane() -> Iterator[tuple[ControlPlane, Path]]:
    """An API server in a network namespace of its own, which is also that of the node; no controllers."""
    folder = Path(mkdtemp(prefix="bench-kube-"))
    site = Site(LabDirectory("control", folder), ADDRESS, SPACE, (NETWORK,), (IPv4Network("172.30.0.0/16"),))
    control = ControlPlane(site)
    create_namespace(SPACE)
    try:
        inside(SPACE, _plug)
        control.make_credentials()
        control.start(ETCD)
        control.start(API_SERVER)
        control.wait_for_api(Silent())
        kubeobjects.create_account(control.api)
        control.write_kubeconfig("flannel", {"token": kubeobjects.create_token(control.api)})
        (folder / "net-conf.json").write_text(json.dumps({"Network": str(NETWORK), "Backend": {"Type": "vxlan"}}))
        yield control, folder
    finally:
        try:
            control.down()
        finally:
            remove_namespace(SPACE)
            shutil.rmtree(folder, ignore_errors=True)


def _plug() -> None:
    """An interface that leads nowhere: what is measured is the daemon."""
    with IPRoute() as ipr:
        ipr.link("add", ifname="eth0", kind="veth", peer="wire")
        ipr.link("set", index=ipr.link_lookup(ifname="wire")[0], state="up")
        index = ipr.link_lookup(ifname="eth0")[0]
        ipr.addr("add", index=index, address=str(ADDRESS), prefixlen=15)
        ipr.link("set", index=index, state="up")
        ipr.route("add", dst="default", gateway=str(ADDRESS + 1), oif=index)


def _add_nodes(api: Api, first: int, end: int) -> None:
    for number in range(first, end):
        api.post("/api/v1/nodes", _node(number))


def _node(number: int) -> dict[str, object]:
    """As a kubelet keeps it: ten annotations, conditions, and the images that it has. Number 0 is ours."""
    subnet = f"10.{number >> 8}.{number & 255}.0/24"
    peer = {
        PREFIX + "kube-subnet-manager": "true",
        PREFIX + "backend-type": "vxlan",
        PREFIX + "backend-data": f'{{"VNI":1,"VtepMAC":"0a:00:00:00:{number >> 8:02x}:{number & 255:02x}"}}',
        PREFIX + "public-ip": str(IPv4Address("198.19.0.0") + number),
    }
    other = {f"example.org/annotation-{index}": f"value {index} of node {number}" for index in range(6)}
    digest = f"{number:064x}"
    images = [
        {
            "names": [
                f"registry.example.org/team-{index}/service-{index}@sha256:{digest}",
                f"registry.example.org/team-{index}/service-{index}:v1.{index}.{number}",
            ],
            "sizeBytes": 100_000_000 + index,
        }
        for index in range(IMAGES)
    ]
    conditions = [
        {"type": kind, "status": "False", "reason": f"Kubelet{kind}", "message": f"kubelet has no {kind}"}
        for kind in ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
    ]
    labels = {f"label-{index}.example.org/name": f"value-{index}" for index in range(10)}
    name = OWN if number == 0 else f"node-{number}"
    annotations = other if number == 0 else peer | other
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "annotations": annotations, "labels": labels},
        "spec": {"podCIDR": subnet, "podCIDRs": [subnet]},
        "status": {"images": images, "conditions": conditions},
    }


def _start(control: ControlPlane, folder: Path, count: int, limits: Limits, idle_s: float) -> Start:
    """Start the daemon as on a node that never ran one, wait for all peers, look at it, and end it."""
    inside(SPACE, _unplug)
    run_dir = folder / "run"
    shutil.rmtree(run_dir, ignore_errors=True)
    with limited(f"bench-kube-{time.time_ns()}", memory_mib=limits.memory_mib, cpus=limits.cpus) as group:
        command = python_module("flanneld_py", "--kube-subnet-mgr", f"--net-config-path={folder / 'net-conf.json'}")
        command += [f"--kubeconfig-file={control.site.kubeconfig('flannel')}", f"--subnet-file={run_dir}/subnet.env"]
        environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "NODE_NAME": OWN}
        log = control.site.directory.log("flanneld")
        begin = time.monotonic()
        daemon = process.start(group.joining(command), namespace=SPACE, log=log, env=environ)
        try:
            ready_s = _until_ready(daemon, group, run_dir / "status.json", count - 1, begin, log)
            return _look(daemon, group, ready_s, idle_s)
        finally:
            process.end([daemon])


def _until_ready(daemon: Process, group: Group, status: Path, peers: int, begin: float, log: Path) -> float:
    while True:
        taken_s = time.monotonic() - begin
        try:
            told = json.loads(status.read_text())
        except (OSError, ValueError):
            told = {}
        if told.get("stage") == "ready" and told["peers"] == peers and told["difference"] == 0:
            return taken_s
        if not process.alive(daemon) or taken_s > DEADLINE_S:
            why = "was ended by the memory limit" if group.kills() else f"is not ready after {taken_s:.0f} s"
            raise LabError(f"the daemon {why}", hint=" | ".join(process.last_lines(log, 5)))
        time.sleep(POLL_S)


def _look(daemon: Process, group: Group, ready_s: float, idle_s: float) -> Start:
    spent_s, throttled_s = cpu_s(daemon.pid), group.throttled_s()
    time.sleep(idle_s)
    idle = (cpu_s(daemon.pid) - spent_s) / idle_s * 100
    return Start(ready_s, spent_s, rss_mib(daemon.pid), group.anonymous_mib(), group.peak_mib(), throttled_s, idle)


def _unplug() -> None:
    with IPRoute() as ipr:
        for index in ipr.link_lookup(ifname="flannel.1"):
            ipr.link("del", index=index)
