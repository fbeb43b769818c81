"""The lab as values: its namespaces, how they are wired, which addresses they have.

One router namespace holds a bridge per underlay link. With `Underlay.L2` there is one link and every node is on it;
with `Underlay.ROUTED` two nodes share a link, so that a node has one peer on its link and the others behind the router.
"""

import json
import re
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from ipaddress import (
    IPv4Interface,
    IPv4Network,
    IPv6Interface,
    IPv6Network,
    ip_interface,
)

from flanneld_py.errors import LabError, UsageError
from flanneld_py.model.net import Addr, Net, overlaps

AddrOnLink = IPv4Interface | IPv6Interface
Option = str | int | bool

MAX_NODES = 200
MAX_PODS = 50
NODES_PER_ROUTED_LINK = 2
UNDERLAY_MTU = 1500
ETCD_PORT = 2379
ETCD_PREFIX = "/coreos.com/network"
UNDERLAY_V4 = IPv4Network("172.18.0.0/16")
UNDERLAY_V6 = IPv6Network("fd00:172:18::/48")
INTERNET_V4 = IPv4Network("203.0.113.0/24")
INTERNET_V6 = IPv6Network("2001:db8:203:113::/64")
"""RFC 5737, RFC 3849: for documentation, hence nobody's network."""
_TAKEN: dict[Net, str] = {
    UNDERLAY_V4: "underlay",
    UNDERLAY_V6: "underlay",
    INTERNET_V4: "internet",
    INTERNET_V6: "internet",
}
_UNDERLAYS: dict[int, Net] = {4: UNDERLAY_V4, 6: UNDERLAY_V6}
_INTERNETS: dict[int, Net] = {4: INTERNET_V4, 6: INTERNET_V6}
_SERVICES: dict[int, Net] = {4: IPv4Network("10.96.0.0/16"), 6: IPv6Network("fd00:10:96::/112")}
_TAKEN_BY_KUBERNETES: dict[Net, str] = dict.fromkeys(_SERVICES.values(), "network of services")
DEFAULT_NETWORKS: dict[int, Net] = {4: IPv4Network("10.244.0.0/16"), 6: IPv6Network("fd00:10:244::/48")}
_FIRST_HOST = 10
_NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")


class Stack(Enum):
    IPV4 = "ipv4"
    IPV6 = "ipv6"
    DUAL = "dual"

    @property
    def versions(self) -> tuple[int, ...]:
        return {Stack.IPV4: (4,), Stack.IPV6: (6,), Stack.DUAL: (4, 6)}[self]


class Underlay(Enum):
    L2 = "l2"
    ROUTED = "routed"


class Store(Enum):
    """Where the leases are."""

    ETCD = "etcd"
    KUBERNETES = "kubernetes"


class Wiring(Enum):
    """Who connects pods to their node. `PLAIN`: the lab itself, by a bridge and nothing else, for measurements.

    `KUBELETS`: each node is a machine of its own with containerd and a kubelet.
    """

    CNI = "cni"
    PLAIN = "plain"
    DOCKER = "docker"
    KUBELETS = "kubelets"


class Firewall(Enum):
    """Which packet filter our daemons write their rules into; `NONE`: they write none and do not masquerade."""

    NFT = "nft"
    IPTABLES = "iptables"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class PortMapping:
    """A TCP port of a pod that is reached at a port of its node."""

    pod: str
    host: int
    container: int


@dataclass(frozen=True, slots=True)
class LabSpec:
    """What was asked for. `go_nodes`: numbers of the nodes that run the flanneld at `go_binary` instead of ours.

    `networks`: at most one of each family; a missing one is the default. `daemon_flags` go to our daemons only.

    With kubelets, `manifest` is applied to the cluster instead of starting daemons, and every node gets `images`.
    """

    name: str = "lab"
    nodes: int = 3
    pods: int = 2
    stack: Stack = Stack.IPV4
    underlay: Underlay = Underlay.L2
    backend: str = "vxlan"
    backend_options: tuple[tuple[str, Option], ...] = ()
    networks: tuple[Net, ...] = ()
    store: Store = Store.ETCD
    wiring: Wiring = Wiring.CNI
    firewall: Firewall = Firewall.NFT
    published: tuple[PortMapping, ...] = ()
    go_nodes: tuple[int, ...] = ()
    go_binary: str | None = None
    daemon_flags: tuple[str, ...] = ()
    manifest: str | None = None
    images: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name)
        _check_count("--nodes", self.nodes, MAX_NODES)
        _check_count("--pods", self.pods, MAX_PODS)
        versions = [net.version for net in self.networks]
        if len(set(versions)) != len(versions):
            raise UsageError("--network: one network of each family is the most there can be")
        for net in self.networks:
            if net.version not in self.stack.versions:
                raise UsageError(f"--network {net}: the lab has no IPv{net.version}", hint="choose --stack dual")
            known = _TAKEN | (_TAKEN_BY_KUBERNETES if self.store is Store.KUBERNETES else {})
            for taken, what in known.items():
                if overlaps(net, taken):
                    raise UsageError(f"--network {net}: {taken} is the lab's {what}", hint="choose another network")
        if strangers := [n for n in self.go_nodes if not 1 <= n <= self.nodes]:
            raise UsageError(f"--go-node {strangers[0]}: there are nodes 1 to {self.nodes}")
        if self.go_nodes and not self.go_binary:
            raise UsageError("--go-node: no Go flanneld was named", hint="add --flanneld-go PATH")
        if self.go_nodes and self.firewall is Firewall.IPTABLES:
            # It wants br_netfilter in every namespace then (main.go).
            raise UsageError("--firewall iptables: Go flanneld runs with nft in the lab", hint="choose --firewall nft")
        if self.wiring is Wiring.KUBELETS and self.store is not Store.KUBERNETES:
            raise UsageError("--kubelets: a kubelet needs an API server", hint="add --store kubernetes")
        if (self.manifest or self.images) and self.wiring is not Wiring.KUBELETS:
            raise UsageError("--manifest and --image: nobody would run them", hint="add --kubelets")
        _check_published(self)


