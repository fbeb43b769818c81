"""Libraries for which some machines have no wheel: the daemon runs without them, or says which one it needs."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flanneld_py.lab import build
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.topology import LabSpec
from tests.daemon.conftest import Ground, fresh_name
from tests.daemon.field import VXLAN, call
from tests.udp.overlay import UdpField

Without = Callable[..., None]


@pytest.fixture
def without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Without:
    """A function that makes libraries missing for every process that starts from now on."""
    folder = tmp_path / "missing"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))

    def take_away(*names: str) -> None:
        for name in names:
            program = f'raise ModuleNotFoundError("No module named {name!r}", name={name!r})\n'
            (folder / f"{name}.py").write_text(program)

    return take_away


def shared_objects(pid: int) -> set[str]:
    """The names of those that the process has mapped: `loop` is uvloop's, `cygrpc` grpc's."""
    return set(re.findall(r"/([^/]+?)\.[^/]*so\b", Path(f"/proc/{pid}/maps").read_text()))


def test_the_daemon_runs_on_asyncio_where_uvloop_is_missing(ground: Ground, without: Without) -> None:
    ground.put("config", json.dumps({"Network": "10.82.0.0/16", "Backend": VXLAN}))
    assert "loop" in shared_objects(ground.daemon().ready().process.pid)

    without("uvloop")
    daemon = ground.daemon(number=2).ready()
    assert "loop" not in shared_objects(daemon.process.pid)
    ground.field.hand(2, "link del flannel.1")
    daemon.wait_stage("ready")
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log()


def test_packets_are_carried_on_asyncio_where_uvloop_is_missing(
    without: Without, request: pytest.FixtureRequest
) -> None:
    without("uvloop")
    spec = LabSpec(name=fresh_name(), nodes=2, pods=1, backend="udp")
    request.addfinalizer(lambda: build.down(spec.name, Silent()))
    field = UdpField(spec)
    for number in (1, 2):
        field.wait_well(number)
        found = field.worker(number)
        assert found["pump"] == "native"
        assert "loop" not in shared_objects(found["pid"])
    assert field.lost_pings() == {}


def test_etcd_s_libraries_are_named_when_they_are_missing(ground: Ground, without: Without) -> None:
    without("grpc")
    daemon = ground.daemon().start()
    assert daemon.wait_exit() == 1
    assert daemon.log().splitlines()[-1] == (
        "flanneld: leases in etcd need the Python package grpc, which is not installed; "
        "pip install grpcio protobuf etcd3==0.12.0"
    )
    assert "Traceback" not in daemon.log()


def test_config_set_names_them_too(ground: Ground, without: Without, tmp_path: Path) -> None:
    without("etcd3")
    text = tmp_path / "config.json"
    text.write_text('{"Network": "10.83.0.0/16"}')
    done = call(ground.namespace(), "config", "set", f"--etcd-endpoints={ground.topology.etcd_url}", str(text))
    assert done.returncode == 1
    assert "need the Python package etcd3, which is not installed" in done.stderr
    assert "Traceback" not in done.stderr


def test_all_but_etcd_imports_without_its_libraries() -> None:
    """Leases in the Kubernetes API must not need them."""
    program = (
        "import sys\n"
        "for name in ('grpc', 'google', 'etcd3', 'uvloop'): sys.modules[name] = None\n"
        "import flanneld_py.daemon.app, flanneld_py.dataplane.worker, flanneld_py.cli.status, flanneld_py.cli.cleanup\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
