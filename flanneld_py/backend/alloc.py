"""`alloc`: a lease and subnet.env, and nothing in the kernel; something else routes."""

from typing import ClassVar

from flanneld_py.backend.base import PeerPlan, public_attrs
from flanneld_py.model.entry import Plan
from flanneld_py.model.fields import Fields
from flanneld_py.model.lease import Lease, LeaseAttrs
from flanneld_py.model.node import NodeFacts, Reaches


class AllocBackend:
    name: ClassVar[str] = "alloc"
    needs_reach: ClassVar[bool] = False
    links: tuple[str, ...] = ()

    def __init__(self, versions: tuple[int, ...]) -> None:
        self._versions = versions

    @classmethod
    def parse(cls, options: Fields, versions: tuple[int, ...]) -> "AllocBackend":
        options.finish(known=("Type",))
        return cls(versions)

    def attrs(self, node: NodeFacts) -> LeaseAttrs:
        return public_attrs(node, "", self._versions)

    def macs_in(self, attrs: LeaseAttrs) -> dict[str, str]:
        return {}

    def mtu(self, node: NodeFacts) -> int:
        return node.external.mtu

    def gso_max_size(self, node: NodeFacts) -> int | None:
        return None

    def local_plan(self, own: Lease, node: NodeFacts) -> Plan:
        return ()

    def peer_plan(self, peer: Lease, node: NodeFacts, reaches: Reaches) -> PeerPlan:
        return PeerPlan(path=("none: alloc only allocates",))
