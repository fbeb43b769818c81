"""A node that is a machine of its own, as far as a kubelet can tell: `python -m flanneld_py.lab.machine LAB NODE`.

Runs as the first process of new process, mount, UTS and IPC namespaces, in the node's network namespace. /etc, /opt and
/var are overlays, so that nothing of the host's is changed; /run is the machine's own. When this
process ends, the kernel ends containerd, the kubelet, kube-proxy and every container.

What the machine writes is on the host's disk, not in its memory as the rest of the lab is: files in memory would be
charged to the container that writes them, and a limit that is enough on a node would be too little here.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from flanneld_py.errors import LabError
from flanneld_py.lab import cgroups, kubelet, process
from flanneld_py.lab.cni import find_plugins
from flanneld_py.lab.process import Process
from flanneld_py.lab.state import LabDirectory
from flanneld_py.lab.topology import Node, Topology

BOOTED = "booted"
_READY_S = 60.0
_POLL_S = 0.05
_STORAGE = Path("/var/cache/flanneld-lab")
_OVERLAYS = ("etc", "opt", "var/lib", "var/log")
_STATE = ("kubelet", "containerd", "cni")
"""Directories of /var/lib that cannot lie on an overlay, because overlays or mounts are made in them."""
_KUBELETS_SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
"""What a kubelet sets (pkg/kubelet/cm/container_manager_linux.go) on the host as a whole: it finds them set already."""
_NODE_SYSCTLS = ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables")
"""What an administrator sets on a node, as every guide to kubeadm says."""


def run(lab: Path, name: str) -> None:
    """Be the machine until SIGTERM."""
    directory = LabDirectory(lab.name, lab.parent)
    record = directory.read()
    if record is None:
        raise LabError(f"{lab} is no lab")
    topology = Topology(record.spec)
    node = topology.node(name)
    # From here on SIGTERM and the ends of processes are waited for, in `_serve`.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGCHLD))
    _mount_all(directory, node)
    cgroups.create_group(kubelet.group(directory, node))
    servers = _start(topology, node, directory)
    (home(directory, node) / BOOTED).touch()
    _serve(servers)


def home(directory: LabDirectory, node: Node) -> Path:
    """What the machine keeps, as seen from outside of it, too."""
    return storage(directory) / node.name


def storage(directory: LabDirectory) -> Path:
    """What all machines of the lab keep."""
    return _STORAGE / directory.name


def _mount_all(directory: LabDirectory, node: Node) -> None:
    kept = home(directory, node)
    for name in _OVERLAYS:
        upper, work = kept / name, kept / "work" / name
        for made in (upper, work):
            made.mkdir(parents=True, exist_ok=True)
        _mount("-t", "overlay", name, f"/{name}", "-o", f"lowerdir=/{name},upperdir={upper},workdir={work}")
    for name in _STATE:
        (kept / name).mkdir(exist_ok=True)
        Path("/var/lib", name).mkdir(exist_ok=True)
        _mount("--bind", str(kept / name), f"/var/lib/{name}")
    # A new sysfs shows this network namespace's devices; it comes without the control groups.
    groups = kept / "cgroup"
    groups.mkdir(exist_ok=True)
    _mount("--rbind", "/sys/fs/cgroup", str(groups))
    _mount("-t", "sysfs", "sysfs", "/sys")
    _mount("--rbind", str(groups), "/sys/fs/cgroup")
    _mount_run(directory, node)
    for setting, value in _KUBELETS_SYSCTLS.items():
        file = kept / "sysctl" / setting
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(value + "\n")
        if Path("/proc/sys", setting).exists():
            _mount("--bind", str(file), f"/proc/sys/{setting}")
    for setting in _NODE_SYSCTLS:
        target = Path("/proc/sys", setting)
        if target.exists():
            target.write_text("1")
    # Containers shall see what is mounted later, such as pods' volumes.
    _mount("--make-rshared", "/")


def _mount_run(directory: LabDirectory, node: Node) -> None:
    """A /run of the machine's own; in it the lab's directory, and as /run/flannel the one of the node's daemon."""
    fresh, daemon = home(directory, node) / "run", directory.node(node.name)
    fresh.mkdir(exist_ok=True)
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(fresh))
    for name in ("netns", "lock", "flannel"):
        (fresh / name).mkdir()
    if directory.path.is_relative_to("/run"):
        inner = fresh / directory.path.relative_to("/run")
        inner.mkdir(parents=True)
        _mount("--bind", str(directory.path), str(inner))
    _mount("--bind", str(daemon), str(fresh / "flannel"))
    _mount("--move", str(fresh), "/run")


def _start(topology: Topology, node: Node, directory: LabDirectory) -> dict[str, Process]:
    kubelet.write_configs(topology, node, directory)
    bin_dir, conf_dir = Path("/opt/cni/bin"), Path("/etc/cni/net.d")
    # What the host has there, such as podman's network, would win over ours as long as ours is not installed.
    for directory_of_cni in (bin_dir, conf_dir):
        shutil.rmtree(directory_of_cni, ignore_errors=True)
        directory_of_cni.mkdir(parents=True)
    for plugin in find_plugins().iterdir():
        shutil.copy2(plugin, bin_dir)
    if topology.spec.manifest is None:
        install = [sys.executable, "-m", "cni_plugin", "install", "--bin-dir", str(bin_dir)]
        subprocess.run([*install, "--conf-dir", str(conf_dir)], check=True)
    servers = {"containerd": _spawn("containerd", kubelet.containerd_argv(), node, directory)}
    _wait_until("containerd answers", lambda: _quiet("ctr", "version"))
    for image in kubelet.images(topology, directory):
        subprocess.run(["ctr", "--namespace", "k8s.io", "images", "import", str(image)], check=True)
    servers["kubelet"] = _spawn("kubelet", kubelet.kubelet_argv(node, directory), node, directory)
    servers["kube-proxy"] = _spawn("kube-proxy", kubelet.proxy_argv(), node, directory)
    return servers


def _serve(servers: dict[str, Process]) -> None:
    """Reap what ends, as the first process has to; return on SIGTERM."""
    names = {server.pid: name for name, server in servers.items()}
    while signal.sigwait((signal.SIGTERM, signal.SIGCHLD)) != signal.SIGTERM:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid in names:
                print(f"{names[pid]} ended by itself: {os.waitstatus_to_exitcode(status)}", flush=True)


def _spawn(name: str, argv: list[str], node: Node, directory: LabDirectory) -> Process:
    return process.start(argv, namespace=None, log=directory.log(f"{node.name}-{name}"))


def _wait_until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _READY_S
    while not holds():
        if time.monotonic() > deadline:
            raise LabError(f"not within {_READY_S:.0f} s: {what}")
        time.sleep(_POLL_S)


def _quiet(*argv: str) -> bool:
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def _mount(*words: str) -> None:
    # Without the table in /run, which goes away here.
    subprocess.run(["mount", "--no-mtab", *words], check=True)


def main(argv: Sequence[str]) -> int:
    lab, node = argv
    try:
        run(Path(lab), node)
    except (LabError, OSError, subprocess.CalledProcessError) as err:
        print(f"machine {node}: {err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
