"""All leases of a network, as the messages of a store have told of them; and which of them we may act on.

A lease is what some other machine wrote. What we would program for it goes through `objection` first: a lease that
could take traffic from us or from another node is named and left out, never obeyed.
"""

from collections.abc import Iterator
from ipaddress import ip_address

from flanneld_py.model.lease import Changed, Lease, LeaseMessage, Snapshot
from flanneld_py.model.net import Net, Subnets, inside, overlaps


class LeaseSet:
    """The leases known now, our own among them. Messages may come twice or say what is known already."""

    def __init__(self) -> None:
        self._leases: dict[Subnets, Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._leases.values())

    def get(self, subnets: Subnets) -> Lease | None:
        return self._leases.get(subnets)

    def apply(self, message: LeaseMessage) -> frozenset[Subnets]:
        """Take a message in; the subnets whose lease is new, gone or has other attributes than before."""
        if isinstance(message, Snapshot):
            before, self._leases = self._leases, {lease.subnets: lease for lease in message.leases}
            either = before.keys() | self._leases.keys()
            return frozenset(key for key in either if before.get(key) != self._leases.get(key))
        if isinstance(message, Changed):
            known = self._leases.get(message.lease.subnets)
            self._leases[message.lease.subnets] = message.lease
            return frozenset() if known == message.lease else frozenset({message.lease.subnets})
        known = self._leases.pop(message.subnets, None)
        return frozenset() if known is None else frozenset({message.subnets})


def objection(peer: Lease, own: Lease, networks: tuple[Net, ...]) -> str | None:
    """Why nothing must be programmed for `peer`; None if there is no reason."""
    for subnet in peer.subnets:
        if not any(inside(subnet, network) for network in networks):
            return f"{subnet} is not inside the network {', '.join(map(str, networks)) or '(none)'}"
        if mine := next((net for net in own.subnets if overlaps(net, subnet)), None):
            return f"{subnet} overlaps our own subnet {mine}"
        public = peer.attrs.public(subnet.version)
        if public is None or public.is_unspecified:
            return f"it names no public IPv{subnet.version} address"
        if public.is_multicast or public.is_loopback or public == ip_address("255.255.255.255"):
            return f"{public} is no address of a node"
        if public in subnet:
            return f"its public address {public} lies inside its own subnet"
        if public == own.attrs.public(subnet.version):
            return f"it has our own public address {public}"
    return None
