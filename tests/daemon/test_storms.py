"""Garbage in etcd, and etcd away, while pods ping: nothing is lost, and what is odd is said once."""

import json

from flanneld_py.lab import etcd, process
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.state import ETCD
from flanneld_py.lab.topology import ETCD_PREFIX
from tests.daemon.field import Field, paused, peer_value, tables, wait_tables
from tests.interop.cluster import _b64
from tests.waiting import eventually

MAC, MAC2 = "02:00:00:00:cc:01", "02:00:00:00:cc:02"

HOSTILE = {
    "nonsense": "{}",
    "10.244.177.0": "{}",
    "10.244.177.0-33": "{}",
    "10.244.177.0-24-24": "{}",
    "10.244.177.0-024": "{}",
    "0.0.0.0-0": peer_value("172.18.1.66", MAC),
    "..": "{}",
    "x/../../config": "{}",
    "10.244.178.0-24": "not JSON",
    "10.244.179.0-24": "[]",
    "10.244.180.0-24": "null",
    "10.244.181.0-24": '{"PublicIP": 7}',
    "10.244.182.0-24": '{"PublicIP": "not an address"}',
    "10.244.183.0-24": "[" * 100_000,
    "10.244.184.0-24": '{"PublicIP": "172.18.1.66", "BackendType": ["vxlan"]}',
    "10.244.185.0-24": "",
    "10.244.186.0-24\nE0101 00:00:00 forged] a line": "{}",
    "10.244.187.0-24&": "{}",
    "10.244.188.0-24&10.244.189.0-24": peer_value("172.18.1.66", MAC),
    "10.244.199.0-24": '{"PublicIP": "224.0.0.1"}',
    "10.244.198.0-24": '{"PublicIP": "0.0.0.0", "BackendType": "vxlan"}',
    "10.244.190.7-24": peer_value("172.18.1.66", MAC),
}
"""Keys below subnets/ that are no leases."""

ODD = {
    "10.244.191.0-24": peer_value("172.18.1.66", "not a mac"),
    "10.244.192.0-24": peer_value("172.18.1.66", "ff:ff:ff:ff:ff:ff"),
    "10.244.193.0-24": peer_value("172.18.1.66", "00:00:00:00:00:00"),
    "10.244.194.0-24": peer_value("172.18.1.66", "01:00:5e:00:00:01"),
    "10.244.195.0-24": '{"PublicIP": "172.18.1.66", "BackendType": "vxlan", "BackendData": "{\\"VNI\\": 1}"}',
    "10.244.196.0-24": '{"PublicIP": "172.18.1.66", "BackendType": "vxlan", "BackendData": {"VNI": "1"}}',
    "10.244.197.0-24": '{"PublicIP": "172.18.1.66", "BackendType": "vxlan", "BackendData": null}',
    "10.244.203.0-24": peer_value("127.0.0.1", "02:00:00:00:cc:07"),
    "10.244.0.0-16": peer_value("172.18.1.66", MAC2),
    "10.0.0.0-8": peer_value("172.18.1.66", MAC2),
    "172.18.1.0-24": peer_value("172.18.1.66", MAC2),
}
"""Sound leases of peers that nobody should believe."""


def remove(field: Field, name: str) -> None:
    field.etcd("kv/deleterange", key=_b64(f"{ETCD_PREFIX}/subnets/{name}"))


def test_hostile_keys_and_values_cost_no_packet_and_one_warning_each(field: Field) -> None:
    base, space = field.base_tables(1), field.namespace(1)
    before = {number: len(field.log(number)) for number in (1, 2, 3)}
    with field.probe("pod1-1", "pod2-1") as probe:
        assert probe.wait_for(20, 10)
        for name, value in (HOSTILE | ODD).items():
            field.put(name, value)
        # The last of a line: what came before it has been seen.
        field.put("10.244.201.0-24", peer_value("172.18.1.201", MAC))
        for number in (1, 2, 3):
            peers = field.base_tables(number).with_peer("10.244.201.0/24", MAC, "172.18.1.201")
            wait_tables(field.namespace(number), peers)
        for name in (*HOSTILE, *ODD, "10.244.201.0-24"):
            remove(field, name)
        wait_tables(space, base)
        assert probe.wait_for(20, 10)
        report = probe.stop()
    assert (report.lost, report.unsent) == ((), ())
    for number in (1, 2, 3):
        said = field.log(number)[before[number] :]
        assert "Traceback" not in said
        skipped = [line for line in said.splitlines() if "is skipped, it holds no lease" in line]
        assert len(skipped) == len(HOSTILE), "\n".join(skipped)
        assert not [line for line in said.splitlines() if line.startswith("E")], said
        odd = [line for line in said.splitlines() if line.startswith("W") and "peer " in line]
        assert len(odd) == len(ODD), "\n".join(odd)


