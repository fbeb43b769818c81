"""A real dockerd on each node, as the guides from before Kubernetes have it: started with what mk-docker-opts wrote.

Containers are asked for over the Engine's API on dockerd's socket, so no docker client is needed. Their image holds
empty directories only; the host's own /usr is mounted into them read-only.
"""

import io
import json
import shlex
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from flanneld_py.errors import LabError
from flanneld_py.lab import cgroups, process, wiring
from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.process import Process
from flanneld_py.lab.progress import Progress, ended
from flanneld_py.lab.state import LabDirectory
from flanneld_py.lab.topology import AddrOnLink, Firewall, Node, Pod

GRACE_S = 20.0
"""dockerd ends its containers one by one before it ends itself."""
READY_S = 60.0
IMAGE = "flanneld-lab"
_CALL_S = 30.0
_POLL_S = 0.05
_VARIABLE = "DOCKER_NETWORK_OPTIONS"
_ABSENT = "docker-absent.json"
_TRACES = (
    *("/etc/docker/key.json", "/etc/docker", "/run/docker/plugins", "/run/docker"),
    *("/run/containerd/s", "/run/containerd/fifo", "/run/containerd"),
)
"""What dockerd and containerd make outside the directories that they are given."""
_CONTAINERD = """version = 2
root = "{home}/containerd-root"
state = "{home}/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "{home}/containerd.sock"
[ttrpc]
address = "{home}/containerd.sock.ttrpc"
"""
_MOUNTS = ("usr", "bin", "lib", "lib64")


def find_program(name: str) -> str:
    """The path of dockerd or containerd."""
    found = shutil.which(name)
    if found is None:
        raise LabError(
            f"--docker: there is no {name} on PATH",
            hint="install it: apt install --no-install-recommends docker.io",
        )
    return found


def check_programs() -> None:
    """LabError if docker is not installed."""
    find_program("dockerd")
    find_program("containerd")


def server_name(node: Node) -> str:
    return f"{node.name}-docker"


def containerd_name(node: Node) -> str:
    return f"{node.name}-containerd"


def start_containerd(directory: LabDirectory, node: Node, progress: Progress) -> Process:
    """The node's containerd. Without one of its own, dockerd would use the host's, and share its containers."""
    home = directory.node(node.name) / "docker"
    home.mkdir(parents=True, exist_ok=True)
    config = home / "containerd.toml"
    config.write_text(_CONTAINERD.format(home=home))
    name = containerd_name(node)
    argv = [find_program("containerd"), f"--config={config}"]
    containerd = process.start(argv, namespace=node.namespace, log=directory.log(name))
    _wait(containerd, directory, name, progress, (home / "containerd.sock").exists)
    return containerd


def note_absent(directory: LabDirectory) -> None:
    """Note which of dockerd's traces are not on this machine yet, so that they can be removed with the lab."""
    absent = [path for path in _TRACES if not Path(path).exists()]
    (directory.path / _ABSENT).write_text(json.dumps(absent))


def start_dockerd(directory: LabDirectory, node: Node, progress: Progress, *, firewall: Firewall) -> Process:
    """A dockerd whose docker0 has the node's leased subnet and MTU; it answers.

    Where the daemons have rules, docker has its own too; without, its chains would be in their way.
    """
    home = directory.node(node.name) / "docker"
    argv = [
        find_program("dockerd"),
        f"--containerd={home / 'containerd.sock'}",
        f"--host=unix://{home / 'sock'}",
        f"--data-root={home / 'data'}",
        f"--exec-root={home / 'exec'}",
        f"--pidfile={home / 'pid'}",
        # Control groups under a name of the lab's own, which systemd's driver would not take.
        "--exec-opt=native.cgroupdriver=cgroupfs",
        f"--cgroup-parent=/{cgroups.group_of(directory.name)}",
        f"--iptables={str(firewall is not Firewall.NONE).lower()}",
        "--userland-proxy=false",
        # Without CAP_SYS_RESOURCE nobody may raise the hard limits to what docker would set.
        "--default-ulimit=nofile=1024:1024",
        "--default-ulimit=nproc=1000:1000",
        *_network_options(directory, node),
    ]
    name = server_name(node)
    dockerd = process.start(argv, namespace=node.namespace, log=directory.log(name))
    _wait(dockerd, directory, name, progress, lambda: _answers(home))
    return dockerd


