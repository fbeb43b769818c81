"""The kernel's tables in a node, as `ip` and `bridge` would print them, and what each route means in the lab."""

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from pyroute2 import IPRoute

from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.topology import Node, Topology
from flanneld_py.lab.wiring import POD_BRIDGE
from flanneld_py.model.net import Addr, Net

_MAIN = 254
_ONLINK = 4
"""RTNH_F_ONLINK, include/uapi/linux/rtnetlink.h."""
_UNICAST = 1
_KERNEL, _BOOT, _STATIC, _RA = 2, 3, 4, 9
_PROTOCOLS = {_KERNEL: "kernel", _BOOT: "boot", _STATIC: "static", _RA: "ra"}


@dataclass(frozen=True, slots=True)
class RouteLine:
    """A unicast route of the main table. `dst` None: the default route."""

    dst: Net | None
    dev: str
    via: Addr | None
    onlink: bool
    protocol: int

    def __str__(self) -> str:
        text = f"{self.dst or 'default'}{'' if self.via is None else f' via {self.via}'} dev {self.dev}"
        mark = _PROTOCOLS.get(self.protocol, str(self.protocol))
        return f"{text} proto {mark}{' onlink' if self.onlink else ''}"


@dataclass(frozen=True, slots=True)
class Tunnel:
    """How a VXLAN device finds the node behind a gateway: neighbour entry, then forwarding entry."""

    gateway: Addr
    mac: str
    endpoint: Addr | None


def read_routes(node: Node, versions: Iterable[int]) -> tuple[RouteLine, ...]:
    """The node's routes; link-local ones and the underlay's multicast are left out."""
    families = [{4: socket.AF_INET, 6: socket.AF_INET6}[version] for version in versions]

    def read() -> tuple[RouteLine, ...]:
        with IPRoute() as ipr:
            names = {link["index"]: link.get("ifname") for link in ipr.get_links()}
            routes = [
                _route(route, names) for family in families for route in ipr.get_routes(family=family, table=_MAIN)
            ]
        return tuple(route for route in routes if route is not None)

    return inside(node.namespace, read)


def read_addresses(node: Node) -> tuple[Addr, ...]:
    """The node's own addresses, on all its devices."""

    def read() -> tuple[Addr, ...]:
        with IPRoute() as ipr:
            found = [one.get("local") or one.get("address") for one in ipr.get_addr()]
        return tuple(ip_address(text) for text in found if text)

    return inside(node.namespace, read)


def read_tunnels(node: Node) -> tuple[Tunnel, ...]:
    """The peers that the node's VXLAN devices know."""

    def read() -> tuple[Tunnel, ...]:
        found = []
        with IPRoute() as ipr:
            for link in ipr.get_links():
                info = link.get("linkinfo")
                if info is None or info.get("kind") != "vxlan":
                    continue
                index = link["index"]
                ends = {entry.get("lladdr"): entry.get("dst") for entry in ipr.fdb("dump", ifindex=index)}
                for version in (socket.AF_INET, socket.AF_INET6):
                    for entry in ipr.get_neighbours(family=version, ifindex=index):
                        mac, gateway = entry.get("lladdr"), entry.get("dst")
                        if mac in ends and gateway is not None:
                            end = ends[mac]
                            found.append(Tunnel(ip_address(gateway), mac, None if end is None else ip_address(end)))
        return tuple(found)

    return inside(node.namespace, read)


def explain(route: RouteLine, topology: Topology, node: Node, tunnels: Iterable[Tunnel]) -> str:
    """What the route is for, in a few words."""
    if route.dst is None:
        return "everything else: the underlay's router"
    if route.dev == "eth0" and route.via is None:
        return f"the underlay link that {node.name} is on"
    if route.dev in (POD_BRIDGE, "docker0"):
        return f"{node.name}'s own subnet: its pods, on the bridge"
    if route.dev == "eth0":
        peer = topology.owner_of(route.via) if route.via is not None else None
        return f"{peer.name if peer else route.via}'s subnet: it is on this link, so no tunnel is needed"
    for tunnel in tunnels:
        if tunnel.gateway == route.via:
            peer = topology.owner_of(tunnel.endpoint) if tunnel.endpoint is not None else None
            return f"{peer.name if peer else 'a peer'}'s subnet: VXLAN, MAC {tunnel.mac} behind {tunnel.endpoint}"
    if route.via is None and route.dst.prefixlen == route.dst.max_prefixlen:
        return f"{node.name}'s own address in the overlay"
    return "into the overlay"


def _route(route: Any, names: dict[int, str]) -> RouteLine | None:
    dst, dev = route.get("dst"), names.get(route.get("oif"), "")
    if route["type"] != _UNICAST or not dev:
        return None
    net = None if not dst else ip_network((dst, route["dst_len"]))
    if net is not None and (net.is_link_local or net.is_multicast):
        return None
    gateway = route.get("gateway")
    return RouteLine(
        dst=net,
        dev=dev,
        via=None if gateway is None else ip_address(gateway),
        onlink=bool(route["flags"] & _ONLINK),
        protocol=route["proto"],
    )
