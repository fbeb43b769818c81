"""Another configuration at the next start: what was there before is replaced, and nothing of it stays."""

import json
from typing import Any

import pytest

from tests.daemon.conftest import Ground
from tests.daemon.field import Tables, call, ip, ip_json, link, overlay_devices, peer_value, tables, wait_tables

PEER, MAC, PUBLIC = "10.77.201.0/24", "02:00:00:00:aa:01", "172.18.1.201"


def config(network: str = "10.77.0.0/16", /, **backend: object) -> str:
    return json.dumps({"Network": network, "Backend": {"Type": "vxlan"} | backend})


def info(ground: Ground, dev: str) -> dict[str, Any]:
    return dict(link(ground.namespace(), dev)["linkinfo"]["info_data"])


@pytest.mark.parametrize(
    ("option", "value", "shown"),
    [("Port", 4789, {"port": 4789}), ("Learning", True, {"learning": True}), ("GBP", True, {"gbp": True})],
)
def test_an_option_of_the_device_is_applied_at_the_next_start(
    ground: Ground, option: str, value: object, shown: dict[str, object]
) -> None:
    ground.put("config", config())
    ground.put("subnets/10.77.201.0-24", peer_value(PUBLIC, MAC))
    daemon = ground.daemon().ready()
    wanted = Tables().with_peer(PEER, MAC, PUBLIC)
    wait_tables(daemon.namespace, wanted)
    before, mac = info(ground, "flannel.1"), link(daemon.namespace, "flannel.1")["address"]
    assert {key: before.get(key) for key in shown} != shown
    env = daemon.env()
    daemon.stop()
    ground.put("config", config(**{option: value}))
    daemon.ready()
    wait_tables(daemon.namespace, wanted)
    after = info(ground, "flannel.1")
    assert {key: after.get(key) for key in shown} == shown
    assert link(daemon.namespace, "flannel.1")["address"] == mac
    assert daemon.env() == env


def test_another_mtu_is_applied_without_a_new_device(ground: Ground) -> None:
    ground.put("config", config())
    daemon = ground.daemon().ready()
    index = link(daemon.namespace, "flannel.1")["ifindex"]
    daemon.stop()
    ground.put("config", config(MTU=1400))
    daemon.ready()
    found = link(daemon.namespace, "flannel.1")
    assert (found["ifindex"], found["mtu"], daemon.env()["FLANNEL_MTU"]) == (index, 1350, "1350")


def test_another_vni_removes_the_old_device(ground: Ground) -> None:
    ground.put("config", config())
    ground.put("subnets/10.77.201.0-24", peer_value(PUBLIC, MAC))
    daemon = ground.daemon().ready()
    wait_tables(daemon.namespace, Tables().with_peer(PEER, MAC, PUBLIC))
    daemon.stop()
    ground.put("config", config(VNI=7))
    ground.put("subnets/10.77.201.0-24", peer_value(PUBLIC, MAC, vni=7))
    daemon.ready()
    wait_tables(daemon.namespace, Tables().with_peer(PEER, MAC, PUBLIC, dev="flannel.7"))
    assert overlay_devices(daemon.namespace) == {"flannel.7"}
    assert info(ground, "flannel.7")["id"] == 7


def test_vxlan_to_host_gw_and_back(ground: Ground) -> None:
    ground.put("config", config())
    for number, kind in ((201, "vxlan"), (202, "host-gw")):
        value = peer_value(f"172.18.1.{number}", f"02:00:00:00:aa:{number - 200:02}", backend=kind)
        ground.put(f"subnets/10.77.{number}.0-24", value)
    tunnel = Tables().with_peer(PEER, MAC, PUBLIC)
    plain = Tables().with_direct("10.77.202.0/24", "172.18.1.202")
    daemon = ground.daemon()
    for _ in range(2):
        daemon.ready()
        wait_tables(daemon.namespace, tunnel)
        env = daemon.env()
        daemon.stop()
        ground.put("config", config(Type="host-gw"))
        daemon.ready()
        wait_tables(daemon.namespace, plain)
        assert overlay_devices(daemon.namespace) == set()
        assert daemon.env() == env | {"FLANNEL_MTU": "1500"}
        daemon.stop()
        ground.put("config", config())


