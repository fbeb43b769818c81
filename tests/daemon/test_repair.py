"""A hand in the kernel under a running daemon: what is ours is put right for all peers, what is not is left alone."""

import json
from contextlib import ExitStack

import pytest

from tests.daemon.field import (
    Field,
    addresses,
    ip,
    ip_json,
    link,
    overlay_devices,
    paused,
    tables,
    wait_tables,
)
from tests.waiting import eventually

DAMAGE = {
    "a route deleted": "ip route del {subnet2}",
    "all routes deleted": "ip route flush proto 241",
    "a neighbour deleted": "ip neigh del {base2} dev flannel.1",
    "a neighbour changed": "ip neigh replace {base2} lladdr 02:00:00:00:00:99 dev flannel.1 nud permanent",
    "a neighbour no longer permanent": "ip neigh replace {base2} lladdr 02:00:00:00:00:99 dev flannel.1 nud stale",
    "an FDB entry deleted": "bridge fdb del {mac2} dev flannel.1 dst {public2}",
    "an FDB entry changed": "bridge fdb replace {mac2} dev flannel.1 dst 172.18.1.250 self permanent",
    "a stranger's neighbour on our device": (
        "ip neigh add 10.244.250.0 lladdr 02:00:00:00:00:98 dev flannel.1 nud permanent"
    ),
    "a stranger's FDB entry on our device": (
        "bridge fdb add 02:00:00:00:00:97 dev flannel.1 dst 172.18.1.251 self permanent"
    ),
    "a route with our mark that nobody wants": "ip route add 10.244.251.0/24 via 172.18.1.12 proto 241",
    "a peer's route to elsewhere": "ip route replace {subnet2} via 172.18.1.13 dev eth0",
    "a peer's route without onlink gateway": "ip route replace {subnet2} dev flannel.1",
    "a blackhole in the way": "ip route replace blackhole {subnet2}",
    "the address deleted": "ip addr del {own} dev flannel.1",
    "another address on our device": "ip addr add 10.244.252.1/24 dev flannel.1",
    "the device deleted": "ip link del flannel.1",
    "the device down": "ip link set flannel.1 down",
    "the device down and up": "ip link set flannel.1 down; ip link set flannel.1 up",
    "another MTU": "ip link set flannel.1 mtu 1300",
    "another MAC": "ip link set flannel.1 address 02:00:00:00:00:96",
    "our mark removed": "ip link set flannel.1 alias somebody",
    "a device of another kind": "ip link del flannel.1; ip link add flannel.1 type bridge; ip link set flannel.1 up",
    "another VNI": "ip link del flannel.1; ip link add flannel.1 type vxlan id 7 dstport 8472 dev eth0 local {public1}",
    "the underlay down and up": "ip link set eth0 down; ip link set eth0 up; ip route add default via 172.18.1.1",
}


def state(field: Field) -> dict[str, object]:
    """All that node 1 should hold, as the kernel shows it."""
    space = field.namespace(1)
    found = link(space, "flannel.1")
    return {
        "tables": tables(space),
        "devices": overlay_devices(space),
        "mac": found.get("address"),
        "mtu": found.get("mtu"),
        "alias": found.get("ifalias"),
        "up": "UP" in found.get("flags", ()),
        "vxlan": found.get("linkinfo", {}).get("info_data"),
        "addresses": addresses(space, "flannel.1") if found else None,
    }


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_repaired_for_every_peer(field: Field, damage: str) -> None:
    before = state(field)
    assert before["tables"] == field.base_tables(1)
    (subnet,) = field.subnets(2)
    words = {
        "subnet2": subnet,
        "base2": subnet.partition("/")[0],
        "mac2": field.mac(2),
        "public1": field.public(1),
        "public2": field.public(2),
        "own": field.subnets(1)[0].replace("/24", "/32"),
    }
    commands = DAMAGE[damage].format(**words).split("; ")
    with ExitStack() as stack:
        if len(commands) > 1:
            # It repairs faster than a hand can go on.
            stack.enter_context(paused(field.daemon(1)))
        for command in commands:
            tool, _, rest = command.partition(" ")
            field.hand(1, rest, tool)
    eventually(f"repaired: {damage}", lambda: state(field) == before, lambda: (state(field), before))
    eventually("the daemon is content", lambda: field.ask(1)["error"] is None, lambda: field.ask(1))
    assert field.ask(1)["ops"] == []
    assert field.lost_pings() == {}


def test_routes_of_others_are_left_alone(field: Field) -> None:
    """Outside the network, and inside it where they are in nobody's way."""
    space = field.namespace(1)
    foreign = ["10.99.0.0/24", "10.244.253.0/24", "10.244.0.0/15"]
    for dst in foreign:
        field.hand(1, f"route add {dst} via 172.18.1.1")
    try:
        field.hand(1, "link del flannel.1")
        wait_tables(space, field.base_tables(1))
        there = {route["dst"] for route in ip_json(space, "-4", "route", "show")}
        assert there >= set(foreign)
    finally:
        for dst in foreign:
            field.hand(1, f"route del {dst}")


