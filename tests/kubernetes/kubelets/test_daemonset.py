"""The DaemonSet as it is published: it becomes ready, installs what pods need, and may be replaced under load."""

import json
from functools import partial
from typing import Any

from flanneld_py.lab import machine
from flanneld_py.lab.traffic import Probe, endpoints
from tests.kubernetes.kubelets.conftest import Variant
from tests.kubernetes.kubelets.workloads import Workloads
from tests.waiting import eventually

DAEMONS = "/api/v1/namespaces/kube-flannel/pods?labelSelector=app%3Dflannel"
SET = "/apis/apps/v1/namespaces/kube-flannel/daemonsets/kube-flannel-ds"
ARRIVALS = 100


def daemons(cluster: Workloads) -> dict[str, dict[str, Any]]:
    """The daemons' pods by UID, those that are being removed excepted."""
    listed = cluster.api.get(DAEMONS)["items"]
    return {pod["metadata"]["uid"]: pod for pod in listed if "deletionTimestamp" not in pod["metadata"]}


def ready(pod: dict[str, Any]) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))


def all_ready(cluster: Workloads) -> bool:
    status = cluster.api.get(SET)["status"]
    return bool(status.get("numberReady") == status["desiredNumberScheduled"] == len(cluster.nodes))


def all_anew(cluster: Workloads, without: str) -> bool:
    """Whether every node has a daemon that is ready, none of which is that one."""
    now = daemons(cluster)
    return without not in now and len(now) == len(cluster.nodes) and all(map(ready, now.values()))


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


def test_its_pods_are_replaced_one_after_another_under_load(cluster: Workloads, variant: Variant) -> None:
    eventually("every node has a daemon that is ready", lambda: all_ready(cluster), cluster.why)
    for version in cluster.lab.topology.spec.stack.versions:
        one, other = endpoints(cluster.lab.topology, cluster.lab.record.pods, version)
        with Probe(one, other.address) as there, Probe(other, one.address) as back:
            for uid, pod in daemons(cluster).items():
                cluster.api.delete(f"/api/v1/namespaces/kube-flannel/pods/{pod['metadata']['name']}")
                eventually("another daemon has taken its place", partial(all_anew, cluster, uid), cluster.why)
                for probe in (there, back):
                    assert probe.wait_for(ARRIVALS, 20.0), "nothing comes back any more"
            reports = [probe.stop() for probe in (there, back)]
        if variant.name == "udp":
            # The worker, which carries the packets, ends with its container.
            print(f"udp: longest gap {max(report.longest_gap_s for report in reports):.2f} s")
        else:
            assert [(report.lost, report.unsent) for report in reports] == [((), ()), ((), ())]
    assert cluster.restarts() == {}