@pytest.mark.parametrize("kind", ["vxlan", "host-gw"])
def test_another_network_removes_the_routes_of_the_old_one(ground: Ground, kind: str) -> None:
    ground.put("config", config(Type=kind))
    ground.put("subnets/10.77.201.0-24", peer_value(PUBLIC, MAC, backend=kind))
    ground.put("subnets/10.78.201.0-24", peer_value("172.18.1.202", "02:00:00:00:aa:02", backend=kind))
    daemon = ground.daemon().ready()
    old, new = Tables(), Tables()
    if kind == "vxlan":
        old = old.with_peer(PEER, MAC, PUBLIC)
        new = new.with_peer("10.78.201.0/24", "02:00:00:00:aa:02", "172.18.1.202")
    else:
        old, new = old.with_direct(PEER, PUBLIC), new.with_direct("10.78.201.0/24", "172.18.1.202")
    wait_tables(daemon.namespace, old)
    daemon.stop()
    ground.put("config", config("10.78.0.0/16", Type=kind))
    daemon.ready()
    wait_tables(daemon.namespace, new)
    assert daemon.env()["FLANNEL_NETWORK"] == "10.78.0.0/16"


def destinations(namespace: str) -> set[str]:
    return {route["dst"] for route in ip_json(namespace, "route", "show")}


def test_cleanup_without_memory_leaves_routes_that_may_be_another_daemons(ground: Ground) -> None:
    space = ground.namespace()
    ground.put("config", config(Type="host-gw"))
    ground.put("subnets/10.77.201.0-24", peer_value(PUBLIC, MAC, backend="host-gw"))
    daemon = ground.daemon().ready()
    wait_tables(space, Tables().with_direct(PEER, PUBLIC))
    daemon.end()
    flag = f"--subnet-file={daemon.folder}/subnet.env"
    (daemon.folder / "subnet.env").unlink()
    refused = call(space, "cleanup", flag)
    assert refused.returncode == 1
    assert f"kept route {PEER}" in refused.stdout
    assert "1 routes with our mark stay" in refused.stderr and "--network CIDR" in refused.stderr
    assert tables(space) == Tables().with_direct(PEER, PUBLIC)
    other = call(space, "cleanup", flag, "--network", "10.78.0.0/16")
    assert (other.returncode, other.stdout) == (0, "nothing of ours is there\n")
    done = call(space, "cleanup", flag, "--network", "10.77.0.0/16")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"removed route {PEER}" in done.stdout
    assert tables(space) == Tables()


@pytest.mark.parametrize("kind", ["vxlan", "host-gw"])
def test_cleanup_shows_and_then_removes_all_of_ours_and_nothing_else(ground: Ground, kind: str) -> None:
    space = ground.namespace()
    foreign = ["10.77.250.0/24", "10.99.0.0/24"]
    for dst in foreign:
        ip(space, f"route add {dst} via 172.18.1.1 proto static")
    ip(space, "link add flannel.99 type vxlan id 99 dstport 4790 dev eth0")
    try:
        before = destinations(space)
        ground.put("config", config(Type=kind))
        ground.put("subnets/10.77.201.0-24", peer_value(PUBLIC, MAC, backend=kind))
        daemon = ground.daemon().ready()
        flag = f"--subnet-file={daemon.folder}/subnet.env"
        expected = Tables().with_peer(PEER, MAC, PUBLIC) if kind == "vxlan" else Tables().with_direct(PEER, PUBLIC)
        wait_tables(space, expected)

        refused = call(space, "cleanup", flag)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert f"another flanneld (pid {daemon.process.pid}) is at work" in refused.stderr
        assert tables(space) == expected

        daemon.end()  # as a crash leaves it, with its socket
        there = tables(space), overlay_devices(space), destinations(space)
        dry = call(space, "cleanup", "--dry-run", flag)
        assert (dry.returncode, dry.stderr) == (0, "")
        assert (tables(space), overlay_devices(space), destinations(space)) == there
        assert (daemon.folder / "subnet.env").exists()
        thing = "link flannel.1" if kind == "vxlan" else f"route {PEER}"
        assert f"would remove {thing}" in dry.stdout

        done = call(space, "cleanup", flag)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == dry.stdout.replace("would remove", "removed")
        assert tables(space) == Tables()
        assert overlay_devices(space) == {"flannel.99"}
        assert destinations(space) == before
        assert sorted(path.name for path in daemon.folder.iterdir()) == ["log"]
        again = call(space, "cleanup", flag)
        assert (again.returncode, again.stdout) == (0, "nothing of ours is there\n")
    finally:
        for dst in foreign:
            ip(space, f"route del {dst}")
