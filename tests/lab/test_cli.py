import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from flanneld_py.lab import build
from flanneld_py.lab.build import Lab
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.topology import LabSpec
from tests.lab.conftest import Trace

CLI = [sys.executable, "-m", "flanneld_py", "lab"]
WIDE = os.environ | {"COLUMNS": "150"}


@pytest.fixture(scope="module")
def up() -> Iterator[Lab]:
    """A lab of two nodes that other processes may use."""
    spec = LabSpec(name=f"c{os.getpid()}", nodes=2, pods=1)
    lab = build.up(spec, Silent())
    yield lab
    build.down(spec.name, Silent())


def run(command: str, lab: str, *words: str) -> "subprocess.CompletedProcess[str]":
    argv = [*CLI, command, "--name", lab, *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=100, env=WIDE)


def test_status_as_json_and_as_text(up: Lab) -> None:
    status = json.loads(run("status", up.topology.spec.name, "-o", "json").stdout)
    assert [node["state"] for node in status["nodes"]] == ["ready", "ready"]
    assert status["nodes"][0]["pods"]["pod1-1"] == [str(up.record.pods["pod1-1"][0].ip)]
    assert status["etcd"].endswith("runs")
    text = run("status", up.topology.spec.name).stdout.splitlines()
    assert [line.split()[0] for line in text[:3]] == ["node", "node1", "node2"]
    assert "\x1b" not in "".join(text)


def test_exec_runs_in_the_place_with_its_code(up: Lab) -> None:
    name = up.topology.spec.name
    script = "import os, sys; print(sorted(os.listdir('/sys/class/net'))); open('/proc/net/route').read(); sys.exit(7)"
    done = run("exec", name, "node1", "--", sys.executable, "-c", script)
    assert done.returncode == 7
    ours = run("exec", name, "pod2-1", "--", "cat", "/proc/self/net/fib_trie").stdout
    assert str(up.record.pods["pod2-1"][0].ip) in ours
    assert "172.18.1.1\n" in run("exec", name, "router", "--", "cat", "/proc/self/net/fib_trie").stdout
    assert run("exec", name, "node1", "--", "no-such-program").stderr.startswith("flanneld: cannot run no-such-program")
    assert "has no 'node9'" in run("exec", name, "node9", "--", "true").stderr


def test_ping_says_what_fails_by_its_exit_code(up: Lab) -> None:
    name = up.topology.spec.name
    good = run("ping", name, "--count", "1")
    assert good.returncode == 0
    assert "all 2 pairs answer, nothing lost" in good.stdout
    run("exec", name, "router", "--", sys.executable, "-c", PORT_DOWN)
    try:
        bad = run("ping", name, "--count", "1")
    finally:
        run("exec", name, "router", "--", sys.executable, "-c", PORT_DOWN.replace("'down'", "'up'"))
    assert bad.returncode == 1
    assert "0 of 2 pairs answer" in bad.stdout


PORT_DOWN = """
from pyroute2 import IPRoute
with IPRoute() as ipr:
    ipr.link("set", index=ipr.link_lookup(ifname="port2")[0], state='down')
"""


def test_capture_shows_inner_and_outer_headers(up: Lab) -> None:
    name = up.topology.spec.name
    argv = [*CLI, "capture", "--name", name, "node2", "--count", "6"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=WIDE) as capture:
        assert capture.stderr is not None
        assert "capturing on eth0 of node2" in capture.stderr.readline()
        run("ping", name, "--count", "5")
        out, err = capture.communicate(timeout=60)
    assert capture.returncode == 0
    rows = [line.strip() for line in out.splitlines()]
    addresses = {pod: str(up.record.pods[pod][0].ip) for pod in ("pod1-1", "pod2-1")}
    assert any(
        row.startswith("IPv4 172.18.1.") and "| IPv4" in row and all(a in row for a in addresses.values())
        for row in rows
    )
    assert any(row.startswith("VXLAN vni 1") for row in rows)
    assert "6 packets" in err


def test_capture_ends_at_interrupt(up: Lab) -> None:
    # Whoever runs the tests in the background has them, and their children, ignore it.
    argv = ["env", "--default-signal=INT", *CLI, "capture", "--name", up.topology.spec.name, "pod1-1"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True) as capture:
        assert capture.stderr is not None
        capture.stderr.readline()
        capture.send_signal(signal.SIGINT)
        _, err = capture.communicate(timeout=60)
    assert capture.returncode == 0
    assert err.startswith("0 packets") or "packets" in err


def test_capture_of_no_device_is_one_line(up: Lab) -> None:
    done = run("capture", up.topology.spec.name, "node1", "eth9")
    assert done.returncode == 1
    assert done.stderr.strip() == f"flanneld: cannot capture on eth9 in {up.topology.spec.name}-node1: No such device"


def test_kill_and_restart(up: Lab) -> None:
    name = up.topology.spec.name
    assert "was killed; its data path stays" in run("kill", name, "node2").stdout
    assert json.loads(run("status", name, "-o", "json").stdout)["nodes"][1]["state"] == "does not run"
    assert "no daemon runs on node2" in run("kill", name, "2").stderr
    assert run("ping", name, "--count", "1").returncode == 0
    assert "the daemon is ready (pid" in run("restart", name, "node2").stdout
    assert json.loads(run("status", name, "-o", "json").stdout)["nodes"][1]["state"] == "ready"


def test_logs(up: Lab) -> None:
    name = up.topology.spec.name
    assert "10.244" in run("logs", name, "node1", "-n", "500").stdout
    assert run("logs", name, "etcd", "-n", "3").stdout.count("\n") == 3
    assert "has no 'node7'" in run("logs", name, "node7").stderr


def test_demo_shows_and_removes(name: str) -> None:
    done = run("demo", name, "--nodes", "2", "--pods", "1", "--stack", "dual")
    assert (done.returncode, Trace(name).namespaces()) == (0, [])
    for words in (
        "10.244.",
        "VXLAN vni 1",
        "IPv6: best round-trip",
        "all 2 pairs answer",
        "TCP ",
        "UDP ",
        "the lab is removed",
    ):
        assert words in done.stdout
    assert "Traceback" not in done.stderr
    Trace(name).assert_nothing()


def test_down_of_nothing_and_of_a_lab(name: str) -> None:
    assert run("down", name).stdout == "there was nothing to remove\n"
    build.up(replace(LabSpec(nodes=1, pods=1), name=name), Silent())
    assert run("down", name).stdout == f"removed: {name}\n"
    Trace(name).assert_nothing()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["up", "--nodes", "none"], "invalid int value"),
        (["up", "--backend-option", "VNI"], "KEY=VALUE"),
        (["up", "--name", "no/slash"], "a lab's name"),
        (["up", "--underlay", "wet"], "invalid choice"),
        (["pong"], "invalid choice"),
        (["ping", "--count", "0"], "must be at least 1"),
    ],
)
def test_wrong_words_are_one_line_and_code_2(words: list[str], message: str) -> None:
    done = subprocess.run([*CLI, *words], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_root_it_says_what_to_type() -> None:
    script = "import os; os.geteuid = lambda: 65534; from flanneld_py.cli.main import main; exit(main(['lab', 'up']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "flanneld: network namespaces need root; type: sudo flanneld lab up\n"
