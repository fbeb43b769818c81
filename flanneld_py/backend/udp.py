"""`udp`: packets in plain UDP datagrams, carried by a process of ours; for kernels without a tunnel module.

Wire format: the inner IPv4 packet is the whole payload (flannel pkg/backend/udp). One TUN device takes the whole
network; which node a packet goes to is the worker's decision, so a peer is an entry of the worker, not of the kernel.
"""

import json
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import ClassVar

from flanneld_py.backend.base import PeerPlan, forwarding, plan_subnets, public_attrs, with_data
from flanneld_py.errors import ConfigError
from flanneld_py.model.entry import Address, Link, LinkUp, Plan, Route, Sysctl, UdpPeer, UdpWorker
from flanneld_py.model.fields import Fields
from flanneld_py.model.lease import Lease, LeaseAttrs
from flanneld_py.model.net import Net, host_interface, of_family
from flanneld_py.model.node import NodeFacts, Reach, Reaches

OVERHEAD_BYTES = 28
"""IPv4 and UDP headers."""
DEFAULT_PORT = 8285
DEVICE = "flannel0"
"""Upstream takes the first free flannel<N>."""
OFFLOADS = ("TSO", "USO", "GSO", "GRO")
VALIDATIONS = ("strict", "loose", "off")
PUMPS = ("auto", "native", "portable")
SMALLEST_MTU = 68
"""RFC 791."""
MOST_SOURCES = 16
_TRAIN_DATAGRAMS, _TRAIN_BYTES = 64, 65507
"""What goes to the kernel at once, as one train (dataplane/_outbox.h)."""
_MOST_LEFT_FREE, _LEAST_LEFT_FREE = 513, 193
"""Bytes of a device's gso_max_size that TCP does not use (net/core/sock.c sk_dst_gso_max_size): one more than
MAX_TCP_HEADER of include/net/tcp.h, which depends on the cache lines of the machine and the devices of the kernel."""
_HEADER_BYTES, _TIMESTAMP_BYTES = 40, 12
_KERNEL_GSO_BYTES = 65536
"""include/linux/netdevice.h GSO_LEGACY_MAX_SIZE: what a device has by itself, and most of them at most."""


@dataclass(frozen=True, slots=True)
class UdpData:
    """What we publish beside the address. Go nodes neither write nor read it, so all of it may be missing.

    `sources`: addresses other than the public one from which our datagrams may come.
    """

    port: int | None = None
    sources: tuple[IPv4Address, ...] = ()

    def format(self) -> str:
        fields: dict[str, object] = {"Port": self.port}
        if self.sources:
            fields["Sources"] = [str(source) for source in self.sources]
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str | None) -> "UdpData":
        """ValueError says what is wrong; the text is another machine's."""
        raw = {} if text is None else json.loads(text)
        if not isinstance(raw, dict):
            return cls()
        fields = {key.lower(): value for key, value in raw.items()}
        port, sources = fields.get("port"), fields.get("sources", [])
        if port is not None and (type(port) is not int or not 0 < port < 65536):
            raise ValueError(f"it publishes the port {port!r:.40}")
        if not isinstance(sources, list) or len(sources) > MOST_SOURCES or not all(isinstance(s, str) for s in sources):
            raise ValueError("its Sources are not a short list of addresses")
        try:
            return cls(port, tuple(IPv4Address(source) for source in sources))
        except AddressValueError as error:
            raise ValueError(f"its Sources hold no address: {error}") from None


