"""subnet.env: what the node got, for everyone who configures containers on it (CNI plugin, docker, scripts).

Go flannel writes and reads the same file (pkg/subnet/subnet.go), so a node may change from one to the other. It passes
over lines that it does not know, as GSO_MAX_SIZE is one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Self, TypeVar

from flanneld_py.model.dotenv import parse_dotenv
from flanneld_py.model.net import Net, Subnets, first_address, of_family

NETWORK = {4: "FLANNEL_NETWORK", 6: "FLANNEL_IPV6_NETWORK"}
SUBNET = {4: "FLANNEL_SUBNET", 6: "FLANNEL_IPV6_SUBNET"}
MTU = "FLANNEL_MTU"
IPMASQ = "FLANNEL_IPMASQ"
GSO_MAX_SIZE = "FLANNEL_GSO_MAX_SIZE"

_BOOLEANS = {"true": True, "false": False}
_MAX_MTU = 65535
_MAX_GSO_SIZE = 65536
"""include/linux/netdevice.h GSO_LEGACY_MAX_SIZE."""

Interface = IPv4Interface | IPv6Interface
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SubnetEnv:
    """`subnets`: the address that the node's bridge takes, with the subnet's length. None: the file does not say.

    Each family has one network and one subnet; a file from elsewhere may list several, in its order. `gso_max_size`:
    of the pods' devices, in bytes; None for the kernel's own.
    """

    networks: tuple[Net, ...]
    subnets: tuple[Interface, ...]
    mtu: int | None
    ipmasq: bool | None
    gso_max_size: int | None = None

    @classmethod
    def of(
        cls, networks: tuple[Net, ...], subnets: Subnets, mtu: int, *, ipmasq: bool, gso_max_size: int | None = None
    ) -> Self:
        """What a node with these networks of the configuration and these leased subnets writes."""
        interfaces = tuple(ip_interface((first_address(net), net.prefixlen)) for net in subnets)
        return cls(networks, interfaces, mtu, ipmasq, gso_max_size)


def format_subnet_env(env: SubnetEnv) -> str:
    """The file's text, byte for byte as Go flannel writes it; lines whose value is not known are left out."""
    values: dict[str, str] = {}
    for version in (4, 6):
        values[NETWORK[version]] = ",".join(str(net) for net in env.networks if net.version == version)
        values[SUBNET[version]] = ",".join(str(one) for one in env.subnets if one.version == version)
    values[MTU] = "" if env.mtu is None else str(env.mtu)
    values[IPMASQ] = "" if env.ipmasq is None else str(env.ipmasq).lower()
    values[GSO_MAX_SIZE] = "" if env.gso_max_size is None else str(env.gso_max_size)
    return "".join(f"{name}={value}\n" for name, value in values.items() if value)


def parse_subnet_env(text: str) -> tuple[SubnetEnv, tuple[str, ...]]:
    """All that can be read from the text, and one line for each thing that cannot. Never raises."""
    values, found_problems = parse_dotenv(text)
    problems = list(found_problems)

    def read(name: str, parse: Callable[[str], T]) -> list[T]:
        read_values = []
        for part in filter(None, (piece.strip() for piece in values.get(name, "").split(","))):
            try:
                read_values.append(parse(part))
            except (ValueError, KeyError):
                problems.append(f"{name}: cannot use {part[:60]!a}")
        return read_values

    networks: list[Net] = []
    subnets: list[Interface] = []
    for version in (4, 6):
        networks += [one.network for one in read(NETWORK[version], _of(version))]
        subnets += read(SUBNET[version], _of(version))
    mtu = read(MTU, lambda text: _bytes(text, _MAX_MTU))
    ipmasq = read(IPMASQ, _BOOLEANS.__getitem__)
    gso = read(GSO_MAX_SIZE, lambda text: _bytes(text, _MAX_GSO_SIZE))
    env = SubnetEnv(tuple(networks), tuple(subnets), _first(mtu), _first(ipmasq), _first(gso))
    return env, tuple(problems)


def previous_subnets(env: SubnetEnv) -> Subnets:
    """The node's slice as the file has it: the first subnet of each family, () if there is none."""
    nets = tuple(one.network for one in env.subnets)
    return tuple(net for version in (4, 6) if (net := of_family(nets, version)) is not None)


def _of(version: int) -> Callable[[str], Interface]:
    def parse(text: str) -> Interface:
        address, slash, length = text.partition("/")
        # Only the form that flannel writes: Python would also take a netmask, a zone, or no length at all.
        if not slash or not (length.isascii() and length.isdigit()) or "%" in address:
            raise ValueError(text)
        interface = ip_interface((address, int(length)))
        if interface.version != version:
            raise ValueError(text)
        return interface

    return parse


def _bytes(text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) <= most):
        raise ValueError(text)
    return int(text)


def _first(found: list[T]) -> T | None:
    return found[0] if found else None
