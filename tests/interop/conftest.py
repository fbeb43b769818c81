"""The real flannel, and clusters in which it is some of the nodes."""

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from flanneld_py.lab import build
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.topology import LabSpec, Option, Stack, Underlay
from tests.interop.cluster import Cluster

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flanneld_py" / "go-flannel"
NUMBERS = count(1)

BACKENDS: dict[str, tuple[str, tuple[tuple[str, Option], ...], Underlay, Stack]] = {
    "vxlan": ("vxlan", (), Underlay.ROUTED, Stack.IPV4),
    "vxlan-dual": ("vxlan", (), Underlay.ROUTED, Stack.DUAL),
    "vxlan-direct": ("vxlan", (("DirectRouting", True),), Underlay.ROUTED, Stack.IPV4),
    "host-gw": ("host-gw", (), Underlay.L2, Stack.IPV4),
    "host-gw-dual": ("host-gw", (), Underlay.L2, Stack.DUAL),
}

BuildCluster = Callable[[str, tuple[int, ...]], Cluster]


@pytest.fixture(scope="session")
def go_flannel(request: pytest.FixtureRequest) -> str:
    """The program. tests/run builds it and says where it is in GO_FLANNEL."""
    named = os.environ.get("GO_FLANNEL")
    found = [Path(named)] if named else sorted(CACHE.glob("*/flannel"))
    if found and os.access(found[-1], os.X_OK):
        return str(found[-1])
    message = (
        f"no Go flannel at {named or CACHE}; mixed clusters stay untested. tests/run builds it where Go is installed"
    )
    if request.config.getoption("--require-go"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


@pytest.fixture
def cluster_of(go_flannel: str) -> Iterator[BuildCluster]:
    """A function that builds a cluster of three nodes with a pod each; all are removed at the end."""
    specs: list[LabSpec] = []

    def up(backend: str, go_nodes: tuple[int, ...]) -> Cluster:
        kind, options, underlay, stack = BACKENDS[backend]
        spec = LabSpec(
            name=f"interop{os.getpid()}-{next(NUMBERS)}",
            pods=1,
            backend=kind,
            backend_options=options,
            underlay=underlay,
            stack=stack,
            go_nodes=go_nodes,
            go_binary=go_flannel,
        )
        specs.append(spec)
        return Cluster(spec)

    yield up
    for spec in specs:
        build.down(spec.name, Silent())
