"""A lab with nodes of both kinds, and what tests ask of it: traffic, the kernel as `ip` shows it, leases in etcd."""

import json
import socket
import subprocess
from base64 import b64decode, b64encode
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from flanneld_py.lab import build, servers, traffic
from flanneld_py.lab.build import Lab
from flanneld_py.lab.echo import decode_reply, encode_request
from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.topology import ETCD_PREFIX, LabSpec, Node, Topology
from tests.waiting import eventually

DEADLINE_S = 20.0
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DONT, PMTUDISC_DO = 10, 23, 0, 2
"""include/uapi/linux/in.h and in6.h; not in Python's socket module."""
ICMP = {
    4: (socket.AF_INET, socket.IPPROTO_ICMP, socket.IPPROTO_IP, IP_MTU_DISCOVER, 28),
    6: (socket.AF_INET6, socket.IPPROTO_ICMPV6, socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, 48),
}
"""Family, protocol, level and name of the option that forbids fragments, bytes of the headers."""

OURS = "241"
BOOT = "boot"


@dataclass(frozen=True)
class KeyValue:
    """`lease`: the etcd lease it hangs on; 0 for none."""

    value: str
    lease: int


def forward_packets() -> None:
    for sysctl in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        (Path("/proc/sys/net") / sysctl).write_text("1")


