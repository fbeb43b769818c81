"""The lab's devices, addresses and routes, made by rtnetlink. All of it lies inside namespaces that the lab made.

Whatever is in a namespace goes with it: removing the lab needs no netlink at all.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, netns
from pyroute2.netlink.exceptions import NetlinkError

from flanneld_py.errors import LabError
from flanneld_py.lab.namespaces import RUN_DIR, exists, inside
from flanneld_py.lab.topology import UNDERLAY_MTU, AddrOnLink, Node, Pod, Topology
from flanneld_py.model.subnetenv import SubnetEnv

POD_BRIDGE = "cni0"
_FORWARDING = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
_CROWD = 16
"""Neighbours on a link from which on the lab sets them itself: all namespaces together may learn 1,024 by default
(gc_thresh3 of arp(7), which only the host's own namespace could raise), and 40 nodes have 1,560."""
_NUD_PERMANENT = 0x80
_IFA_F_NODAD = 0x02
"""include/uapi/linux/if_addr.h: without it an IPv6 address cannot be used for the first second or two."""


def create_namespace(name: str) -> None:
    """A namespace with the loopback device up. LabError if it exists: it is somebody else's."""
    if exists(name):
        raise LabError(
            f"network namespace {name} exists and is not this lab's",
            hint="give the lab another --name",
        )
    try:
        netns.create(name)
    except OSError as err:
        raise LabError(f"cannot create network namespace {name}: {err}") from None
    if not exists(name):
        raise LabError(f"cannot create network namespace {name}", hint="is this root, with CAP_SYS_ADMIN?")

    def prepare() -> None:
        # Link-local addresses must be usable at once, too: DAD cannot find anything on links that the lab made.
        set_sysctl("net/ipv6/conf/default/accept_dad", "0")
        set_sysctl("net/ipv6/conf/default/accept_ra", "0")
        with _netlink(f"bring up lo in {name}") as ipr:
            ipr.link("set", index=1, state="up")

    inside(name, prepare)


def remove_namespace(name: str) -> None:
    """Ensure that the name is gone; the namespace itself goes with its last process."""
    if exists(name):
        try:
            netns.remove(name)
        except OSError as err:
            raise LabError(f"cannot remove network namespace {name}: {err.strerror}") from None


def build_router(topology: Topology) -> None:
    """The router namespace: a bridge for each link, with forwarding between them."""
    create_namespace(topology.router)

    def wire() -> None:
        for path in _FORWARDING.values():
            set_sysctl(path, "1")
        with _netlink("make the underlay's bridges") as ipr:
            for link in topology.links:
                ipr.link("add", ifname=link.name, kind="bridge", mtu=UNDERLAY_MTU)
                _configure(ipr, _index(ipr, link.name), link.gateways)

    inside(topology.router, wire)


def build_node(topology: Topology, node: Node) -> None:
    """A node namespace whose eth0 is a port of its link's bridge, with the default route to the router."""
    create_namespace(node.namespace)

    def plug() -> None:
        with _netlink(f"connect {node.name} to {node.link.name}") as ipr, _namespace_fd(node.namespace) as fd:
            end = {"ifname": "eth0", "net_ns_fd": fd, "address": node.mac, "mtu": UNDERLAY_MTU}
            ipr.link("add", ifname=node.port, kind="veth", mtu=UNDERLAY_MTU, peer=end)
            ipr.link("set", index=_index(ipr, node.port), master=_index(ipr, node.link.name), state="up")

    inside(topology.router, plug)
    inside(node.namespace, lambda: _configure_end(node.addresses, node.link.gateways))
    if len(others := [other for other in topology.nodes if other.link == node.link and other != node]) >= _CROWD:
        inside(node.namespace, lambda: _introduce(others))


def build_internet(topology: Topology) -> None:
    """The namespace beyond the router. It knows a way to nodes and none to pods, which get no reply unless masked."""
    internet = topology.internet
    create_namespace(internet.namespace)

    def plug() -> None:
        with _netlink("connect the internet to the router") as ipr, _namespace_fd(internet.namespace) as fd:
            end = {"ifname": "eth0", "net_ns_fd": fd, "mtu": UNDERLAY_MTU}
            ipr.link("add", ifname=internet.port, kind="veth", mtu=UNDERLAY_MTU, peer=end)
            _configure(ipr, _index(ipr, internet.port), internet.gateways)

    def route() -> None:
        with _netlink("configure the internet") as ipr:
            index = _index(ipr, "eth0")
            _configure(ipr, index, internet.addresses)
            for net, gateway in zip(topology.underlays, internet.gateways, strict=True):
                ipr.route("add", dst=str(net), gateway=str(gateway.ip), oif=index)

    inside(topology.router, plug)
    inside(internet.namespace, route)


def build_pod_bridge(node: Node, addresses: Sequence[AddrOnLink], mtu: int) -> None:
    """The bridge of the node's pods, with the first address of its subnet; as it should be if it exists."""

    def bridge() -> None:
        with _netlink(f"make {POD_BRIDGE} on {node.name}") as ipr:
            if not ipr.link_lookup(ifname=POD_BRIDGE):
                ipr.link("add", ifname=POD_BRIDGE, kind="bridge", mtu=mtu)
            index = _index(ipr, POD_BRIDGE)
            ipr.flush_addr(index=index, scope=0)
            ipr.link("set", index=index, mtu=mtu)
            _configure(ipr, index, addresses)

    inside(node.namespace, bridge)


def build_pod(node: Node, pod: Pod, env: SubnetEnv) -> tuple[AddrOnLink, ...]:
    """A pod namespace on the node's bridge, as the node's subnet.env wants it; its addresses."""
    create_namespace(pod.namespace)
    addresses = tuple(pod.address_in(gateway) for gateway in env.subnets)
    mtu, more = env.mtu or 0, {} if env.gso_max_size is None else {"gso_max_size": env.gso_max_size}

    def plug() -> None:
        with _netlink(f"connect {pod.name} to {node.name}") as ipr, _namespace_fd(pod.namespace) as fd:
            end = {"ifname": "eth0", "net_ns_fd": fd, "mtu": mtu, **more}
            ipr.link("add", ifname=pod.veth, kind="veth", mtu=mtu, peer=end)
            ipr.link("set", index=_index(ipr, pod.veth), master=_index(ipr, POD_BRIDGE), state="up")

    inside(node.namespace, plug)
    inside(pod.namespace, lambda: _configure_end(addresses, env.subnets))
    return addresses


def forwarding(node: Node, versions: Sequence[int]) -> dict[int, bool]:
    """Whether the node forwards packets of each family: the daemon should have seen to it."""
    return inside(node.namespace, lambda: {v: read_sysctl(_FORWARDING[v]) == "1" for v in versions})


def set_forwarding(node: Node) -> None:
    """Let the node forward, as its administrator does where the daemon leaves that to others (Go flannel)."""

    def switch_on() -> None:
        for path in _FORWARDING.values():
            set_sysctl(path, "1")

    inside(node.namespace, switch_on)


def attach_namespace(name: str, pid: int) -> None:
    """Give the network namespace of a process a name."""
    try:
        netns.attach(name, pid)
    except OSError as err:
        raise LabError(f"cannot name the network namespace of process {pid} {name}: {err}") from None


def set_sysctl(path: str, value: str) -> None:
    """Set it for the namespace of the calling thread; one that the kernel does not have is left out."""
    target = Path("/proc/sys") / path
    if target.exists():
        target.write_text(value)


def read_sysctl(path: str) -> str:
    return (Path("/proc/sys") / path).read_text().strip()


def _configure_end(addresses: Sequence[AddrOnLink], gateways: Sequence[AddrOnLink]) -> None:
    with _netlink("configure eth0") as ipr:
        _configure(ipr, _index(ipr, "eth0"), addresses)
        for gateway in gateways:
            family = {4: "0.0.0.0/0", 6: "::/0"}[gateway.version]
            ipr.route("add", dst=family, gateway=str(gateway.ip), oif=_index(ipr, "eth0"))


def _introduce(others: Sequence[Node]) -> None:
    """Permanent neighbour entries for nodes on the same link, since the kernel's limit leaves permanent ones out."""
    with _netlink("set neighbours of eth0") as ipr:
        index = _index(ipr, "eth0")
        for other in others:
            for address in other.addresses:
                ipr.neigh("add", dst=str(address.ip), lladdr=other.mac, ifindex=index, state=_NUD_PERMANENT)


def _configure(ipr: Any, index: int, addresses: Sequence[AddrOnLink]) -> None:
    for address in addresses:
        flags = {"flags": _IFA_F_NODAD} if address.version == 6 else {}
        ipr.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen, **flags)
    ipr.link("set", index=index, state="up")


def _index(ipr: Any, name: str) -> int:
    found = ipr.link_lookup(ifname=name)
    if not found:
        raise LabError(f"device {name} is not there")
    return int(found[0])


@contextmanager
def _namespace_fd(name: str) -> Iterator[int]:
    fd = os.open(RUN_DIR / name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _netlink(purpose: str) -> Iterator[Any]:
    """A socket in the namespace of the calling thread; a refusal says what it was for."""
    try:
        with IPRoute() as ipr:
            yield ipr
    except NetlinkError as err:
        raise LabError(f"cannot {purpose}: {os.strerror(err.code)}") from None
