"""`host-gw`: a plain route to each peer, which must share a link with us. No device, no overhead, no options."""

from typing import ClassVar

from flanneld_py.backend.base import PeerPlan, forwarding, plan_subnets, public_attrs
from flanneld_py.model.entry import Plan, Route
from flanneld_py.model.fields import Fields
from flanneld_py.model.lease import Lease, LeaseAttrs
from flanneld_py.model.net import Net
from flanneld_py.model.node import NodeFacts, Reach, Reached, Reaches


class HostGwBackend:
    name: ClassVar[str] = "host-gw"
    needs_reach: ClassVar[bool] = True
    links: tuple[str, ...] = ()

    def __init__(self, versions: tuple[int, ...]) -> None:
        self._versions = versions

    @classmethod
    def parse(cls, options: Fields, versions: tuple[int, ...]) -> "HostGwBackend":
        options.finish(known=("Type",))
        return cls(versions)

    def attrs(self, node: NodeFacts) -> LeaseAttrs:
        return public_attrs(node, self.name, self._versions)

    def macs_in(self, attrs: LeaseAttrs) -> dict[str, str]:
        return {}

    def mtu(self, node: NodeFacts) -> int:
        return node.external.mtu

    def gso_max_size(self, node: NodeFacts) -> int | None:
        return None

    def local_plan(self, own: Lease, node: NodeFacts) -> Plan:
        return forwarding(own, node)

    def peer_plan(self, peer: Lease, node: NodeFacts, reaches: Reaches) -> PeerPlan:
        return plan_subnets(peer, self.name, lambda subnet: self._family_plan(subnet, peer, node, reaches))

    def _family_plan(self, subnet: Net, peer: Lease, node: NodeFacts, reaches: Reaches) -> PeerPlan:
        public = peer.attrs.public(subnet.version)
        if public is None:
            return PeerPlan(problems=(f"it names no public IPv{subnet.version} address",))
        reached = reaches.get(public, Reached(Reach.ON_LINK))
        if reached.reach is not Reach.ON_LINK:
            return PeerPlan(
                problems=(
                    f"{public} is {reached.reach.value}: host-gw needs nodes on one link; "
                    'use {"Type": "vxlan", "DirectRouting": true} where a router lies between nodes',
                )
            )
        return PeerPlan((Route(subnet, dev=node.external.name, via=public),), ("host-gw",))