def check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"--name {name!r}: a lab's name is up to 20 of a-z, 0-9 and '-', and begins with a letter",
            hint="it becomes the beginning of namespace names such as lab-node1",
        )


def _check_published(spec: LabSpec) -> None:
    if spec.published and spec.wiring is not Wiring.CNI:
        raise UsageError(
            "--publish: only the CNI plugins map ports", hint=f"leave --{spec.wiring.value} or --publish out"
        )
    pods = {f"pod{n}-{k}": n for n in range(1, spec.nodes + 1) for k in range(1, spec.pods + 1)}
    taken = set()
    for mapping in spec.published:
        node = pods.get(mapping.pod)
        flag = f"--publish {mapping.pod}:{mapping.host}:{mapping.container}"
        if node is None:
            raise UsageError(f"{flag}: there is no such pod", hint=f"the last one is pod{spec.nodes}-{spec.pods}")
        if not all(1 <= port <= 65535 for port in (mapping.host, mapping.container)):
            raise UsageError(f"{flag}: a port is between 1 and 65535")
        if (node, mapping.host) in taken:
            raise UsageError(f"{flag}: port {mapping.host} of node{node} is given to another pod already")
        taken.add((node, mapping.host))


def _check_count(flag: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise UsageError(f"{flag} {value}: must be between 1 and {most}")


@dataclass(frozen=True, slots=True)
class Link:
    """A bridge in the router namespace; `gateways` are the router's addresses on it."""

    number: int
    gateways: tuple[AddrOnLink, ...]

    @property
    def name(self) -> str:
        return f"link{self.number}"


@dataclass(frozen=True, slots=True)
class Pod:
    name: str
    namespace: str
    node: int
    number: int

    @property
    def veth(self) -> str:
        """The node's end of the pair; the pod's end is eth0."""
        return f"veth{self.node}-{self.number}"

    def address_in(self, subnet: AddrOnLink) -> AddrOnLink:
        """The pod's address, given the node's own address in the leased subnet (`FLANNEL_SUBNET`)."""
        return ip_interface(f"{subnet.ip + self.number}/{subnet.network.prefixlen}")


@dataclass(frozen=True, slots=True)
class Internet:
    """What lies beyond the cluster: a namespace behind the router that has a way to the underlay, and none to pods.

    `gateways`: the router's addresses on the way there.
    """

    namespace: str
    addresses: tuple[AddrOnLink, ...]
    gateways: tuple[AddrOnLink, ...]

    name = "internet"
    port = "internet"
    """The router's end of the pair whose other end is its eth0."""


@dataclass(frozen=True, slots=True)
class Node:
    """`addresses`: of its eth0, IPv4 first."""

    number: int
    name: str
    namespace: str
    link: Link
    addresses: tuple[AddrOnLink, ...]
    pods: tuple[Pod, ...]

    @property
    def port(self) -> str:
        """The router's end of the pair whose other end is the node's eth0."""
        return f"port{self.number}"

    @property
    def mac(self) -> str:
        """Readable in a capture: node 12 on link 3 has 02:00:00:03:00:22, as its address ends in 3.22."""
        link, host = divmod(self.link.number, 100), divmod(_FIRST_HOST + self.number, 100)
        return "02:00:" + ":".join(f"{part:02d}" for part in (*link, *host))


@dataclass(frozen=True)
class Topology:
    """Everything that follows from a LabSpec."""

    spec: LabSpec
    links: tuple[Link, ...] = field(init=False)
    nodes: tuple[Node, ...] = field(init=False)

    def __post_init__(self) -> None:
        spec = self.spec
        per_link = spec.nodes if spec.underlay is Underlay.L2 else NODES_PER_ROUTED_LINK
        links = tuple(_link(number, spec.stack) for number in range(1, -(-spec.nodes // per_link) + 1))
        nodes = tuple(_node(n, spec, links[(n - 1) // per_link]) for n in range(1, spec.nodes + 1))
        object.__setattr__(self, "links", links)
        object.__setattr__(self, "nodes", nodes)

    @property
    def router(self) -> str:
        return f"{self.spec.name}-router"

    @cached_property
    def internet(self) -> Internet:
        nets = [_INTERNETS[version] for version in self.spec.stack.versions]
        own = tuple(ip_interface(f"{net.network_address + _FIRST_HOST}/{net.prefixlen}") for net in nets)
        gateways = tuple(ip_interface(f"{net.network_address + 1}/{net.prefixlen}") for net in nets)
        return Internet(f"{self.spec.name}-internet", own, gateways)

    @cached_property
    def underlays(self) -> tuple[Net, ...]:
        """What all links together are in."""
        return tuple(_UNDERLAYS[version] for version in self.spec.stack.versions)

    @cached_property
    def pods(self) -> tuple[Pod, ...]:
        return tuple(pod for node in self.nodes for pod in node.pods)

    @cached_property
    def namespaces(self) -> tuple[str, ...]:
        places: list[Node | Pod] = [*self.nodes, *self.pods]
        return (self.router, self.internet.namespace, *(place.namespace for place in places))

    @cached_property
    def networks(self) -> tuple[Net, ...]:
        given: dict[int, Net] = {net.version: net for net in self.spec.networks}
        return tuple(given.get(v, DEFAULT_NETWORKS[v]) for v in self.spec.stack.versions)

    @property
    def service_networks(self) -> tuple[Net, ...]:
        """Of a Kubernetes cluster, of the families that pods have."""
        return tuple(_SERVICES[version] for version in self.spec.stack.versions)

    @property
    def etcd_address(self) -> Addr:
        """An address of the router, which every node reaches on its link or by its default route."""
        return self.links[0].gateways[0].ip

    @property
    def etcd_url(self) -> str:
        address = self.etcd_address
        return f"http://{address if address.version == 4 else f'[{address}]'}:{ETCD_PORT}"

    def node_of(self, pod: Pod) -> Node:
        return self.nodes[pod.node - 1]

    def find(self, name: str) -> Node | Pod:
        """The node or pod of that name. LabError names those that there are."""
        places: list[Node | Pod] = [*self.nodes, *self.pods]
        for place in places:
            if name in (place.name, place.namespace):
                return place
        kinds = f"router, internet, node1 to node{self.spec.nodes}, pod1-1 to pod{self.spec.nodes}-{self.spec.pods}"
        raise LabError(f"lab {self.spec.name!r} has no {name!r}", hint=f"it has {kinds}")

    def node(self, name: str) -> Node:
        """The node of that name or number."""
        found = self.find(f"node{name}" if name.isdigit() else name)
        if isinstance(found, Pod):
            raise LabError(f"{name!r} is a pod; a node is wanted", hint=f"its node is node{found.node}")
        return found

    def namespace(self, name: str) -> str:
        """The namespace of the node or pod of that name, of the router, or of the internet."""
        places = {"router": self.router, self.internet.name: self.internet.namespace}
        return places[name] if name in places else self.find(name).namespace

    def owner_of(self, address: Addr) -> Node | None:
        return next((n for n in self.nodes if any(a.ip == address for a in n.addresses)), None)

    def net_config(self) -> str:
        """The network configuration that goes to etcd."""
        config: dict[str, object] = {}
        for net in self.networks:
            config["Network" if net.version == 4 else "IPv6Network"] = str(net)
        if 6 in self.spec.stack.versions:
            config |= {"EnableIPv4": 4 in self.spec.stack.versions, "EnableIPv6": True}
        if self.spec.firewall is not Firewall.NONE or self.spec.go_nodes:
            # Go flannel otherwise wants iptables, and br_netfilter in every namespace (pkg/trafficmngr).
            config["EnableNFTables"] = self.spec.firewall is not Firewall.IPTABLES
        config["Backend"] = {"Type": self.spec.backend} | dict(self.spec.backend_options)
        return json.dumps(config)


def _link(number: int, stack: Stack) -> Link:
    return Link(number, tuple(_on_link(number, 1, version) for version in stack.versions))


def _node(number: int, spec: LabSpec, link: Link) -> Node:
    addresses = tuple(_on_link(link.number, _FIRST_HOST + number, version) for version in spec.stack.versions)
    pods = tuple(
        Pod(f"pod{number}-{k}", f"{spec.name}-pod{number}-{k}", node=number, number=k) for k in range(1, spec.pods + 1)
    )
    return Node(number, f"node{number}", f"{spec.name}-node{number}", link, addresses, pods)


def _on_link(link: int, host: int, version: int) -> AddrOnLink:
    if version == 4:
        return IPv4Interface((UNDERLAY_V4.network_address + (link << 8) + host, 24))
    # The decimal host number is written as it is, so that node 1 is ::11 in both families.
    return IPv6Interface((UNDERLAY_V6.network_address + (link << 64) + int(str(host), 16), 64))
