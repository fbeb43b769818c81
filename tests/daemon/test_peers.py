"""Peers come, change and go, in etcd, in any order: the kernel holds what the leases say, and nothing else."""

import json
import random

import pytest

from flanneld_py.lab.topology import LabSpec, Stack, Underlay
from tests.daemon.conftest import FieldOf, fresh_name
from tests.daemon.field import Field, Tables, addresses, ip_json, link, peer_value, tables, wait_tables
from tests.waiting import eventually

MAC, MAC2 = "02:00:00:00:aa:01", "02:00:00:00:aa:02"
PUBLIC, PUBLIC2 = "172.18.1.201", "172.18.1.202"
PEER, PEER2 = "10.244.201.0/24", "10.244.202.0/24"


def key(subnet: str) -> str:
    return subnet.replace("/", "-")


def put(field: Field, subnet: str, public: str, mac: str, **more: object) -> None:
    field.put(key(subnet), peer_value(public, mac, **more))  # type: ignore[arg-type]


def leave(field: Field, *subnets: str) -> None:
    """The peers go, whatever they were."""
    for subnet in subnets:
        if key(subnet) in field.leases():
            field.delete_lease(key(subnet))
    wait_tables(field.namespace(1), field.base_tables(1))


def problems(field: Field, subnet: str) -> list[str]:
    return next((p["problems"] for p in field.ask(1)["peer_list"] if p["subnets"] == [subnet]), ["no such peer"])


def wait_problems(field: Field, subnet: str) -> None:
    eventually(f"{subnet} is told", lambda: problems(field, subnet) not in ([], ["no such peer"]))


def test_a_peer_that_changes_leaves_nothing_stale(field: Field) -> None:
    base, space = field.base_tables(1), field.namespace(1)
    put(field, PEER, PUBLIC, MAC)
    wait_tables(space, base.with_peer(PEER, MAC, PUBLIC))
    put(field, PEER, PUBLIC, MAC2)
    wait_tables(space, base.with_peer(PEER, MAC2, PUBLIC))
    put(field, PEER, PUBLIC2, MAC2)
    wait_tables(space, base.with_peer(PEER, MAC2, PUBLIC2))
    put(field, PEER, PUBLIC, MAC)
    wait_tables(space, base.with_peer(PEER, MAC, PUBLIC))
    put(field, PEER, PUBLIC, MAC, backend="host-gw")
    wait_tables(space, base)
    assert problems(field, PEER) == ["it runs the backend host-gw, we run vxlan"]
    put(field, PEER, PUBLIC, MAC, vni=9)
    eventually("it says so", lambda: problems(field, PEER) == ["it uses VNI 9, we use 1"])
    assert tables(space) == base
    put(field, PEER, PUBLIC, MAC)
    wait_tables(space, base.with_peer(PEER, MAC, PUBLIC))
    leave(field, PEER)


def test_two_peers_exchange_their_macs(field: Field) -> None:
    base, space = field.base_tables(1), field.namespace(1)
    put(field, PEER, PUBLIC, MAC)
    put(field, PEER2, PUBLIC2, MAC2)
    wait_tables(space, base.with_peer(PEER, MAC, PUBLIC).with_peer(PEER2, MAC2, PUBLIC2))
    put(field, PEER, PUBLIC, MAC2)
    put(field, PEER2, PUBLIC2, MAC)
    wait_tables(space, base.with_peer(PEER, MAC2, PUBLIC).with_peer(PEER2, MAC, PUBLIC2))
    leave(field, PEER, PEER2)


@pytest.mark.parametrize("first", [PEER, PEER2])
def test_of_two_peers_with_one_mac_one_is_reached_and_the_other_told(field: Field, first: str) -> None:
    """Which one does not depend on the order; when it goes the other takes over."""
    base, space = field.base_tables(1), field.namespace(1)
    publics = {PEER: PUBLIC, PEER2: PUBLIC2}
    for subnet in sorted(publics, key=lambda subnet: subnet != first):
        put(field, subnet, publics[subnet], MAC)
    eventually("the clash is told", lambda: "which" in "".join(problems(field, PEER2)))
    wait_tables(space, base.with_peer(PEER, MAC, PUBLIC))
    field.delete_lease(key(PEER))
    wait_tables(space, base.with_peer(PEER2, MAC, PUBLIC2))
    assert problems(field, PEER2) == []
    leave(field, PEER2)


