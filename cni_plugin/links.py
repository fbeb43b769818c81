"""Questions to the kernel, by rtnetlink, without entering a namespace: is a link there, what addresses has it.

Layouts: linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/net_namespace.h; host byte order.
"""

import posix
from _socket import AF_INET, AF_INET6, AF_NETLINK, SOCK_CLOEXEC, SOCK_RAW, if_nametoindex, inet_ntop, socket
from errno import ENODEV
from sys import byteorder

_NETLINK_ROUTE = 0
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWLINK, _RTM_GETLINK, _RTM_GETADDR, _RTM_NEWADDR, _RTM_NEWNSID, _RTM_GETNSID = 16, 18, 22, 20, 88, 90
_NETNSA_NSID, _NETNSA_FD = 1, 3
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_TARGET_NETNSID = 1, 3, 46
_IFINFOMSG_BYTES = 16
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RT_SCOPE_LINK = 253
_NO_ID = 0xFFFFFFFF
_BUFFER_BYTES = 1 << 16
_TIMEOUT_S = 5.0

Message = tuple[int, bytes]


def exists(netns: str, ifname: str) -> bool | None:
    """Whether the namespace at the path has the interface. None: the kernel cannot tell (no such path, before 4.15)."""
    try:
        fd = posix.open(netns, posix.O_RDONLY | posix.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        sock = _open_socket()
        try:
            number = _namespace_number(sock, fd)
            if number is None:
                return None
            name = ifname.encode(errors="surrogateescape") + b"\0"
            question = (
                bytes(_IFINFOMSG_BYTES)
                + _attribute(_IFLA_TARGET_NETNSID, _u32(number))
                + _attribute(_IFLA_IFNAME, name)
            )
            error = _ask(sock, _RTM_GETLINK, question)[0]
        finally:
            sock.close()
    except OSError:
        return None
    finally:
        posix.close(fd)
    return True if error == 0 else False if error == ENODEV else None


def addresses(ifname: str) -> list[str]:
    """The addresses, as 10.0.0.1/24, of an interface in this namespace, without link-local ones."""
    try:
        index = if_nametoindex(ifname)
        sock = _open_socket()
        try:
            sock.send(_message(_RTM_GETADDR, _REQUEST | _DUMP, bytes(8)))
            return [one for kind, body in _answers(sock) if kind == _RTM_NEWADDR and (one := _address(body, index))]
        finally:
            sock.close()
    except OSError:
        return []


def give_hardware_address(ifname: str) -> bool:
    """Whether the interface, in this namespace, had none, and has one now: a random one, locally administered."""
    header = bytes(_IFINFOMSG_BYTES)
    name = _attribute(_IFLA_IFNAME, ifname.encode(errors="surrogateescape") + b"\0")
    try:
        sock = _open_socket()
        try:
            error, link = _ask(sock, _RTM_GETLINK, header + name)
            if error or any(_attributes(link[_IFINFOMSG_BYTES:]).get(_IFLA_ADDRESS, b"\1")):
                return False
            wish = header + name + _attribute(_IFLA_ADDRESS, b"\x02" + posix.urandom(5))
            sock.send(_message(_RTM_NEWLINK, _REQUEST | _ACK, wish))
            return all(content[:4] == bytes(4) for _, content in _answers(sock))
        finally:
            sock.close()
    except OSError:
        return False


def _open_socket() -> socket:
    # The class of the module `socket` would bring re, enum and selectors with it.
    sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, _NETLINK_ROUTE)
    sock.settimeout(_TIMEOUT_S)
    return sock


def _namespace_number(sock: socket, fd: int) -> int | None:
    """The number by which this namespace knows the other; the kernel gives one, as it would for the pod's veth pair."""
    header = bytes(4)  # struct rtgenmsg, padded
    for _ in range(2):
        error, body = _ask(sock, _RTM_GETNSID, header + _attribute(_NETNSA_FD, _u32(fd)))
        if error:
            return None
        number = int.from_bytes(_attributes(body[4:]).get(_NETNSA_NSID, b"\xff\xff\xff\xff"), byteorder)
        if number != _NO_ID:
            return number
        wish = header + _attribute(_NETNSA_NSID, _u32(_NO_ID)) + _attribute(_NETNSA_FD, _u32(fd))
        sock.send(_message(_RTM_NEWNSID, _REQUEST | _ACK, wish))
        for _ in _answers(sock):
            pass
    return None


def _ask(sock: socket, kind: int, body: bytes) -> tuple[int, bytes]:
    """(errno, body of the answer); errno 0: there is one."""
    sock.send(_message(kind, _REQUEST, body))
    for answer, content in _answers(sock):
        if answer == _NLMSG_ERROR:
            return -int.from_bytes(content[:4], byteorder, signed=True), b""
        return 0, content
    return ENODEV, b""


def _answers(sock: socket) -> list[Message]:
    """The answers to one request: one message, or those of a dump."""
    found: list[Message] = []
    while True:
        data = sock.recv(_BUFFER_BYTES)
        while len(data) >= 16:
            length = int.from_bytes(data[:4], byteorder)
            kind = int.from_bytes(data[4:6], byteorder)
            several = int.from_bytes(data[6:8], byteorder) & 0x2
            if not 16 <= length <= len(data) or kind == _NLMSG_DONE:
                return found
            found.append((kind, data[16:length]))
            if not several:
                return found
            data = data[(length + 3) & ~3 :]


def _address(body: bytes, index: int) -> str:
    """struct ifaddrmsg and attributes -> text; "" if it is another interface's, or link-local."""
    family, length, _, scope = body[:4]
    if int.from_bytes(body[4:8], byteorder) != index or scope >= _RT_SCOPE_LINK or family not in (AF_INET, AF_INET6):
        return ""
    found = _attributes(body[8:])
    address = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    return f"{inet_ntop(family, address)}/{length}" if address else ""


def _message(kind: int, flags: int, body: bytes) -> bytes:
    header = _u32(16 + len(body)) + kind.to_bytes(2, byteorder) + flags.to_bytes(2, byteorder)
    return header + bytes(8) + body


def _attribute(kind: int, value: bytes) -> bytes:
    header = (4 + len(value)).to_bytes(2, byteorder) + kind.to_bytes(2, byteorder)
    return header + value + bytes(-len(value) % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= 4:
        length, kind = int.from_bytes(data[:2], byteorder), int.from_bytes(data[2:4], byteorder)
        if not 4 <= length <= len(data):
            break
        found[kind] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def _u32(number: int) -> bytes:
    return number.to_bytes(4, byteorder)
