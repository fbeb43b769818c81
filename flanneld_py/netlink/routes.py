"""Routes: which are there and ours, or in the way; and which way a packet takes."""

import asyncio
import errno
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from socket import AF_INET, AF_INET6

from flanneld_py.errors import KernelError
from flanneld_py.model.entry import PROTOCOL_BOOT, ROUTE_PROTOCOL, Entry, Key, Route, Scope
from flanneld_py.model.net import Addr, inside
from flanneld_py.model.node import Reach, Reached
from flanneld_py.netlink.codec import (
    RTA_METRICS,
    RTA_MULTIPATH,
    RTA_OIF,
    RTA_PREFSRC,
    RTM_NEWROUTE,
    RouteMessage,
    decode_route,
    device,
    encode_route_dump,
    encode_route_lookup,
    gateway,
    parse_route,
    raw_key,
)
from flanneld_py.netlink.socket import NetlinkSocket
from flanneld_py.netlink.wire import Message, attributes, number

PROTOCOL_RA = 9
"""RTPROT_RA, include/uapi/linux/rtnetlink.h: a route from an IPv6 router advertisement."""
_UNICAST, _LOCAL = 1, 2
_NO_WAY = frozenset({6, 7, 8})  # RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT
_LOOKUPS = 256
_RTAX_MTU = 2


@dataclass(frozen=True, slots=True)
class DefaultRoute:
    """Of several next hops the first. `protocol` PROTOCOL_RA: learned from a router advertisement."""

    version: int
    dev: str
    via: Addr | None
    metric: int
    protocol: int


@dataclass(frozen=True, slots=True)
class Way:
    """Where a packet leaves, from which address, through which gateway."""

    dev: str
    source: Addr | None
    via: Addr | None


def known_routes(
    sock: NetlinkSocket, scope: Scope, devices: Collection[str], desired: Mapping[Key, Entry], names: Mapping[int, str]
) -> dict[Key, Entry]:
    """Routes of the main table that are ours by `scope`, or have the key of one that we want.

    `devices`: our own devices. Of several routes with one key the first counts, which is the one that the kernel uses.
    """
    wanted = {raw_key(entry) for entry in desired.values() if isinstance(entry, Route)}
    known: dict[Key, Entry] = {}
    for message in _dump(sock):
        if message.protocol != ROUTE_PROTOCOL and not (scope.takeover and message.protocol == PROTOCOL_BOOT):
            if message.raw_key in wanted:
                route = decode_route(message, names)
                known.setdefault(route.key, route)
            continue
        route = decode_route(message, names)
        if route.key in desired or _is_ours(route, scope, devices):
            known.setdefault(route.key, route)
    return known


def _is_ours(route: Route, scope: Scope, devices: Collection[str]) -> bool:
    within = any(inside(route.dst, network) for network in scope.networks)
    if route.protocol == ROUTE_PROTOCOL:
        return within or route.dev in devices
    return within and (route.dev in devices or route.dev in scope.takeover)


def default_routes(sock: NetlinkSocket, names: Mapping[int, str]) -> tuple[DefaultRoute, ...]:
    """The default routes of the main table in the kernel's order: by family, IPv4 first, then by metric."""
    return tuple(
        DefaultRoute(
            4 if message.family == AF_INET else 6, device(names, index), via, message.raw_key[3], message.protocol
        )
        for message in _dump(sock)
        if message.prefixlen == 0 and message.type == _UNICAST
        for index, via in [_first_hop(message)]
        if index
    )


def _first_hop(message: RouteMessage) -> tuple[int, Addr | None]:
    """Several routers' advertisements make one route with several next hops, each a struct rtnexthop: length,
    flags, hops, index."""
    hops = message.attrs.get(RTA_MULTIPATH)
    if hops is None or len(hops) < 8:
        return number(message.attrs, RTA_OIF), gateway(message)
    return number({0: hops[4:8]}, 0), None


def _dump(sock: NetlinkSocket) -> Iterable[RouteMessage]:
    for family in (AF_INET, AF_INET6):
        for message in sock.dump(partial(encode_route_dump, family)):
            route = parse_route(message.body) if message.type == RTM_NEWROUTE else None
            if route is not None and route.family == family:  # a kernel without IPv6 answers for all families
                yield route


async def reaches(
    sock: NetlinkSocket, addresses: Sequence[Addr], names: Mapping[int, str], overlay: Collection[str]
) -> dict[Addr, Reached]:
    """How the underlay reaches each address, without sending a packet. `names`: all devices, by index.

    ON_LINK: the kernel would ask for its MAC on a link. What goes through a device of our own (`overlay`), or is our
    own address, is not: it counts as ROUTED, the careful answer. UNREACHABLE: the kernel has no route.
    """
    found: dict[Addr, Reached] = {}
    for start in range(0, len(addresses), _LOOKUPS):
        part = addresses[start : start + _LOOKUPS]
        for address, answer in zip(part, _look_up(sock, part), strict=True):
            found[address] = _reached(answer, names, {*overlay, "lo"})
        await asyncio.sleep(0)
    return found


def _reached(answer: RouteMessage | None, names: Mapping[int, str], not_a_link: Collection[str]) -> Reached:
    if answer is None or answer.type in _NO_WAY:
        return Reached(Reach.UNREACHABLE)
    dev = device(names, number(answer.attrs, RTA_OIF))
    if answer.type != _UNICAST or gateway(answer) is not None or dev in not_a_link:
        return Reached(Reach.ROUTED, dev, _mtu(answer))
    return Reached(Reach.ON_LINK, dev, _mtu(answer))


def _mtu(answer: RouteMessage) -> int | None:
    """The MTU of a way where it is known to be less than the interface's: among a route's metrics (RTAX_MTU)."""
    metrics = attributes(answer.attrs.get(RTA_METRICS, b""))
    return number(metrics, _RTAX_MTU) or None


def route_to(sock: NetlinkSocket, address: Addr, names: Mapping[int, str]) -> Way:
    """The way of a packet to `address`. KernelError: there is none."""
    (answer,) = _look_up(sock, [address])
    if answer is None or answer.type in _NO_WAY:
        raise KernelError(
            f"there is no route to {address}", hint=f"see: ip route get {address}", errno=errno.ENETUNREACH
        )
    source = answer.attrs.get(RTA_PREFSRC)
    return Way(
        device(names, number(answer.attrs, RTA_OIF)), None if source is None else ip_address(source), gateway(answer)
    )


def _look_up(sock: NetlinkSocket, addresses: Sequence[Addr]) -> list[RouteMessage | None]:
    """One answer an address, in order; None where the kernel refuses."""
    seqs = sock.sequence(len(addresses))
    requests = [encode_route_lookup(address, seq) for address, seq in zip(addresses, seqs, strict=True)]
    answers = sock.query(requests, seqs)
    found = [answers.get(seq) for seq in seqs]
    return [parse_route(answer.body, lookup=True) if isinstance(answer, Message) else None for answer in found]
