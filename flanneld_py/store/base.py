"""What the daemon asks of a place that keeps leases. Two exist: etcd, and the Kubernetes API.

Every failure of the transport is handled inside the store: its calls wait for as long as the store is away, and say so
through `report`. What they raise is an answer: an error that waiting does not mend (errors.py, StoreError and below).
Its generators are closed by those who leave them (contextlib.aclosing).
"""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from flanneld_py.model.config import NetworkConfig
from flanneld_py.model.lease import Lease, LeaseAttrs, LeaseMessage, NodeIdentity
from flanneld_py.model.net import Subnets


@dataclass(frozen=True, slots=True)
class Condition:
    """How the store is doing. `ok` False: what is wrong, since the last report with other words, and what mends it."""

    ok: bool
    message: str
    hint: str | None = None


Report = Callable[[Condition], None]


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """`previous`: what subnet.env held, () if nothing; taken again if it is free and fits `config`."""

    config: NetworkConfig
    attrs: LeaseAttrs
    previous: Subnets
    identity: NodeIdentity


class LeaseStore(Protocol):
    """Leases of one network, as one node sees them."""

    def describe(self) -> str:
        """Where the leases are, for a log line; without secrets."""

    def config_source(self) -> str:
        """Where the network configuration is, for messages about what is in it."""

    async def config(self) -> str:
        """The text of the network configuration; waits until there is one."""

    def watch_config(self) -> AsyncGenerator[str, None]:
        """Each text that replaces the one `config` returned."""

    async def stored(self, attrs: LeaseAttrs) -> LeaseAttrs | None:
        """What this node (by public address) published last, so that it can keep its VTEP MAC."""

    async def acquire(self, request: LeaseRequest) -> Lease:
        """The node's lease, written to the store.

        Raises OutOfSubnets, DuplicatePublicIP, AccessDenied.
        """

    def watch(self) -> AsyncGenerator[LeaseMessage, None]:
        """All leases, our own among them: first a Snapshot, then changes, and a Snapshot again after any gap."""

    async def release(self, lease: Lease) -> None:
        """Give the lease back; at once, or not at all if the store is away."""

    async def close(self) -> None: ...


class Renewable(Protocol):
    """A store whose leases run out."""

    async def renew(self, lease: Lease) -> Lease:
        """The lease with its new expiry; keeps trying while the store is away. LeaseLost: the key is not ours now."""


@dataclass(frozen=True, slots=True)
class PublicWishes:
    """Public addresses that an operator has set for this node in the store; they count more than flags."""

    public_ip: IPv4Address | None = None
    public_ipv6: IPv6Address | None = None


class OwnedNode(Protocol):
    """A store that knows our node as an object of its own: only Kubernetes."""

    async def wishes(self) -> PublicWishes: ...

    async def announce(self) -> None:
        """Say that pods may come: the node's network is up."""
