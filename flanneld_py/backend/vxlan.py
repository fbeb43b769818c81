"""`vxlan`: kernel VXLAN (RFC 7348) without multicast: every peer is three permanent entries of ours.

For a peer with subnet S, base address B, MAC M and public address P:

    neighbour  B -> M      who has the gateway?      no ARP or ND ever leaves the node
    fdb        M -> P      behind which node is M?   the outer destination
    route      S via B     onlink                    B is on no network of the device: its address is a /32 or /128

Each family has a device of its own, since the outer family follows the inner one (flannel pkg/backend/vxlan).
"""

import contextlib
import json
from dataclasses import dataclass
from typing import ClassVar

from flanneld_py.backend.base import PeerPlan, forwarding, plan_subnets, public_attrs, with_data
from flanneld_py.errors import ConfigError
from flanneld_py.model.entry import Address, FdbEntry, Link, LinkUp, Neighbour, Plan, Route, Sysctl, TxChecksum, Vxlan
from flanneld_py.model.fields import Fields
from flanneld_py.model.lease import Lease, LeaseAttrs
from flanneld_py.model.net import Net, host_interface, of_family, parse_mac
from flanneld_py.model.node import NodeFacts, Reach, Reaches

OVERHEAD_BYTES = {4: 50, 6: 70}
"""Outer Ethernet of the inner frame, VXLAN, UDP, and an IPv4 or IPv6 header (RFC 7348 section 5)."""
KERNEL_PORT = 8472
"""What Linux uses when nobody names a port (drivers/net/vxlan); upstream's default."""
SMALLEST_MTU = {4: 68, 6: 1280}
"""RFC 791, RFC 8200 section 5: with less the kernel takes the family off the device."""


TX_CHECKSUMS = ("auto", "on", "off")
CHECKSUM_FIXED = (5, 7)
"""Linux that computes the checksum of a masqueraded datagram right where a device below is to do it (ea64d8d6c675)."""


@dataclass(frozen=True, slots=True)
class VtepData:
    """A node's BackendData: `{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`, keys in this order."""

    vni: int
    mac: str

    def format(self) -> str:
        return json.dumps({"VNI": self.vni, "VtepMAC": self.mac}, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str | None) -> "VtepData":
        """ValueError says what is wrong; the text is another machine's. A missing VNI is 0, as Go decodes it."""
        if text is None:
            raise ValueError("it publishes no VTEP")
        raw = json.loads(text)
        if not isinstance(raw, dict):
            raise ValueError("its BackendData is not an object")
        fields = {key.lower(): value for key, value in raw.items()}
        vni, mac = fields.get("vni", 0), fields.get("vtepmac")
        if type(vni) is not int or not isinstance(mac, str):
            raise ValueError("its BackendData has no VNI number and VtepMAC text")
        return cls(vni, parse_mac(mac))


