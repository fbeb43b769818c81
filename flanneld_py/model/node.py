"""What a planner may know of the node that it plans for, read once from the kernel and handed in as values."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from flanneld_py.model.net import Addr, Net


class Reach(Enum):
    """How the underlay reaches a peer's public address."""

    ON_LINK = "on link"
    ROUTED = "behind a router"
    UNREACHABLE = "unreachable"


class Reached(NamedTuple):
    """`dev`: the interface through which the kernel sends there; None if it knows no way. `mtu`: bytes, of a way that
    is narrower than its interface, as a route says or as the kernel has learned (path MTU discovery)."""

    reach: Reach
    dev: str | None = None
    mtu: int | None = None


Reaches = Mapping[Addr, Reached]
"""By public address. A missing address was not asked for."""


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """One address of an interface, with the kernel's marks on it (ifa_flags)."""

    ip: Addr
    prefixlen: int
    deprecated: bool = False
    permanent: bool = True
    temporary: bool = False


@dataclass(frozen=True, slots=True)
class Interface:
    """A candidate for the external interface. `steady`: whether packets arrive on the processor that they
    were sent on."""

    name: str
    index: int
    mtu: int
    up: bool
    addresses: tuple[InterfaceAddress, ...] = ()
    steady: bool = False


@dataclass(frozen=True, slots=True)
class ExternalInterface:
    """The chosen interface. `addr*`: its own address; `public*`: what peers are told, a NAT address perhaps; `steady`:
    as in `Interface`."""

    name: str
    index: int
    mtu: int
    addr4: IPv4Address | None = None
    addr6: IPv6Address | None = None
    public4: IPv4Address | None = None
    public6: IPv6Address | None = None
    steady: bool = False

    def addr(self, version: int) -> Addr | None:
        return self.addr4 if version == 4 else self.addr6

    def public(self, version: int) -> Addr | None:
        return self.public4 if version == 4 else self.public6


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """`macs`: device name to the MAC that it has or will get; `alias`: our mark for links of this daemon; `networks`:
    the overlay's, IPv4 first.

    `ra_default6`: the interface has its IPv6 default route from router advertisements, which the kernel stops to
    accept when forwarding is switched on, unless accept_ra is 2 (Documentation/networking/ip-sysctl.rst).
    `kernel`: major and minor version; None if it has another form of name.
    """

    external: ExternalInterface
    alias: str
    macs: Mapping[str, str] = field(default_factory=dict)
    ra_default6: bool = False
    networks: tuple[Net, ...] = ()
    kernel: tuple[int, int] | None = None


def parse_kernel(release: str) -> tuple[int, int] | None:
    """(5, 10) of "5.10.0-28-amd64", as uname(2) has it; None if it begins otherwise."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})(?!\d)", release, re.ASCII)
    return None if found is None else (int(found[1]), int(found[2]))
