"""The road of one packet: an echo request that is really sent, seen at each device that it passes."""

import socket
import time
from dataclasses import dataclass
from random import SystemRandom

from flanneld_py.errors import LabError
from flanneld_py.lab.capture import Capture, Frame, vxlan_port_option
from flanneld_py.lab.echo import encode_request
from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.topology import Pod, Topology
from flanneld_py.lab.traffic import Endpoint
from flanneld_py.lab.wiring import POD_BRIDGE

_WAIT_S = 2.0
_SETTLE_S = 0.1
_PAYLOAD = bytes(56)


@dataclass(frozen=True, slots=True)
class Hop:
    """A frame of the packet at a device. `place`: the node's or pod's name, or "router"."""

    place: str
    frame: Frame
    meaning: str


@dataclass(frozen=True, slots=True)
class Path:
    """`answered`: whether the target replied. `hops`: of the request, in the order of the kernel's time stamps."""

    source: str
    target: str
    answered: bool
    hops: tuple[Hop, ...]


def trace(topology: Topology, source: tuple[Pod, Endpoint], target: tuple[Pod, Endpoint]) -> Path:
    """Send one echo request between the pods and collect it at every device between them."""
    pods = (source[0], target[0])
    places = {pod.namespace: pod.name for pod in pods}
    places |= {topology.node_of(pod).namespace: topology.node_of(pod).name for pod in pods}
    places[topology.router] = "router"
    version, ident = target[1].address.version, SystemRandom().randrange(1, 0x10000)
    frames: list[Frame] = []
    with Capture(tuple(places), vxlan_ports=vxlan_port_option(topology.spec.backend_options)) as capture:
        _send(source[1], target[1], ident)
        end, answered = time.monotonic() + _WAIT_S, False
        # Other traffic may never pause, so the end is a time and not the first silence.
        while (left := end - time.monotonic()) > 0:
            for frame in capture.frames(left):
                echo = frame.packet.innermost.echo
                if echo is not None and echo.ident == ident and echo.request:
                    frames.append(frame)
                elif echo is not None and echo.ident == ident and frame.namespace == source[0].namespace:
                    answered, end = True, time.monotonic() + _SETTLE_S
                if answered or time.monotonic() > end:
                    break
    if version not in {frame.packet.innermost.dst.version for frame in frames if frame.packet.innermost.dst}:
        raise LabError(f"no device saw the packet from {source[0].name} to {target[0].name}")
    ordered = sorted(frames, key=lambda frame: frame.at_ns)
    hops = tuple(Hop(places[frame.namespace], frame, _meaning(topology, frame, pods)) for frame in ordered)
    return Path(source[0].name, target[0].name, answered, hops)


def _send(source: Endpoint, target: Endpoint, ident: int) -> None:
    version = target.address.version
    family, protocol = (
        (socket.AF_INET, socket.IPPROTO_ICMP) if version == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    )
    with inside(source.namespace, lambda: socket.socket(family, socket.SOCK_RAW, protocol)) as sock:
        try:
            sock.sendto(encode_request(version, ident, 1, _PAYLOAD), (str(target.address), 0))
        except OSError as err:
            raise LabError(f"{source.name} cannot send to {target.address}: {err.strerror}") from None


def _meaning(topology: Topology, frame: Frame, pods: tuple[Pod, Pod]) -> str:
    """What happens there, from what the frame shows."""
    here, device = frame.namespace, frame.device
    sending = here in (pods[0].namespace, topology.node_of(pods[0]).namespace)
    if here == pods[0].namespace:
        return "leaves the pod by its default route"
    if here == pods[1].namespace:
        return "arrives in the pod"
    if here == topology.router:
        crosses = "into" if not frame.outgoing else "out of"
        return f"{crosses} the underlay's {'bridge' if device.startswith('link') else 'port'} {device}"
    if device in (POD_BRIDGE, "docker0"):
        return "arrives at the pods' bridge, the node's gateway for them" if sending else "goes to the pods' bridge"
    if device == "eth0":
        wrapped = "wrapped in VXLAN" if frame.packet.inner is not None else "as it is, by a plain route"
        peer = next((n for n in topology.nodes if any(a.ip == frame.packet.dst for a in n.addresses)), None)
        to = f", to {peer.name}" if peer is not None else ""
        return f"leaves the node {wrapped}{to}" if frame.outgoing else f"reaches the node {wrapped}"
    if device.startswith("veth"):
        return "comes from the pod" if sending else "goes to the pod"
    return f"routed into {device}, to be wrapped" if frame.outgoing else f"unwrapped, comes out of {device}"