def test_a_peer_with_our_own_mac_or_address_harms_nobody(field: Field) -> None:
    base, space = field.base_tables(1), field.namespace(1)
    put(field, PEER, PUBLIC, field.mac(1))
    eventually("it is told", lambda: problems(field, PEER) == [f"it publishes our own VTEP MAC {field.mac(1)}"])
    assert tables(space) == base
    put(field, PEER, field.public(1), MAC)
    eventually("it is told", lambda: "our" in "".join(problems(field, PEER)), lambda: problems(field, PEER))
    assert tables(space) == base
    leave(field, PEER)


def test_a_peer_that_covers_others_harms_nobody(field: Field) -> None:
    """A lease as wide as the network, or over our own subnet, would take everybody's traffic."""
    base, space = field.base_tables(1), field.namespace(1)
    own = field.subnets(1)[0].replace("/24", "/25")
    for subnet in (own, "10.99.0.0/24"):
        put(field, subnet, PUBLIC, MAC)
        wait_problems(field, subnet)
        assert tables(space) == base
        leave(field, subnet)


def test_changes_while_our_daemon_is_down_leave_nothing_stale(field: Field) -> None:
    base, space = field.base_tables(1), field.namespace(1)
    index = link(space, "flannel.1")["ifindex"]
    third, mac3, public3 = "10.244.203.0/24", "02:00:00:00:aa:03", "172.18.1.203"
    put(field, PEER, PUBLIC, MAC)
    put(field, PEER2, PUBLIC2, MAC2)
    wait_tables(space, base.with_peer(PEER, MAC, PUBLIC).with_peer(PEER2, MAC2, PUBLIC2))
    field.lab.stop_daemon(field.node(1), hard=True)
    field.delete_lease(key(PEER))
    put(field, PEER2, PUBLIC2, MAC)  # with the MAC of the one that left
    put(field, third, public3, mac3)
    assert tables(space) == base.with_peer(PEER, MAC, PUBLIC).with_peer(PEER2, MAC2, PUBLIC2)
    field.start(1, go=False)
    wait_tables(space, base.with_peer(PEER2, MAC, PUBLIC2).with_peer(third, mac3, public3))
    assert link(space, "flannel.1")["ifindex"] == index
    leave(field, PEER2, third)


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_changes_ends_with_what_the_leases_say(field: Field, seed: int) -> None:
    """Puts and deletes at random, faster than a pass; MACs and addresses move between the peers."""
    rng = random.Random(seed)
    base, space = field.base_tables(1), field.namespace(1)
    subnets = [f"10.244.{number}.0/24" for number in range(210, 216)]
    macs = [f"02:00:00:00:bb:{number:02x}" for number in range(6)]
    living: dict[str, tuple[str, str]] = {}
    for _ in range(40):
        subnet = rng.choice(subnets)
        if subnet in living and rng.random() < 0.4:
            del living[subnet]
            field.delete_lease(key(subnet))
        else:
            free = [mac for mac in macs if all(mac != other for s, (other, _) in living.items() if s != subnet)]
            living[subnet] = (rng.choice(free), f"172.18.1.{rng.randrange(210, 220)}")
            put(field, subnet, living[subnet][1], living[subnet][0])
    wanted = base
    for subnet, (mac, public) in living.items():
        wanted = wanted.with_peer(subnet, mac, public)
    wait_tables(space, wanted)
    leave(field, *living)


