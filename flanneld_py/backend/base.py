"""What a backend is: it plans. Nothing here touches the kernel, the store or the clock."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from flanneld_py.model.entry import Plan, Sysctl
from flanneld_py.model.lease import Lease, LeaseAttrs
from flanneld_py.model.net import Net
from flanneld_py.model.node import NodeFacts, Reaches


@dataclass(frozen=True, slots=True)
class PeerPlan:
    """How one peer is reached. `path`: by family, for people ("vxlan", "direct"); `problems`: why a family is not."""

    entries: Plan = ()
    path: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def __add__(self, other: "PeerPlan") -> "PeerPlan":
        return PeerPlan(self.entries + other.entries, self.path + other.path, self.problems + other.problems)


class Backend(Protocol):
    """One way to carry packets between nodes. Made by its `parse` in `table.py`, from the configuration."""

    @property
    def name(self) -> str:
        """As in the configuration."""

    @property
    def needs_reach(self) -> bool:
        """Whether `peer_plan` depends on how the underlay reaches the peer."""

    @property
    def links(self) -> tuple[str, ...]:
        """Devices whose MAC peers must know, so that it is chosen before the lease is written."""

    def attrs(self, node: NodeFacts) -> LeaseAttrs:
        """What is published with the lease."""

    def macs_in(self, attrs: LeaseAttrs) -> dict[str, str]:
        """The MAC of each of `links` that an earlier lease of this node carries; none for what cannot be read."""

    def mtu(self, node: NodeFacts) -> int:
        """Bytes that a pod may send; for subnet.env. ConfigError if the underlay leaves too few."""

    def gso_max_size(self, node: NodeFacts) -> int | None:
        """What pods' devices should have as their gso_max_size, in bytes; for subnet.env. None: the kernel's own."""

    def local_plan(self, own: Lease, node: NodeFacts) -> Plan:
        """Our device, its address, and what else the node itself needs."""

    def peer_plan(self, peer: Lease, node: NodeFacts, reaches: Reaches) -> PeerPlan:
        """What one peer needs. Never raises for what is in a lease: it becomes a problem of that peer."""


def public_attrs(node: NodeFacts, backend_type: str, versions: tuple[int, ...]) -> LeaseAttrs:
    """The attributes that all backends publish alike: the public addresses of the families in use."""
    external = node.external
    return LeaseAttrs(
        public_ip=external.public4 if 4 in versions else None,
        public_ipv6=external.public6 if 6 in versions else None,
        backend_type=backend_type,
    )


def plan_subnets(peer: Lease, published: str, plan: Callable[[Net], PeerPlan]) -> PeerPlan:
    """`plan` of each of the peer's subnets; nothing for a peer of another backend than `published`, as with flannel."""
    if peer.attrs.backend_type != published:
        theirs, ours = (name or "udp or alloc" for name in (peer.attrs.backend_type, published))
        return PeerPlan(problems=(f"it runs the backend {theirs}, we run {ours}",))
    whole = PeerPlan()
    for subnet in peer.subnets:
        whole += plan(subnet)
    return whole


def forwarding(own: Lease, node: NodeFacts) -> Plan:
    """The sysctls without which a node drops what it should pass on to its pods."""
    plan: Plan = ()
    for subnet in own.subnets:
        if subnet.version == 4:
            plan += (Sysctl("net/ipv4/ip_forward", "1"),)
        else:
            if node.ra_default6:
                plan += (Sysctl(f"net/ipv6/conf/{node.external.name}/accept_ra", "2"),)
            plan += (Sysctl("net/ipv6/conf/all/forwarding", "1"),)
    return plan


def with_data(attrs: LeaseAttrs, data: dict[int, str]) -> LeaseAttrs:
    """`attrs` with a backend's own texts, by family."""
    return replace(attrs, backend_data=data.get(4), backend_v6_data=data.get(6))
