"""A real Kubernetes for tests: built by tests/kubernetes/build, started by the session, cleared after each test."""

from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from flanneld_py.errors import LabError
from flanneld_py.lab.kubernetes import API_SERVER, CONTROLLERS, ETCD, find_program
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.proxy import FaultProxy

NUMBERS = count(1)

BuildCluster = Callable[..., Cluster]


@pytest.fixture(scope="session")
def kubernetes_programs(request: pytest.FixtureRequest) -> None:
    """The programs are there; without them the tests are skipped, or fail where everything is wanted."""
    try:
        for name in (ETCD, API_SERVER, CONTROLLERS):
            find_program(name)
    except LabError as err:
        message = f"{err}; tests against a real Kubernetes are not run. tests/run builds it where Go is installed"
        if request.config.getoption("--require-go"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)


@pytest.fixture(scope="session")
def running_cluster(kubernetes_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("kubernetes"))
    try:
        yield cluster.up()
    finally:
        cluster.down()


@pytest.fixture
def cluster(running_cluster: Cluster) -> Iterator[Cluster]:
    """The session's control plane: dual stack, without nodes. A test may stop its servers."""
    running_cluster.restore()
    yield running_cluster
    running_cluster.restore()


@pytest.fixture
def cluster_of(kubernetes_programs: None, tmp_path: Path) -> Iterator[BuildCluster]:
    """Starts control planes of the test's own, with the pod networks it asks for (some seconds each)."""
    made: list[Cluster] = []

    def up(*pod_networks: str) -> Cluster:
        made.append(Cluster(tmp_path / str(next(NUMBERS)), pod_networks))
        return made[-1].up()

    try:
        yield up
    finally:
        for cluster in made:
            cluster.down()


@pytest.fixture
async def proxy(cluster: Cluster) -> AsyncIterator[FaultProxy]:
    """In front of the session's API server: it lets everything pass until it is told otherwise."""
    async with FaultProxy(cluster.site.address, cluster.site.api_port, cluster.ca, cluster.authority) as started:
        yield started
