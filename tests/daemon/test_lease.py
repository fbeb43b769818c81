"""The node's own lease, taken away or changed in etcd under a running daemon."""

import json
import time
from functools import partial

import pytest

from tests.daemon.conftest import Ground
from tests.daemon.field import Daemon, Tables, addresses, link, peer_value, tables, wait_tables
from tests.waiting import eventually

CONFIG = '{"Network": "10.77.0.0/16", "Backend": {"Type": "vxlan"}}'
PEER, MAC, PUBLIC = "10.77.201.0/24", "02:00:00:00:aa:01", "172.18.1.201"


def started(ground: Ground, *flags: str) -> Daemon:
    """A daemon that has a peer."""
    ground.put("config", CONFIG)
    ground.put("subnets/10.77.201.0-24", peer_value(PUBLIC, MAC))
    daemon = ground.daemon(*flags).ready()
    wait_tables(daemon.namespace, Tables().with_peer(PEER, MAC, PUBLIC))
    return daemon


def own_key(daemon: Daemon) -> str:
    return "subnets/" + daemon.env()["FLANNEL_SUBNET"].replace(".1/24", ".0-24")


@pytest.mark.parametrize("taken", [False, True])
def test_without_reacquire_a_lost_lease_ends_the_daemon_and_leaves_the_data_path(ground: Ground, taken: bool) -> None:
    daemon = started(ground)
    key, index = own_key(daemon), link(daemon.namespace, "flannel.1")["ifindex"]
    if taken:
        ground.put(key, peer_value("172.18.1.77", "02:00:00:00:aa:77"))
    else:
        ground.delete(key)
    assert daemon.wait_exit() == 1
    last = daemon.log().splitlines()[-1]
    assert last.startswith("flanneld: the lease ")
    assert last.endswith("start the daemon again, or run it with --reacquire")
    assert key.removeprefix("subnets/") in last
    assert ("172.18.1.77" if taken else "is gone") in last
    assert "LeaseAttrs" not in last
    assert "Traceback" not in daemon.log()
    assert daemon.status()["stage"] == "failed"
    assert tables(daemon.namespace) == Tables().with_peer(PEER, MAC, PUBLIC)
    assert link(daemon.namespace, "flannel.1")["ifindex"] == index


def knows_of_more(daemon: Daemon, losses: int) -> bool:
    return len(daemon.lines("after the loss of")) > losses


def test_with_reacquire_a_revoked_lease_is_taken_again(ground: Ground) -> None:
    daemon = started(ground, "--reacquire")
    key, before = own_key(daemon), daemon.env()
    value = ground.read(key)
    for _ in range(3):
        losses = len(daemon.lines("after the loss of"))
        ground.delete(key)
        eventually("the key is back", lambda: ground.read(key) == value, lambda: (ground.read(""), daemon.log()))
        eventually("the daemon knows", partial(knows_of_more, daemon, losses))
        eventually("it holds it", lambda: daemon.status()["stage"] == "ready")
    assert daemon.env() == before
    assert daemon.process.poll() is None


def test_with_reacquire_a_lease_that_another_took_is_replaced_in_place(ground: Ground) -> None:
    daemon = started(ground, "--reacquire")
    other = ground.daemon(number=2).ready()
    key, before, index = own_key(daemon), daemon.env(), link(daemon.namespace, "flannel.1")["ifindex"]
    mac, mac2 = (link(d.namespace, "flannel.1")["address"] for d in (daemon, other))
    old = before["FLANNEL_SUBNET"].replace(".1/24", ".0/24")
    other_subnet = other.env()["FLANNEL_SUBNET"].replace(".1/24", ".0/24")
    base = Tables().with_peer(PEER, MAC, PUBLIC)
    wait_tables(other.namespace, base.with_peer(old, mac, "172.18.1.11"))
    ground.put(key, peer_value("172.18.1.77", "02:00:00:00:aa:77"))
    eventually("subnet.env has another", lambda: daemon.env()["FLANNEL_SUBNET"] != before["FLANNEL_SUBNET"], daemon.log)
    new = daemon.env()["FLANNEL_SUBNET"].replace(".1/24", ".0/24")
    thief = base.with_peer(old, "02:00:00:00:aa:77", "172.18.1.77")
    wait_tables(daemon.namespace, thief.with_peer(other_subnet, mac2, "172.18.1.12"))
    wait_tables(other.namespace, thief.with_peer(new, mac, "172.18.1.11"))
    assert addresses(daemon.namespace, "flannel.1") == {new.replace("/24", "/32")}
    assert link(daemon.namespace, "flannel.1")["ifindex"] == index
    eventually("the status follows", lambda: daemon.status()["subnets"] == [new], daemon.status)
    assert json.loads(ground.read(key)[key])["PublicIP"] == "172.18.1.77"


def test_a_lease_that_is_made_a_reservation_stays_and_is_shown_so(ground: Ground) -> None:
    daemon = started(ground)
    key = own_key(daemon)
    ground.put(key, ground.read(key)[key])
    eventually("it is a reservation", lambda: daemon.status()["reserved"], daemon.log)
    assert len(daemon.lines("a reservation now, and not renewed")) == 1
    assert daemon.status()["stage"] == "ready"
    assert daemon.stop() == 0
    daemon.ready()
    assert own_key(daemon) == key
    assert daemon.status()["reserved"]


def test_a_reservation_that_is_made_a_lease_is_renewed_at_once(ground: Ground) -> None:
    daemon = started(ground)
    key = own_key(daemon)
    value = ground.read(key)[key]
    ground.put(key, value)
    eventually("it is a reservation", lambda: daemon.status()["reserved"], daemon.log)
    daemon.stop()
    daemon.ready()
    assert daemon.status()["expires"] is None
    theirs = ground.field.etcd("lease/grant", TTL="600")["ID"]
    ground.put(key, value, lease=theirs)
    eventually("it is ours", lambda: ground.records(key)[0].get("lease") not in (None, theirs), daemon.log)
    eventually("it has an expiry", lambda: (daemon.status()["expires"] or 0) > time.time() + 80_000, daemon.status)
    assert not daemon.status()["reserved"]


def test_the_same_subnet_comes_back_after_a_stop_and_its_lease_has_gone(ground: Ground) -> None:
    """subnet.env remembers it when etcd does not."""
    daemon = started(ground)
    key, before = own_key(daemon), daemon.env()
    daemon.stop()
    ground.delete(key)
    daemon.ready()
    assert daemon.env() == before
    assert key in ground.read("subnets/")


def test_another_machine_with_our_public_address_is_refused(ground: Ground) -> None:
    first = started(ground)
    record = own_key(first).replace("subnets/", "nodes/")
    first.stop()
    mine = json.loads(ground.read(record)[record])
    theirs = {name: "e" * len(value) for name, value in mine.items()}
    lease = next(kv["lease"] for kv in ground.records(record))
    ground.put(record, json.dumps(theirs), lease=lease)
    before = ground.read("")
    done = first.start()
    assert done.wait_exit() == 1
    last = first.log().splitlines()[-1]
    assert "under our public address" in last
    assert "--public-ip" in last
    assert ground.read("") == before
