"""Make a lab, find it again, remove it.

A lab is built as a whole or not at all: whatever interrupts `up`, all that it made is removed before the error goes
on. What to remove is known from the lab's record and the namespaces it names, so `down` works however `up` ended.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from flanneld_py.errors import LabError
from flanneld_py.lab import cgroups, cni, docker, machines, namespaces, process, servers, tables, wiring
from flanneld_py.lab.crew import Crew
from flanneld_py.lab.process import Process
from flanneld_py.lab.progress import Progress, Silent
from flanneld_py.lab.state import STATE_DIR, LabDirectory, LabRecord, Stage, lab_names
from flanneld_py.lab.stores import KubernetesServers, LeaseServers, servers_of
from flanneld_py.lab.topology import AddrOnLink, LabSpec, Node, Topology, Wiring
from flanneld_py.model.net import Net, inside

_ROUNDS = 3
_ROUTELESS = frozenset({"alloc"})
"""Backends that lease subnets and leave the way to them to others."""
_ROUTES_S = 15.0
_POLL_S = 0.02

PodAddresses = Mapping[str, tuple[AddrOnLink, ...]]


class Lab:
    """A lab that is up."""

    def __init__(self, directory: LabDirectory, record: LabRecord) -> None:
        self.directory = directory
        self.record = record
        self.topology = Topology(record.spec)

    def stop_daemon(self, node: Node, *, hard: bool) -> bool:
        """End the node's daemon, by SIGTERM or as a crash would; False if it did not run."""
        daemon = self.record.processes.get(node.name)
        if daemon is None or not process.alive(daemon):
            return False
        servers.stop_daemon(daemon, hard=hard)
        return True

    def start_daemon(self, node: Node, progress: Progress) -> None:
        """Start the node's daemon and wait until it is ready."""
        since = time.time()
        daemon = servers.start_daemon(self.topology, node, self.directory)
        self.save(self.record.with_process(node.name, daemon))
        servers.wait_for_daemons([(node, daemon)], self.topology, self.directory, progress, since)

    def save(self, record: LabRecord) -> None:
        """Make this the lab's record, here and in its directory."""
        self.record = record
        self.directory.write(record)


def require_root(command: str) -> None:
    """LabError with what to type instead, if this is not root."""
    if os.geteuid() != 0:
        raise LabError("network namespaces need root", hint=f"type: sudo {command}")


def up(spec: LabSpec, progress: Progress, root: Path = STATE_DIR) -> Lab:
    """A lab with every daemon ready and every pod connected; it stays until `down`."""
    with _built(spec, progress, root) as lab:
        lab.save(replace(lab.record, stage=Stage.UP))
    return lab


@contextmanager
def temporary(spec: LabSpec, progress: Progress, root: Path = STATE_DIR) -> Iterator[Lab]:
    """A lab that is removed at the end of the block; if this process is killed, by the next lab of that name."""
    with _built(spec, progress, root) as lab:
        try:
            yield lab
        finally:
            _say_removing(progress, spec.name)
            _remove(lab.directory, lab.record, progress)


@contextmanager
def _built(spec: LabSpec, progress: Progress, root: Path) -> Iterator[Lab]:
    topology = Topology(spec)
    directory = LabDirectory(spec.name, root)
    _check_programs(spec)
    store = servers_of(topology, directory)
    store.check_programs()
    with directory.locked(create=True):
        _make_room(directory, progress)
        for name in topology.namespaces:
            if namespaces.exists(name):
                raise LabError(
                    f"network namespace {name} exists and belongs to no lab",
                    hint="give the lab another --name, or remove it: ip netns del " + name,
                )
        lab = Lab(directory, LabRecord(spec, Stage.BUILDING))
        lab.save(lab.record)
        if spec.wiring is Wiring.DOCKER:
            docker.note_absent(directory)
        try:
            _build(lab, store, progress)
            progress.check()
        except BaseException:
            _say_removing(progress, spec.name)
            _remove(directory, lab.record, progress)
            raise
        yield lab


def find(name: str, root: Path = STATE_DIR) -> Lab:
    """The lab of that name. LabError if it is not up."""
    directory = LabDirectory(name, root)
    record = directory.read()
    if record is None:
        others = [other for other in lab_names(root) if other != name]
        hint = f"there is --name {others[0]}" if others else "start one: flanneld lab up"
        raise LabError(f"no lab {name!r} is up", hint=hint)
    if record.stage is not Stage.UP:
        raise LabError(
            f"lab {name!r} is being built, or was when its builder was killed",
            hint=f"wait for it, or remove it: flanneld lab down --name {name}",
        )
    return Lab(directory, record)


@contextmanager
def changing(name: str, root: Path = STATE_DIR) -> Iterator[Lab]:
    """The lab of that name, while no other command may change it. LabError if it is not up."""
    with LabDirectory(name, root).locked(create=False):
        yield find(name, root)