def test_direct_routing_is_decided_anew_when_the_underlay_changes(field_of: FieldOf) -> None:
    spec = LabSpec(name=fresh_name(), pods=1, underlay=Underlay.ROUTED, backend_options=(("DirectRouting", True),))
    field = field_of(spec)
    space = field.namespace(1)
    near, far = field.subnets(2)[0], field.subnets(3)[0]
    macs = {2: field.mac(2), 3: field.mac(3)}
    wanted = Tables().with_direct(near, field.public(2)).with_peer(far, macs[3], field.public(3))
    wait_tables(space, wanted)
    assert field.lost_pings() == {}
    with field.probe("pod1-1", "pod2-1") as probe:
        assert probe.wait_for(20, 10)
        field.hand(1, f"route add {field.public(2)} via {field.node(1).link.gateways[0].ip}")
        routed = Tables().with_peer(near, macs[2], field.public(2)).with_peer(far, macs[3], field.public(3))
        wait_tables(space, routed)
        field.hand(1, f"route del {field.public(2)}")
        wait_tables(space, wanted)
        assert probe.wait_for(20, 10)
        report = probe.stop()
    assert (report.lost, report.unsent) == ((), ())
    assert field.lost_pings() == {}
    # A route that says "on link" makes the far peer direct: a link of its own between the two would look so.
    field.hand(1, f"route add {field.public(3)} dev eth0")
    wait_tables(space, Tables().with_direct(near, field.public(2)).with_direct(far, field.public(3)))


def test_host_gw_tells_of_a_peer_behind_a_router_and_takes_it_when_it_moves(field_of: FieldOf) -> None:
    field = field_of(LabSpec(name=fresh_name(), nodes=2, pods=1, backend="host-gw", stack=Stack.DUAL))
    space = field.namespace(1)
    wanted = Tables()
    for version, subnet in zip((4, 6), field.subnets(2), strict=True):
        wanted = wanted.with_direct(subnet, field.public(2, version))
    wait_tables(space, wanted)
    assert field.lost_pings() == {}
    far = '{"PublicIP": "172.18.9.1", "PublicIPv6": "fd00:172:18:9::1", "BackendType": "host-gw"}'
    field.put("10.244.201.0-24&fd00:10:244:201::-64", far)
    eventually("it is told", lambda: "behind a router" in json.dumps(field.ask(1)), lambda: field.ask(1))
    assert tables(space) == wanted
    field.hand(1, "route add 172.18.9.0/24 dev eth0")
    field.hand(1, "-6 route add fd00:172:18:9::/64 dev eth0")
    moved = wanted.with_direct("10.244.201.0/24", "172.18.9.1")
    wait_tables(space, moved.with_direct("fd00:10:244:201::/64", "fd00:172:18:9::1"))
    field.hand(1, "link set eth0 down")
    field.hand(1, "link set eth0 up")
    for address in field.node(1).addresses:
        field.hand(1, f"addr replace {address} dev eth0 nodad")
    wait_tables(space, wanted)
    assert field.lost_pings() == {}


@pytest.mark.parametrize(("backend", "stack"), [("vxlan", Stack.IPV6), ("vxlan", Stack.DUAL), ("host-gw", Stack.IPV6)])
def test_a_deleted_device_and_route_of_ipv6_are_repaired(field_of: FieldOf, backend: str, stack: Stack) -> None:
    underlay = Underlay.ROUTED if backend == "vxlan" else Underlay.L2
    field = field_of(LabSpec(name=fresh_name(), pods=1, backend=backend, stack=stack, underlay=underlay))
    space = field.namespace(1)
    field.wait_settled()
    assert field.lost_pings() == {}
    before = tables(space)
    if backend == "vxlan":
        assert link(space, "flannel-v6.1")["mtu"] == 1430
        assert addresses(space, "flannel-v6.1") == {field.subnets(1)[-1].replace("/64", "/128")}
        assert field.mtu(1) == 1430
        field.hand(1, "link del flannel-v6.1")
    field.hand(1, "-6 route flush proto 241")
    wait_tables(space, before)
    assert field.lost_pings() == {}


def test_alloc_only_leases(field_of: FieldOf) -> None:
    field = field_of(LabSpec(name=fresh_name(), nodes=2, pods=1, backend="alloc"))
    assert field.subnets(1) != field.subnets(2)
    assert tables(field.namespace(1)) == Tables()
    links = {one["ifname"] for one in ip_json(field.namespace(1), "link", "show")}
    assert len([name for name in links if name.startswith("veth")]) == 1, "the pod's, made by the CNI plugin"
    assert {name for name in links if not name.startswith("veth")} == {"lo", "eth0", "cni0"}
    assert field.mtu(1) == 1500