def test_hostile_keys_beside_the_leases_do_no_harm(field: Field) -> None:
    key = field.lease_key(1)
    for name in (f"nodes/{key}", "nodes/nonsense", "other", "subnetsx/10.244.1.0-24"):
        kept = etcd.read_prefix(field.lab.topology, f"{ETCD_PREFIX}/{name}").get(f"{ETCD_PREFIX}/{name}")
        etcd.put(field.lab.topology, f"{ETCD_PREFIX}/{name}", "[" * 1000)
        field.lab.stop_daemon(field.node(3), hard=False)
        field.start(3, go=False)
        wait_tables(field.namespace(1), field.base_tables(1))
        if kept is None:
            field.etcd("kv/deleterange", key=_b64(f"{ETCD_PREFIX}/{name}"))
        else:
            etcd.put(field.lab.topology, f"{ETCD_PREFIX}/{name}", kept)
    assert field.lost_pings() == {}


def restart_etcd(field: Field) -> None:
    lab = field.lab
    server = etcd.start_etcd(etcd.find_etcd(), lab.topology, lab.directory)
    lab.save(lab.record.with_process(ETCD, server))
    etcd.wait_for_etcd(server, lab.topology, lab.directory, Silent())


def test_etcd_away_costs_no_packet_and_what_was_missed_is_caught_up(field: Field) -> None:
    base, space = field.base_tables(1), field.namespace(1)
    with field.probe("pod1-1", "pod2-1") as probe:
        process.end([field.lab.record.processes[ETCD]])
        eventually("it is told", lambda: not field.ask(1)["store_ok"], lambda: field.ask(1))
        assert "172.18.1.1:2379" in field.ask(1)["error"]
        # The kernel is held without etcd, too.
        field.hand(2, "link del flannel.1")
        wait_tables(field.namespace(2), field.base_tables(2))
        assert probe.wait_for(1000, 30)
        restart_etcd(field)
        field.put("10.244.201.0-24", peer_value("172.18.1.201", MAC))
        wait_tables(space, base.with_peer("10.244.201.0/24", MAC, "172.18.1.201"))
        eventually("all is well", lambda: field.ask(1)["store_ok"] and field.ask(1)["error"] is None)
        remove(field, "10.244.201.0-24")
        wait_tables(space, base)
        report = probe.stop()
    assert len(report.unsent) == 0
    # Node 2's device was away for as long as its repair took.
    assert len(report.lost) < 100
    assert field.leases().keys() == {field.lease_key(number) for number in (1, 2, 3)}


def test_a_compaction_past_what_a_daemon_has_seen(field: Field) -> None:
    base, space = field.base_tables(1), field.namespace(1)
    field.put("10.244.201.0-24", peer_value("172.18.1.201", MAC))
    wait_tables(space, base.with_peer("10.244.201.0/24", MAC, "172.18.1.201"))
    with field.probe("pod1-1", "pod2-1") as probe:
        with paused(field.daemon(1)):
            process.end([field.lab.record.processes[ETCD]])
            restart_etcd(field)
            remove(field, "10.244.201.0-24")
            field.put("10.244.202.0-24", peer_value("172.18.1.202", MAC2))
            revision = field.etcd("kv/range", key=_b64("x"))["header"]["revision"]
            field.etcd("kv/compaction", revision=revision, physical=True)
            assert tables(space) == base.with_peer("10.244.201.0/24", MAC, "172.18.1.201")
        wait_tables(space, base.with_peer("10.244.202.0/24", MAC2, "172.18.1.202"))
        report = probe.stop()
    assert (report.lost, report.unsent) == ((), ())
    remove(field, "10.244.202.0-24")
    wait_tables(space, base)


def test_a_changed_configuration_is_judged_and_shown_and_not_applied(field: Field) -> None:
    topology, key = field.lab.topology, f"{ETCD_PREFIX}/config"
    running = topology.net_config()
    index, before = field.mac(1), tables(field.namespace(1))
    changed = json.dumps(json.loads(running) | {"Backend": {"Type": "vxlan", "VNI": 9}})
    try:
        etcd.put(topology, key, changed)
        eventually("it is noticed", lambda: "next start" in str(field.ask(1)["config_pending"]))
        etcd.put(topology, key, changed.replace("9", '"x"'))
        eventually("it is judged", lambda: "VNI" in str(field.ask(1)["config_pending"]), lambda: field.ask(1))
        assert "cannot be used" in field.ask(1)["config_pending"]
        shown = field.call(1, "status", f"--subnet-file={field.folder(1)}/subnet.env").stdout
        assert "cannot be used" in shown
    finally:
        etcd.put(topology, key, running)
    eventually("what runs is what is there", lambda: field.ask(1)["config_pending"] is None, lambda: field.ask(1))
    assert (field.mac(1), tables(field.namespace(1))) == (index, before)
