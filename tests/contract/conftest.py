from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.etcd.conftest import etcd, prefix, reports, stores
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.conftest import cluster, kubernetes_programs, running_cluster
from tests.kubernetes.stores import Stores

__all__ = ["cluster", "etcd", "kubernetes_programs", "prefix", "reports", "running_cluster", "stores"]


@pytest.fixture
async def kube_stores(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Stores]:
    made = Stores(cluster, tmp_path)
    yield made
    for store in made.made:
        await store.close()
