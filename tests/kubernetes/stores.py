"""Stores of the nodes of a test's cluster, and how flannel's annotations look."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import Any

from flanneld_py.kube.access import KubeAccess
from flanneld_py.model.config import NetworkConfig, parse_config
from flanneld_py.model.lease import Lease, LeaseAttrs, NodeIdentity
from flanneld_py.store.base import LeaseRequest
from flanneld_py.store.kube import KubeStore
from flanneld_py.store.kube_codec import parse_prefix
from flanneld_py.store.kube_own import NodeRef
from tests.etcd.conftest import Reports
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.proxy import FaultProxy

PREFIX = "flannel.alpha.coreos.com/"


@dataclass
class Stores:
    """Makes stores; `reports` is what the last one said. All end with the test."""

    cluster: Cluster
    folder: Path
    made: list[KubeStore] = field(default_factory=list)

    def make(
        self,
        node: str | NodeRef,
        *,
        proxy: FaultProxy | None = None,
        access: KubeAccess | None = None,
        prefix: str = "flannel.alpha.coreos.com",
        reports: Callable[[Any], None] | None = None,
        **options: Any,
    ) -> KubeStore:
        if access is None:
            url = None if proxy is None else proxy.url
            access = KubeAccess(kubeconfig=self.cluster.kubeconfig, api_url=url)
        ref = NodeRef(node) if isinstance(node, str) else node
        store = KubeStore(
            access,
            reports or Reports(),
            node=ref,
            names=parse_prefix(prefix),
            config_path=self.folder / "net-conf.json",
            **options,
        )
        self.made.append(store)
        return store


def config(**keys: object) -> NetworkConfig:
    text = json.dumps({"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}} | keys)
    return parse_config(text, "test")[0]


DUAL = {"EnableIPv6": True, "IPv6Network": "fd00:10:244::/48"}


def vtep(number: int) -> str:
    return f'{{"VNI":1,"VtepMAC":"0a:00:00:00:00:{number:02x}"}}'


def attrs(number: int, *, six: bool = False) -> LeaseAttrs:
    data6 = vtep(number + 100) if six else None
    public6 = ip_address(f"fd00::{number}") if six else None
    return LeaseAttrs(IPv4Address(f"192.0.2.{number}"), public6, "vxlan", vtep(number), data6)  # type: ignore[arg-type]


def ask(number: int, cfg: NetworkConfig | None = None, published: LeaseAttrs | None = None) -> LeaseRequest:
    cfg = cfg or config()
    six = cfg.family(6) is not None
    return LeaseRequest(cfg, published or attrs(number, six=six), (), NodeIdentity(f"n{number}", f"hash{number}", "1"))


def go_annotations(number: int, *, prefix: str = PREFIX, six: bool = False, **others: str) -> dict[str, str]:
    """What Go flannel leaves on a node that runs vxlan."""
    found = {
        "kube-subnet-manager": "true",
        "backend-type": "vxlan",
        "backend-data": vtep(number),
        "public-ip": f"192.0.2.{number}",
    }
    if six:
        found |= {"backend-v6-data": vtep(number + 100), "public-ipv6": f"fd00::{number}"}
    found |= {name.replace("_", "-"): text for name, text in others.items()}
    return {prefix + name: text for name, text in found.items()}


def lease(number: int, *subnets: str, six: bool = False) -> Lease:
    return Lease(tuple(map(ip_network, subnets)), attrs(number, six=six))
