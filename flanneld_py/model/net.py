"""Addresses, networks and the text forms in which a cluster stores them."""

import re
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_interface,
    ip_network,
)

Addr = IPv4Address | IPv6Address
Net = IPv4Network | IPv6Network
Subnets = tuple[Net, ...]
"""A node's slice: at most one network of each family, IPv4 first."""

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
# flannel's own pattern is anchored at the end only, and knows no upper-case hex (pkg/subnet/subnet.go).
_KEY = re.compile(r"(\d+\.\d+\.\d+\.\d+)-(\d+)(?:&([a-f0-9:]+)-(\d+))?$", re.ASCII)
_MAX_PREFIX = {4: 31, 6: 127}


def parse_mac(text: str) -> str:
    """A unicast MAC in lower case with colons. ValueError says what is wrong with it."""
    mac = text.lower().replace("-", ":")
    if not _MAC.fullmatch(mac):
        raise ValueError(f"{text!r} is not a MAC address")
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise ValueError(f"{text!r} is not the MAC address of one device")
    return mac


def first_address(net: Net) -> Addr:
    """The address after the base: a node's bridge takes it (`FLANNEL_SUBNET`)."""
    return net.network_address + 1


def host_interface(net: Net) -> IPv4Interface | IPv6Interface:
    """The base address of a subnet as a /32 or /128: what an overlay device carries."""
    return ip_interface((net.network_address, net.max_prefixlen))


def format_subnet_key(subnets: Subnets) -> str:
    """`10.5.34.0-24`, `10.5.34.0-24&fd00:0:0:5::-64`, or `0.0.0.0-0&fd00::-64` for IPv6 alone (flannel pkg/subnet)."""
    parts = [f"{net.network_address}-{net.prefixlen}" for net in subnets]
    if subnets and subnets[0].version == 6:
        parts.insert(0, "0.0.0.0-0")
    return "&".join(parts)


def parse_subnet_key(key: str) -> Subnets:
    """The subnets that a key names. ValueError for everything that flannel would not take for a subnet key.

    Host bits are masked off as flannel does; `0.0.0.0-0` before an IPv6 half means that there is no IPv4 subnet.
    """
    found = _KEY.search(key)
    if not found:
        raise ValueError(f"{key!r} is not a subnet key such as 10.5.34.0-24")
    four, len4, six, len6 = found.groups()
    halves = [(four, int(len4))] if six is None else [(four, int(len4)), (six, int(len6))]
    subnets = []
    for text, prefixlen in halves:
        net = ip_network((text, prefixlen), strict=False)
        if prefixlen > _MAX_PREFIX[net.version]:
            raise ValueError(f"{key!r}: /{prefixlen} is no subnet of a node")
        if prefixlen == 0 and len(halves) == 2 and net.version == 4:
            continue
        subnets.append(net)
    return tuple(subnets)


def of_family(subnets: Subnets, version: int) -> Net | None:
    return next((net for net in subnets if net.version == version), None)


def inside(net: Net, outer: Net) -> bool:
    """Whether `net` is a part of `outer`; networks of different families never are."""
    return net.version == outer.version and net.subnet_of(outer)  # type: ignore[arg-type]


def overlaps(one: Net, other: Net) -> bool:
    return one.version == other.version and one.overlaps(other)
