"""A container's interface in the kernel: the bridge, a veth pair, addresses and routes.

Two netlink sockets: one in the node's namespace, one that the launcher opened in the container's. What both need is
sent in few messages of many requests; veth ends are made where they belong, since moving one costs milliseconds.
"""

import errno
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from pathlib import Path

from flanneld_py.errors import KernelError
from flanneld_py.model.entry import PROTOCOL_BOOT, Op, Route, Verb
from flanneld_py.model.net import first_address
from flanneld_py.netlink.codec import encode
from flanneld_py.netlink.linkcodec import IFF_UP, encode_link_get
from flanneld_py.netlink.links import read_addresses
from flanneld_py.netlink.podcodec import (
    IFF_PROMISC,
    Pair,
    Port,
    decode_port,
    encode_address,
    encode_bridge,
    encode_flags,
    encode_hairpin,
    encode_link_delete,
    encode_mac,
    encode_pair,
)
from flanneld_py.netlink.socket import NetlinkSocket
from flanneld_py.netlink.wire import Message, Refusal
from flanneld_py.pods.exchange import NotForUs
from flanneld_py.pods.network import Network, default_routes
from flanneld_py.pods.result import Wired

Interface = IPv4Interface | IPv6Interface

PORT_PATIENCE_S = 2.5
_PORT_POLL_S = 0.001
_SYSCTL = Path("/proc/sys/net")
_DEFAULT_ACCEPT_RA = _SYSCTL / "ipv6/conf/default/accept_ra"
_FORWARDING = {4: _SYSCTL / "ipv4/ip_forward", 6: _SYSCTL / "ipv6/conf/all/forwarding"}
_NAMES = 8
"""Random names to try for a veth end."""

Request = Callable[[int], bytes]
"""A netlink message that lacks its sequence number."""


class WiringError(Exception):
    """The kernel refused a step."""


class UndoError(Exception):
    """The kernel refused to take back what was done."""


@dataclass(frozen=True, slots=True)
class Container:
    """Descriptors in the container's namespace, and its interface's name. `conf6` -1: no IPv6 there."""

    sock: NetlinkSocket
    namespace: int
    conf4: int
    conf6: int
    ifname: str


def find(sock: NetlinkSocket, *names: str) -> list[Port | None]:
    """The links of these names; None for one that is not there."""
    seqs = sock.sequence(len(names))
    answers = sock.query([encode_link_get(name, seq) for name, seq in zip(names, seqs, strict=True)], seqs)
    found: list[Port | None] = []
    for name, seq in zip(names, seqs, strict=True):
        answer = answers[seq]
        if isinstance(answer, Refusal) and answer.errno != errno.ENODEV:
            raise WiringError(f"cannot read the link {name}: {_reason(answer)}")
        found.append(decode_port(answer.body) if isinstance(answer, Message) else None)
    return found


def gateways(network: Network) -> list[Interface]:
    """The bridge's own addresses."""
    if not network.gateway:
        return []
    return [ip_interface((first_address(net), net.prefixlen)) for net in network.ranges]


def check_host(sock: NetlinkSocket, network: Network) -> None:
    """NotForUs: the node is not as the usual way needs it, and changing that is the plugin's work."""
    (bridge,) = find(sock, network.bridge)
    if bridge is not None:
        if bridge.kind != "bridge":
            raise NotForUs(f"{network.bridge} is no bridge")
        _missing_gateways(sock, bridge, network)
    # Or a pod could make itself the node's router (CVE-2020-10749).
    accepts = _SYSCTL / "ipv6/conf" / network.bridge / "accept_ra"
    if _DEFAULT_ACCEPT_RA.exists() and _read(accepts) != "0" and not _may_write(_DEFAULT_ACCEPT_RA):
        raise NotForUs(f"{accepts} is not 0, and cannot be set")
    for net in network.ranges if network.gateway else ():
        path = _FORWARDING[net.version]
        if _read(path) != "1" and not _may_write(path):
            raise NotForUs(f"{path} is not 1, and cannot be set")


def check_container(container: Container) -> None:
    """NotForUs: its settings cannot be written, as AppArmor forbids it to a daemon in a container."""
    for directory in (container.conf4, container.conf6):
        if directory >= 0 and not _may_write("lo/forwarding", dir_fd=directory):
            raise NotForUs("the container's settings cannot be written")


