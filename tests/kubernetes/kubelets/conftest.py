"""Clusters of two nodes with kubelets, each with the published manifests, one for each way to configure the network."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import pytest

from flanneld_py.errors import LabError
from flanneld_py.lab import build, kubelet
from flanneld_py.lab.images import find_busybox
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.topology import Firewall, LabSpec, Stack, Store, Topology, Wiring
from tests.image.conftest import image
from tests.kubernetes.kubelets.workloads import Workloads

__all__ = ["image"]

NUMBERS = count(1)
MANIFESTS = Path(__file__).parents[3] / "deploy" / "kubernetes"
_SPEC = LabSpec(nodes=2, pods=1, store=Store.KUBERNETES, wiring=Wiring.KUBELETS, firewall=Firewall.IPTABLES)
VARIANTS = {
    "vxlan": _SPEC,
    "host-gw": replace(_SPEC, backend="host-gw"),
    "udp": replace(_SPEC, backend="udp"),
    "nftables": replace(_SPEC, firewall=Firewall.NFT),
    "dual-stack": replace(_SPEC, stack=Stack.DUAL),
}
"""`firewall`: what the ConfigMap says; the daemons are those of the DaemonSet."""


@dataclass(frozen=True)
class Variant:
    name: str
    spec: LabSpec


@pytest.fixture(scope="session")
def kubelet_programs(request: pytest.FixtureRequest, kubernetes_programs: None) -> None:
    try:
        kubelet.check_programs()
        find_busybox()
    except LabError as err:
        message = f"{err}; the tests of a whole cluster are not run. tests/run --cluster gets what they need"
        if request.config.getoption("--require-go"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)


@pytest.fixture(scope="session", params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Variant:
    """All tests of one come before those of the next, so that only one cluster is up at a time."""
    return Variant(request.param, VARIANTS[request.param])


@pytest.fixture(scope="session")
def running(
    kubelet_programs: None, image: Path, variant: Variant, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workloads]:
    manifest = tmp_path_factory.mktemp("manifest")
    write_kustomization(manifest, variant.spec)
    spec = replace(
        variant.spec,
        name=f"k{os.getpid()}-{next(NUMBERS)}",
        manifest=str(manifest),
        images=(str(image / "flanneld.tar"),),
    )
    with build.temporary(spec, Silent()) as lab:
        yield Workloads(lab)


@pytest.fixture
def cluster(running: Workloads) -> Iterator[Workloads]:
    """The cluster of the variant; what a test makes in it is removed."""
    yield running
    running.clear()


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
