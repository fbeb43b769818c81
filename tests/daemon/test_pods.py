"""The daemon connects pods for the CNI plugin's launcher, from the moment it runs until it is told to stop."""

import fcntl
import json
import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cni_plugin import launcher, program
from flanneld_py.lab.namespaces import inside
from tests.cni.node import pod
from tests.daemon.conftest import Ground
from tests.daemon.field import Daemon, addresses
from tests.daemon.test_start import CONFIG
from tests.netns.space import Namespace
from tests.waiting import eventually

TIMEOUT_S = 30


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The launcher, and no other plugin beside it: what is done is done by the daemon."""
    folder = tmp_path_factory.mktemp("plugin")
    program.install(launcher.launched(None), folder)
    return folder


@pytest.fixture
def pods() -> Iterator[Callable[[], Namespace]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(pod())


def start(daemon: Daemon, plugin: Path, verb: str, space: Namespace) -> "subprocess.Popen[bytes]":
    conf = {
        "cniVersion": "1.0.0",
        "name": "cbr0",
        "subnetFile": str(daemon.folder / "subnet.env"),
        "dataDir": str(daemon.folder / "data"),
        "ipam": {"dataDir": str(daemon.folder / "networks")},
        "delegate": {"bridge": "testcni0", "isDefaultGateway": True, "ipMasq": False},
    }
    environ = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": space.name,
        "CNI_NETNS": space.path,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(plugin),
        "PATH": os.defpath,
    }
    pipe = subprocess.PIPE
    process = inside(
        daemon.namespace, lambda: subprocess.Popen([plugin / "flannel"], stdin=pipe, stdout=pipe, env=environ)
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(conf).encode())
    process.stdin.close()
    process.stdin = None
    return process


def run(daemon: Daemon, plugin: Path, verb: str, space: Namespace) -> tuple[int, bytes]:
    process = start(daemon, plugin, verb, space)
    out, _ = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, out


@pytest.fixture(autouse=True)
def _no_bridge_left(ground: Ground) -> Iterator[None]:
    yield
    if addresses(ground.namespace(), "testcni0"):
        subprocess.run(["ip", "-n", ground.namespace(), "link", "del", "testcni0"], check=True)


def test_pod_gets_an_address_of_the_lease(ground: Ground, plugin: Path, pods: Callable[[], Namespace]) -> None:
    ground.put("config", CONFIG)
    daemon, space = ground.daemon().ready(), pods()
    path = daemon.folder / "cni.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    code, out = run(daemon, plugin, "ADD", space)
    assert code == 0, out
    (one,) = json.loads(out)["ips"]
    assert one["gateway"] + "/24" == daemon.env()["FLANNEL_SUBNET"]
    assert space.ip_json("link", "show", "eth0")[0]["mtu"] == int(daemon.env()["FLANNEL_MTU"])
    assert run(daemon, plugin, "DEL", space)[0] == 0
    assert daemon.stop() == 0
    assert not path.exists()


def test_udp_backend_sets_the_size_of_super_packets(
    ground: Ground, plugin: Path, pods: Callable[[], Namespace]
) -> None:
    ground.put("config", json.dumps({"Network": "10.81.0.0/16", "Backend": {"Type": "udp"}}))
    daemon, space = ground.daemon().ready(), pods()
    assert run(daemon, plugin, "ADD", space)[0] == 0
    (link,) = space.ip_json("link", "show", "eth0")
    assert link["gso_max_size"] == int(daemon.env()["FLANNEL_GSO_MAX_SIZE"]) < 1 << 16
    assert run(daemon, plugin, "DEL", space)[0] == 0


def test_daemon_that_was_killed_goes_on_after_its_start(
    ground: Ground, plugin: Path, pods: Callable[[], Namespace]
) -> None:
    ground.put("config", CONFIG)
    daemon, space = ground.daemon().ready(), pods()
    assert run(daemon, plugin, "ADD", space)[0] == 0
    daemon.stop(signal.SIGKILL)
    assert (daemon.folder / "cni.sock").is_socket()
    code, out = run(daemon, plugin, "ADD", pods())
    assert code == 1 and b"failed to find plugin" in out
    daemon.ready()
    assert run(daemon, plugin, "DEL", space)[0] == 0
    assert not list((daemon.folder / "data").iterdir())


def test_flag_switches_it_off(ground: Ground, plugin: Path, pods: Callable[[], Namespace]) -> None:
    ground.put("config", CONFIG)
    daemon = ground.daemon("--cni-resident=false")
    daemon.folder.mkdir(parents=True)
    (daemon.folder / "cni.sock").write_text("of a daemon before")
    daemon.ready()
    assert not (daemon.folder / "cni.sock").exists()
    assert run(daemon, plugin, "ADD", pods())[0] == 1


def test_without_its_socket_the_daemon_runs_nevertheless(ground: Ground) -> None:
    ground.put("config", CONFIG)
    daemon = ground.daemon()
    (daemon.folder / "cni.sock").mkdir(parents=True)
    daemon.ready()
    assert daemon.lines("the CNI plugin does without it")


def test_stop_is_quick_while_the_launcher_waits(ground: Ground, plugin: Path, pods: Callable[[], Namespace]) -> None:
    """The pod's ADD waits for host-local's lock, which nobody gives up; what it did is undone by the plugin's DEL."""
    ground.put("config", CONFIG)
    daemon, space = ground.daemon().ready(), pods()
    folder = daemon.folder / "networks" / "cbr0"
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        adding = start(daemon, plugin, "ADD", space)
        eventually("it began", lambda: (daemon.folder / "data").exists() and any((daemon.folder / "data").iterdir()))
        assert daemon.stop() == 0
    out, _ = adding.communicate(timeout=TIMEOUT_S)
    assert adding.returncode == 1 and json.loads(out)["code"] in (11, 101)
