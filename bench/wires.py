"""What the bench adds to a lab's wiring: it goes with the lab's namespaces."""

import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Sequence

from bench.peers import SBIN
from flanneld_py.errors import FlannelError
from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.topology import UNDERLAY_MTU, Topology
from flanneld_py.lab.wiring import POD_BRIDGE

BARE, FREE = "bare0", "free0"
_BARE_ENDS = ("192.0.2.1", "192.0.2.2")
_FREE_ENDS = ("198.51.100.1", "198.51.100.2")
"""RFC 5737: for documentation, hence in no lab's network."""
BIG_BYTES = 196_608
"""Of the largest TCP packet on the free veth: three times what a device is usually given."""
_IFLA_GSO_IPV4_MAX_SIZE, _IFLA_GRO_IPV4_MAX_SIZE = 63, 64
_RTM_NEWLINK, _NLM_F_REQUEST, _NLM_F_ACK = 16, 1, 4
"""include/uapi/linux/if_link.h, rtnetlink.h, netlink.h; the first two since Linux 6.3, and later in ip(8)."""


def ip(namespace: str, *words: str) -> None:
    """Run ip(8) in the namespace. FlannelError with what it says if it fails."""
    program = shutil.which("ip", path=os.pathsep.join((os.environ.get("PATH", ""), *SBIN)))
    if program is None:
        raise FlannelError("the program ip is missing", hint="apt install iproute2")
    result = subprocess.run([program, "-n", namespace, *words], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise FlannelError(f"ip {' '.join(words)} in {namespace}: {result.stderr.strip()}")


def bare_veth(topology: Topology) -> tuple[str, int]:
    """Connect the two pods with nothing between them: the second one's address, and the MTU."""
    return _connect(topology, BARE, _BARE_ENDS), UNDERLAY_MTU


def free_veth(topology: Topology) -> str:
    """Connect the two pods once more, so that packets cost the devices as little as can be: the second one's address.

    TCP packets may be larger than 64 KiB (BIG TCP), where the kernel can. What passes here is what the generator of
    load is able to do, while a plain veth is busy with packets before the generator is.
    """
    address = _connect(topology, FREE, _FREE_ENDS)
    for pod in topology.pods:
        inside(pod.namespace, lambda: _raise_packets(FREE))
    return address


def _connect(topology: Topology, device: str, ends: Sequence[str]) -> str:
    one, other = (pod.namespace for pod in topology.pods)
    mtu = str(UNDERLAY_MTU)
    ip(one, *("link", "add", device, "mtu", mtu, "type", "veth", "peer", "name", device, "mtu", mtu, "netns", other))
    for namespace, address in zip((one, other), ends, strict=True):
        ip(namespace, "address", "add", f"{address}/30", "dev", device)
        ip(namespace, "link", "set", device, "up")
    return ends[1]


def _raise_packets(device: str) -> None:
    """Ask for larger TCP packets; a kernel that knows none leaves the device as it is."""
    attributes = b"".join(
        struct.pack("=HHI", 8, kind, BIG_BYTES) for kind in (_IFLA_GSO_IPV4_MAX_SIZE, _IFLA_GRO_IPV4_MAX_SIZE)
    )
    body = struct.pack("=BxHiII", 0, 0, socket.if_nametoindex(device), 0, 0) + attributes
    header = struct.pack("=IHHII", 16 + len(body), _RTM_NEWLINK, _NLM_F_REQUEST | _NLM_F_ACK, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.send(header + body)
        sock.recv(4096)


def capped_pods(topology: Topology, mtu: int) -> None:
    """Give pods, and the bridges they are on, the MTU of a tunnel that the daemon does not know."""
    for pod in topology.pods:
        ip(pod.namespace, "link", "set", "eth0", "mtu", str(mtu))
    for node in topology.nodes:
        ip(node.namespace, "link", "set", POD_BRIDGE, "mtu", str(mtu))