@dataclass(frozen=True, slots=True)
class UdpBackend:
    """`mtu_option`: what the configuration gives for the underlay, 0 for the interface's own."""

    port: int = DEFAULT_PORT
    validation: str = "strict"
    offload: frozenset[str] = frozenset(name.lower() for name in OFFLOADS)
    pump: str = "auto"
    mtu_option: int = 0

    name: ClassVar[str] = "udp"
    needs_reach: ClassVar[bool] = True
    """For the MTU of the way, which is less than the interface's behind a tunnel."""
    links: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def parse(cls, options: Fields, versions: tuple[int, ...]) -> "UdpBackend":
        backend = cls(
            port=options.integer("Port", DEFAULT_PORT, low=1, high=65535),
            validation=options.one_of("SourceValidation", VALIDATIONS),
            offload=frozenset(name.lower() for name in OFFLOADS if options.boolean(name, True)),
            pump=options.one_of("Pump", PUMPS),
            mtu_option=options.integer("MTU", 0, low=0, high=65535),
        )
        if 6 in versions:
            options.missing("Type", '"udp" carries IPv4 alone', 'leave EnableIPv6 out, or use "vxlan"')
        options.finish(known=("Type",))
        return backend

    def _mtu(self, node: NodeFacts) -> int:
        return (self.mtu_option or node.external.mtu) - OVERHEAD_BYTES

    def attrs(self, node: NodeFacts) -> LeaseAttrs:
        external = node.external
        sources = () if external.addr4 in (None, external.public4) else (external.addr4,)
        data = UdpData(self.port, tuple(s for s in sources if s is not None))
        return with_data(public_attrs(node, "", (4,)), {4: data.format()})

    def macs_in(self, attrs: LeaseAttrs) -> dict[str, str]:
        return {}

    def mtu(self, node: NodeFacts) -> int:
        if (left := self._mtu(node)) < SMALLEST_MTU:
            raise ConfigError(
                f"Backend.MTU {self.mtu_option or node.external.mtu}: leaves {left} bytes to pods, "
                f"which need {SMALLEST_MTU}",
                hint=f"use at least {SMALLEST_MTU + OVERHEAD_BYTES}",
            )
        return left

    def gso_max_size(self, node: NodeFacts) -> int | None:
        """Such that a super-packet of a pod's TCP is one full train, where the kernel's 64 KiB would be one and two
        segments more: every train costs a system call's work, however short it is."""
        mtu = self.mtu(node)
        segments, segment = min(_TRAIN_DATAGRAMS, _TRAIN_BYTES // mtu), mtu - _HEADER_BYTES - _TIMESTAMP_BYTES
        # Room for segments without timestamps, too, but on no kernel for one segment more with them.
        room = min(segments * _TIMESTAMP_BYTES, segment - (_MOST_LEFT_FREE - _LEAST_LEFT_FREE) - 1)
        size = segments * segment + max(0, room) + _MOST_LEFT_FREE
        return size if "tso" in self.offload and segments > 1 and size < _KERNEL_GSO_BYTES else None

    def local_plan(self, own: Lease, node: NodeFacts) -> Plan:
        subnet, local = of_family(own.subnets, 4), node.external.addr4
        if not isinstance(subnet, IPv4Network) or local is None:
            return ()
        mtu = self._mtu(node)
        return (
            Link(DEVICE, "tun", mtu, None, node.alias),
            # ICMP errors that the worker writes come from our own address, which the kernel else takes for a forgery.
            Sysctl(f"net/ipv4/conf/{DEVICE}/accept_local", "1", DEVICE),
            Address(DEVICE, host_interface(subnet)),
            LinkUp(DEVICE),
            self._worker(local, subnet, node),
            *(Route(network, dev=DEVICE) for network in node.networks if network.version == 4),
            *forwarding(own, node),
        )

    def _worker(self, local: IPv4Address, subnet: IPv4Network, node: NodeFacts) -> UdpWorker:
        by_sender = not node.external.steady
        return UdpWorker(
            DEVICE, local, self.port, subnet, self._mtu(node), self.validation, self.offload, self.pump, by_sender
        )

    def peer_plan(self, peer: Lease, node: NodeFacts, reaches: Reaches) -> PeerPlan:
        return plan_subnets(peer, "", lambda subnet: self._subnet_plan(subnet, peer, node, reaches))

    def _subnet_plan(self, subnet: Net, peer: Lease, node: NodeFacts, reaches: Reaches) -> PeerPlan:
        public = peer.attrs.public_ip
        if not isinstance(subnet, IPv4Network) or public is None:
            return PeerPlan(problems=("it names no public IPv4 address",))
        try:
            data = UdpData.parse(peer.attrs.backend_data)
        except (ValueError, RecursionError) as error:
            return PeerPlan(problems=(str(error),))
        reached = reaches.get(public)
        if reached is not None and reached.reach is Reach.UNREACHABLE:
            return PeerPlan(problems=(f"{public} is {reached.reach.value}: there is no route to it",))
        mtu = self._mtu(node)
        if reached is not None and reached.mtu is not None:
            mtu = max(SMALLEST_MTU, min(mtu, reached.mtu - OVERHEAD_BYTES))
        sources = tuple(source for source in data.sources if source != public)
        return PeerPlan((UdpPeer(DEVICE, subnet, public, data.port or self.port, mtu, sources),), ("udp",))
