"""The machines of a lab with kubelets, from the outside: started, asked whether they are ready, given pods."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

from flanneld_py.errors import LabError
from flanneld_py.lab import kubelet, kubernetes, machine, process, stores, wiring
from flanneld_py.lab.images import POD, write_images
from flanneld_py.lab.kubeapi import Api
from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.process import Process
from flanneld_py.lab.progress import Progress, ended
from flanneld_py.lab.state import LabDirectory
from flanneld_py.lab.topology import AddrOnLink, Node, Topology

READY_S = 120.0
_POLL_S = 0.05
_KUBECTL_S = 60.0
_NAMESPACES = ("--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation=private")


def process_name(node: Node) -> str:
    return f"{node.name}-machine"


def prepare(directory: LabDirectory) -> None:
    """What all machines need, once; what a lab of that name may have left is removed."""
    remove_storage(directory)
    write_images(directory.path / kubelet.IMAGES)


def remove_storage(directory: LabDirectory) -> None:
    """Ensure that nothing of what machines kept is left. None of them runs any more."""
    shutil.rmtree(machine.storage(directory), ignore_errors=True)
    with suppress(OSError):
        machine.storage(directory).parent.rmdir()


def start(node: Node, directory: LabDirectory) -> Process:
    unshare = shutil.which("unshare") or "/usr/bin/unshare"
    argv = [unshare, *_NAMESPACES, "--", sys.executable, "-m", machine.__name__, str(directory.path), node.name]
    machine.home(directory, node).mkdir(parents=True)
    directory.node(node.name).mkdir(exist_ok=True)
    return process.start(argv, namespace=node.namespace, log=directory.log(process_name(node)))


def wait_booted(machines: Mapping[Node, Process], directory: LabDirectory, progress: Progress) -> None:
    """Ensure that each runs its servers. LabError with its last words if one does not."""
    for node, started in machines.items():
        progress.step(f"machines: waiting for {node.name} of {len(machines)}")
        _until(
            lambda node=node: (machine.home(directory, node) / machine.BOOTED).exists(),  # type: ignore[misc]
            f"{node.name} has booted",
            progress,
            (process_name(node), started),
            directory,
        )


def wait_registered(api: Api, nodes: Iterable[Node], progress: Progress) -> None:
    """Ensure that each node's kubelet has registered it."""
    for node in nodes:
        progress.step(f"machines: waiting until {node.name} has registered")
        _until(lambda node=node: _condition(api, node) is not None, f"{node.name} has registered", progress)  # type: ignore[misc]


def wait_ready(api: Api, nodes: Iterable[Node], progress: Progress) -> None:
    """Ensure that each node is Ready, as `kubectl get nodes` shows it. LabError with the kubelet's reason if not."""
    for node in nodes:
        progress.step(f"machines: waiting until {node.name} is Ready")
        try:
            _until(lambda node=node: (_condition(api, node) or {}).get("status") == "True", "", progress)  # type: ignore[misc]
        except LabError:
            message = (_condition(api, node) or {}).get("message", "it has not registered")
            raise LabError(f"{node.name} is not Ready after {READY_S:.0f} s: {message}") from None


def apply(topology: Topology, directory: LabDirectory, file: Path) -> None:
    """kubectl apply, of a kustomization if it is a directory. LabError with kubectl's words if it refuses."""
    kind = "-k" if file.is_dir() else "-f"
    done = kubectl(topology, directory, "apply", kind, str(file))
    if done.returncode != 0:
        raise LabError(f"kubectl apply {kind} {file}: {done.stderr.strip()}")


def kubectl(topology: Topology, directory: LabDirectory, *words: str) -> "subprocess.CompletedProcess[str]":
    """kubectl as the administrator, from the router."""
    site = stores.site(topology, directory)
    argv = [kubernetes.find_program("kubectl"), f"--kubeconfig={site.kubeconfig('admin')}", *words]
    env = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
    return inside(
        topology.router,
        lambda: subprocess.run(argv, capture_output=True, text=True, env=env, timeout=_KUBECTL_S, check=False),
    )


def run_pods(api: Api, nodes: Sequence[Node], progress: Progress) -> dict[str, tuple[AddrOnLink, ...]]:
    """The lab's pods, run by their nodes' kubelets; their addresses. Each network namespace gets the pod's name."""
    for node in nodes:
        for pod in node.pods:
            api.ensure("/api/v1/namespaces/default/pods", pod_object(pod.name, node.name))
    addresses = {}
    for pod in (pod for node in nodes for pod in node.pods):
        progress.step(f"pods: waiting for {pod.name}")
        path = f"/api/v1/namespaces/default/pods/{pod.name}"
        _until(lambda path=path: api.get(path)["status"].get("phase") == "Running", f"{pod.name} runs", progress)  # type: ignore[misc]
        running = api.get(path)
        addresses[pod.name] = tuple(_interface(one["ip"]) for one in running["status"]["podIPs"])
        wiring.attach_namespace(pod.namespace, pid_of_pod(running["metadata"]["uid"]))
    return addresses


def pod_object(name: str, node: str) -> dict[str, Any]:
    """A pod on that node that waits until it is told to end."""
    spec = {
        "nodeName": node,
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": POD, "imagePullPolicy": "Never"}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def pid_of_pod(uid: str) -> int:
    """A process of the pod, found by its control group, whose name has the pod's UID. LabError if none runs."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and uid in (entry / "cgroup").read_text():
                return int(entry.name)
        except OSError:
            continue
    raise LabError(f"no process of pod {uid} runs")


def _interface(text: str) -> AddrOnLink:
    """The API tells addresses without a length."""
    return ip_interface((text, ip_address(text).max_prefixlen))


def _condition(api: Api, node: Node) -> dict[str, str] | None:
    """The node's condition Ready; None if there is no such node, or none yet."""
    for found in api.get(f"/api/v1/nodes?fieldSelector=metadata.name={node.name}")["items"]:
        for condition in found["status"].get("conditions", ()):
            if condition["type"] == "Ready":
                return dict(condition)
    return None


def _until(
    holds: Callable[[], bool],
    what: str,
    progress: Progress,
    watched: tuple[str, Process] | None = None,
    directory: LabDirectory | None = None,
) -> None:
    """LabError if it does not come to hold, or if the watched process ends meanwhile."""
    deadline = time.monotonic() + READY_S
    while not holds():
        progress.check()
        if watched is not None and directory is not None and process.wait(watched[1], 0):
            raise ended(watched[0], directory, progress)
        if time.monotonic() > deadline:
            raise LabError(f"not within {READY_S:.0f} s: {what}")
        time.sleep(_POLL_S)