def connect(
    sock: NetlinkSocket,
    network: Network,
    container: Container,
    addresses: Sequence[Interface],
    bridges: threading.Lock,
) -> Wired:
    """The container is connected. After an error it has no interface of ours, unless UndoError is raised.

    `bridges`: held by the one thread that looks whether a bridge is there, and makes it.
    """
    with bridges:
        bridge = _bridge(sock, network)
    pair, host = _make_pair(sock, network, container, bridge.index)
    try:
        if network.hairpin:
            _do(sock, [partial(encode_hairpin, pair.name)], "hairpin mode")
        _write_quietly(_SYSCTL / f"ipv6/conf/{pair.name}/accept_ra", "0")
        _configure(container, host.peer, addresses, routes_of(network, container.ifname))
        _own_addresses(sock, bridge, network)
        bridge_now = _wait_for_port(sock, pair.name, network.bridge)
    except BaseException as error:
        try:
            remove_pair(sock, pair.name)
        except (WiringError, KernelError) as undo:
            raise UndoError(f"{error}; and undoing it: {undo}") from error
        raise
    return Wired(network.bridge, bridge_now.mac, pair.name, pair.mac.hex(":"), pair.inner_mac.hex(":"))


def disconnect(container: Container) -> None:
    """The container has no such interface. WiringError: the kernel keeps it."""
    (inner,) = find(container.sock, container.ifname)
    if inner is not None:
        _do(container.sock, [partial(encode_link_delete, inner.index)], f"removing {inner.name}", (errno.ENODEV,))


def routes_of(network: Network, ifname: str) -> list[Route]:
    """The container's routes, each with a gateway: its own, or the bridge of its family."""
    ways = {net.version: first_address(net) for net in network.ranges}
    asked = [*network.routes, *default_routes(network)]
    return [Route(one.dst, ifname, one.via or ways.get(one.dst.version), protocol=PROTOCOL_BOOT) for one in asked]


def _bridge(sock: NetlinkSocket, network: Network) -> Port:
    """The bridge, made if it was not there, and up."""
    (bridge,) = find(sock, network.bridge)
    if bridge is None:
        _do(sock, [partial(encode_bridge, network.bridge, network.mtu, _mac())], "making the bridge", (errno.EEXIST,))
        _write_quietly(_SYSCTL / f"ipv6/conf/{network.bridge}/accept_ra", "0")
        (bridge,) = find(sock, network.bridge)
    if bridge is None or bridge.kind != "bridge":
        raise WiringError(f"there is no bridge {network.bridge}")
    flags = IFF_UP | (IFF_PROMISC if network.promiscuous else 0)
    if bridge.flags & flags != flags:
        _do(sock, [partial(encode_flags, bridge.index, flags)], "setting the bridge up")
    return bridge


def _make_pair(sock: NetlinkSocket, network: Network, container: Container, bridge: int) -> tuple[Pair, Port]:
    """A pair and its outer end."""
    for _ in range(_NAMES):
        name = f"veth{secrets.token_hex(4)}"
        inner = container.ifname, _mac(), container.namespace
        pair = Pair(name, _mac(), bridge, *inner, network.mtu, network.gso_max_size)
        made, there = sock.sequence(2)
        answers = sock.query([encode_pair(pair, made), encode_link_get(name, there)], [made, there])
        refused, port = answers.get(made), answers[there]
        if refused is None and isinstance(port, Message):
            return pair, decode_port(port.body)
        if not isinstance(refused, Refusal) or refused.errno != errno.EEXIST or not isinstance(port, Message):
            raise WiringError(
                f"making a veth pair: {_reason(refused) if isinstance(refused, Refusal) else 'it has gone'}"
            )
    raise WiringError("no name for a veth pair is free")


def _configure(container: Container, index: int, addresses: Sequence[Interface], routes: Sequence[Route]) -> None:
    """Addresses, up, routes, in this order, and before that the settings which matter when it comes up."""
    _announce(container, any(one.version == 6 for one in addresses))
    requests: list[Request] = [partial(encode_address, index, one) for one in addresses]
    requests.append(partial(encode_flags, index, IFF_UP))
    _do(container.sock, requests, "the container's addresses")
    indices = {container.ifname: index}
    ops = [Op(Verb.ADD, route) for route in routes]
    _do(container.sock, [partial(encode, op, index_of=indices) for op in ops], "the container's routes")


