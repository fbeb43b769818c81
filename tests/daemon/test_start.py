"""From nothing to ready: what the files, the service manager and the exit code say at each stage."""

import socket
import stat
from pathlib import Path

import pytest

from flanneld_py.lab import wiring
from flanneld_py.lab.namespaces import inside
from tests.daemon.conftest import Ground
from tests.daemon.field import Tables, addresses, call, link, peer_value, tables, wait_tables
from tests.interop.cluster import DEADLINE_S
from tests.waiting import eventually

CONFIG = '{"Network": "10.77.0.0/16", "Backend": {"Type": "vxlan"}}'


def listener(path: Path) -> socket.socket:
    """A service manager's end of NOTIFY_SOCKET."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    sock.settimeout(DEADLINE_S)
    return sock


def test_ready_means_that_the_network_is_up(ground: Ground, tmp_path: Path) -> None:
    ground.put("config", CONFIG)
    with listener(tmp_path / "notify") as told:
        daemon = ground.daemon().start(NOTIFY_SOCKET=str(tmp_path / "notify"))
        words = []
        while "READY=1" not in words:
            words += told.recv(4096).decode().split("\n")
        found = daemon.env()
        subnet = found["FLANNEL_SUBNET"].replace(".1/24", ".0/32")
        assert link(daemon.namespace, "flannel.1")["operstate"] in ("UNKNOWN", "UP")
        assert addresses(daemon.namespace, "flannel.1") == {subnet}
        assert inside(daemon.namespace, lambda: wiring.read_sysctl("net/ipv4/ip_forward")) == "1"
        assert [word for word in words if word.startswith("STATUS=")][:2] == [
            "STATUS=waiting for the store",
            "STATUS=waiting for the network configuration",
        ]
        ground.put("subnets/10.77.201.0-24", peer_value("172.18.1.201", "02:00:00:00:aa:01"))
        wait_tables(daemon.namespace, Tables().with_peer("10.77.201.0/24", "02:00:00:00:aa:01", "172.18.1.201"))
        daemon.stop()
        last = told.recv(4096).decode()  # it is ready once, however many passes follow
    assert last == "STOPPING=1\nSTATUS=stopped"
    assert found == {
        "FLANNEL_NETWORK": "10.77.0.0/16",
        "FLANNEL_SUBNET": found["FLANNEL_SUBNET"],
        "FLANNEL_MTU": "1450",
        "FLANNEL_IPMASQ": "false",
    }
    assert stat.S_IMODE((daemon.folder / "subnet.env").stat().st_mode) == 0o644
    assert stat.S_IMODE((daemon.folder / "status.json").stat().st_mode) == 0o644


def test_the_socket_is_the_owners_alone_and_goes_with_the_daemon(ground: Ground) -> None:
    ground.put("config", CONFIG)
    daemon = ground.daemon().ready()
    path = daemon.folder / "flanneld.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    daemon.stop()
    assert not path.exists()


def test_waiting_for_the_configuration_says_how_to_write_it(ground: Ground) -> None:
    daemon = ground.daemon().start()
    eventually("it misses the configuration", lambda: daemon.status().get("hint"), daemon.log)
    status = daemon.status()
    assert status["stage"] == "waiting for the network configuration"
    assert status["error"] == f"no network configuration in etcd at {ground.prefix}/config"
    assert f"etcdctl --endpoints={ground.topology.etcd_url} put {ground.prefix}/config '{{" in status["hint"]
    shown = call(daemon.namespace, "status", f"--subnet-file={daemon.folder}/subnet.env")
    assert shown.returncode == 1
    assert "waiting for the network configuration" in shown.stdout
    assert "not running" not in shown.stdout
    assert status["hint"] in shown.stdout
    assert not (daemon.folder / "subnet.env").exists()
    assert len(daemon.lines("no network configuration")) == 1
    ground.put("config", CONFIG)
    daemon.wait_stage("ready")
    assert daemon.status()["error"] is None


def test_waiting_for_etcd_names_it_and_why(ground: Ground) -> None:
    daemon = ground.daemon("--etcd-endpoints=http://172.18.1.1:9").start()
    eventually("it names the trouble", lambda: daemon.status().get("error"), daemon.log)
    status = daemon.status()
    assert not status["store_ok"]
    assert "172.18.1.1:9" in status["error"]
    assert daemon.process.poll() is None
    shown = call(daemon.namespace, "status", f"--subnet-file={daemon.folder}/subnet.env")
    assert (shown.returncode, "not running" in shown.stdout) == (1, False)
    assert status["error"] in shown.stdout


def test_a_second_daemon_in_the_same_directory_is_refused(ground: Ground) -> None:
    ground.put("config", CONFIG)
    first = ground.daemon().ready()
    done = call(
        first.namespace,
        f"--etcd-endpoints={ground.topology.etcd_url}",
        f"--etcd-prefix={ground.prefix}",
        f"--subnet-file={first.folder}/subnet.env",
    )
    assert done.returncode == 1
    assert f"another flanneld (pid {first.process.pid}) is at work in {first.folder}" in done.stderr
    assert first.process.poll() is None
    assert first.status()["stage"] == "ready"


def test_the_lock_of_a_killed_daemon_does_not_hold(ground: Ground) -> None:
    ground.put("config", CONFIG)
    first = ground.daemon().ready()
    before = tables(first.namespace), link(first.namespace, "flannel.1")["ifindex"], first.env()
    first.end()
    first.ready()
    assert (tables(first.namespace), link(first.namespace, "flannel.1")["ifindex"], first.env()) == before


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "JSON"),
        ('{"Network": "10.77.0.0/16", "Bacend": {"Type": "vxlan"}}', "Backend"),
        ('{"Network": "10.77.0.0/16", "Backend": {"Type": "carrier-pigeon"}}', "carrier-pigeon"),
        ('{"Network": "10.77.0.0/16", "Backend": {"Type": "vxlan", "VNI": 0}}', "VNI"),
        ('{"Network": "10.77.0.0/16", "Backend": {"Type": "vxlan", "MTU": 60}}', "MTU"),
        ('{"Network": "10.77.0.0/16", "SubnetMin": "10.77.9.0", "SubnetMax": "10.77.1.0"}', "SubnetM"),
    ],
)
def test_a_configuration_that_cannot_be_used_ends_with_2(ground: Ground, config: str, words: str) -> None:
    ground.put("config", config)
    daemon = ground.daemon().start()
    assert daemon.wait_exit() == 2, daemon.log()
    last = daemon.log().splitlines()[-1]
    assert last.startswith("flanneld: ")
    assert words in last
    assert daemon.status()["stage"] == "failed"
    assert words in daemon.status()["error"]
    assert "Traceback" not in daemon.log()
    assert ground.read("subnets/") == {}


def test_every_error_of_a_configuration_has_a_line(ground: Ground) -> None:
    ground.put("config", '{"Network": "10.77.0.0/33", "Backend": {"Type": "vxlan", "VNI": -1, "Port": 70000}}')
    daemon = ground.daemon().start()
    assert daemon.wait_exit() == 2
    for key in ("Network", "VNI", "Port"):
        assert len([line for line in daemon.log().splitlines() if key in line]) == 1, daemon.log()