def test_a_foreign_route_is_no_difference(field: Field) -> None:
    field.hand(1, "route add 10.244.253.0/24 via 172.18.1.1")
    try:
        assert field.ask(1)["ops"] == []
    finally:
        field.hand(1, "route del 10.244.253.0/24")


def test_status_shows_every_peer_and_its_path(field: Field) -> None:
    done = field.call(1, "status", f"--subnet-file={field.folder(1)}/subnet.env")
    assert (done.returncode, done.stderr) == (0, "")
    assert "all as wanted" in done.stdout
    for number in (2, 3):
        row = next(line.split() for line in done.stdout.splitlines() if line.startswith(field.subnets(number)[0]))
        assert row[1:] == [field.public(number), "vxlan", "ok"]
    report = json.loads(field.call(1, "status", "-o", "json", f"--subnet-file={field.folder(1)}/subnet.env").stdout)
    assert {tuple(peer["subnets"]) for peer in report["peer_list"]} == {field.subnets(2), field.subnets(3)}


def test_the_mtu_of_the_underlay_is_followed(field: Field) -> None:
    try:
        field.hand(1, "link set eth0 mtu 1400")
        eventually("the device follows", lambda: link(field.namespace(1), "flannel.1").get("mtu") == 1350)
        eventually("subnet.env follows", lambda: field.mtu(1) == 1350)
        assert "MTU of eth0 changed from 1500 to 1400" in field.log(1)
    finally:
        field.hand(1, "link set eth0 mtu 1500")
    eventually("back again", lambda: (link(field.namespace(1), "flannel.1").get("mtu"), field.mtu(1)) == (1450, 1450))
    assert tables(field.namespace(1)) == field.base_tables(1)


def test_an_mtu_too_small_for_pods_is_not_followed(field: Field) -> None:
    """A slip of the hand on the underlay must not end the daemon."""
    try:
        field.hand(1, "link set eth0 mtu 100")
        eventually("it warns", lambda: field.ask(1)["warnings"], lambda: field.log(1))
        (warning,) = field.ask(1)["warnings"]
        assert warning.startswith("MTU of eth0 is 100, and the overlay keeps to 1500")
        assert field.mtu(1) == 1450
    finally:
        field.hand(1, "link set eth0 mtu 1500")
    eventually("the warning goes", lambda: field.ask(1)["warnings"] == [], lambda: field.ask(1)["warnings"])
    wait_tables(field.namespace(1), field.base_tables(1))
    assert field.ask(1)["stage"] == "ready"


def test_an_external_interface_that_is_made_anew_is_taken_up(field: Field) -> None:
    """The kernel removes the VXLAN device with the interface below it."""
    node, space = field.node(1), field.namespace(1)
    field.hand(1, "link del eth0")
    eventually("the trouble is told", lambda: field.ask(1)["blocked"], lambda: field.ask(1))
    assert field.ask(1)["error"].startswith("cannot ")
    router = field.lab.topology.router
    ip(router, f"link add {node.port} type veth peer name eth0 netns {space}")
    ip(router, f"link set {node.port} master {node.link.name} up")
    field.hand(1, f"link set eth0 address {node.mac}")
    field.hand(1, f"addr add {node.addresses[0]} dev eth0")
    field.hand(1, "link set eth0 up")
    field.hand(1, f"route add default via {node.link.gateways[0].ip}")
    wait_tables(space, field.base_tables(1))
    eventually("the trouble is over", lambda: field.ask(1)["error"] is None, lambda: field.ask(1))
    assert field.ask(1)["warnings"] == []
    eventually("etcd is there again", lambda: field.ask(1)["store_ok"], lambda: field.ask(1))
    assert field.lost_pings() == {}


def test_an_address_that_leaves_the_external_interface_is_told(field: Field) -> None:
    address = field.node(1).addresses[0]
    field.hand(1, f"addr del {address} dev eth0")
    try:
        eventually("it is told", lambda: field.ask(1)["warnings"], lambda: field.ask(1))
        (warning,) = field.ask(1)["warnings"]
        assert warning.startswith(f"{address.ip} is no longer an address of eth0")
    finally:
        field.hand(1, f"addr add {address} dev eth0")
        field.hand(1, f"route replace default via {field.node(1).link.gateways[0].ip}")
    eventually("the warning goes", lambda: field.ask(1)["warnings"] == [], lambda: field.ask(1)["warnings"])
    eventually("etcd is there again", lambda: field.ask(1)["store_ok"], lambda: field.ask(1))
