"""Leases: which node holds which slice of the network, and what its peers must know to reach it."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from flanneld_py.model.net import Addr, Subnets, format_subnet_key


@dataclass(frozen=True, slots=True)
class LeaseAttrs:
    """What a node publishes with its lease.

    `backend_data` and `backend_v6_data` are compact JSON texts, since only a backend knows what is in them, and equal
    texts must compare equal. `backend_type` is "" for the backends that flannel stores without a name (udp, alloc).
    """

    public_ip: IPv4Address | None
    public_ipv6: IPv6Address | None = None
    backend_type: str = ""
    backend_data: str | None = None
    backend_v6_data: str | None = None

    def public(self, version: int) -> Addr | None:
        """The address at which peers of that family's subnets reach the node."""
        return self.public_ip if version == 4 else self.public_ipv6

    def data(self, version: int) -> str | None:
        return self.backend_data if version == 4 else self.backend_v6_data


@dataclass(frozen=True, slots=True)
class Lease:
    """A node's slice of the network.

    `expires`: Unix seconds, known for the own lease only; None: it never expires (kube, reservation) or nobody asked.
    `reserved`: the key has no TTL, so it is the operator's and is never renewed.
    """

    subnets: Subnets
    attrs: LeaseAttrs
    expires: float | None = field(default=None, compare=False)
    reserved: bool = field(default=False, compare=False)

    @property
    def key(self) -> str:
        return format_subnet_key(self.subnets)

    def __str__(self) -> str:
        nets = "+".join(map(str, self.subnets))
        who = "/".join(str(a) for a in (self.attrs.public_ip, self.attrs.public_ipv6) if a is not None)
        return f"{nets} ({who or 'no public address'})"


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Who wrote a lease, as our nodes record it beside the lease. `machine` is a hash: the machine id is a secret."""

    host_name: str
    machine: str
    version: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All leases there are, our own among them. What is not in it is gone."""

    leases: tuple[Lease, ...]


@dataclass(frozen=True, slots=True)
class Changed:
    """A lease is new or has changed (or was only renewed)."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Gone:
    """The lease of these subnets was deleted or has expired."""

    subnets: Subnets


LeaseMessage = Snapshot | Changed | Gone
