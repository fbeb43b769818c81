"""Who reaches whom, and under which address: TCP connections between the places of a lab, captured at the far side.

A packet filter may change addresses on the way, so each connection is judged by the source address that a capture on
the listener's own device shows, and by whether an answer came back.
"""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flanneld_py.errors import LabError
from flanneld_py.lab.capture import Capture
from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.tables import read_addresses
from flanneld_py.lab.topology import AddrOnLink, Firewall, Node, Pod, PortMapping, Topology
from flanneld_py.model.net import Addr

ANSWER_S = 2.0
SILENCE_S = 0.7
"""Where no answer is expected."""
_SETTLE_S = 0.05
_WORD = b"lab"


@dataclass(frozen=True, slots=True)
class Connection:
    """`seen`: the source addresses of what arrived on the listener's device; `answered`: a word came and went back."""

    seen: frozenset[Addr]
    answered: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """One connection as a line: what was tried, what the far side saw, and whether this is as it should be."""

    what: str
    outcome: str
    good: bool


@dataclass(frozen=True, slots=True)
class _Case:
    """`listener`: where the word must arrive, on `device`. `wanted`: the sources it may come from, and what that
    means; `answer`: whether it must come back."""

    what: str
    source: str
    target: tuple[Addr, int]
    listener: tuple[str, Addr, int]
    wanted: Mapping[Addr, str]
    answer: bool = True


def survey(topology: Topology, pods: Mapping[str, Sequence[AddrOnLink]], version: int) -> list[Finding]:
    """The ways in and out of the first pod, and each published port."""
    first, last = topology.pods[0], topology.pods[-1]
    addresses = {name: found for name in pods if (found := _of(pods[name], version)) is not None}
    if first.name not in addresses or last.name not in addresses:
        return []
    cases = [
        _to_internet(topology, first, addresses, version),
        _from_host(topology, last, addresses, version),
        *(_published(topology, mapping, addresses, version) for mapping in topology.spec.published),
    ]
    if first != last:
        cases.insert(0, _between(first, last, addresses))
    return [_judge(case) for case in cases]


def connect(source: str, target: tuple[Addr, int], listener: tuple[str, Addr, int], timeout_s: float) -> Connection:
    """Connect from a namespace to an address, behind which the listener (namespace, address, port) should be."""
    namespace, address, port = listener
    with (
        inside(namespace, lambda: _listening(address, port)) as server,
        Capture((namespace,), "eth0") as capture,
        inside(source, lambda: socket.socket(_family(address), socket.SOCK_STREAM)) as client,
    ):
        answered = _exchange(client, (target[0], target[1] or server.getsockname()[1]), server, timeout_s)
        bound = server.getsockname()[1]
        seen = {
            frame.packet.src
            for frame in capture.frames(_SETTLE_S)
            if not frame.outgoing and frame.packet.protocol == "tcp" and (frame.packet.ports or (0, 0))[1] == bound
        }
    return Connection(frozenset(source for source in seen if source is not None), answered)


def _exchange(client: socket.socket, target: tuple[Addr, int], server: socket.socket, timeout_s: float) -> bool:
    """Whether a word came to the server and back."""
    client.settimeout(timeout_s)
    server.settimeout(timeout_s)
    try:
        client.connect((str(target[0]), target[1]))
        client.sendall(_WORD)
        accepted, _ = server.accept()
        with accepted:
            accepted.settimeout(timeout_s)
            accepted.sendall(accepted.recv(len(_WORD)))
            return client.recv(len(_WORD)) == _WORD
    except OSError:
        return False


def _between(first: Pod, last: Pod, addresses: Mapping[str, Addr]) -> _Case:
    own, there = addresses[first.name], addresses[last.name]
    wanted = {own: f"{first.name}'s own address"}
    return _Case(f"{first.name} to {last.name}", first.namespace, (there, 0), (last.namespace, there, 0), wanted)


def _to_internet(topology: Topology, pod: Pod, addresses: Mapping[str, Addr], version: int) -> _Case:
    internet, node = topology.internet, topology.node_of(pod)
    there = _need(internet.addresses, version)
    masked = topology.spec.firewall is not Firewall.NONE
    own, outer = addresses[pod.name], _need(node.addresses, version)
    wanted = {outer: f"{node.name}'s address: masqueraded"} if masked else {own: f"{pod.name}'s own address"}
    return _Case(
        f"{pod.name} to the internet", pod.namespace, (there, 0), (internet.namespace, there, 0), wanted, masked
    )


def _from_host(topology: Topology, pod: Pod, addresses: Mapping[str, Addr], version: int) -> _Case:
    node = topology.nodes[0]
    wanted = dict.fromkeys(_own(node, version), f"an address of {node.name}")
    there = addresses[pod.name]
    return _Case(f"{node.name} itself to {pod.name}", node.namespace, (there, 0), (pod.namespace, there, 0), wanted)


def _published(topology: Topology, mapping: PortMapping, addresses: Mapping[str, Addr], version: int) -> _Case:
    pod = topology.find(mapping.pod)
    if not isinstance(pod, Pod):
        raise LabError(f"{mapping.pod} is no pod")
    internet, node = topology.internet, topology.node_of(pod)
    outer, caller = _need(node.addresses, version), _need(internet.addresses, version)
    return _Case(
        f"the internet to {node.name} port {mapping.host}, published by {pod.name}",
        internet.namespace,
        (outer, mapping.host),
        (pod.namespace, addresses[pod.name], mapping.container),
        {caller: "the caller's own address"},
    )


def _judge(case: _Case) -> Finding:
    found = connect(case.source, case.target, case.listener, ANSWER_S if case.answer else SILENCE_S)
    if not found.seen:
        return Finding(case.what, "nothing arrived there", False)
    names = (f"{address}, {case.wanted.get(address, 'which it should not be')}" for address in sorted(found.seen))
    outcome = f"arrives as {'; '.join(names)}"
    if case.answer and not found.answered:
        outcome += "; no answer comes back"
    if not case.answer:
        outcome += (
            "; an answer comes back"
            if found.answered
            else "; no answer finds it: nothing masquerades (--firewall none)"
        )
    return Finding(case.what, outcome, found.seen <= case.wanted.keys() and found.answered is case.answer)


def _own(node: Node, version: int) -> list[Addr]:
    return [address for address in read_addresses(node) if address.version == version]


def _listening(address: Addr, port: int) -> socket.socket:
    """On every address: a mapped port may be forwarded to any."""
    sock = socket.socket(_family(address), socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((str(address), port))
        sock.listen(1)
    except BaseException:
        sock.close()
        raise
    return sock


def _family(address: Addr) -> socket.AddressFamily:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _of(addresses: Sequence[AddrOnLink], version: int) -> Addr | None:
    return next((one.ip for one in addresses if one.version == version), None)


def _need(addresses: Sequence[AddrOnLink], version: int) -> Addr:
    found = _of(addresses, version)
    if found is None:
        raise LabError(f"the lab has no IPv{version}")
    return found
