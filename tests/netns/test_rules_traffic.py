"""What the rules do to real packets: the far side tells from which address they came.

pod 10.244.1.5 -- cni0 [node] eth0 192.0.2.1 ---- 192.0.2.2 outside
                       [node] eth1 198.51.100.1 -- 198.51.100.2 peer, with its pod 10.244.2.5
"""

import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network

import pytest

from flanneld_py.firewall.plan import RuleWish, rule_plan
from flanneld_py.model.entry import Desired, Scope
from flanneld_py.model.ruleset import Engine
from flanneld_py.netfilter.applier import PacketFilter
from flanneld_py.netlink.netns import in_netns
from flanneld_py.reconcile.diff import diff
from tests.netns.space import Namespace, _fresh

PORT = 9000
_SO_MARK = 36
KUBE = 0x4000


@dataclass(frozen=True)
class Plan:
    """Addresses of one family."""

    network: str
    subnet: str
    bridge: str
    pod: str
    node: str
    outside: str
    node_to_peer: str
    peer: str
    peer_pod: str
    multicast: str
    length: int

    @property
    def family(self) -> int:
        return socket.AF_INET6 if ":" in self.pod else socket.AF_INET

    def tool(self, engine: Engine) -> str:
        base = engine.value if engine is not Engine.NFT else "iptables-nft"
        return base if self.family == socket.AF_INET else base.replace("ip", "ip6", 1)


PLANS = {
    4: Plan(
        *("10.244.0.0/16", "10.244.1.0/24", "10.244.1.1", "10.244.1.5", "192.0.2.1", "192.0.2.2"),
        *("198.51.100.1", "198.51.100.2", "10.244.2.5", "239.1.1.1"),
        length=24,
    ),
    6: Plan(
        *("fd00:10:244::/56", "fd00:10:244:1::/64", "fd00:10:244:1::1", "fd00:10:244:1::5", "2001:db8:1::1"),
        *("2001:db8:1::2", "2001:db8:2::1", "2001:db8:2::2", "fd00:10:244:2::5", "ff05::7"),
        length=64,
    ),
}


@dataclass(frozen=True)
class Stage:
    plan: Plan
    node: Namespace
    pod: Namespace
    outside: Namespace
    peer: Namespace

    def shell(self, text: str) -> None:
        command = ["ip", "netns", "exec", self.node.name, "sh", "-ec", text]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, f"{text}: {done.stderr}"

    async def rules(self, engine: Engine, *, masquerade: bool = True, forward: bool = True) -> None:
        plan = rule_plan(
            RuleWish(engine, masquerade=masquerade, forward=forward),
            (ip_network(self.plan.network),),
            (ip_network(self.plan.subnet),),
        )
        desired = Desired({entry.key: entry for entry in plan}, Scope(instance=""))
        packet_filter = PacketFilter(netns=self.node.path)
        try:
            assert await packet_filter.apply(diff(desired.entries, await packet_filter.known(desired))) == []
        finally:
            packet_filter.close()

    def bound(self, space: Namespace, address: str = "", port: int = 0) -> socket.socket:
        def make() -> socket.socket:
            sock = socket.socket(self.plan.family, socket.SOCK_DGRAM)
            sock.bind((address, port))
            return sock

        sock = in_netns(space.path, make)
        sock.settimeout(5)
        return sock

    def seen(
        self,
        sender: Namespace,
        receiver: Namespace,
        to: str,
        *,
        source: str = "",
        mark: int = 0,
        port: int = PORT,
        at: str | None = None,
    ) -> str | None:
        """The address from which the receiver gets a packet; None: it gets none. The answer must come back.

        `at`: where it listens, if not at the address `to`.
        """
        with self.bound(receiver, to if at is None else at, PORT) as server, self.bound(sender, source) as client:
            if mark:
                client.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
            if to == self.plan.multicast:
                self._join(server, client)
            server.settimeout(0.5)
            for _ in range(4):  # the first may wait in vain for a neighbour's answer
                client.sendto(b"who am I", (to, port))
                try:
                    _, address = server.recvfrom(100)
                except TimeoutError:
                    continue
                if to != self.plan.multicast:
                    server.sendto(b"this", address)
                    assert client.recvfrom(100)[0] == b"this"
                return str(address[0])
        return None

    def _join(self, server: socket.socket, client: socket.socket) -> None:
        """Let the server hear the group on its link to the node, and the client send there."""
        index = in_netns(self.outside.path, lambda: socket.if_nametoindex("up0"))
        through = in_netns(self.node.path, lambda: socket.if_nametoindex("eth0"))
        group = socket.inet_pton(self.plan.family, self.plan.multicast)
        if self.plan.family == socket.AF_INET:
            request = group + bytes(4) + index.to_bytes(4, "little")
            server.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
            client.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, bytes(8) + through.to_bytes(4, "little"))
        else:
            request = group + index.to_bytes(4, "little")
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
            client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, through)
            client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 3)


