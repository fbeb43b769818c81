"""The objects that the daemon wants from the kernel, as values.

An entry has a `key`, which names the kernel object, and fields, which are its state: two entries with one key are the
same object in two states. `str(entry)` is close to what `ip` and `bridge` print, since operators compare it with that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface

from flanneld_py.model.net import Addr, Net, inside
from flanneld_py.model.ruleset import Admission, Table

ROUTE_PROTOCOL = 241
"""Marks our routes: `ip route` shows `proto 241` (rtnetlink(7) rtm_protocol; below 255 and used by nobody else)."""
PROTOCOL_BOOT = 3
"""RTPROT_BOOT, include/uapi/linux/rtnetlink.h: what Go flannel's routes carry."""

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Vxlan:
    """What cannot be changed on a living VXLAN device. `underlay` is an interface name."""

    vni: int
    port: int
    local: Addr
    underlay: str
    learning: bool = False
    gbp: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """A device that we create. `alias` is our mark on it (IFLA_IFALIAS); `mtu` in bytes."""

    name: str
    kind: str
    mtu: int
    mac: str | None
    alias: str
    vxlan: Vxlan | None = None

    @property
    def key(self) -> Key:
        return ("link", self.name)

    @property
    def dev(self) -> str:
        return self.name

    def must_recreate(self, known: "Link") -> bool:
        """Whether the kernel cannot turn `known` into this by setting attributes."""
        return (self.kind, self.vxlan) != (known.kind, known.vxlan)

    def __str__(self) -> str:
        text = f"link {self.name} type {self.kind} mtu {self.mtu}"
        if self.vxlan is not None:
            v = self.vxlan
            text += f" id {v.vni} local {v.local} dev {v.underlay} dstport {v.port}"
        return text


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The device is administratively up. Apart from `Link`, since sysctls must be set between the two."""

    dev: str

    @property
    def key(self) -> Key:
        return ("up", self.dev)

    def __str__(self) -> str:
        return f"link {self.dev} up"


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A file below /proc/sys. `dev`: the device with which it comes and goes."""

    path: str
    value: str
    dev: str | None = None

    @property
    def key(self) -> Key:
        return ("sysctl", self.path)

    def __str__(self) -> str:
        return f"sysctl {self.path} = {self.value}"


@dataclass(frozen=True, slots=True)
class TxChecksum:
    """Whether the device leaves checksums of what it sends to the devices below it (`ethtool -K DEV tx`).

    `why` it must be so, for people.
    """

    dev: str
    on: bool
    why: str = field(default="", compare=False)

    @property
    def key(self) -> Key:
        return ("tx-checksum", self.dev)

    def __str__(self) -> str:
        text = f"tx-checksum {'on' if self.on else 'off'} dev {self.dev}"
        return f"{text} ({self.why})" if self.why else text


