"""The image as `tests/run` built it, and containers made of it."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.conftest import Ground, fresh_name, ground, shared_ground

__all__ = ["ground", "shared_ground"]

CAPABILITIES = ("NET_ADMIN", "NET_RAW")
LIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000")
"""Podman's own would be more than a process without CAP_SYS_RESOURCE may set."""
START_S = 60.0


@pytest.fixture(scope="session")
def image(request: pytest.FixtureRequest) -> Path:
    """The folder with `rootfs` and `flanneld.tar`."""
    folder = Path(os.environ.get("FLANNELD_IMAGE", ""))
    if (folder / "flanneld.tar").is_file() and shutil.which("podman"):
        return folder
    reason = "without FLANNELD_IMAGE=FOLDER and podman, nothing shows that the container image works"
    if request.config.getoption("--require-go"):
        pytest.fail(reason)
    pytest.skip(reason)


class Podman:
    """An engine whose store is in `folder`, so that this machine's own is not touched."""

    def __init__(self, folder: Path) -> None:
        self._command = ["podman", f"--root={folder}/store", f"--runroot={folder}/state", f"--tmpdir={folder}/tmp"]
        self._command += ["--runtime=runc", "--cgroup-manager=cgroupfs"]
        self._environ = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}

    def __call__(self, *words: str | Path, check: bool = True) -> str:
        """What it prints."""
        done = subprocess.run(
            [*self._command, *map(str, words)],
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
            env=self._environ,
        )
        assert done.returncode == 0 or not check, f"podman {words}: {done.stderr}"
        return done.stdout

    def start(self, *words: str | Path, log: Path) -> "subprocess.Popen[bytes]":
        with log.open("wb") as stream:
            return subprocess.Popen([*self._command, *map(str, words)], stdout=stream, stderr=stream, env=self._environ)


@pytest.fixture
def podman() -> Iterator[Podman]:
    # A longer path than this one's is refused.
    with tempfile.TemporaryDirectory(prefix="podman") as folder:
        yield Podman(Path(folder))
        # The storage driver leaves its folder mounted on itself.
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if (target := line.split()[1]).startswith(folder):
                subprocess.run(["umount", "--lazy", target], check=True)


class Node:
    """A node of a lab whose daemon runs in a container, as the DaemonSet has it."""

    def __init__(self, podman: Podman, rootfs: Path, ground: Ground, folder: Path) -> None:
        self._podman, self._rootfs, self._ground = podman, rootfs, ground
        self.folder, self._name = folder, fresh_name()
        self._child: subprocess.Popen[bytes] | None = None
        self._log = folder / "log"

    def start(self, *flags: str, options: tuple[str, ...] = (), capabilities: tuple[str, ...] = CAPABILITIES) -> "Node":
        run = self.folder / "run"
        run.mkdir(parents=True)
        self._child = self._podman.start(
            *("run", "--rm", f"--name={self._name}", *LIMITS, f"--network=ns:/run/netns/{self._ground.namespace()}"),
            *("--read-only", "--read-only-tmpfs=false", "--cap-drop=all", f"--cap-add={','.join(capabilities)}"),
            *("--security-opt=no-new-privileges", f"--volume={run}:/run/flannel", *options),
            *("--entrypoint=/opt/bin/flanneld", "--rootfs", f"{self._rootfs}:O"),
            *(f"--etcd-endpoints={self._ground.topology.etcd_url}", f"--etcd-prefix={self._ground.prefix}"),
            *("--iface=eth0", "--healthz-port=8081", *flags),
            log=self._log,
        )
        return self

    def log(self) -> str:
        return self._log.read_text()

    def status(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "run/status.json").read_text()))

    @property
    def pid(self) -> int:
        """The daemon's, as this machine sees it."""
        return int(self._podman("inspect", "--format={{.State.Pid}}", self._name))

    def stop(self) -> int:
        """The exit code after SIGTERM."""
        assert self._child is not None
        self._podman("kill", "--signal=TERM", self._name)
        return self._child.wait(START_S)

    def end(self) -> None:
        if self._child is not None:
            self._podman("rm", "--force", "--time=0", self._name, check=False)
            self._child.wait(START_S)


@pytest.fixture
def node(image: Path, podman: Podman, ground: Ground, tmp_path: Path) -> Iterator[Node]:
    made = Node(podman, image / "rootfs", ground, tmp_path / "container")
    yield made
    made.end()
