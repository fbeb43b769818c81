"""What the choice of the external interface needs to know of the kernel."""

from ipaddress import ip_address

from flanneld_py.errors import KernelError
from flanneld_py.model.extiface import Reached, Underlay
from flanneld_py.model.node import Interface, InterfaceAddress
from flanneld_py.netlink.linkcodec import IFF_LOOPBACK
from flanneld_py.netlink.links import read_addresses, read_links
from flanneld_py.netlink.routes import PROTOCOL_RA, DefaultRoute, default_routes, route_to
from flanneld_py.netlink.socket import NetlinkSocket


def read_interfaces(sock: NetlinkSocket) -> tuple[Interface, ...]:
    """All interfaces in index order, with their addresses in the kernel's order."""
    addresses: dict[int, list[InterfaceAddress]] = {}
    for state in read_addresses(sock):
        address = InterfaceAddress(
            state.interface.ip,
            state.interface.network.prefixlen,
            deprecated=state.deprecated,
            permanent=state.permanent,
            temporary=state.temporary,
        )
        addresses.setdefault(state.index, []).append(address)
    return tuple(
        Interface(
            link.name,
            link.index,
            link.mtu,
            link.up,
            tuple(addresses.get(link.index, ())),
            # What is sent into a veth arrives on the sender's processor. Of a card it depends on more than its hash:
            # interrupts that are moved, NAPI in a thread; and a virtio device's queue on what we sent last.
            steady=link.kind == "veth",
        )
        for link in read_links(sock)
        if not link.flags & IFF_LOOPBACK or addresses.get(link.index)
    )


def read_underlay(sock: NetlinkSocket, can_reach: str = "") -> Underlay:
    """The default routes, and the way to `can_reach` if that is given; why there is none is in the answer too."""
    names = {link.index: link.name for link in read_links(sock)}
    defaults = default_routes(sock, names)
    reached: Reached | None = None
    why = ""
    if can_reach:
        try:
            way = route_to(sock, ip_address(can_reach), names)
            reached = Reached(way.dev, way.source)
        except ValueError:
            why = f"{can_reach!r} is not an IP address"
        except KernelError as err:
            why = err.message
    return Underlay(_first(defaults, 4), _first(defaults, 6), reached, why)


def ra_default6(sock: NetlinkSocket, dev: str) -> bool:
    """Whether `dev` has an IPv6 default route from router advertisements."""
    names = {link.index: link.name for link in read_links(sock)}
    return any(
        route.version == 6 and route.dev == dev and route.protocol == PROTOCOL_RA
        for route in default_routes(sock, names)
    )


def _first(defaults: tuple[DefaultRoute, ...], version: int) -> str | None:
    return next((route.dev for route in defaults if route.version == version), None)