def down(name: str, progress: Progress, root: Path = STATE_DIR) -> bool:
    """Ensure that nothing is left of the lab, whatever its state; False if there was nothing."""
    directory = LabDirectory(name, root)
    with directory.locked(create=False) as there:
        if not there:
            return False
        record = directory.read()
        if record is None:
            directory.clear()
            return True
        _say_removing(progress, name)
        _remove(directory, record, progress)
        return True


def _check_programs(spec: LabSpec) -> None:
    if spec.go_binary is not None and not os.access(spec.go_binary, os.X_OK):
        raise LabError(f"--flanneld-go {spec.go_binary}: no such program")
    if spec.go_nodes and shutil.which("nft") is None:
        raise LabError("Go flannel needs the program nft", hint="apt install nftables")
    if spec.wiring is Wiring.DOCKER:
        docker.check_programs()
    if spec.wiring is Wiring.CNI:
        cni.find_plugins()
    if spec.published:
        cni.check_port_mapping()


def _make_room(directory: LabDirectory, progress: Progress) -> None:
    """Remove what a killed run left. LabError if the lab is up."""
    old = directory.read()
    if old is None:
        directory.clear()
        return
    if old.stage is Stage.UP:
        name = directory.name
        again = "flanneld lab down" + ("" if name == LabSpec().name else f" --name {name}")
        raise LabError(
            f"lab {name!r} is up already, with {old.spec.nodes} nodes and backend {old.spec.backend}",
            hint=f"remove it: {again}; or build another beside it: --name NAME",
        )
    progress.note(f"an earlier run on lab {directory.name!r} was killed; removing what it left")
    _remove(directory, old, progress)


def _build(lab: Lab, store: LeaseServers, progress: Progress) -> None:
    topology = lab.topology

    def started(name: str, server: Process) -> None:
        lab.save(lab.record.with_process(name, server))

    progress.step("underlay: router")
    wiring.build_router(topology)
    store.begin(started)
    wiring.build_internet(topology)
    for node in topology.nodes:
        progress.step(f"underlay: {node.name} of {len(topology.nodes)}")
        wiring.build_node(topology, node)
        if node.number in topology.spec.go_nodes:
            wiring.set_forwarding(node)
    store.finish(started, progress)
    if topology.spec.wiring is Wiring.KUBELETS:
        _build_machines(lab, started, progress)
        return
    with Crew(progress) as crew:
        installed = _install_cni(lab, crew)
        _start_daemons(lab, progress)
        for _ in crew.results(installed):
            pass
        _build_pods(lab, crew, progress)
    _wait_for_routes(lab, progress)


def _build_machines(lab: Lab, started: Callable[[str, Process], None], progress: Progress) -> None:
    """Nodes with kubelets, which run whatever connects pods, and the pods."""
    topology, directory = lab.topology, lab.directory
    nodes, servers = topology.nodes, KubernetesServers(topology, directory)
    machines.prepare(directory)
    running = {}
    for node in nodes:
        progress.step(f"machines: starting {node.name} of {len(nodes)}")
        running[node] = machines.start(node, directory)
        started(machines.process_name(node), running[node])
    machines.wait_booted(running, directory, progress)
    machines.wait_registered(servers.control.api, nodes, progress)
    servers.wait_for_networks(progress)
    if topology.spec.manifest is None:
        _start_daemons(lab, progress)
    else:
        progress.step(f"applying {topology.spec.manifest}")
        machines.apply(topology, directory, Path(topology.spec.manifest))
    machines.wait_ready(servers.control.api, nodes, progress)
    lab.save(replace(lab.record, pods=machines.run_pods(servers.control.api, nodes, progress)))
    _wait_for_routes(lab, progress)


def _install_cni(lab: Lab, crew: Crew) -> "list[Future[None]]":
    """While the daemons start, which need it for nothing."""
    spec = lab.topology.spec
    if spec.wiring is not Wiring.CNI:
        return []
    plugins = cni.find_plugins()
    return [crew.start(partial(cni.install, plugins, spec, node, lab.directory)) for node in lab.topology.nodes]


def _start_daemons(lab: Lab, progress: Progress) -> None:
    topology = lab.topology
    progress.step(f"daemons: starting {len(topology.nodes)}")
    since = time.time()
    daemons = []
    for node in topology.nodes:
        daemon = servers.start_daemon(topology, node, lab.directory)
        daemons.append((node, daemon))
        lab.save(lab.record.with_process(node.name, daemon))
    servers.wait_for_daemons(daemons, topology, lab.directory, progress, since)


