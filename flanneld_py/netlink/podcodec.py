"""What connects a container, as rtnetlink messages: a bridge, veth pairs, ports, addresses. Sans-I/O.

pyroute2 takes a quarter of a millisecond for each of these requests, and a container waits for all of them.
Layouts: include/uapi/linux/rtnetlink.h struct ifinfomsg, include/uapi/linux/if_addr.h struct ifaddrmsg,
include/uapi/linux/if_link.h IFLA_*, include/uapi/linux/veth.h.
"""

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from socket import AF_INET, AF_INET6

from flanneld_py.netlink.linkcodec import IFADDRMSG, IFF_UP, IFINFOMSG, RTM_DELLINK, RTM_NEWADDR, RTM_NEWLINK
from flanneld_py.netlink.wire import (
    NLM_F_CREATE,
    attributes,
    encode_attr,
    encode_message,
    encode_u32,
    number,
    text,
)

NLM_F_EXCL = 0x200
IFF_PROMISC = 0x100
OPER_UP = 6  # include/uapi/linux/if.h IF_OPER_UP
_NESTED = 0x8000

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 3, 4, 5, 10
_IFLA_TXQLEN, _IFLA_OPERSTATE, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 13, 16, 18, 28
_IFLA_GSO_MAX_SIZE = 41
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_INFO_PEER = 1
_BRPORT_MODE = 4  # IFLA_BRPORT_MODE: hairpin
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4

Interface = IPv4Interface | IPv6Interface


@dataclass(frozen=True, slots=True)
class Port:
    """A device as connecting a container needs to know it. `peer`: the index of a veth's other end, 0 for none."""

    index: int
    name: str
    kind: str
    mac: str
    flags: int
    peer: int
    up: bool


def decode_port(body: bytes) -> Port:
    """`up`: packets can pass, which is more than that somebody wishes it."""
    _, _, _, index, flags, _ = IFINFOMSG.unpack_from(body)
    attrs = attributes(body, IFINFOMSG.size)
    kind = text(attributes(attrs.get(_IFLA_LINKINFO, b"")), _INFO_KIND)
    mac = attrs.get(_IFLA_ADDRESS, b"").hex(":")
    up = number(attrs, _IFLA_OPERSTATE) == OPER_UP
    return Port(index, text(attrs, _IFLA_IFNAME), kind, mac, flags, number(attrs, _IFLA_LINK), up)


def encode_bridge(name: str, mtu: int, mac: bytes, seq: int) -> bytes:
    """A bridge that is up; EEXIST if there is a device of the name. A MAC of its own stays when ports come and go."""
    body = _head(flags=IFF_UP) + _name(name) + _mtu(mtu) + encode_attr(_IFLA_ADDRESS, mac) + _info(b"bridge")
    return encode_message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, seq, body)


@dataclass(frozen=True, slots=True)
class Pair:
    """A veth pair to make. `namespace`: descriptor of where the inner end goes; `mtu` 0: the kernel's default.

    `gso_max_size`: of the inner end, 0 for the kernel's default.
    """

    name: str
    mac: bytes
    bridge: int
    inner_name: str
    inner_mac: bytes
    namespace: int
    mtu: int
    gso_max_size: int = 0


def encode_pair(pair: Pair, seq: int) -> bytes:
    """Both ends at once where they belong, the outer a port of the bridge and up, the inner still down.

    Both without a queue, as the plugin bridge makes them. EEXIST: one of the names is taken; nothing is made.
    """
    inner = _head() + _end(pair.inner_name, pair.mtu, pair.inner_mac) + encode_u32(_IFLA_NET_NS_FD, pair.namespace)
    inner += encode_u32(_IFLA_GSO_MAX_SIZE, pair.gso_max_size) if pair.gso_max_size else b""
    body = _head(flags=IFF_UP) + _end(pair.name, pair.mtu, pair.mac)
    body += encode_u32(_IFLA_MASTER, pair.bridge) + _info(b"veth", encode_attr(_VETH_INFO_PEER | _NESTED, inner))
    return encode_message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, seq, body)


def encode_hairpin(name: str, seq: int) -> bytes:
    """The bridge may send a packet back through the port that it came from."""
    data = encode_attr(_INFO_SLAVE_KIND, b"bridge")
    data += encode_attr(_INFO_SLAVE_DATA | _NESTED, encode_attr(_BRPORT_MODE, b"\1"))
    return encode_message(RTM_NEWLINK, 0, seq, _head() + _name(name) + encode_attr(_IFLA_LINKINFO | _NESTED, data))


def encode_flags(index: int, flags: int, seq: int) -> bytes:
    """Sets IFF_* on a device, and leaves the others as they are."""
    return encode_message(RTM_NEWLINK, 0, seq, _head(index, flags))


def encode_mac(index: int, mac: bytes, seq: int) -> bytes:
    return encode_message(RTM_NEWLINK, 0, seq, _head(index) + encode_attr(_IFLA_ADDRESS, mac))


def encode_link_delete(index: int, seq: int) -> bytes:
    return encode_message(RTM_DELLINK, 0, seq, _head(index))


def encode_address(index: int, address: Interface, seq: int) -> bytes:
    """EEXIST if the device has it. In IPv4 with the broadcast address, where the network has one."""
    family = AF_INET if address.version == 4 else AF_INET6
    packed = address.ip.packed
    body = IFADDRMSG.pack(family, address.network.prefixlen, 0, 0, index)
    body += encode_attr(_IFA_LOCAL, packed) + encode_attr(_IFA_ADDRESS, packed)
    if address.version == 4 and address.network.prefixlen <= 30:
        body += encode_attr(_IFA_BROADCAST, address.network.broadcast_address.packed)
    return encode_message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, seq, body)


def _head(index: int = 0, flags: int = 0) -> bytes:
    return IFINFOMSG.pack(0, 0, 0, index, flags, flags)


def _name(name: str) -> bytes:
    return encode_attr(_IFLA_IFNAME, name.encode() + b"\0")


def _mtu(mtu: int) -> bytes:
    return encode_u32(_IFLA_MTU, mtu) if mtu else b""


def _end(name: str, mtu: int, mac: bytes) -> bytes:
    return _name(name) + _mtu(mtu) + encode_u32(_IFLA_TXQLEN, 0) + encode_attr(_IFLA_ADDRESS, mac)


def _info(kind: bytes, data: bytes = b"") -> bytes:
    info = encode_attr(_INFO_KIND, kind) + (encode_attr(_INFO_DATA | _NESTED, data) if data else b"")
    return encode_attr(_IFLA_LINKINFO | _NESTED, info)
