"""Links and addresses as rtnetlink messages, the reading side. Sans-I/O.

A dump of hundreds of container devices is read at every pass; taking it apart by hand costs a small fraction of a
general decoder. Layouts: include/uapi/linux/rtnetlink.h struct ifinfomsg, include/uapi/linux/if_addr.h struct
ifaddrmsg, include/uapi/linux/if_link.h IFLA_*.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from socket import AF_INET, AF_INET6
from struct import Struct

from flanneld_py.model.entry import Link, Vxlan
from flanneld_py.model.net import Addr
from flanneld_py.netlink.wire import NLM_F_DUMP, attributes, encode_attr, encode_message, encode_u32, number, text

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22

IFINFOMSG = Struct("=BBHiII")
"""struct ifinfomsg: family, pad, type (ARPHRD_*), index, flags, change mask."""
IFADDRMSG = Struct("=BBBBI")
"""struct ifaddrmsg: family, prefixlen, flags, scope, index."""

IFF_UP, IFF_LOOPBACK = 0x1, 0x8
_ARPHRD_ETHER = 1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK = 1, 3, 4, 5
_IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_EXT_MASK, _IFLA_LINK_NETNSID = 18, 20, 29, 37
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_EXT_FILTER_SKIP_STATS = 8
_VXLAN_ID, _VXLAN_GROUP, _VXLAN_LINK, _VXLAN_LOCAL, _VXLAN_LEARNING = 1, 2, 3, 4, 7
_VXLAN_PROXY, _VXLAN_RSC, _VXLAN_L2MISS, _VXLAN_L3MISS, _VXLAN_PORT = 11, 12, 13, 14, 15
_VXLAN_GROUP6, _VXLAN_LOCAL6, _VXLAN_GBP, _VXLAN_COLLECT_METADATA, _VXLAN_GPE = 16, 17, 23, 25, 27
_VXLAN_FOREIGN = (_VXLAN_PROXY, _VXLAN_RSC, _VXLAN_L2MISS, _VXLAN_L3MISS, _VXLAN_COLLECT_METADATA)
"""Flags of a kind of device that `Vxlan` cannot describe: one byte each, present and 0 where they are off."""

_TUN_PERSIST, _TUN_MULTI_QUEUE = 6, 7

_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_TEMPORARY, _IFA_F_DEPRECATED, _IFA_F_PERMANENT = 0x01, 0x20, 0x80


SINGLE_QUEUE = "tun of one queue"


@dataclass(frozen=True, slots=True)
class VxlanState:
    """`underlay`: an interface index, 0 for none. `plain`: there is nothing about it that `Vxlan` cannot say."""

    vni: int
    port: int
    local: Addr
    underlay: int
    learning: bool
    gbp: bool
    plain: bool


@dataclass(frozen=True, slots=True)
class LinkState:
    """A network device as the kernel shows it. `kind` is "" for one that no driver of virtual devices made, and
    SINGLE_QUEUE for a TUN device that stays and can have one queue only."""

    index: int
    name: str
    kind: str
    mtu: int
    mac: str | None
    alias: str
    flags: int
    foreign_underlay: bool = False
    vxlan: VxlanState | None = None

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)

    def entry(self, name_of: Mapping[int, str]) -> Link:
        """The value that is compared with the desired one. An underlay that is gone, or in another namespace, gets
        a name that no interface can have (dev_valid_name forbids a colon), so that it equals no living one."""
        if self.vxlan is None or not self.vxlan.plain:
            return Link(self.name, self.kind, self.mtu, self.mac, self.alias)
        state = self.vxlan
        underlay = name_of.get(state.underlay, f"gone:{state.underlay}") if state.underlay else ""
        if self.foreign_underlay:
            underlay = f"elsewhere:{state.underlay}"
        vxlan = Vxlan(state.vni, state.port, state.local, underlay, state.learning, state.gbp)
        return Link(self.name, self.kind, self.mtu, self.mac, self.alias, vxlan)


@dataclass(frozen=True, slots=True)
class AddressState:
    """`scope`: RT_SCOPE_*; 253 is the link's own."""

    index: int
    interface: IPv4Interface | IPv6Interface
    scope: int
    deprecated: bool
    permanent: bool
    temporary: bool


def encode_link_dump(seq: int) -> bytes:
    body = IFINFOMSG.pack(0, 0, 0, 0, 0, 0) + encode_u32(_IFLA_EXT_MASK, _EXT_FILTER_SKIP_STATS)
    return encode_message(RTM_GETLINK, NLM_F_DUMP, seq, body)


