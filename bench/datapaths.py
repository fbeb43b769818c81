"""The data paths that can be measured side by side, each in a lab of its own that stands while the run lasts."""

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network

from bench import crowd, peers, tunnels
from bench.peers import Program
from bench.wires import bare_veth, capped_pods, free_veth
from flanneld_py.daemon.control import ask
from flanneld_py.errors import FlannelError
from flanneld_py.lab import build, process, servers, wiring
from flanneld_py.lab.build import Lab
from flanneld_py.lab.process import Process
from flanneld_py.lab.progress import Progress
from flanneld_py.lab.topology import Firewall, LabSpec, Wiring

DIRECT, HOST_GW, VXLAN = "direct", "host-gw", "vxlan"
NATIVE, PORTABLE, CROWDED = "udp", "udp-portable", "udp-1000"
GO_UDP, WIREGUARD, FASTD = "go-udp", "wireguard-go", "fastd"
FURTHER_PEERS = 1000
WIDE_NETWORK = IPv4Network("10.0.0.0/8")


@dataclass(frozen=True, slots=True)
class DataPath:
    """A way from a pod to another that is ready for packets. `address`: the target's.

    `carriers`: processes through which each packet goes; `daemons`: those that only manage. `mtu`: of the pods.
    `free`: an address of the target behind a device that hardly costs anything; for the bare veth alone.
    `servants`: daemons and etcd, which need not run while another path is measured.
    """

    source: str
    target: str
    address: str
    mtu: int
    carriers: tuple[int, ...] = ()
    daemons: tuple[int, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    free: str | None = None
    servants: tuple[Process, ...] = ()

    def pause(self) -> None:
        """Let its servants sleep, so that a dozen labs at rest take nothing from the one that is measured."""
        for servant in self.servants:
            process.send(servant, signal.SIGSTOP)

    def resume(self) -> None:
        for servant in self.servants:
            process.send(servant, signal.SIGCONT)


@dataclass(frozen=True, slots=True)
class Context:
    """What builders need. `flannel`: Go flannel's program as named by the user, before any that is found."""

    progress: Progress
    prefix: str = "bench"
    flannel: Program | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """A data path by name. `peer`: finds the program of others that it needs; None if it needs none."""

    name: str
    title: str
    build: Callable[[Context], AbstractContextManager[DataPath]]
    peer: Callable[[Context], Program | None] | None = None


class _WithoutNotes:
    """Progress for labs whose daemons leave to the bench what notes would complain of: forwarding."""

    def __init__(self, progress: Progress) -> None:
        self.check, self.step = progress.check, progress.step

    def note(self, text: str) -> None:
        """Ignored."""


@contextmanager
def _lab(context: Context, spec: LabSpec) -> Iterator[Lab]:
    """A lab of two nodes with a pod each, by what else the spec says; no plugin or packet filter is in the way."""
    name = f"{context.prefix}-{spec.name}"
    named = replace(spec, name=name, nodes=2, pods=1, wiring=Wiring.PLAIN, firewall=Firewall.NONE)
    progress = _WithoutNotes(context.progress) if spec.backend == "alloc" else context.progress
    with build.temporary(named, progress) as lab:
        yield lab


def _between_pods(lab: Lab) -> DataPath:
    """From the first node's pod to the second one's, by whatever the lab does."""
    source, target = lab.topology.pods
    daemons = tuple(lab.record.processes[node.name].pid for node in lab.topology.nodes)
    mtu = servers.read_network(lab.directory, lab.topology.nodes[0]).mtu or 0
    address = str(lab.record.pods[target.name][0].ip)
    servants = tuple(lab.record.processes.values())
    return DataPath(source.namespace, target.namespace, address, mtu, daemons=daemons, servants=servants)


@contextmanager
def _direct(context: Context) -> Iterator[DataPath]:
    with _lab(context, LabSpec(DIRECT, backend="alloc")) as lab:
        address, mtu = bare_veth(lab.topology)
        yield replace(_between_pods(lab), address=address, mtu=mtu, daemons=(), free=free_veth(lab.topology))


@contextmanager
def _kernel(context: Context, name: str) -> Iterator[DataPath]:
    with _lab(context, LabSpec(name, backend=name)) as lab:
        yield _between_pods(lab)


@contextmanager
def _udp(context: Context, name: str, pump: str, further: int = 0) -> Iterator[DataPath]:
    options = (("Pump", pump), ("SourceValidation", "strict"))
    networks = (WIDE_NETWORK,) if further else ()
    with _lab(context, LabSpec(name, backend="udp", backend_options=options, networks=networks)) as lab:
        if further:
            crowd.add_leases(lab, further, context.progress)
        workers = [_worker(lab, node.name) for node in lab.topology.nodes]
        if used := {str(worker["pump"]) for worker in workers} - {pump}:
            raise FlannelError(f"the worker uses the {used.pop()} pump: {workers[0].get('why')}")
        facts = {"pump": pump, "offload": " ".join(_words(workers[0].get("offload")))}
        if further:
            facts["peers"] = str(further + 1)
        yield replace(_between_pods(lab), carriers=tuple(int(str(worker["pid"])) for worker in workers), facts=facts)


def _worker(lab: Lab, node: str) -> Mapping[str, object]:
    answer = ask(lab.directory.node(node), "status")
    worker = None if answer is None else answer.get("worker")
    if not isinstance(worker, dict) or not worker.get("pid"):
        raise FlannelError(f"the daemon on {node} has no worker")
    return worker


def _words(value: object) -> Sequence[str]:
    return [str(word) for word in value] if isinstance(value, list | tuple) else ()


@contextmanager
def _go_udp(context: Context) -> Iterator[DataPath]:
    program = _found(_flannel(context))
    with _lab(context, LabSpec(GO_UDP, backend="udp", go_nodes=(1, 2), go_binary=program.path)) as lab:
        path = _between_pods(lab)
        # Its data path is a thread of the daemon.
        facts = {"program": program.path, "packets": "carried by flanneld itself"}
        yield replace(path, carriers=path.daemons, daemons=(), facts=facts)


@contextmanager
def _tunnel(
    context: Context,
    name: str,
    find: Callable[[], Program | None],
    connect: tunnels.Connect,
    facts: Mapping[str, str],
) -> Iterator[DataPath]:
    """A lab whose nodes lease subnets and leave the way between them to another program."""
    program = _found(find())
    with _lab(context, LabSpec(name, backend="alloc")) as lab:
        for node in lab.topology.nodes:
            wiring.set_forwarding(node)
        tunnel = connect(lab, program, context.progress)
        capped_pods(lab.topology, tunnel.mtu)
        told = {**facts, "version": tunnel.version}
        yield replace(_between_pods(lab), mtu=tunnel.mtu, carriers=tunnel.pids, daemons=(), facts=told)


def _flannel(context: Context) -> Program | None:
    return context.flannel or peers.find_flannel()


def _found(program: Program | None) -> Program:
    if program is None:
        raise FlannelError("its program is missing", hint=peers.INSTALL)
    return program


KINDS: tuple[Kind, ...] = (
    Kind(DIRECT, "bare veth between the pods", _direct),
    Kind(HOST_GW, "host-gw", lambda context: _kernel(context, HOST_GW)),
    Kind(VXLAN, "kernel vxlan", lambda context: _kernel(context, VXLAN)),
    Kind(NATIVE, "udp, native pump", lambda context: _udp(context, NATIVE, "native")),
    Kind(CROWDED, "udp, 1,000 further peers", lambda context: _udp(context, CROWDED, "native", FURTHER_PEERS)),
    Kind(PORTABLE, "udp, portable pump", lambda context: _udp(context, PORTABLE, "portable")),
    Kind(GO_UDP, "Go flannel's udp", _go_udp, _flannel),
    Kind(
        WIREGUARD,
        "wireguard-go (encrypts)",
        lambda context: _tunnel(
            context,
            WIREGUARD,
            peers.find_wireguard,
            tunnels.connect_wireguard,
            {"crypto": "ChaCha20-Poly1305, always on"},
        ),
        lambda context: peers.find_wireguard(),
    ),
    Kind(
        FASTD,
        "fastd (method null)",
        lambda context: _tunnel(
            context,
            FASTD,
            peers.find_fastd,
            tunnels.connect_fastd,
            {"crypto": "method null: the handshake is authenticated, packets are neither encrypted nor authenticated"},
        ),
        lambda context: peers.find_fastd(),
    ),
)
"""In the order of the report."""
