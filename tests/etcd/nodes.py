"""Nodes as values: what they ask a store for; and what an operator sees of them in etcd."""

import json
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

from flanneld_py.model.config import NetworkConfig, parse_config
from flanneld_py.model.lease import LeaseAttrs, NodeIdentity
from flanneld_py.model.net import Subnets
from flanneld_py.store.base import LeaseRequest
from tests.etcd.server import Server

V4 = {"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}
V6 = {"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fd00::/48", "Backend": {"Type": "vxlan"}}
DUAL = V4 | {"EnableIPv6": True, "IPv6Network": "fd00::/48"}


def config(text: dict[str, Any] = V4, **changed: Any) -> NetworkConfig:
    return parse_config(json.dumps(text | changed), "test")[0]


def node(number: int, *, four: bool = True, six: bool = False) -> LeaseAttrs:
    return LeaseAttrs(
        IPv4Address(f"192.0.2.{number}") if four else None,
        IPv6Address(f"2001:db8::{number:x}") if six else None,
        "vxlan",
        f'{{"VNI":1,"VtepMAC":"0e:00:00:00:00:{number:02x}"}}' if four else None,
        f'{{"VNI":1,"VtepMAC":"0e:00:00:00:06:{number:02x}"}}' if six else None,
    )


def machine(number: int) -> NodeIdentity:
    return NodeIdentity(f"host{number}", f"hash{number}", "1")


def request(number: int, cfg: NetworkConfig | None = None, previous: Subnets = (), **attrs: bool) -> LeaseRequest:
    return LeaseRequest(cfg or config(), node(number, **attrs), previous, machine(number))


def nets(*texts: str) -> Subnets:
    return tuple(ip_network(text) for text in texts)


def lease_ids(server: Server) -> set[str]:
    return set(server.ctl("lease", "list").stdout.split("\n")[1:]) - {""}


def keys(server: Server, prefix: str) -> list[str]:
    return server.ctl("get", "--prefix", "--keys-only", prefix).stdout.split()