def _announce(container: Container, with_ipv6: bool) -> None:
    """The interface tells neighbours of its address when it comes up, and waits for nobody who may have it too."""
    ifname = container.ifname
    _set(container.conf4, f"{ifname}/arp_notify", "1")
    if container.conf6 < 0:
        return
    _set(container.conf6, f"{ifname}/accept_dad", "0")
    for name in ("lo", ifname) if with_ipv6 else ():
        _set(container.conf6, f"{name}/disable_ipv6", "0")


def _own_addresses(sock: NetlinkSocket, bridge: Port, network: Network) -> None:
    """The bridge has the gateways' addresses, and packets for others are passed on."""
    missing = _missing_gateways(sock, bridge, network)
    if missing:
        _do(
            sock,
            [partial(encode_address, bridge.index, one) for one in missing],
            "the bridge's address",
            (errno.EEXIST,),
        )
        # Without one of its own it takes that of a port, and another when that port goes.
        mac = bytes.fromhex(bridge.mac.replace(":", ""))
        _do(sock, [partial(encode_mac, bridge.index, mac)], "the bridge's MAC")
    for net in network.ranges if network.gateway else ():
        path = _FORWARDING[net.version]
        if _read(path) != "1":
            try:
                path.write_text("1")
            except OSError as error:
                raise WiringError(f"cannot set {path}: {error.strerror}") from error


def _missing_gateways(sock: NetlinkSocket, bridge: Port, network: Network) -> list[Interface]:
    """NotForUs: the bridge has the address of an earlier lease, which the plugin knows how to mend or to explain."""
    wanted = gateways(network)
    if not wanted:
        return []
    present = [state.interface for state in read_addresses(sock, bridge.index) if state.scope == 0]
    missing = [one for one in wanted if one not in present]
    for one in missing:
        for other in present:
            if other.version == one.version and (one.version == 4 or one.network.overlaps(other.network)):
                raise NotForUs(f"{network.bridge} has the address {other}")
    return missing


def _wait_for_port(sock: NetlinkSocket, name: str, bridge_name: str) -> Port:
    """The bridge, once the kernel lets packets through the port: a moment after both ends are up."""
    end = time.monotonic() + PORT_PATIENCE_S
    while True:
        port, bridge = find(sock, name, bridge_name)
        if bridge is None:
            raise WiringError(f"the bridge {bridge_name} has gone")
        if port is not None and port.up:
            return bridge
        if port is None or time.monotonic() > end:
            raise WiringError(f"{name} does not come up")
        time.sleep(_PORT_POLL_S)


def remove_pair(sock: NetlinkSocket, name: str) -> None:
    """Both ends are gone. WiringError: the kernel keeps them."""
    (port,) = find(sock, name)
    if port is not None:
        _do(sock, [partial(encode_link_delete, port.index)], f"removing {name}", (errno.ENODEV,))


def _ask(sock: NetlinkSocket, requests: Sequence[Request]) -> list[Refusal]:
    """The refusals, in the order of the requests. Those after a refused one are carried out nevertheless."""
    seqs = sock.sequence(len(requests))
    refused = sock.execute([make(seq) for make, seq in zip(requests, seqs, strict=True)], seqs)
    return [refused[seq] for seq in seqs if seq in refused]


def _do(sock: NetlinkSocket, requests: Sequence[Request], what: str, fine: Iterable[int] = ()) -> None:
    for refusal in _ask(sock, requests):
        if refusal.errno not in fine:
            raise WiringError(f"{what}: {_reason(refusal)}")


def _reason(refusal: Refusal) -> str:
    return refusal.text or os.strerror(refusal.errno)


def _mac() -> bytes:
    """Random, locally administered, of one device (IEEE 802, first octet xxxxxx10)."""
    octets = bytearray(secrets.token_bytes(6))
    octets[0] = octets[0] & 0xFC | 0x02
    return bytes(octets)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _may_write(path: Path | str, dir_fd: int | None = None) -> bool:
    """access(2) would not know what a security module forbids."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=dir_fd))
    except OSError:
        return False
    return True


def _set(directory: int, path: str, value: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise WiringError(f"cannot set {path} in the container: {error.strerror}") from error


def _write_quietly(path: Path, value: str) -> None:
    """Where IPv6 is off there is no such file, and in a container it may be closed; nothing depends on it."""
    try:
        path.write_text(value)
    except OSError:
        return
