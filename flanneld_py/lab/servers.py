"""The lab's daemons, one a node: real processes with the flags of a real node, in the node's network namespace."""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence

from flanneld_py.errors import LabError
from flanneld_py.lab import process
from flanneld_py.lab.process import Process
from flanneld_py.lab.progress import Progress, ended
from flanneld_py.lab.state import LabDirectory
from flanneld_py.lab.stores import servers_of
from flanneld_py.lab.topology import Firewall, Node, Topology
from flanneld_py.model.subnetenv import SubnetEnv, parse_subnet_env

READY_S = 60.0
_POLL_S = 0.02
_CLOCK_STEP_S = 0.02
"""A file's time comes from the tick of the kernel's clock, and may be that much before time.time()."""


def daemon_argv(topology: Topology, node: Node, directory: LabDirectory) -> list[str]:
    """The command of the node's daemon: ours or, where the spec says so, Go flannel's."""
    spec = topology.spec
    flags = [
        *servers_of(topology, directory).daemon_flags(),
        "-iface=eth0",
        f"-subnet-file={directory.subnet_file(node.name)}",
        "-iptables-forward-rules=false" if spec.firewall is Firewall.NONE else "-ip-masq",
    ]
    if node.number in spec.go_nodes and spec.go_binary is not None:
        return [spec.go_binary, *flags]
    return [sys.executable, "-m", "flanneld_py", *flags, *spec.daemon_flags]


def start_daemon(topology: Topology, node: Node, directory: LabDirectory) -> Process:
    directory.node(node.name).mkdir(parents=True, exist_ok=True)
    env = {key: value for key, value in os.environ.items() if not key.startswith(("FLANNEL", "NOTIFY_SOCKET"))}
    env["NODE_NAME"] = node.name
    argv = daemon_argv(topology, node, directory)
    return process.start(argv, namespace=node.namespace, log=directory.log(node.name), env=env)


def wait_for_daemons(
    daemons: Sequence[tuple[Node, Process]],
    topology: Topology,
    directory: LabDirectory,
    progress: Progress,
    since: float,
) -> None:
    """Ensure that each daemon wrote subnet.env after `since` (Unix seconds) and, if it is ours, reports to be ready.

    LabError with the daemon's last words if one ends, or with what it waits for if one is not ready in time.
    """
    left = list(daemons)
    deadline = time.monotonic() + READY_S
    shown = None
    while left:
        progress.check()
        left = [pair for pair in left if not _ready(*pair, topology, directory, since)]
        if (done := len(daemons) - len(left)) != shown:
            progress.step(f"daemons ready: {done} of {len(daemons)}")
            shown = done
        if not left:
            return
        for node, daemon in left:
            if not process.alive(daemon):
                process.wait(daemon, 0)
                raise ended(node.name, directory, progress)
        if time.monotonic() > deadline:
            node = left[0][0]
            raise LabError(
                f"flanneld on {node.name} is not ready after {READY_S:.0f} s: {_stage(directory, node)}",
                hint=f"its log is {directory.log(node.name)}",
            )
        process.wait(left[0][1], _POLL_S)


def read_network(directory: LabDirectory, node: Node) -> SubnetEnv:
    """What the node's subnet.env says. LabError if there is none, or one without a subnet."""
    path = directory.subnet_file(node.name)
    try:
        env, _ = parse_subnet_env(path.read_text())
    except FileNotFoundError:
        raise LabError(f"{node.name} has no subnet yet: {path} does not exist") from None
    if not env.subnets or env.mtu is None:
        raise LabError(f"{path} names no subnet or no MTU")
    return env


def read_status(directory: LabDirectory, node: Node) -> dict[str, object]:
    """The node's status.json; empty if there is none (Go flannel writes none)."""
    try:
        raw = json.loads((directory.node(node.name) / "status.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return raw if isinstance(raw, dict) else {}


def stop_daemon(daemon: Process, *, hard: bool) -> None:
    """Ensure that the daemon does not run: at its own pace, or by SIGKILL as in a crash."""
    if hard:
        process.send(daemon, signal.SIGKILL)
    process.end([daemon])


def _ready(node: Node, daemon: Process, topology: Topology, directory: LabDirectory, since: float) -> bool:
    try:
        written = directory.subnet_file(node.name).stat().st_mtime
    except FileNotFoundError:
        return False
    if node.number in topology.spec.go_nodes:
        return written >= since - _CLOCK_STEP_S
    status = read_status(directory, node)
    return status.get("pid") == daemon.pid and status.get("stage") == "ready"


def _stage(directory: LabDirectory, node: Node) -> str:
    status = read_status(directory, node)
    parts = [str(status[key]) for key in ("stage", "error", "hint") if status.get(key)]
    return "; ".join(parts) or "it reports nothing"