def encode_link_get(name: str, seq: int) -> bytes:
    """Asks for one device by name; the answer is one RTM_NEWLINK, or ENODEV."""
    body = IFINFOMSG.pack(0, 0, 0, 0, 0, 0) + encode_attr(_IFLA_IFNAME, name.encode() + b"\0")
    return encode_message(RTM_GETLINK, 0, seq, body + encode_u32(_IFLA_EXT_MASK, _EXT_FILTER_SKIP_STATS))


def encode_address_dump(index: int, seq: int) -> bytes:
    """Asks for the addresses of one device, or of all with 0; kernels without strict checking always send all."""
    return encode_message(RTM_GETADDR, NLM_F_DUMP, seq, IFADDRMSG.pack(0, 0, 0, 0, index))


def link_name(body: bytes) -> tuple[int, str]:
    """Index and name of the device that a link message speaks of, without taking the rest apart."""
    index = IFINFOMSG.unpack_from(body)[3] if len(body) >= IFINFOMSG.size else 0
    return index, text(attributes(body, IFINFOMSG.size), _IFLA_IFNAME)


def decode_link(body: bytes) -> LinkState | None:
    """A device; None: a message of another family (a bridge's or IPv6's view of a device), which shows only a part."""
    if len(body) < IFINFOMSG.size:
        raise ValueError(f"link message of {len(body)} bytes")
    family, _, hardware, index, flags, _ = IFINFOMSG.unpack_from(body)
    if family != 0:
        return None
    attrs = attributes(body, IFINFOMSG.size)
    info = attributes(attrs.get(_IFLA_LINKINFO, b""))
    kind, data = text(info, _IFLA_INFO_KIND), info.get(_IFLA_INFO_DATA, b"")
    if kind == "tun" and _is_single_queue(attributes(data)):
        kind = SINGLE_QUEUE
    mac = attrs.get(_IFLA_ADDRESS, b"")
    return LinkState(
        index,
        text(attrs, _IFLA_IFNAME),
        kind,
        number(attrs, _IFLA_MTU),
        mac.hex(":") if hardware == _ARPHRD_ETHER and len(mac) == 6 else None,
        text(attrs, _IFLA_IFALIAS),
        flags,
        foreign_underlay=_IFLA_LINK_NETNSID in attrs,
        vxlan=_decode_vxlan(data) if kind == "vxlan" else None,
    )


def decode_address(body: bytes) -> AddressState | None:
    """An address of an interface; None: another family. On a point-to-point link it is the near end's."""
    if len(body) < IFADDRMSG.size:
        raise ValueError(f"address message of {len(body)} bytes")
    family, prefixlen, flags, scope, index = IFADDRMSG.unpack_from(body)
    if family not in {AF_INET, AF_INET6}:
        return None
    attrs = attributes(body, IFADDRMSG.size)
    packed = attrs.get(_IFA_LOCAL, attrs.get(_IFA_ADDRESS, b""))
    interface: IPv4Interface | IPv6Interface
    if family == AF_INET:
        interface = IPv4Interface((IPv4Address(packed), prefixlen))
    else:
        interface = IPv6Interface((IPv6Address(packed), prefixlen))
    marks = number(attrs, _IFA_FLAGS, flags)
    return AddressState(
        index,
        interface,
        scope,
        deprecated=bool(marks & _IFA_F_DEPRECATED),
        permanent=bool(marks & _IFA_F_PERMANENT),
        temporary=family == AF_INET6 and bool(marks & _IFA_F_TEMPORARY),  # for IPv4 the bit means "secondary"
    )


def _is_single_queue(tun: Mapping[int, bytes]) -> bool:
    return bool(number(tun, _TUN_PERSIST)) and number(tun, _TUN_MULTI_QUEUE, 1) == 0


def _decode_vxlan(data: bytes) -> VxlanState:
    attrs = attributes(data)
    local: Addr = IPv4Address(0)
    if _VXLAN_LOCAL in attrs:
        local = IPv4Address(attrs[_VXLAN_LOCAL])
    elif _VXLAN_LOCAL6 in attrs:
        local = IPv6Address(attrs[_VXLAN_LOCAL6])
    group = any(attrs.get(kind, b"").strip(b"\0") for kind in (_VXLAN_GROUP, _VXLAN_GROUP6))
    foreign = group or _VXLAN_GPE in attrs or any(number(attrs, kind) for kind in _VXLAN_FOREIGN)
    port = number(attrs, _VXLAN_PORT)  # __be16
    return VxlanState(
        number(attrs, _VXLAN_ID),
        int.from_bytes(port.to_bytes(2, sys.byteorder), "big"),
        local,
        number(attrs, _VXLAN_LINK),
        learning=bool(number(attrs, _VXLAN_LEARNING)),
        gbp=_VXLAN_GBP in attrs,
        plain=not foreign,
    )
