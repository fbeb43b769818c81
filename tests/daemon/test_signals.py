"""Stopping in every stage, and starting again where a daemon has been: pods notice neither."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flanneld_py.lab.topology import LabSpec
from tests.daemon.conftest import FieldOf, Ground, fresh_name
from tests.daemon.field import Field, link, tables
from tests.waiting import eventually

CONFIG = '{"Network": "10.77.0.0/16", "Backend": {"Type": "vxlan"}}'
STOP_S = 2.0
SLOW_IMPORT = """
import os, sys, time

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["SLOW_MODULE"]:
            print("loading", flush=True)
            time.sleep(60)

sys.meta_path.insert(0, Slow())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("stage", ["waiting for the store", "waiting for the network configuration", "ready"])
def test_a_signal_ends_it_in_time_with_0(ground: Ground, stage: str, number: signal.Signals) -> None:
    if stage == "ready":
        ground.put("config", CONFIG)
    # 172.18.1.250 is on the link and silent: connecting hangs there, instead of being refused.
    flags = ["--etcd-endpoints=http://172.18.1.250:2379"] if stage == "waiting for the store" else []
    daemon = ground.daemon(*flags).start()
    if stage == "waiting for the store":
        eventually("it tries", lambda: daemon.status().get("stage") in (stage, "waiting for the network configuration"))
    else:
        daemon.wait_stage(stage)
    before = tables(daemon.namespace), link(daemon.namespace, "flannel.1").get("ifindex")
    since = time.monotonic()
    assert daemon.stop(number) == 0, daemon.log()
    assert time.monotonic() - since < STOP_S  # a promise to service managers, not a benchmark
    assert daemon.status()["stage"] == "stopped"
    assert "Traceback" not in daemon.log()
    assert (tables(daemon.namespace), link(daemon.namespace, "flannel.1").get("ifindex")) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("module", ["flanneld_py.daemon.options", "uvloop", "flanneld_py.daemon.app"])
def test_a_signal_while_it_still_loads_ends_it_with_0(tmp_path: Path, module: str, number: signal.Signals) -> None:
    """The module says that it is being imported, and then takes for ever."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_IMPORT)
    child = subprocess.Popen(
        [sys.executable, "-m", "flanneld_py", f"--subnet-file={tmp_path}/run/subnet.env"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "SLOW_MODULE": module},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None and child.stdout.readline() == "loading\n"
        child.send_signal(number)
        _, errors = child.communicate(timeout=20)
    finally:
        child.kill()
    assert (child.returncode, errors) == (0, "")


def test_a_stop_right_after_ready_is_not_lost(ground: Ground) -> None:
    """Start-up has events on their way at that moment, and one of them must not swallow the signal."""
    ground.put("config", CONFIG)
    for _ in range(6):
        daemon = ground.daemon().start()
        daemon.wait_stage("ready")
        assert daemon.stop() == 0


@pytest.mark.parametrize("hard", [False, True])
def test_a_new_daemon_takes_over_without_a_lost_packet(field: Field, hard: bool) -> None:
    space = field.namespace(1)
    before = tables(space), link(space, "flannel.1")
    with field.probe("pod1-1", "pod2-1") as probe:
        assert probe.wait_for(20, 10)
        field.lab.stop_daemon(field.node(1), hard=hard)
        assert probe.wait_for(20, 10)
        field.start(1, go=False)
        assert probe.wait_for(20, 10)
        report = probe.stop()
    assert (report.lost, report.unsent) == ((), ())
    assert (tables(space), link(space, "flannel.1")) == before


def test_forty_daemons_at_once_get_forty_subnets(field_of: FieldOf) -> None:
    field = field_of(LabSpec(name=fresh_name(), nodes=40, pods=1))
    subnets = {field.subnets(node.number)[0] for node in field.nodes}
    assert len(subnets) == 40
    assert {key.replace("-", "/") for key in field.leases()} == subnets
    for node in field.nodes:
        status = field.ask(node.number)
        assert (status["stage"], status["peers"], status["ops"]) == ("ready", 39, [])
        assert "Traceback" not in field.log(node.number)
    assert len(tables(field.namespace(40)).fdb) == 39
