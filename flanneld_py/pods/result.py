"""ADD's result in the words of each version of the specification. Sans-I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface

from flanneld_py.model.net import first_address
from flanneld_py.pods.exchange import Object
from flanneld_py.pods.network import Network, PodRoute, default_routes

Interface = IPv4Interface | IPv6Interface

_FLAT = ("0.1.0", "0.2.0")
_WITH_FAMILY = ("0.3.0", "0.3.1", "0.4.0")
_CONTAINER_INDEX = 2


@dataclass(frozen=True, slots=True)
class Wired:
    """What ADD's result tells of. MACs as text."""

    bridge: str
    bridge_mac: str
    host: str
    host_mac: str
    mac: str


def result_of(network: Network, netns: str, ifname: str, wired: Wired, addresses: Sequence[Interface]) -> Object:
    """What bridge answers, as the flannel plugin passes it on."""
    routes = [*network.routes, *default_routes(network)]
    gateways = {net.version: str(first_address(net)) for net in network.ranges}
    result: Object = {"cniVersion": network.version, "dns": {}}
    if network.version in _FLAT:
        for address in addresses:
            mine = [_route(one) for one in routes if one.dst.version == address.version]
            flat: Object = {"ip": str(address), "gateway": gateways[address.version]}
            result[f"ip{address.version}"] = flat | ({"routes": mine} if mine else {})
        return result
    result["interfaces"] = [
        {"name": wired.bridge, "mac": wired.bridge_mac},
        {"name": wired.host, "mac": wired.host_mac},
        {"name": ifname, "mac": wired.mac, "sandbox": netns},
    ]
    result["ips"] = [
        {"interface": _CONTAINER_INDEX, "address": str(one), "gateway": gateways[one.version]}
        | ({"version": str(one.version)} if network.version in _WITH_FAMILY else {})
        for one in addresses
    ]
    if routes:
        result["routes"] = [_route(one) for one in routes]
    return result


def _route(route: PodRoute) -> Object:
    return {"dst": str(route.dst)} | ({} if route.via is None else {"gw": str(route.via)})
