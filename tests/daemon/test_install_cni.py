"""The daemon puts the CNI plugin into place, but never before the network that the plugin promises works."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cni_plugin import conflist, program
from tests.cni.node import link_real_plugins
from tests.daemon.conftest import Ground
from tests.waiting import eventually

CONFIG = '{"Network": "10.77.0.0/16", "Backend": {"Type": "vxlan"}}'


class Place:
    """Directories of a runtime."""

    def __init__(self, base: Path) -> None:
        self.bin, self.net_d = base / "bin", base / "net.d"
        self.bin.mkdir()
        self.conflist = self.net_d / conflist.FILE_NAME

    @property
    def arguments(self) -> list[str]:
        return ["--bin-dir", str(self.bin), "--conf-dir", str(self.net_d)]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_conflist_comes_after_the_network_and_stays(ground: Ground, place: Place) -> None:
    link_real_plugins(place.bin)
    daemon = ground.daemon("--install-cni", f"--install-cni-args={' '.join(place.arguments)}").start()
    daemon.wait_stage("waiting for the network configuration")
    assert not place.net_d.exists() and not (place.bin / "flannel").exists()
    ground.put("config", CONFIG)
    daemon.wait_stage("ready")
    eventually("the conflist is there", place.conflist.exists, daemon.log)
    times = [path.stat().st_mtime_ns for path in (daemon.folder / "subnet.env", place.bin / "flannel", place.conflist)]
    assert times == sorted(times)
    assert "1.1.0" in program.supported_versions(place.bin / "flannel")
    daemon.stop()
    assert place.conflist.read_text() == conflist.DEFAULT and (place.bin / "flannel").exists()


def test_network_works_though_the_plugin_cannot_be_installed(ground: Ground, place: Place) -> None:
    ground.put("config", CONFIG)
    daemon = ground.daemon("--install-cni", f"--install-cni-args={' '.join(place.arguments)}").ready()
    said = f"the CNI plugin is not installed: plugin 'bridge' is not in {place.bin}"
    eventually("the status says why", lambda: said in str(daemon.status().get("warnings")), daemon.status)
    assert not place.conflist.exists()
    link_real_plugins(place.bin)
    eventually("it is tried again", place.conflist.exists, daemon.log)
    eventually("the status is clean", lambda: said not in str(daemon.status().get("warnings")), daemon.status)
    assert daemon.status()["stage"] == "ready"


def test_command_calls_the_installer(place: Place, tmp_path: Path) -> None:
    """From any directory, also one with a file that is called like the package."""
    (tmp_path / "cni_plugin.py").write_text("raise SystemExit('the wrong one')")
    command = [sys.executable, "-P", "-m", "flanneld_py", "install-cni", *place.arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 1 and "plugin 'bridge' is not in" in done.stderr, done
    link_real_plugins(place.bin)
    for extra, gone in (([], False), (["--uninstall"], True)):
        done = subprocess.run([*command, *extra], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done
        assert place.conflist.exists() != gone
