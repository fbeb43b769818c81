"""What must be known before a lease can be asked for: the external interface, and the MACs of our devices."""

import logging
import os
import random
from collections.abc import Mapping
from pathlib import Path

from flanneld_py.backend.base import Backend
from flanneld_py.daemon.options import Options
from flanneld_py.errors import InterfaceError
from flanneld_py.model.extiface import Choice, InterfaceWish, choose
from flanneld_py.model.net import Net, parse_mac
from flanneld_py.model.node import ExternalInterface, NodeFacts, parse_kernel
from flanneld_py.netlink.interfaces import ra_default6, read_interfaces, read_underlay
from flanneld_py.netlink.links import find_links
from flanneld_py.netlink.socket import NetlinkSocket

log = logging.getLogger(__name__)


def link_alias(subnet_file: Path) -> str:
    """Our mark on devices, which tells several daemons of one host apart."""
    return f"flanneld {subnet_file.absolute()}"


def choose_interface(sock: NetlinkSocket, options: Options, versions: tuple[int, ...]) -> Choice:
    """The external interface, said in the log with the reason and with what was passed over."""
    reach = str(options.iface_can_reach or "")
    wish = InterfaceWish(
        versions,
        options.iface,
        options.iface_regex,
        reach,
        str(options.public_ip or ""),
        str(options.public_ipv6 or ""),
    )
    choice = choose(read_interfaces(sock), wish, read_underlay(sock, reach))
    external = choice.external
    addresses = " and ".join(str(a) for a in (external.addr4, external.addr6) if a is not None)
    log.info("Using interface with name %s and address %s: %s", external.name, addresses, choice.reason)
    for rejected in choice.rejected:
        log.info("not used: %s", rejected)
    for version in versions:
        if external.public(version) == external.addr(version):
            log.info("Defaulting external address to interface address (%s)", external.addr(version))
        else:
            log.info("Using %s as external address", external.public(version))
    return choice


def check_interface(external: ExternalInterface, backend: Backend, versions: tuple[int, ...]) -> None:
    """InterfaceError: peers that route to the public address would not find us there."""
    for version in versions:
        if backend.name == "host-gw" and external.public(version) != external.addr(version):
            raise InterfaceError(
                f"the public address {external.public(version)} is not the address {external.addr(version)} of "
                f"{external.name}, and host-gw cannot pass a NAT",
                hint="leave --public-ip out, or use the backend vxlan",
            )


def node_facts(
    sock: NetlinkSocket,
    external: ExternalInterface,
    backend: Backend,
    stored: Mapping[str, str],
    *,
    networks: tuple[Net, ...],
    alias: str,
    rng: random.Random,
) -> NodeFacts:
    """All that planners need; `stored`: the MACs that the node published last."""
    living = {
        name: state.mac
        for name, state in find_links(sock, backend.links).items()
        if state.kind == "vxlan" and state.mac
    }
    macs = choose_macs(backend.links, living, stored, rng)
    kernel = parse_kernel(os.uname().release)
    return NodeFacts(external, alias, macs, ra_default6(sock, external.name), networks, kernel)


def choose_macs(
    links: tuple[str, ...], living: Mapping[str, str], stored: Mapping[str, str], rng: random.Random
) -> dict[str, str]:
    """A MAC for each of `links`: the living device's, else the one published last, else a random one.

    Peers hold the MAC in their tables, so a node that comes back with the one it had is reached at once.
    """
    macs: dict[str, str] = {}
    for name in links:
        for source, known in (("device", living), ("lease", stored)):
            try:
                macs[name] = parse_mac(known.get(name, ""))
            except ValueError:
                continue
            log.info("%s keeps the MAC %s of its %s", name, macs[name], source)
            break
        else:
            macs[name] = random_mac(rng)
    return macs


def random_mac(rng: random.Random) -> str:
    """A locally administered unicast MAC (IEEE 802: bit 1 of the first octet set, bit 0 clear)."""
    octets = [rng.randrange(256) & 0xFC | 0x02, *(rng.randrange(256) for _ in range(5))]
    return ":".join(f"{octet:02x}" for octet in octets)
