"""The daemon stops, crashes and comes again; the worker is killed, or its device deleted: packets go on."""

import os
import signal

import pytest

from flanneld_py.lab import process
from tests.daemon.field import paused
from tests.udp.conftest import UdpFieldOf
from tests.udp.overlay import DEVICE, UdpField, workers_in
from tests.udp.streams import CheckedStream
from tests.waiting import eventually

MEGABYTE = 1 << 20
ARRIVALS = 50
LABS = ("log", "cni")
"""What the lab, not the daemon, has put into a node's directory."""


@pytest.mark.parametrize("way", ["crash", "stop"])
def test_a_restart_of_the_daemon_loses_no_packet(field: UdpField, way: str) -> None:
    places = field.endpoints()
    before = field.worker_process(1)
    drops = {number: field.drops(number) for number in (1, 2)}
    with (
        CheckedStream(places["pod1-1"], places["pod2-1"]) as stream,
        field.probe("pod2-1", "pod1-1") as probe,
    ):
        stream.wait_for(20 * MEGABYTE)
        for _ in range(2):
            if way == "crash":
                field.kill(1)
            else:
                field.stop(1)
            stream.wait_for(20 * MEGABYTE)
            assert probe.wait_for(ARRIVALS, 10.0)
            field.restart(1)
            stream.wait_for(20 * MEGABYTE)
            assert probe.wait_for(ARRIVALS, 10.0)
        report = probe.stop()
        stream.finish()
    assert (report.lost, report.unsent, report.duplicates, report.reordered) == ((), (), 0, 0)
    assert field.worker_process(1) == before
    assert {number: field.drops(number) for number in (1, 2)} == drops


def test_after_a_stop_the_worker_lingers_and_then_frees_device_and_port(field: UdpField) -> None:
    field.stop(1)
    field.restart(1, "--udp-linger=1")
    worker = field.worker_process(1)
    field.stop(1)
    assert process.wait(worker, 15.0), "the worker lingers on"
    assert not field.has_device(1)
    assert field.port_is_free(1)
    field.restart(1)


def test_a_daemon_that_comes_back_in_time_ends_the_linger(field: UdpField) -> None:
    field.stop(1)
    field.restart(1, "--udp-linger=20")
    worker = field.worker_process(1)
    field.stop(1)
    field.restart(1)
    assert not process.wait(worker, 21.0), "the worker left although a daemon had taken it over"
    assert field.worker_process(1) == worker


def test_a_worker_that_is_killed_is_replaced(field: UdpField) -> None:
    before = field.worker_process(1)
    with field.probe("pod2-1", "pod1-1") as probe:
        assert probe.wait_for(ARRIVALS, 10.0)
        os.kill(before.pid, signal.SIGKILL)
        assert process.wait(before, 10.0)
        assert probe.wait_for(ARRIVALS, 10.0), "nothing comes through any more"
        probe.stop()
    assert field.worker_process(1) != before
    assert len(workers_in(field.namespace(1))) == 1


DAMAGE = {
    "the device deleted": f"link del {DEVICE}",
    "the device down": f"link set {DEVICE} down",
    "the address deleted": f"addr flush dev {DEVICE}",
    "the route deleted": "route flush proto 241",
    "another MTU": f"link set {DEVICE} mtu 1000",
    "a device of another kind": f"link del {DEVICE};link add {DEVICE} type bridge;link set {DEVICE} up",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_a_hand_breaks_is_mended(field: UdpField, damage: str) -> None:
    with paused(field.daemon(1)):
        for words in DAMAGE[damage].split(";"):
            field.hand(1, words)
    eventually("the pods reach each other again", field.answers, lambda: field.ask(1))
    field.wait_well(1)
    assert field.ip(1, "link", "show", "dev", DEVICE)[0]["mtu"] == 1472
    assert len(workers_in(field.namespace(1))) == 1


def test_a_worker_that_hangs_does_not_hold_up_a_stop(field: UdpField) -> None:
    worker = field.worker_process(1)
    assert process.send(worker, signal.SIGSTOP)
    try:
        field.stop(1)
    finally:
        process.send(worker, signal.SIGCONT)
    field.restart(1)
    assert field.worker_process(1) == worker


def test_cleanup_takes_worker_device_and_routes(field: UdpField) -> None:
    worker = field.worker_process(1)
    field.stop(1)
    subnet_file = f"--subnet-file={field.folder(1)}/subnet.env"
    asked = field.call(1, "cleanup", "--dry-run", subnet_file)
    assert asked.returncode == 0, asked.stderr
    assert f"would remove udp worker {DEVICE}" in asked.stdout
    assert process.alive(worker)
    done = field.call(1, "cleanup", subnet_file)
    assert done.returncode == 0, done.stderr
    assert f"removed udp worker {DEVICE}" in done.stdout
    assert process.wait(worker, 10.0)
    assert not field.has_device(1)
    assert field.port_is_free(1)
    assert [route for route in field.ip(1, "route", "show") if str(route.get("protocol")) == "241"] == []
    assert sorted(path.name for path in field.folder(1).iterdir() if path.name not in LABS) == []
    field.restart(1)


def test_asking_what_cleanup_would_do_ends_no_linger(field: UdpField) -> None:
    field.stop(1)
    field.restart(1, "--udp-linger=3")
    worker = field.worker_process(1)
    field.stop(1)
    asked = field.call(1, "cleanup", "--dry-run", f"--subnet-file={field.folder(1)}/subnet.env")
    assert asked.returncode == 0, asked.stderr
    assert process.wait(worker, 15.0), "the question made the worker stay"
    field.restart(1)


def test_another_backend_between_two_runs_leaves_nothing_stale(field_of: UdpFieldOf) -> None:
    field = field_of()
    udp = field.lab.topology.net_config()
    worker = field.worker_process(1)
    for config, there, gone in (
        (udp.replace('"udp"', '"vxlan"'), "flannel.1", DEVICE),
        (udp, DEVICE, "flannel.1"),
    ):
        for number in (1, 2):
            field.stop(number)
        field.put_config(config)
        for number in (1, 2):
            field.restart(number)
        eventually("the pods reach each other", field.answers, lambda: field.ask(1))
        names = {one["ifname"] for one in field.ip(1, "link", "show")}
        assert there in names
        assert gone not in names
        if there != DEVICE:
            assert process.wait(worker, 10.0)
            assert workers_in(field.namespace(1)) == set()
            assert field.port_is_free(1)
    field.wait_well(1)
