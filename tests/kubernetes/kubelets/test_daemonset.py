"""The DaemonSet as it is published: it becomes ready, installs what pods need, and may be replaced under load."""

import json
import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from itertools import permutations
from typing import Any

import pytest

from flanneld_py.lab import machine
from flanneld_py.lab.traffic import Probe, endpoints
from tests.kubernetes.kubelets.clusters import Variant
from tests.kubernetes.kubelets.workloads import DAEMONS, Workloads, is_ready
from tests.waiting import eventually

SET = "/apis/apps/v1/namespaces/kube-flannel/daemonsets/kube-flannel-ds"
ARRIVALS = 100
ROLLING_S = 300.0
"""A node after the other, each with a pod that starts within a tenth of a CPU and must be ready for a while."""


def daemons(cluster: Workloads) -> dict[str, dict[str, Any]]:
    """The daemons' pods by UID, those that are being removed excepted."""
    listed = cluster.api.get(DAEMONS)["items"]
    return {pod["metadata"]["uid"]: pod for pod in listed if "deletionTimestamp" not in pod["metadata"]}


def all_ready(cluster: Workloads) -> bool:
    status = cluster.api.get(SET)["status"]
    return bool(status.get("numberReady") == status["desiredNumberScheduled"] == len(cluster.nodes))


def test_it_becomes_ready_with_the_published_limits(cluster: Workloads, variant: Variant) -> None:
    eventually("every node has a daemon that is ready", lambda: all_ready(cluster), cluster.why)
    for pod in daemons(cluster).values():
        (main,) = pod["spec"]["containers"]
        if variant.name != "udp":
            assert main["resources"]["limits"] == {"cpu": "100m", "memory": "50Mi"}
            assert main["securityContext"]["privileged"] is False
    assert cluster.restarts() == {}


def test_it_installs_plugin_and_conflist(cluster: Workloads) -> None:
    for node in cluster.nodes:
        home = machine.home(cluster.lab.directory, node)
        conflist = json.loads((home / "etc/cni/net.d/10-flannel.conflist").read_text())
        assert [plugin["type"] for plugin in conflist["plugins"]] == ["flannel", "portmap"]
        assert (home / "opt/cni/bin/flannel").stat().st_mode & 0o111


def test_its_nodes_say_that_the_network_is_available(cluster: Workloads) -> None:
    for node in cluster.nodes:
        said = {
            one["type"]: (one["status"], one["reason"])
            for one in cluster.api.get(f"/api/v1/nodes/{node.name}")["status"]["conditions"]
        }
        assert said["NetworkUnavailable"] == ("False", "FlannelIsUp")
        assert said["Ready"][0] == "True"


@contextmanager
def losing_nothing(cluster: Workloads) -> Iterator[Callable[[], None]]:
    """Pods of both nodes ping each other during the block, and at its end no packet is lost. Yields what waits until
    packets have come through for a while."""
    with ExitStack() as running:
        probes = [
            running.enter_context(Probe(source, target.address))
            for version in cluster.lab.topology.spec.stack.versions
            for places in [endpoints(cluster.lab.topology, cluster.lab.record.pods, version)]
            for source, target in permutations(places, 2)
        ]

        def come_through() -> None:
            assert all(probe.wait_for(ARRIVALS, 20.0) for probe in probes), "nothing comes back any more"

        come_through()
        yield come_through
        come_through()
        reports = [probe.stop() for probe in probes]
    assert [(report.lost, report.unsent) for report in reports] == [((), ())] * len(probes)


def wait_replaced(cluster: Workloads, gone: Collection[str]) -> None:
    """Ensure that every node has a daemon that is ready, and none of those any more, not even one that is leaving."""

    def replaced() -> bool:
        listed = cluster.api.get(DAEMONS)["items"]
        there = {pod["metadata"]["uid"] for pod in listed}
        return len(listed) == len(cluster.nodes) and not there & set(gone) and all(map(is_ready, listed))

    eventually("other daemons have taken their place", replaced, cluster.why, deadline_s=ROLLING_S)


def test_its_pods_are_deleted_one_after_another_under_load(cluster: Workloads) -> None:
    eventually("every node has a daemon that is ready", lambda: all_ready(cluster), cluster.why)
    with losing_nothing(cluster) as come_through:
        for uid, pod in daemons(cluster).items():
            cluster.api.delete(f"/api/v1/namespaces/kube-flannel/pods/{pod['metadata']['name']}")
            wait_replaced(cluster, [uid])
            come_through()
    assert cluster.restarts() == {}


@pytest.mark.variants("vxlan", "udp")
def test_it_is_updated_under_load(cluster: Workloads) -> None:
    eventually("every node has a daemon that is ready", lambda: all_ready(cluster), cluster.why)
    before = daemons(cluster)
    with losing_nothing(cluster):
        # Unlike any before: of an annotation that the variant before has left, `kubectl apply` takes nothing away.
        note = {"template": {"metadata": {"annotations": {"updated": secrets.token_hex(8)}}}}
        cluster.api.patch(SET, {"spec": note})
        wait_replaced(cluster, before.keys())
    assert cluster.restarts() == {}