@dataclass(frozen=True, slots=True)
class Address:
    dev: str
    interface: IPv4Interface | IPv6Interface

    @property
    def key(self) -> Key:
        return ("address", self.dev, str(self.interface))

    def __str__(self) -> str:
        return f"address {self.interface} dev {self.dev}"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An ARP or ND entry. Ours are permanent; a learned one in our way is known with `permanent=False`."""

    dev: str
    ip: Addr
    mac: str | None
    permanent: bool = True

    @property
    def key(self) -> Key:
        return ("neighbour", self.dev, str(self.ip))

    def __str__(self) -> str:
        return f"neigh {self.ip} lladdr {self.mac} dev {self.dev}{' permanent' if self.permanent else ''}"


@dataclass(frozen=True, slots=True)
class FdbEntry:
    """Behind which node a MAC lives (bridge family, flag self). The kernel keeps one `dst` for a unicast MAC."""

    dev: str
    mac: str
    dst: Addr | None
    permanent: bool = True

    @property
    def key(self) -> Key:
        return ("fdb", self.dev, self.mac)

    def __str__(self) -> str:
        return f"fdb {self.mac} dev {self.dev} dst {self.dst}{' permanent' if self.permanent else ''}"


@dataclass(frozen=True, slots=True)
class UdpWorker:
    """The process that carries the packets of the `udp` backend between the TUN device `dev` and a UDP socket.

    `own`: the subnet behind us; `mtu`: bytes of the largest packet that the device takes. `offload`: which of tso, uso,
    gso and gro may be used, if the kernel has them. `validation`: strict, loose or off. `by_sender`: a datagram's lane
    is chosen by its sender, and not by the processor that it arrives on. `build`: of the code that it runs; "" is the
    one that this process runs, and what we want.
    """

    dev: str
    local: IPv4Address
    port: int
    own: IPv4Network
    mtu: int
    validation: str = "strict"
    offload: frozenset[str] = frozenset({"tso", "uso", "gso", "gro"})
    pump: str = "auto"
    by_sender: bool = False
    build: str = ""

    @property
    def key(self) -> Key:
        return ("worker", self.dev)

    def must_restart(self, known: "UdpWorker") -> bool:
        """Whether a running worker cannot turn into this one by a new table."""
        return (self.local, self.port, self.pump, self.offload) != (known.local, known.port, known.pump, known.offload)

    def __str__(self) -> str:
        return f"udp worker {self.dev} on {self.local}:{self.port} validation {self.validation}"


@dataclass(frozen=True, slots=True)
class UdpPeer:
    """Where datagrams for `subnet` go. `mtu`: bytes of the largest packet that reaches it unfragmented in one datagram;
    `sources`: further addresses from which the peer may send."""

    dev: str
    subnet: IPv4Network
    address: IPv4Address
    port: int
    mtu: int
    sources: tuple[IPv4Address, ...] = ()

    @property
    def key(self) -> Key:
        return ("peer", self.dev, str(self.subnet))

    def __str__(self) -> str:
        return f"udp peer {self.subnet} at {self.address}:{self.port} mtu {self.mtu} dev {self.dev}"


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the main table. `via` None: the destination is on the link of `dev`.

    `metric` is a part of the key: the kernel holds routes to one destination side by side that differ in it. For IPv6
    the kernel's own default, 1024, is used. `protocol` is our mark, and differs only in routes read from the kernel.
    """

    dst: Net
    dev: str | None
    via: Addr | None = None
    onlink: bool = False
    metric: int = 0
    protocol: int = ROUTE_PROTOCOL
    kind: str = "unicast"

    @property
    def key(self) -> Key:
        return ("route", str(self.dst), str(self.metric))

    def __str__(self) -> str:
        text = f"route {'' if self.kind == 'unicast' else self.kind + ' '}{self.dst}"
        if self.via is not None:
            text += f" via {self.via}"
        if self.dev is not None:
            text += f" dev {self.dev}"
        return text + (" onlink" if self.onlink else "")


Device = Link | LinkUp | Sysctl | TxChecksum | Address
Entry = Device | Table | Admission | Neighbour | FdbEntry | UdpWorker | UdpPeer | Route
Plan = tuple[Entry, ...]
"""The entries that one lease, or the node itself, asks for."""

APPLY_ORDER: tuple[type[Entry], ...] = (
    Link,
    Sysctl,
    TxChecksum,
    Address,
    LinkUp,
    Table,
    Admission,
    Neighbour,
    FdbEntry,
    UdpWorker,
    UdpPeer,
    Route,
)
"""A route comes last: the kernel must not start to resolve a gateway that we know. Deletes go the other way."""


class Verb(Enum):
    ADD = "add"
    CHANGE = "change"
    """The key is there in another state; one message puts it right."""
    RECREATE = "recreate"
    """A device that must be deleted and made anew; everything on it goes with it."""
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Op:
    verb: Verb
    entry: Entry

    def __str__(self) -> str:
        return f"{self.verb.value} {self.entry}"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an op did not take effect. `cannot`: trying again changes nothing (read-only /proc/sys, no capability)."""

    op: Op
    reason: str
    errno: int = 0
    hint: str | None = None
    cannot: bool = False

    def __str__(self) -> str:
        text = f"cannot {self.op}: {self.reason}"
        return text if self.hint is None else f"{text}; {self.hint}"


@dataclass(frozen=True, slots=True)
class Scope:
    """Which kernel objects are ours, so that a reader of the kernel knows what to report.

    - every link with the alias `alias`, and the links named `devices`, with everything on them;
    - routes of our protocol whose destination lies in `networks`, or that leave through such a link;
    - routes of protocol boot inside `networks` through such a link or an interface in `takeover`: another flannel's,
      taken over at start only (`takeover` is empty later);
    - the packet filter's tables and chains that are named after `instance`; None: the packet filter is left alone.
    """

    networks: tuple[Net, ...] = ()
    devices: frozenset[str] = frozenset()
    alias: str = ""
    takeover: frozenset[str] = frozenset()
    instance: str | None = None

    def holds(self, entry: "Entry") -> bool:
        """Whether `entry` is on one of `devices`, or a route of ours within `networks`."""
        if entry.dev in self.devices:
            return True
        if not isinstance(entry, Route) or entry.protocol != ROUTE_PROTOCOL:
            return False
        return any(inside(entry.dst, network) for network in self.networks)


@dataclass(frozen=True, slots=True)
class Desired:
    """All that we want. `owners` names the lease or part that asked for a key, for messages."""

    entries: Mapping[Key, Entry] = field(default_factory=dict)
    scope: Scope = Scope()
    owners: Mapping[Key, str] = field(default_factory=dict)
