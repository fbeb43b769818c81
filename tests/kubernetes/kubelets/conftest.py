"""The cluster of the tests, with each of the VARIANTS of its network in turn."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flanneld_py.errors import LabError
from flanneld_py.lab import kubelet
from flanneld_py.lab.images import find_busybox
from tests.image.conftest import image
from tests.kubernetes.kubelets.clusters import VARIANTS, Clusters, Variant
from tests.kubernetes.kubelets.workloads import Workloads

__all__ = ["image"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the variants that the mark `variants` of a test does not name; and put the cluster's tests last, for it
    takes much of the machine until the end of all tests."""
    out = []
    for item in items:
        mark = item.get_closest_marker("variants")
        if mark is not None and getattr(item, "callspec").params["variant"] not in mark.args:  # noqa: B009
            out.append(item)
    config.hook.pytest_deselected(items=out)
    here = Path(__file__).parent
    items[:] = sorted((item for item in items if item not in out), key=lambda item: here in item.path.parents)


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
def clusters(kubelet_programs: None, image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clusters]:
    made = Clusters(tmp_path_factory.mktemp("manifest"), (image / "flanneld.tar",))
    yield made
    made.close()


@pytest.fixture(scope="session")
def running(clusters: Clusters, variant: Variant) -> Workloads:
    return clusters.of(variant)


@pytest.fixture
def cluster(running: Workloads) -> Iterator[Workloads]:
    """The cluster of the variant; what a test makes in it is removed."""
    yield running
    running.clear()
