"""Clusters of two nodes with kubelets, one for each way in which the network may be configured."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

import pytest

from flanneld_py.errors import LabError
from flanneld_py.lab import build, kubelet
from flanneld_py.lab.images import find_busybox
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.topology import Firewall, LabSpec, Stack, Store, Wiring
from tests.kubernetes.kubelets.workloads import Workloads

NUMBERS = count(1)
_SPEC = LabSpec(nodes=2, pods=1, store=Store.KUBERNETES, wiring=Wiring.KUBELETS, firewall=Firewall.IPTABLES)
VARIANTS = {
    "vxlan": _SPEC,
    "host-gw": replace(_SPEC, backend="host-gw"),
    "udp": replace(_SPEC, backend="udp"),
    "nftables": replace(_SPEC, firewall=Firewall.NFT),
    "dual-stack": replace(_SPEC, stack=Stack.DUAL),
}


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


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Variant:
    return Variant(request.param, VARIANTS[request.param])


@pytest.fixture(scope="module")
def running(kubelet_programs: None, variant: Variant) -> Iterator[Workloads]:
    spec = replace(variant.spec, name=f"k{os.getpid()}-{next(NUMBERS)}")
    with build.temporary(spec, Silent()) as lab:
        yield Workloads(lab)


@pytest.fixture
def cluster(running: Workloads) -> Iterator[Workloads]:
    """The cluster of the module's variant; what a test makes in it is removed."""
    yield running
    running.clear()
