"""The network configuration, and the configuration that the delegate gets; sans-I/O."""

from cni_plugin import result
from cni_plugin.jsontext import Object, kind
from cni_plugin.request import Request
from cni_plugin.result import CniError
from cni_plugin.subnetenv import SubnetEnv, is_address, parse_net

SUBNET_FILE = "/run/flannel/subnet.env"
DATA_DIR = "/var/lib/cni/flannel"
TYPE = "flannel"

_ROUTE_NUMBERS = ("mtu", "advmss", "priority", "table", "scope")
_PLACEHOLDER = parse_net("192.0.2.0/24", 4)
"""TEST-NET-1 (RFC 5737). host-local wants a range before it releases an address, and releases without a look at it."""


class NetConf:
    """The keys of ours. `delegate`, `ipam`: {} if absent or null; `runtime`: None if absent or null."""

    __slots__ = ("delegate", "ipam", "name", "runtime", "subnet_file", "version")

    def __init__(self, request: Request) -> None:
        config = request.config
        self.name = request.name
        self.version = request.version if config.get("cniVersion") else ""
        self.subnet_file = _path(config, "subnetFile") or SUBNET_FILE
        self.runtime = _object(config, "runtimeConfig")
        self.delegate = _object(config, "delegate") or {}
        self.ipam = _object(config, "ipam") or {}
        _check_delegate(self.delegate)
        plugin = self.ipam.get("type", "host-local")
        if not isinstance(plugin, str) or not plugin:
            raise CniError(result.BAD_CONFIG, f"ipam.type must be the name of a plugin, not {kind(plugin)}")
        if plugin == TYPE:
            raise CniError(result.BAD_CONFIG, f"ipam.type cannot be {TYPE}", "use host-local, or leave it out")


def data_dir(request: Request) -> str:
    """Where the attachments of this network are recorded."""
    return _path(request.config, "dataDir") or DATA_DIR


def delegate_config(conf: NetConf, env: SubnetEnv) -> Object:
    """What the delegate gets: what the administrator gave under `delegate` wins, even false, 0 and null."""
    config = dict(conf.delegate)
    if conf.runtime is not None:
        config["runtimeConfig"] = conf.runtime
    config["name"] = conf.name
    if conf.version:
        config["cniVersion"] = conf.version
    config.setdefault("type", "bridge")
    config.setdefault("ipMasq", not env.ipmasq)
    config.setdefault("mtu", env.mtu)
    if config["type"] == "bridge":
        config.setdefault("isGateway", True)
    config["ipam"] = _ipam_config(conf.ipam, env)
    return config


def release_config(conf: NetConf, env: SubnetEnv | None) -> Object:
    """A configuration that is good enough for DEL and GC, also when the daemon's file cannot be had."""
    return delegate_config(conf, env or SubnetEnv([], [_PLACEHOLDER], 0, True))


def _ipam_config(given: Object, env: SubnetEnv) -> Object:
    ipam = dict(given)
    ipam.setdefault("type", "host-local")
    ipam["ranges"] = [[{"subnet": net.text}] for net in env.subnets]
    ipam["routes"] = [*_routes(given.get("routes")), *({"dst": net.text} for net in env.networks)]
    return ipam


def _routes(value: object) -> list[Object]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise CniError(result.BAD_CONFIG, f"ipam.routes must be a list, not {kind(value)}")
    return [_route(route, f"ipam.routes[{number}]") for number, route in enumerate(value)]


def _route(route: object, where: str) -> Object:
    if not isinstance(route, dict):
        raise CniError(result.BAD_CONFIG, f"{where} must be an object, not {kind(route)}")
    dst, gateway = route.get("dst"), route.get("gw")
    if not isinstance(dst, str) or not _is_net(dst):
        raise CniError(result.BAD_CONFIG, f"{where}.dst must be a network as 10.0.0.0/8, not {dst!a:.100}")
    clean: Object = {"dst": dst}
    if gateway not in (None, ""):
        if not isinstance(gateway, str) or not is_address(gateway):
            raise CniError(result.BAD_CONFIG, f"{where}.gw must be an address, not {gateway!a:.100}")
        clean["gw"] = gateway
    for name in _ROUTE_NUMBERS:
        number = route.get(name)
        if number is None:
            continue
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise CniError(result.BAD_CONFIG, f"{where}.{name} must be a number from 0, not {number!a:.100}")
        clean[name] = number
    return clean


def _check_delegate(delegate: Object) -> None:
    for name, instead in (("name", "the network's name is used"), ("ipam", "put it beside delegate")):
        if name in delegate:
            raise CniError(result.BAD_CONFIG, f"delegate must not have {name!a}", instead)
    plugin = delegate.get("type", "bridge")
    if not isinstance(plugin, str) or not plugin:
        raise CniError(result.BAD_CONFIG, f"delegate.type must be the name of a plugin, not {kind(plugin)}")
    if plugin == TYPE:
        raise CniError(result.BAD_CONFIG, f"delegate.type cannot be {TYPE}", "use bridge, or leave it out")


def _is_net(text: str) -> bool:
    try:
        parse_net(text, 6 if ":" in text else 4)
    except ValueError:
        return False
    return True


def _object(config: Object, name: str) -> Object | None:
    value = config.get(name)
    if value is not None and not isinstance(value, dict):
        raise CniError(result.BAD_CONFIG, f"{name} must be an object, not {kind(value)}")
    return value


def _path(config: Object, name: str) -> str:
    value = config.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CniError(result.BAD_CONFIG, f"{name} must be a path, not {kind(value)}")
    try:
        usable = b"\0" not in value.encode()
    except UnicodeEncodeError:
        usable = False
    if not usable:
        raise CniError(result.BAD_CONFIG, f"{name} is no path: {value!a:.100}")
    return value
