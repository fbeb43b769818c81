"""A cluster of two nodes with kubelets and the published manifests, given one network configuration after another."""

import json
import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from flanneld_py.errors import LabError
from flanneld_py.lab import build, machines
from flanneld_py.lab.process import last_lines
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.state import LabDirectory
from flanneld_py.lab.topology import Firewall, LabSpec, Stack, Store, Topology, Wiring
from flanneld_py.lab.traffic import endpoints, ping_matrix
from tests.kubernetes.kubelets.workloads import DAEMONS, LINES, Workloads, is_ready
from tests.waiting import eventually

NUMBERS = count(1)
MANIFESTS = Path(__file__).parents[3] / "deploy" / "kubernetes"
_SPEC = LabSpec(nodes=2, pods=1, store=Store.KUBERNETES, wiring=Wiring.KUBELETS, firewall=Firewall.IPTABLES)
VARIANTS = {
    "vxlan": _SPEC,
    "nftables": replace(_SPEC, firewall=Firewall.NFT),
    "host-gw": replace(_SPEC, backend="host-gw"),
    "udp": replace(_SPEC, backend="udp"),
    "dual-stack": replace(_SPEC, stack=Stack.DUAL),
}
"""`firewall`: what the ConfigMap says; the daemons are those of the DaemonSet. Pods that are there keep their MTU, so
the smallest comes first; after udp each node would wait for its worker, which nobody relieves."""


@dataclass(frozen=True)
class Variant:
    name: str
    spec: LabSpec


class Clusters:
    """One cluster at a time. A variant with the same networks is made of the one that is up, as a user would do it."""

    def __init__(self, folder: Path, images: tuple[Path, ...]) -> None:
        self._folder, self._images = folder, images
        self._running = ExitStack()
        self._up: Workloads | None = None

    def of(self, variant: Variant) -> Workloads:
        """The cluster with that network, whose pods reach each other."""
        write_kustomization(self._folder, variant.spec)
        if self._up is not None and self._up.lab.topology.spec.stack is variant.spec.stack:
            change_network(self._up, self._folder)
            return self._up
        self.close()
        name = f"k{os.getpid()}-{next(NUMBERS)}"
        spec = replace(variant.spec, name=name, manifest=str(self._folder), images=tuple(map(str, self._images)))
        witness = Witness(LabDirectory(name))
        try:
            self._up = Workloads(self._running.enter_context(build.temporary(spec, witness)))
        except LabError as err:
            pytest.fail(f"{err}; {err.hint}\n{witness.account}", pytrace=False)
        return self._up

    def close(self) -> None:
        self._up = None
        self._running.close()


class Witness(Silent):
    """Keeps the last step of building a lab, and the ends of its logs before they are removed with it."""

    def __init__(self, directory: LabDirectory) -> None:
        self._directory = directory
        self._step = ""
        self.account = ""

    def step(self, text: str) -> None:
        logs = sorted(self._directory.log("any").parent.glob("*.log"))
        if text.startswith("removing"):
            ends = (f"{path.stem}: {line}" for path in logs for line in last_lines(path, LINES))
            self.account = "\n".join((self._step, *ends))
        self._step = text


def change_network(cluster: Workloads, manifests: Path) -> None:
    """Apply the manifests, and end all daemons at once, rather than one after another as the DaemonSet would."""
    lab = cluster.lab
    machines.apply(lab.topology, lab.directory, manifests)
    before = {pod["metadata"]["uid"] for pod in cluster.api.get(DAEMONS)["items"]}
    cluster.api.delete(DAEMONS)

    def changed() -> bool:
        listed: list[dict[str, Any]] = cluster.api.get(DAEMONS)["items"]
        fresh = not before & {pod["metadata"]["uid"] for pod in listed}
        return fresh and len(listed) == len(cluster.nodes) and all(map(is_ready, listed))

    eventually("every node has a new daemon that is ready", changed, cluster.why)
    for version in lab.topology.spec.stack.versions:
        places = endpoints(lab.topology, lab.record.pods, version)

        def reached(places: tuple[Any, ...] = places) -> bool:
            return not any(result.lost for result in ping_matrix(places, count=1).values())

        eventually("the pods reach each other", reached, cluster.why)


def write_kustomization(folder: Path, spec: LabSpec) -> None:
    """The published manifests, with the network configuration of the lab: what a user's own kustomization does."""
    base = MANIFESTS / "udp" if spec.backend == "udp" else MANIFESTS
    patch = [{"op": "replace", "path": "/data/net-conf.json", "value": Topology(spec).net_config()}]
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(base, folder)],
        "patches": [{"target": {"kind": "ConfigMap", "name": "kube-flannel-cfg"}, "patch": json.dumps(patch)}],
    }
    (folder / "kustomization.yaml").write_text(json.dumps(kustomization))
