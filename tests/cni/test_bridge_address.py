"""A bridge with the address of an earlier lease: named, and mended where that harms nobody."""

from tests.cni.node import SUBNET_ENV, Node, PodMaker

WAYS = ("plain", "resident")
NEW_ENV = SUBNET_ENV.replace("10.77.9.1", "10.77.55.1")


def bridge_addresses(node: Node) -> list[str]:
    found = node.space.ip_json("addr", "show", "cni0")[0]["addr_info"]
    return [one["local"] for one in found if one["family"] == "inet"]


def test_empty_bridge_gets_the_new_address(node: Node, pods: PodMaker) -> None:
    """Go's flannel fails until somebody deletes cni0."""
    pod = pods()
    node.add(node.conf(), pod.path)
    node.delete(node.conf(), pod.path)
    node.env_file.write_text(NEW_ENV)
    assert node.add(node.conf(), pod.path)["ips"][0]["address"].startswith("10.77.55.")
    assert bridge_addresses(node) == ["10.77.55.1"]


def test_bridge_with_pods_is_named_with_the_mend(node: Node, pods: PodMaker) -> None:
    old, new = pods(), pods()
    node.add(node.conf(), old.path, container="old")
    before = node.left()
    node.env_file.write_text(NEW_ENV)
    answer = node.call("ADD", node.conf(), netns=new.path, container="new")
    assert answer.document is not None and answer.document["code"] == 105
    assert "cni0 has 10.77.9.1/24 of an earlier lease" in answer.text and "10.77.55.0/24" in answer.text
    assert "ip addr del 10.77.9.1/24 dev cni0" in answer.text and "forceAddress" in answer.text
    assert node.left() == before and bridge_addresses(node) == ["10.77.9.1"]


def test_option_mends_it_with_pods(node: Node, pods: PodMaker) -> None:
    conf = node.conf(delegate={"forceAddress": True})
    node.add(conf, pods().path, container="old")
    node.env_file.write_text(NEW_ENV)
    node.add(conf, pods().path, container="new")
    assert bridge_addresses(node) == ["10.77.55.1"]


def test_option_forbids_it(node: Node, pods: PodMaker) -> None:
    pod = pods()
    node.add(node.conf(), pod.path)
    node.delete(node.conf(), pod.path)
    node.env_file.write_text(NEW_ENV)
    answer = node.call("ADD", node.conf(delegate={"forceAddress": False}), netns=pod.path)
    assert answer.document is not None and answer.document["code"] == 105