def _wait_for_routes(lab: Lab, progress: Progress) -> None:
    """Wait until each node knows the way to every other one's subnet: a daemon is ready when its own side is."""
    if lab.topology.spec.backend.lower() in _ROUTELESS:
        return
    subnets = {node: servers.read_network(lab.directory, node).subnets for node in lab.topology.nodes}
    left, deadline = list(lab.topology.nodes), time.monotonic() + _ROUTES_S
    progress.step("routes: waiting until each node knows the way to all others")
    while left := [node for node in left if _missing(node, subnets)]:
        progress.check()
        if time.monotonic() > deadline:
            for node in left:
                net = _missing(node, subnets)
                progress.note(f"{node.name} still has no route to {net}; its log is {lab.directory.log(node.name)}")
            return
        time.sleep(_POLL_S)


def _missing(node: Node, subnets: Mapping[Node, Sequence[AddrOnLink]]) -> Net | None:
    """A subnet of another node that no route of this one covers."""
    routes = [route.dst for route in tables.read_routes(node, (4, 6)) if route.dst is not None]
    wanted = (one.network for other, own in subnets.items() if other != node for one in own)
    return next((net for net in wanted if not any(inside(net, dst) for dst in routes)), None)


def _build_pods(lab: Lab, crew: Crew, progress: Progress) -> None:
    """Nodes at the same time, as in a cluster; the pods of one node one after another."""
    versions = lab.topology.spec.stack.versions
    for node in lab.topology.nodes:
        # The CNI bridge would switch it on itself.
        for version, forwards in wiring.forwarding(node, versions).items():
            if not forwards:
                progress.note(f"{node.name} does not forward IPv{version}: its pods reach their own node only")
    build = {Wiring.CNI: _cni_pods, Wiring.PLAIN: _plain_pods, Wiring.DOCKER: _docker_pods}[lab.topology.spec.wiring]
    progress.step(f"pods: node1 of {len(lab.topology.nodes)}")
    for done, addresses in enumerate(build(lab, crew, progress), 1):
        lab.save(replace(lab.record, pods={**lab.record.pods, **addresses}))
        progress.step(f"pods: node{min(done + 1, len(lab.topology.nodes))} of {len(lab.topology.nodes)}")


def _cni_pods(lab: Lab, crew: Crew, _progress: Progress) -> Iterator[PodAddresses]:
    spec, directory = lab.topology.spec, lab.directory
    return crew.results([crew.start(partial(cni.connect, spec, node, directory)) for node in lab.topology.nodes])


def _plain_pods(lab: Lab, _crew: Crew, _progress: Progress) -> Iterator[PodAddresses]:
    for node in lab.topology.nodes:
        env = servers.read_network(lab.directory, node)
        wiring.build_pod_bridge(node, env.subnets, env.mtu or 0)
        yield {pod.name: wiring.build_pod(node, pod, env) for pod in node.pods}


def _docker_pods(lab: Lab, _crew: Crew, progress: Progress) -> Iterator[PodAddresses]:
    for node in lab.topology.nodes:
        containerd = docker.start_containerd(lab.directory, node, progress)
        lab.save(lab.record.with_process(docker.containerd_name(node), containerd))
        dockerd = docker.start_dockerd(lab.directory, node, progress, firewall=lab.topology.spec.firewall)
        lab.save(lab.record.with_process(docker.server_name(node), dockerd))
        yield docker.run_pods(lab.directory, node)


def _disconnect_pods(topology: Topology, directory: LabDirectory, progress: Progress) -> None:
    """DEL for every pod that was connected, while its node still is what it was."""
    with Crew(Silent()) as crew:
        jobs = [crew.start(partial(cni.disconnect, node, directory)) for node in topology.nodes]
        for problems in crew.results(jobs):
            for problem in problems:
                progress.note(problem)


def _remove(directory: LabDirectory, record: LabRecord, progress: Progress) -> None:
    topology = Topology(record.spec)
    if record.spec.wiring is Wiring.CNI:
        _disconnect_pods(topology, directory, progress)
    dockerds = [record.processes[name] for name in map(docker.server_name, topology.nodes) if name in record.processes]
    # They end their containers, with the help of processes that would otherwise be ended at the same time.
    process.end(dockerds, docker.GRACE_S)
    for _ in range(_ROUNDS):
        pids = namespaces.processes(topology.namespaces) | _recorded(record.processes.values())
        if not (left := process.with_descendants(pids)):
            break
        process.end(left)
    if record.spec.wiring is Wiring.DOCKER:
        docker.remove_leftovers(directory)
    if record.spec.wiring is Wiring.KUBELETS:
        cgroups.remove_group(cgroups.group_of(directory.name))
        machines.remove_storage(directory)
    for name in reversed(topology.namespaces):
        wiring.remove_namespace(name)
    directory.clear()


def _say_removing(progress: Progress, name: str) -> None:
    # Whoever wants the work to end gets what he wants: the removal goes on.
    with suppress(KeyboardInterrupt):
        progress.check()
    with suppress(KeyboardInterrupt):
        progress.step(f"removing lab {name}")


def _recorded(processes: Iterable[Process]) -> set[int]:
    return {one.pid for one in processes if process.alive(one)}