@pytest.fixture(params=PLANS, ids=lambda version: f"v{version}")
def stage(request: pytest.FixtureRequest, no_leftovers: None) -> Iterator[Stage]:
    plan = PLANS[request.param]
    with _fresh() as node, _fresh() as pod, _fresh() as outside, _fresh() as peer:
        made = Stage(plan, node, pod, outside, peer)
        for space in (node, pod, outside, peer):
            # Neighbours are asked from the link-local address, which otherwise is tentative for a second or two.
            _no_dad(space)
        made.shell(_node_script(plan, pod.name, outside.name, peer.name))
        _end(pod, "eth0", f"{plan.pod}/{plan.length}", plan.bridge)
        _end(outside, "up0", f"{plan.outside}/{plan.length}", plan.node)
        _end(peer, "up0", f"{plan.peer}/{plan.length}", plan.node_to_peer)
        peer.ip("addr", "add", plan.peer_pod, "dev", "lo")
        made.shell(f"ip route add {plan.peer_pod} via {plan.peer}")
        yield made


def _node_script(plan: Plan, pod: str, outside: str, peer: str) -> str:
    return "; ".join(
        (
            "echo 1 > /proc/sys/net/ipv4/ip_forward",
            "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
            "ip link add cni0 type bridge",
            "ip link set cni0 up",
            f"ip link add veth0 master cni0 up type veth peer name eth0 netns {pod}",
            f"ip link add eth0 up type veth peer name up0 netns {outside}",
            f"ip link add eth1 up type veth peer name up0 netns {peer}",
            f"ip addr add {plan.bridge}/{plan.length} dev cni0 nodad",
            f"ip addr add {plan.node}/{plan.length} dev eth0 nodad",
            f"ip addr add {plan.node_to_peer}/{plan.length} dev eth1 nodad",
        )
    )


def _no_dad(space: Namespace) -> None:
    text = "for each in all default; do echo 0 > /proc/sys/net/ipv6/conf/$each/accept_dad; done"
    subprocess.run(["ip", "netns", "exec", space.name, "sh", "-ec", text], check=True, timeout=30)


def _end(space: Namespace, dev: str, address: str, gateway: str) -> None:
    space.ip("link", "set", dev, "up")
    space.ip("addr", "add", address, "dev", dev, "nodad")
    space.ip("route", "add", "default", "via", gateway)


async def test_without_rules_every_address_stays(stage: Stage) -> None:
    """What the other tests rely on: nothing but the rules changes an address."""
    plan = stage.plan
    assert stage.seen(stage.pod, stage.outside, plan.outside) == plan.pod
    assert stage.seen(stage.node, stage.peer, plan.peer_pod, source=plan.node) == plan.node


