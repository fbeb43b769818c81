"""What there is to say of a lab that is up: read from its files, its processes, its store and the kernel."""

import json
from dataclasses import dataclass

from flanneld_py.errors import LabError
from flanneld_py.lab import etcd, kubeobjects, process, servers, stores
from flanneld_py.lab.build import Lab
from flanneld_py.lab.kubernetes import API_SERVER, ControlPlane
from flanneld_py.lab.state import ETCD
from flanneld_py.lab.topology import Node, Store

_PREFIX = "flannel.alpha.coreos.com/"
"""Of annotations, unless --kube-annotation-prefix says otherwise (reference: flannel pkg/subnet/kube)."""


@dataclass(frozen=True, slots=True)
class NodeReport:
    """`state`: of the daemon, in its own words if it runs. Texts are empty where nothing is known."""

    node: str
    addresses: tuple[str, ...]
    link: str
    daemon: str
    pid: int | None
    state: str
    subnets: tuple[str, ...]
    mtu: int | None
    pods: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class LeaseLine:
    """A lease as it is in the store, with the node that holds it."""

    key: str
    node: str
    value: str


def store_state(lab: Lab) -> str:
    server = lab.record.processes.get({Store.ETCD: ETCD, Store.KUBERNETES: API_SERVER}[lab.topology.spec.store])
    running = server is not None and process.alive(server)
    address = stores.servers_of(lab.topology, lab.directory).address
    return f"{address} {'runs' if running else 'does not run'}"


def node_report(lab: Lab, node: Node) -> NodeReport:
    """What the node's files and process say."""
    daemon = lab.record.processes.get(node.name)
    runs = daemon is not None and process.alive(daemon)
    status = servers.read_status(lab.directory, node)
    spec = lab.topology.spec
    theirs = node.number in spec.go_nodes
    try:
        env = servers.read_network(lab.directory, node)
        subnets, mtu = tuple(str(one) for one in env.subnets), env.mtu
    except LabError:
        subnets, mtu = (), None
    words = "runs" if theirs else str(status.get("stage", "starting"))
    return NodeReport(
        node=node.name,
        addresses=tuple(str(address.ip) for address in node.addresses),
        link=node.link.name,
        daemon="Go flanneld" if theirs else "flanneld",
        pid=daemon.pid if daemon is not None and runs else None,
        state=words if runs else "does not run",
        subnets=subnets,
        mtu=mtu,
        pods={pod.name: tuple(str(a.ip) for a in lab.record.pods.get(pod.name, ())) for pod in node.pods},
    )


def status_rows(reports: list[NodeReport]) -> list[list[str]]:
    """A table: heading first."""
    rows = [["node", "address", "link", "daemon", "state", "subnet", "mtu", "pods"]]
    for one in reports:
        state = one.state if one.pid is None else f"{one.state} (pid {one.pid})"
        pods = " ".join(f"{name}={'/'.join(addresses)}" for name, addresses in one.pods.items())
        mtu = "" if one.mtu is None else str(one.mtu)
        rows.append([one.node, "/".join(one.addresses), one.link, one.daemon, state, " ".join(one.subnets), mtu, pods])
    return rows


def leases(lab: Lab) -> list[LeaseLine]:
    """The leases in the store, in the order of its keys."""
    if lab.topology.spec.store is Store.KUBERNETES:
        return _node_leases(lab)
    return [LeaseLine(key, _holder(lab, value), value) for key, value in etcd.read_leases(lab.topology).items()]


def _node_leases(lab: Lab) -> list[LeaseLine]:
    """What flanneld wrote into the nodes' annotations, as JSON."""
    lines = []
    for node in ControlPlane(stores.site(lab.topology, lab.directory)).api.get("/api/v1/nodes")["items"]:
        written = node["metadata"].get("annotations", {})
        values = {key.removeprefix(_PREFIX): value for key, value in written.items() if key.startswith(_PREFIX)}
        networks = " ".join(kubeobjects.pod_networks_of(node))
        lines.append(LeaseLine(networks, node["metadata"]["name"], json.dumps(values)))
    return lines


def _holder(lab: Lab, value: str) -> str:
    try:
        attrs = json.loads(value)
        public = {attrs.get("PublicIP"), attrs.get("PublicIPv6")}
    except (ValueError, AttributeError):
        return "?"
    for node in lab.topology.nodes:
        if any(str(address.ip) in public for address in node.addresses):
            return node.name
    return "?"