def run_pods(directory: LabDirectory, node: Node) -> dict[str, tuple[AddrOnLink, ...]]:
    """A container for each pod of the node, its network namespace named as the pod's; the addresses docker gave."""
    home = directory.node(node.name) / "docker"
    _call(home, "POST", f"/images/create?fromSrc=-&repo={IMAGE}", _image(), "application/x-tar")
    return {pod.name: _run(home, pod) for pod in node.pods}


def remove_leftovers(directory: LabDirectory) -> None:
    """Remove what dockerds leave: mounts below the lab's directory, control groups, and traces that were not there."""
    mounts = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        target = line.split()[4].encode().decode("unicode_escape")
        if Path(target).is_relative_to(directory.path):
            mounts.append(target)
    for target in reversed(mounts):
        subprocess.run(["umount", "--lazy", target], check=False, stdin=subprocess.DEVNULL, capture_output=True)
    cgroups.remove_group(cgroups.group_of(directory.name))
    try:
        absent = json.loads((directory.path / _ABSENT).read_text())
    except (FileNotFoundError, ValueError):
        return
    for path in map(Path, absent):
        # A directory that somebody else uses by now is not empty, and stays.
        with suppress(OSError):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()


def _wait(server: Process, directory: LabDirectory, name: str, progress: Progress, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        progress.check()
        if ready():
            return
        if process.wait(server, _POLL_S):
            raise ended(name, directory, progress)
    raise LabError(f"{name} did not answer in {READY_S:.0f} s", hint=f"its log is {directory.log(name)}")


def _answers(home: Path) -> bool:
    try:
        _call(home, "GET", "/_ping")
    except LabError:
        return False
    return True


def _network_options(directory: LabDirectory, node: Node) -> list[str]:
    output = directory.node(node.name) / "docker.env"
    command = [sys.executable, "-c", "import sys, flanneld_py.cli.mk_docker_opts as m; sys.exit(m.main())"]
    command += ["-c", "-k", _VARIABLE, "-f", str(directory.subnet_file(node.name)), "-d", str(output)]
    done = inside(node.namespace, lambda: subprocess.run(command, check=False, capture_output=True, text=True))
    if done.returncode != 0:
        raise LabError(f"mk-docker-opts on {node.name}: {(done.stderr or done.stdout).strip()}")
    name, _, value = output.read_text().strip().partition("=")
    if name != _VARIABLE or not value:
        raise LabError(f"{output} does not set {_VARIABLE}")
    return [option for word in shlex.split(value) for option in word.split()]


def _image() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in (*_MOUNTS, "etc", "proc", "sys", "dev", "tmp"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
    return buffer.getvalue()


def _run(home: Path, pod: Pod) -> tuple[AddrOnLink, ...]:
    binds = [f"/{name}:/{name}:ro" for name in _MOUNTS if Path(f"/{name}").is_dir()]
    wanted = {
        "Image": IMAGE,
        "Hostname": pod.name,
        "Cmd": ["/usr/bin/sleep", "infinity"],
        # The first process of a container ignores SIGTERM, and dockerd would wait for ten seconds.
        "StopSignal": "SIGKILL",
        "HostConfig": {"Binds": binds, "NetworkMode": "bridge"},
    }
    created = _call(home, "POST", f"/containers/create?name={pod.name}", json.dumps(wanted).encode())
    _call(home, "POST", f"/containers/{created['Id']}/start")
    state = _call(home, "GET", f"/containers/{created['Id']}/json")
    pid, settings = int(state["State"]["Pid"]), state["NetworkSettings"]
    if pid == 0:
        raise LabError(f"container {pod.name} ended at once: {state['State'].get('Error') or 'no reason given'}")
    wiring.attach_namespace(pod.namespace, pid)
    return tuple(
        ip_interface(f"{settings[address]}/{settings[length]}")
        for address, length in (("IPAddress", "IPPrefixLen"), ("GlobalIPv6Address", "GlobalIPv6PrefixLen"))
        if settings.get(address)
    )


def _call(home: Path, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Any:
    """dockerd's answer; None if it has no JSON in it."""
    connection = HTTPConnection("localhost", timeout=_CALL_S)
    try:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(_CALL_S)
        connection.sock.connect(str(home / "sock"))
        connection.request(method, path, body, {"Content-Type": kind})
        response = connection.getresponse()
        text = response.read()
    except (OSError, HTTPException) as err:
        raise LabError(f"dockerd at {home / 'sock'} does not answer {path}: {err}") from None
    finally:
        connection.close()
    if response.status >= 300:
        raise LabError(f"dockerd refused {path}: {response.status} {text.decode(errors='replace').strip()}")
    with suppress(ValueError):
        return json.loads(text)
    return None
