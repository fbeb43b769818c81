"""What a network asks for, if it is one that we connect containers to ourselves. Sans-I/O.

We do what the plugins bridge and host-local do with the configuration that the flannel plugin gives them by default.
Every key that says more than that, every value of a type that they would refuse, is NotForUs: then they do it, or say
what is wrong with it. The configuration that is kept for DEL is the same as the plugin's, byte for byte.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from flanneld_py.model.net import Addr, Net, first_address
from flanneld_py.model.subnetenv import SubnetEnv
from flanneld_py.pods.exchange import NotForUs, Object, Question

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
DATA_DIR = "/var/lib/cni/flannel"
ADDRESS_DIR = "/var/lib/cni/networks"
SUBNET_FILE = "/run/flannel/subnet.env"
BRIDGE = "cni0"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)
_IFNAME = re.compile(r"[A-Za-z0-9_.@+-]{1,15}", re.ASCII)
_DELEGATE_KEYS = {
    "bridge": str,
    "cniVersion": str,
    "forceAddress": bool,
    "hairpinMode": bool,
    "ipMasq": bool,
    "ipam": dict,
    "isDefaultGateway": bool,
    "isGateway": bool,
    "mtu": int,
    "name": str,
    "promiscMode": bool,
    "type": str,
}
_IPAM_KEYS = {"dataDir": str, "ranges": list, "routes": list, "type": str}
_ROUTE_KEYS = {"dst": str, "gw": str}
_OWN_ARGS = frozenset({"IP", "MAC", "GATEWAY"})
"""Keys of CNI_ARGS that bridge or host-local understand."""
_MAX_MTU = 65535


@dataclass(frozen=True, slots=True)
class PodRoute:
    """`via` None: through the gateway of the pod's address of the same family."""

    dst: Net
    via: Addr | None


@dataclass(frozen=True, slots=True)
class Attachment:
    """What state is keyed by. Its parts are fit for names of files."""

    network: str
    container: str
    ifname: str

    @property
    def record_name(self) -> str:
        return f"{self.network}@{self.container}@{self.ifname}"


@dataclass(frozen=True, slots=True)
class Network:
    """`config`: what bridge would get. `ranges`: one for each family. `mtu`, `gso_max_size` 0: the kernel's default."""

    config: Object
    version: str
    bridge: str
    mtu: int
    hairpin: bool
    promiscuous: bool
    gateway: bool
    default_gateway: bool
    ranges: tuple[Net, ...]
    routes: tuple[PodRoute, ...]
    address_dir: str
    gso_max_size: int = 0


def attachment_of(question: Question) -> Attachment:
    name = question.config.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not _NAME.fullmatch(question.container):
        raise NotForUs("the network's or the container's name is missing or not usable")
    if not _IFNAME.fullmatch(question.ifname) or question.ifname in (".", ".."):
        raise NotForUs("the interface's name is not usable")
    return Attachment(name, question.container, question.ifname)


def check_addressed_to(question: Question, socket_name: str) -> None:
    """NotForUs: the launcher read the configuration otherwise than we do, and came to the wrong daemon."""
    subnet_file = question.config.get("subnetFile")
    path = SUBNET_FILE if subnet_file is None else subnet_file
    if not isinstance(path, str) or f"{path.rpartition('/')[0]}/{socket_name}" != question.socket:
        raise NotForUs("it is for another daemon")


def subnet_file_name(question: Question) -> str:
    return str(question.config.get("subnetFile") or SUBNET_FILE).rpartition("/")[2]


def data_dir(question: Question) -> str:
    return _directory(question.config, "dataDir", DATA_DIR)


def version_of(question: Question) -> str:
    version = question.config.get("cniVersion", "")
    if version not in ("", *VERSIONS):
        raise NotForUs("the version is not known")
    return version or VERSIONS[0]


def check_arguments(question: Question) -> None:
    """NotForUs if bridge or host-local would do something with CNI_ARGS, or refuse it."""
    pairs = [pair.partition("=") for pair in question.args.split(";")] if question.args else []
    keys = {key for key, _, _ in pairs}
    ignored = any(key == "IgnoreUnknown" and value.lower() in ("1", "true") for key, _, value in pairs)
    if pairs and (not ignored or keys & _OWN_ARGS or not all(equals for _, equals, _ in pairs)):
        raise NotForUs("CNI_ARGS asks for more than the plain way")


def delegate_config(question: Question, env: SubnetEnv) -> Object:
    """What the flannel plugin gives to bridge."""
    given = question.config
    if given.get("runtimeConfig"):
        raise NotForUs("runtimeConfig asks for more than the plain way")
    config = dict(_object(given, "delegate"))
    if {"name", "ipam"} & config.keys():
        raise NotForUs("delegate has a key that it must not have")
    if given.get("runtimeConfig") is not None:
        config["runtimeConfig"] = given["runtimeConfig"]
    config["name"] = given["name"]
    if given.get("cniVersion"):
        config["cniVersion"] = given["cniVersion"]
    config.setdefault("type", "bridge")
    config.setdefault("ipMasq", not env.ipmasq)
    config.setdefault("mtu", env.mtu)
    if config["type"] == "bridge":
        config.setdefault("isGateway", True)
    ipam = dict(_object(given, "ipam"))
    ipam.setdefault("type", "host-local")
    ipam["ranges"] = [[{"subnet": str(net)}] for net in _subnets(env)]
    routes = [] if ipam.get("routes") is None else ipam["routes"]
    if not isinstance(routes, list):
        raise NotForUs("ipam.routes is no list")
    ipam["routes"] = [*(_clean_route(route) for route in routes), *({"dst": str(net)} for net in _networks(env))]
    config["ipam"] = ipam
    return config


