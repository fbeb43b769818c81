"""etcd with authentication: the password is used, and is nowhere to be read."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flanneld_py.lab.namespaces import inside
from tests.daemon.conftest import Ground
from tests.daemon.field import call
from tests.etcd.server import Server
from tests.waiting import eventually

CONFIG = '{"Network": "10.77.0.0/16", "Backend": {"Type": "vxlan"}}'
SECRET = "c0rrect-h0rse"
ROOT = ("--user=root:r00t-pass",)


@pytest.fixture
def guarded(ground: Ground, tmp_path: Path) -> Iterator[Server]:
    """An etcd on node 1's loopback that lets nobody in without a password."""
    server = Server(tmp_path)

    def prepare() -> None:
        server.start()
        for words in ("user add root:r00t-pass", "user grant-role root root", f"user add flannel:{SECRET}"):
            server.ctl(*words.split())
        server.ctl("role", "add", "flannel")
        server.ctl("role", "grant-permission", "--prefix", "flannel", "readwrite", "/net/")
        server.ctl("user", "grant-role", "flannel", "flannel")
        server.ctl("put", "/net/config", CONFIG)
        server.ctl("auth", "enable")

    try:
        inside(ground.namespace(), prepare)
        yield server
    finally:
        server.end()


def flags(server: Server, password: Path) -> tuple[str, ...]:
    return (
        f"--etcd-endpoints={server.url}",
        "--etcd-prefix=/net",
        "--etcd-username=flannel",
        f"--etcd-password-file={password}",
    )


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_password_is_in_no_log_status_or_process_list(
    ground: Ground, guarded: Server, tmp_path: Path, form: str
) -> None:
    (tmp_path / "password").write_text(SECRET + "\n")
    daemon = ground.daemon(*flags(guarded, tmp_path / "password"), "-v=10", f"--log-format={form}").ready()
    shown = call(daemon.namespace, "status", "-o", "json", f"--subnet-file={daemon.folder}/subnet.env").stdout
    process = Path(f"/proc/{daemon.process.pid}")
    daemon.stop()
    places = [shown, *(path.read_text() for path in daemon.folder.iterdir() if path.is_file())]
    assert "/net" in shown
    assert all(SECRET not in text for text in places)
    daemon.start()
    assert SECRET.encode() not in (process.with_name(str(daemon.process.pid)) / "cmdline").read_bytes()
    assert SECRET.encode() not in (process.with_name(str(daemon.process.pid)) / "environ").read_bytes()


def test_a_wrong_password_ends_it_and_is_not_repeated(ground: Ground, guarded: Server, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("wr0ng-h0rse")
    daemon = ground.daemon(*flags(guarded, tmp_path / "password"), "-v=10").start()
    eventually("it says why", lambda: daemon.status().get("error"), daemon.log)
    assert "wr0ng-h0rse" not in daemon.log()
    assert "wr0ng-h0rse" not in str(daemon.status())
    assert "flannel" in daemon.status()["error"]
    assert daemon.status()["hint"] == "check --etcd-username and the password"
    assert daemon.status()["hint"] not in daemon.status()["error"]
    assert daemon.wait_exit() == 1


def test_a_password_in_a_variable_is_not_shown_either(ground: Ground, guarded: Server) -> None:
    names = {"FLANNELD_ETCD_USERNAME": "flannel", "FLANNELD_ETCD_PASSWORD": SECRET}
    daemon = ground.daemon(f"--etcd-endpoints={guarded.url}", "--etcd-prefix=/net", "-v=10", env=names).ready()
    assert SECRET not in daemon.log()
    assert SECRET not in (daemon.folder / "status.json").read_text()
    assert os.environ.get("FLANNELD_ETCD_PASSWORD") is None