class Cluster:
    """A lab that is up, whose Go nodes forward packets (flannel leaves that to Docker or the kubelet)."""

    def __init__(self, spec: LabSpec) -> None:
        self.spec = spec
        self.lab: Lab = build.up(spec, Silent())
        for node in self.nodes:
            if self.is_go(node.number):
                inside(node.namespace, forward_packets)

    @property
    def nodes(self) -> tuple[Node, ...]:
        return self.lab.topology.nodes

    def node(self, number: int) -> Node:
        return self.nodes[number - 1]

    def is_go(self, number: int) -> bool:
        return number in self.lab.topology.spec.go_nodes

    def stop(self, number: int) -> None:
        assert self.lab.stop_daemon(self.node(number), hard=False), f"no daemon ran on node {number}"

    def start(self, number: int, *, go: bool) -> None:
        """Start a daemon of that kind on the node, and wait until it is ready."""
        others = tuple(n for n in self.lab.topology.spec.go_nodes if n != number)
        spec = replace(self.lab.topology.spec, go_nodes=(*others, number) if go else others)
        self.lab.save(replace(self.lab.record, spec=spec))
        self.lab.topology = Topology(spec)
        self.lab.start_daemon(self.node(number), Silent())

    @property
    def versions(self) -> tuple[int, ...]:
        return self.spec.stack.versions

    def subnets(self, number: int) -> tuple[str, ...]:
        """The node's subnets as routes show them, IPv4 first: 10.244.7.0/24."""
        return tuple(str(own.network) for own in servers.read_network(self.lab.directory, self.node(number)).subnets)

    def lease_key(self, number: int) -> str:
        """10.244.7.0-24, or with both families 10.244.7.0-24&fd00:10:244:7::-64."""
        return "&".join(subnet.replace("/", "-") for subnet in self.subnets(number))

    def mtu(self, number: int) -> int:
        mtu = servers.read_network(self.lab.directory, self.node(number)).mtu
        assert mtu is not None
        return mtu

    def ip(self, number: int, *words: str, tool: str = "ip") -> list[dict[str, Any]]:
        """What `ip -j` says in the node's namespace."""
        command = [tool, "-n", self.node(number).namespace, "-d", "-j", *words]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{' '.join(command)}: {result.stderr}"
        return json.loads(result.stdout or "[]") if "show" in words else []

    def routes(self, number: int) -> dict[str, dict[str, Any]]:
        """The node's routes into the pod networks, by destination, without those to its own addresses and bridge."""
        shown = [
            route
            for network in self.lab.topology.networks
            for route in self.ip(number, f"-{network.version}", "route", "show", "root", str(network))
        ]
        assert len({route["dst"] for route in shown}) == len(shown), f"two routes for one subnet: {shown}"
        return {route["dst"]: route for route in shown if route["dev"] != "cni0" and route["protocol"] != "kernel"}

    def peers(self, number: int) -> set[str]:
        """The subnets of the other nodes."""
        return {subnet for node in self.nodes if node.number != number for subnet in self.subnets(node.number)}

    def settled(self, number: int) -> bool:
        """Whether the node has exactly the routes to its peers; one of ours, with our mark.

        Go flannel's may have either: with host-gw it leaves an equal route as it is (pkg/backend/route_network.go).
        """
        routes = self.routes(number)
        marks = {str(route["protocol"]) for route in routes.values()}
        return routes.keys() == self.peers(number) and (self.is_go(number) or marks == {OURS})

    def wait_settled(self) -> None:
        for node in self.nodes:
            number = node.number
            eventually(
                f"{node.name} has its peers' routes only",
                partial(self.settled, number),
                partial(self.routes, number),
            )

    def endpoints(self, version: int = 4) -> dict[str, traffic.Endpoint]:
        return {place.name: place for place in traffic.endpoints(self.lab.topology, self.lab.record.pods, version)}

    def lost_pings(self) -> dict[tuple[int, str, str], int]:
        """The families and pairs of pods between which an echo was lost."""
        lost: dict[tuple[int, str, str], int] = {}
        for version in self.versions:
            matrix = traffic.ping_matrix(tuple(self.endpoints(version).values()), timeout_s=5.0)
            assert len(matrix) == len(self.nodes) * (len(self.nodes) - 1)
            lost |= {(version, *pair): result.lost for pair, result in matrix.items() if result.lost}
        return lost

    def probe(self, source: str, target: str, version: int = 4) -> traffic.Probe:
        places = self.endpoints(version)
        return traffic.Probe(places[source], places[target].address)

    def etcd(self, call: str, **body: object) -> dict[str, Any]:
        """The answer of etcd's JSON gateway."""
        request = Request(f"{self.lab.topology.etcd_url}/v3/{call}", json.dumps(body).encode())

        def ask() -> bytes:
            with urlopen(request, timeout=DEADLINE_S) as response:
                return bytes(response.read())

        answer = json.loads(inside(self.lab.topology.router, ask))
        assert isinstance(answer, dict)
        return answer

    def leases(self) -> dict[str, KeyValue]:
        """The keys below PREFIX/subnets/, such as 10.244.7.0-24."""
        prefix = f"{ETCD_PREFIX}/subnets/"
        answer = self.etcd("kv/range", key=_b64(prefix), range_end=_b64(prefix[:-1] + "0"))
        return {
            b64decode(kv["key"]).decode().removeprefix(prefix): KeyValue(
                b64decode(kv["value"]).decode(), int(kv.get("lease", 0))
            )
            for kv in answer.get("kvs", ())
        }

    def put_reservation(self, subnet: str, value: str) -> None:
        self.etcd("kv/put", key=_b64(f"{ETCD_PREFIX}/subnets/{subnet}"), value=_b64(value))

    def delete_lease(self, subnet: str) -> None:
        answer = self.etcd("kv/deleterange", key=_b64(f"{ETCD_PREFIX}/subnets/{subnet}"))
        assert answer.get("deleted") == "1"


def echo(source: traffic.Endpoint, target: traffic.Endpoint, packet_bytes: int, *, fragments: bool) -> bool:
    """Whether an echo in a packet of that many bytes comes back unchanged. Without `fragments` it has to fit."""
    version = target.address.version
    family, protocol, level, option, overhead = ICMP[version]
    payload = bytes(n % 251 for n in range(packet_bytes - overhead))
    with inside(source.namespace, lambda: socket.socket(family, socket.SOCK_RAW, protocol)) as sock:
        sock.setsockopt(level, option, PMTUDISC_DONT if fragments else PMTUDISC_DO)
        sock.settimeout(DEADLINE_S)
        sock.sendto(encode_request(version, 77, packet_bytes, payload), (str(target.address), 0))
        while True:
            try:
                reply = decode_reply(version, sock.recv(65536))
            except TimeoutError:
                return False
            if reply is not None and (reply.ident, reply.seq) == (77, packet_bytes):
                return reply.payload == payload


def _b64(text: str) -> str:
    return b64encode(text.encode()).decode()