@pytest.mark.parametrize("engine", Engine)
async def test_who_is_masqueraded(stage: Stage, engine: Engine) -> None:
    plan = stage.plan
    await stage.rules(engine)
    found = {
        "pod to pod": stage.seen(stage.pod, stage.peer, plan.peer_pod),
        "pod to pod, the other way": stage.seen(stage.peer, stage.pod, plan.pod, source=plan.peer_pod),
        "pod to outside": stage.seen(stage.pod, stage.outside, plan.outside),
        "outside to own pod": stage.seen(stage.outside, stage.pod, plan.pod),
        "host to own pod": stage.seen(stage.node, stage.pod, plan.pod, source=plan.node),
        "host to a peer's pod": stage.seen(stage.node, stage.peer, plan.peer_pod, source=plan.node),
        "host to outside": stage.seen(stage.node, stage.outside, plan.outside),
    }
    assert found == {
        "pod to pod": plan.pod,
        "pod to pod, the other way": plan.peer_pod,
        "pod to outside": plan.node,
        "outside to own pod": plan.outside,
        "host to own pod": plan.node,
        "host to a peer's pod": plan.node_to_peer,
        "host to outside": plan.node,
    }


@pytest.mark.parametrize("engine", Engine)
async def test_what_kube_proxy_marked_is_left_to_it_whatever_else_is_in_the_mark(stage: Stage, engine: Engine) -> None:
    plan = stage.plan
    await stage.rules(engine)
    for mark, source in ((KUBE, plan.bridge), (KUBE | 0x1, plan.bridge), (0x8000, plan.node), (0, plan.node)):
        found = stage.seen(stage.node, stage.outside, plan.outside, source=plan.bridge, mark=mark)
        assert found == source, f"mark {mark:#x}"


@pytest.mark.parametrize("engine", Engine)
async def test_multicast_keeps_its_address(stage: Stage, engine: Engine) -> None:
    plan = stage.plan
    await stage.rules(engine)
    assert stage.seen(stage.node, stage.outside, plan.multicast, source=plan.bridge, at="") == plan.bridge


@pytest.mark.parametrize("engine", Engine)
async def test_a_node_port_to_a_pod_elsewhere_works(stage: Stage, engine: Engine) -> None:
    """As kube-proxy does it: mark and DNAT before routing, masquerade of what is marked after it."""
    plan, tool = stage.plan, stage.plan.tool(engine)
    to = f"[{plan.peer_pod}]:{PORT}" if plan.family == socket.AF_INET6 else f"{plan.peer_pod}:{PORT}"
    stage.shell(
        f"{tool} -t nat -A PREROUTING -p udp --dport 30080 -j MARK --set-xmark {KUBE:#x}/{KUBE:#x}; "
        f"{tool} -t nat -A PREROUTING -p udp --dport 30080 -j DNAT --to-destination {to}"
    )
    await stage.rules(engine)
    stage.shell(f"{tool} -t nat -A POSTROUTING -m mark --mark {KUBE:#x}/{KUBE:#x} -j MASQUERADE")
    assert stage.seen(stage.outside, stage.peer, plan.node, port=30080, at=plan.peer_pod) == plan.node_to_peer


@pytest.mark.parametrize("engine", [Engine.IPTABLES_NFT, Engine.IPTABLES_LEGACY])
async def test_forward_rules_beat_the_policy_drop(stage: Stage, engine: Engine) -> None:
    plan = stage.plan
    stage.shell(f"{plan.tool(engine)} -P FORWARD DROP")
    assert stage.seen(stage.pod, stage.peer, plan.peer_pod) is None
    await stage.rules(engine, masquerade=False)
    assert stage.seen(stage.pod, stage.peer, plan.peer_pod) == plan.pod
    assert stage.seen(stage.outside, stage.pod, plan.pod) == plan.outside
    await stage.rules(engine, forward=False)
    assert stage.seen(stage.pod, stage.peer, plan.peer_pod) is None


async def test_an_accept_of_ours_does_not_beat_a_drop_of_another_chain(stage: Stage) -> None:
    """The kernel's behaviour for which foreign chains are looked for."""
    plan = stage.plan
    await stage.rules(Engine.NFT)
    stage.shell("nft add table inet theirs; nft 'add chain inet theirs f { type filter hook forward priority 10; }'")
    assert stage.seen(stage.pod, stage.peer, plan.peer_pod) == plan.pod
    stage.shell("nft add rule inet theirs f reject")
    assert stage.seen(stage.pod, stage.outside, plan.outside) is None
