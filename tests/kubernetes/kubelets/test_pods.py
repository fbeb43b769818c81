"""What users expect of a cluster's network, in each way to configure it."""

import pytest

from flanneld_py.lab.traffic import ping_matrix
from tests.kubernetes.kubelets.clusters import Variant
from tests.kubernetes.kubelets.workloads import (
    WEB_PORT,
    Workloads,
    container,
    pod_spec,
    spread,
    web,
)
from tests.waiting import eventually

REPLICAS = 20
ROUNDS = {"vxlan": 10}
"""How often a deployment is scaled up and down; with what differs in nothing that matters here, once."""


@pytest.fixture
def versions(cluster: Workloads) -> tuple[int, ...]:
    return cluster.lab.topology.spec.stack.versions


def test_all_pods_of_a_deployment_reach_each_other(cluster: Workloads, versions: tuple[int, ...]) -> None:
    cluster.deployment("many", REPLICAS, pod_spec(container("main"), **spread("many")))
    pods = cluster.wait_scaled("many", REPLICAS)
    for node in cluster.nodes:
        assert sum(pod["spec"]["nodeName"] == node.name for pod in pods) == REPLICAS // len(cluster.nodes)
    for version in versions:
        matrix = ping_matrix([cluster.endpoint(pod, version) for pod in pods], timeout_s=5.0)
        assert len(matrix) == REPLICAS * (REPLICAS - 1)
        assert {pair for pair, result in matrix.items() if result.lost} == set()


def test_a_service_leads_to_the_other_node_and_the_pods_address_stays(
    cluster: Workloads, versions: tuple[int, ...]
) -> None:
    here, there = cluster.nodes
    client = cluster.pod("client", pod_spec(container("main"), node=here.name))
    cluster.pod("server", pod_spec(web(), node=there.name))
    spec = cluster.service("server", "server", ipFamilyPolicy="PreferDualStack")
    assert len(spec["clusterIPs"]) == len(versions)
    for version, address in zip(versions, spec["clusterIPs"], strict=True):
        place = cluster.endpoint(client, version)
        answer = cluster.wait_answers(place.namespace, address, 80)
        assert (answer.client, answer.server) == (str(place.address), "server")


def test_a_service_of_many_pods_uses_them_all(cluster: Workloads) -> None:
    cluster.deployment("several", 4, pod_spec(web(), **spread("several")))
    names = {pod["metadata"]["name"] for pod in cluster.wait_scaled("several", 4)}
    address = cluster.service("several", "several")["clusterIP"]
    client = cluster.endpoint(cluster.pod("client", pod_spec(container("main"), node=cluster.nodes[0].name)))
    seen: set[str] = set()

    def all_seen() -> bool:
        answer = cluster.wait_answers(client.namespace, address, 80)
        assert answer.client == str(client.address)
        seen.add(answer.server)
        return seen == names

    eventually("each pod of the service has answered", all_seen, lambda: (seen, names))


def test_a_node_port_is_reached_through_the_node_without_the_pod(cluster: Workloads) -> None:
    here, there = cluster.nodes
    cluster.pod("server", pod_spec(web(), node=there.name))
    port = cluster.service("server", "server", type="NodePort")["ports"][0]["nodePort"]
    for node in (here, there):
        answer = cluster.wait_answers(cluster.router, str(node.addresses[0].ip), port)
        assert answer.server == "server"


def test_a_host_port_leads_to_the_pod_from_outside_and_from_a_pod(cluster: Workloads) -> None:
    here, there = cluster.nodes
    cluster.pod("server", pod_spec(web(host_port=8088), node=there.name))
    client = cluster.endpoint(cluster.pod("client", pod_spec(container("main"), node=here.name)))
    for namespace in (cluster.router, client.namespace):
        assert cluster.wait_answers(namespace, str(there.addresses[0].ip), 8088).server == "server"


def test_containers_of_one_pod_meet_on_lo(cluster: Workloads) -> None:
    asked = f"wget -q -O - http://127.0.0.1:{WEB_PORT}/cgi-bin/who | grep -q 127.0.0.1"
    ask = f"until {asked}; do sleep 0.2; done; touch /met"
    wait = "while :; do sleep 1; done"
    cluster.pod("pair", pod_spec(web(), container("other", f"{ask}; {wait}"), node=cluster.nodes[0].name))
    eventually(
        "the other container was answered",
        lambda: "/met" in cluster.kubectl("exec", "pair", "-c", "other", "--", "sh", "-c", "ls -d /met || true"),
    )


def test_a_node_reaches_pods_and_pods_their_node(cluster: Workloads) -> None:
    here, there = cluster.nodes
    server = cluster.endpoint(cluster.pod("server", pod_spec(web(), node=there.name)))
    for node in (here, there):
        assert cluster.wait_answers(node.namespace, str(server.address), WEB_PORT).server == "server"


def test_scaling_up_and_down_leaks_nothing(cluster: Workloads, variant: Variant, versions: tuple[int, ...]) -> None:
    def now() -> dict[str, tuple[list[str], list[str]]]:
        return {node.name: (cluster.addresses_kept(node), cluster.bridge_ports(node)) for node in cluster.nodes}

    def tidy() -> bool:
        """Whether nothing is left on the nodes of pods that have gone."""
        pods = {node.name: cluster.pod_addresses(node) for node in cluster.nodes}
        return all(
            kept == pods[name] and len(ports) * len(versions) == len(kept) for name, (kept, ports) in now().items()
        )

    eventually("the tests before have left nothing on the nodes", tidy, now)
    before = now()
    cluster.deployment("wave", 0, pod_spec(container("main"), **spread("wave")))
    for _ in range(ROUNDS.get(variant.name, 1)):
        cluster.scale("wave", 8)
        cluster.wait_scaled("wave", 8)
        cluster.scale("wave", 0)
        cluster.wait_scaled("wave", 0)
    eventually("the nodes are as they were", lambda: now() == before, lambda: (now(), before))
    assert tidy()