@dataclass(frozen=True, slots=True)
class VxlanBackend:
    """`mtu_option`: what the configuration gives for the underlay, 0 for the interface's own.

    `tx_checksum`: whether our devices leave checksums to what is below them. Where that breaks them, peers drop what we
    send. `auto` has them written where it is known to break, and else leaves the device as it is.
    """

    versions: tuple[int, ...]
    vni: int = 1
    port: int = KERNEL_PORT
    learning: bool = False
    gbp: bool = False
    direct_routing: bool = False
    mtu_option: int = 0
    tx_checksum: str = "auto"

    name: ClassVar[str] = "vxlan"

    @classmethod
    def parse(cls, options: Fields, versions: tuple[int, ...]) -> "VxlanBackend":
        backend = cls(
            versions,
            vni=options.integer("VNI", 1, low=1, high=(1 << 24) - 1),
            port=options.integer("Port", 0, low=0, high=65535) or KERNEL_PORT,
            learning=options.boolean("Learning", False),
            gbp=options.boolean("GBP", False),
            direct_routing=options.boolean("DirectRouting", False),
            mtu_option=options.integer("MTU", 0, low=0, high=65535),
            tx_checksum=options.one_of("TxChecksum", TX_CHECKSUMS),
        )
        options.finish(known=("Type", "MacPrefix", "Name"))
        return backend

    @property
    def needs_reach(self) -> bool:
        return self.direct_routing

    @property
    def links(self) -> tuple[str, ...]:
        return tuple(self._dev(version) for version in self.versions)

    def _dev(self, version: int) -> str:
        return f"flannel.{self.vni}" if version == 4 else f"flannel-v6.{self.vni}"

    def _dev_mtu(self, version: int, node: NodeFacts) -> int:
        return (self.mtu_option or node.external.mtu) - OVERHEAD_BYTES[version]

    def attrs(self, node: NodeFacts) -> LeaseAttrs:
        data = {v: VtepData(self.vni, node.macs[self._dev(v)]).format() for v in self.versions}
        return with_data(public_attrs(node, self.name, self.versions), data)

    def macs_in(self, attrs: LeaseAttrs) -> dict[str, str]:
        macs = {}
        for version in self.versions:
            with contextlib.suppress(ValueError, RecursionError):
                macs[self._dev(version)] = VtepData.parse(attrs.data(version)).mac
        return macs

    def mtu(self, node: NodeFacts) -> int:
        """The smallest of the devices in use: a pod has one MTU for both families."""
        for version in self.versions:
            if (left := self._dev_mtu(version, node)) < SMALLEST_MTU[version]:
                raise ConfigError(
                    f"Backend.MTU {self.mtu_option or node.external.mtu}: leaves {left} bytes to IPv{version} pods, "
                    f"which need {SMALLEST_MTU[version]}",
                    hint=f"use at least {SMALLEST_MTU[version] + OVERHEAD_BYTES[version]}",
                )
        return min(self._dev_mtu(version, node) for version in self.versions)

    def gso_max_size(self, node: NodeFacts) -> int | None:
        return None

    def local_plan(self, own: Lease, node: NodeFacts) -> Plan:
        plan: Plan = ()
        for version in self.versions:
            subnet, local = of_family(own.subnets, version), node.external.addr(version)
            if subnet is None or local is None:
                continue
            dev = self._dev(version)
            vxlan = Vxlan(self.vni, self.port, local, node.external.name, self.learning, self.gbp)
            plan += (
                Link(dev, "vxlan", self._dev_mtu(version, node), node.macs[dev], node.alias, vxlan),
                Sysctl(f"net/ipv6/conf/{dev}/accept_ra", "0", dev),
                *self._tx_checksum(version, node),
                Address(dev, host_interface(subnet)),
                LinkUp(dev),
            )
        return plan + forwarding(own, node)

    def _tx_checksum(self, version: int, node: NodeFacts) -> Plan:
        dev, external = self._dev(version), node.external
        public, local = external.public(version), external.addr(version)
        if self.tx_checksum != "auto":
            return (TxChecksum(dev, self.tx_checksum == "on", f"TxChecksum is {self.tx_checksum}"),)
        if public != local:
            why = f"peers know this node as {public}, {external.name} has {local}: a NAT lies between"
            return (TxChecksum(dev, False, why),)
        if node.kernel is not None and node.kernel < CHECKSUM_FIXED:
            why = f"Linux {'.'.join(map(str, node.kernel))} gets the checksum wrong where packets are masqueraded"
            return (TxChecksum(dev, False, why),)
        return ()

    def peer_plan(self, peer: Lease, node: NodeFacts, reaches: Reaches) -> PeerPlan:
        return plan_subnets(peer, self.name, lambda subnet: self._family_plan(subnet, peer, node, reaches))

    def _family_plan(self, subnet: Net, peer: Lease, node: NodeFacts, reaches: Reaches) -> PeerPlan:
        version = subnet.version
        public = peer.attrs.public(version)
        if public is None or version not in self.versions:
            return PeerPlan(problems=(f"it names no public IPv{version} address",))
        reached = reaches.get(public)
        if self.direct_routing and reached is not None and reached.reach is Reach.ON_LINK:
            return PeerPlan((Route(subnet, dev=reached.dev, via=public),), ("direct",))
        try:
            vtep = VtepData.parse(peer.attrs.data(version))
        except (ValueError, RecursionError) as error:
            return PeerPlan(problems=(f"IPv{version}: {error}",))
        if vtep.vni != self.vni:
            return PeerPlan(problems=(f"it uses VNI {vtep.vni}, we use {self.vni}",))
        dev, base = self._dev(version), subnet.network_address
        if vtep.mac == node.macs.get(dev):
            return PeerPlan(problems=(f"it publishes our own VTEP MAC {vtep.mac}",))
        return PeerPlan(
            (
                Neighbour(dev, base, vtep.mac),
                FdbEntry(dev, vtep.mac, public),
                Route(subnet, dev=dev, via=base, onlink=True),
            ),
            ("vxlan",),
        )
