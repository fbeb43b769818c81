"""Leases of nodes that are not there, so that a worker has a table of the size it has in a large cluster."""

import asyncio
import time
from ipaddress import IPv4Address, IPv4Network
from random import Random

from flanneld_py.backend.udp import DEFAULT_PORT, UdpData
from flanneld_py.daemon.control import ask
from flanneld_py.errors import FlannelError
from flanneld_py.etcd.client import EtcdAccess, EtcdClient
from flanneld_py.lab.build import Lab
from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.progress import Progress
from flanneld_py.lab.topology import ETCD_PREFIX
from flanneld_py.model.lease import Lease, LeaseAttrs
from flanneld_py.store.lease_codec import encode_attrs

DEADLINE_S = 60.0
_POLL_S = 0.1
_PUBLIC = IPv4Address("198.18.0.1")


def absent_nodes(network: IPv4Network, count: int) -> list[Lease]:
    """That many leases of /24 at the end of the network, where the daemons of a new lab do not look first."""
    last = int(network.broadcast_address) + 1
    data = UdpData(DEFAULT_PORT).format()
    return [
        Lease((IPv4Network((last - 256 * (number + 2), 24)),), LeaseAttrs(_PUBLIC + number, None, "", data))
        for number in range(count)
    ]


def add_leases(lab: Lab, count: int, progress: Progress) -> None:
    """Put them into etcd, and wait until the daemon of each node counts them among its peers."""
    network = lab.topology.networks[0]
    if not isinstance(network, IPv4Network):
        raise FlannelError(f"{network} is not IPv4")
    leases = absent_nodes(network, count)
    inside(lab.topology.router, lambda: asyncio.run(_put(lab.topology.etcd_url, leases)))
    deadline = time.monotonic() + DEADLINE_S
    for node in lab.topology.nodes:
        while (known := _peers(lab, node.name)) < count + 1:
            progress.check()
            if time.monotonic() > deadline:
                raise FlannelError(f"{node.name} knows {known} of {count + 1} peers after {DEADLINE_S:.0f} s")
            time.sleep(_POLL_S)


def _peers(lab: Lab, node: str) -> int:
    """Peers that are in the worker's table too."""
    answer = ask(lab.directory.node(node), "status") or {}
    return 0 if answer.get("difference") else int(answer.get("peers") or 0)


async def _put(url: str, leases: list[Lease]) -> None:
    client = EtcdClient(EtcdAccess((url,), ETCD_PREFIX), lambda trouble: None, Random(1))
    try:
        keys = [f"{ETCD_PREFIX}/subnets/{one.key}".encode() for one in leases]
        await asyncio.gather(*(client.put(key, encode_attrs(one.attrs)) for key, one in zip(keys, leases, strict=True)))
    finally:
        await client.close()