def network_of(config: Object, version: str) -> Network:
    """What the delegate's configuration asks for."""
    _check_keys(config, {**_DELEGATE_KEYS, "runtimeConfig": dict}, "delegate")
    ipam = _object(config, "ipam")
    _check_keys(ipam, _IPAM_KEYS, "ipam")
    if config["type"] != "bridge" or ipam.get("type") != "host-local" or config.get("ipMasq"):
        raise NotForUs("the delegate is not bridge with host-local and without ipMasq")
    bridge = config.get("bridge") or BRIDGE
    mtu = config.get("mtu") or 0
    hairpin, promiscuous = bool(config.get("hairpinMode")), bool(config.get("promiscMode"))
    if not _IFNAME.fullmatch(bridge) or not 0 <= mtu <= _MAX_MTU or (hairpin and promiscuous):
        raise NotForUs("the delegate's configuration is not usable")
    ranges = tuple(_range(one) for one in ipam.get("ranges", ()))
    if not ranges:
        raise NotForUs("there is no range of addresses")
    default = bool(config.get("isDefaultGateway"))
    return Network(
        config,
        version,
        bridge,
        mtu,
        hairpin,
        promiscuous,
        gateway=bool(config.get("isGateway")) or default,
        default_gateway=default,
        ranges=ranges,
        routes=tuple(_route(one) for one in ipam.get("routes", ())),
        address_dir=_directory(ipam, "dataDir", ADDRESS_DIR),
    )


def default_routes(network: Network) -> list[PodRoute]:
    """Those that the network's own list lacks, if the bridge shall be the default gateway."""
    found = []
    for net in network.ranges if network.default_gateway else ():
        default = net.supernet(new_prefix=0)
        if not any(route.dst == default and route.via is not None for route in network.routes):
            found.append(PodRoute(default, first_address(net)))
    return found


def _subnets(env: SubnetEnv) -> list[Net]:
    """The first of each family, IPv4 first."""
    found: list[Net] = []
    for version in (4, 6):
        found += [one.network for one in env.subnets if one.version == version][:1]
    return found


def _networks(env: SubnetEnv) -> list[Net]:
    return list(dict.fromkeys(net for version in (4, 6) for net in env.networks if net.version == version))


def _check_keys(given: Mapping[str, Any], known: Mapping[str, type], what: str) -> None:
    for key, value in given.items():
        kind = known.get(key)
        if kind is None:
            raise NotForUs(f"{what}.{key} asks for more than the plain way")
        if value is not None and type(value) is not kind:
            raise NotForUs(f"{what}.{key} is of a wrong type")


def _clean_route(given: object) -> Object:
    if not isinstance(given, dict):
        raise NotForUs("a route is no object")
    route = {key: value for key, value in given.items() if key in ("dst", "gw") and value not in (None, "")}
    _check_keys(route, _ROUTE_KEYS, "ipam.routes")
    more: Collection[str] = given.keys() & {"mtu", "advmss", "priority", "table", "scope"}
    if more or "dst" not in route:
        raise NotForUs("a route asks for more than the plain way")
    return route


def _route(given: Mapping[str, str]) -> PodRoute:
    try:
        dst, via = _parse_net(given["dst"]), given.get("gw")
        route = PodRoute(dst, None if via is None else ip_address(via))
    except ValueError as error:
        raise NotForUs(f"a route cannot be used: {error}") from None
    if route.via is not None and (route.via.version != route.dst.version or "%" in str(route.via)):
        raise NotForUs("a route's gateway is of another family")
    return route


def _range(given: object) -> Net:
    one: Any = given[0] if isinstance(given, list) and len(given) == 1 else None
    try:
        net = _parse_net(one["subnet"])
    except (TypeError, ValueError, KeyError) as error:
        raise NotForUs(f"a range cannot be used: {error}") from None
    if set(one) != {"subnet"} or net.max_prefixlen - net.prefixlen < 2:
        raise NotForUs("a range asks for more than the plain way, or is too small")
    return net


def _parse_net(text: str) -> Net:
    """ADDRESS/LENGTH and no other form. ValueError."""
    address, slash, length = text.partition("/")
    if not slash or not (length.isascii() and length.isdigit()) or "%" in address:
        raise ValueError(f"{text[:60]!a} is no network")
    return ip_network((address, int(length)), strict=False)


def _object(given: Mapping[str, Any], key: str) -> Object:
    value = given.get(key)
    if value is not None and not isinstance(value, dict):
        raise NotForUs(f"{key} is no object")
    return value or {}


def _directory(given: Mapping[str, Any], key: str, default: str) -> str:
    value = given.get(key)
    if value is not None and (not isinstance(value, str) or "\0" in value or (value and not value.startswith("/"))):
        raise NotForUs(f"{key} is no path")
    return value or default
