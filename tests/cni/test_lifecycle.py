"""ADD, DEL and CHECK with the real bridge, host-local and portmap plugins."""

import json
import socket
from typing import Any

import pytest

from flanneld_py.netlink.netns import in_netns
from tests.cni.node import DUAL_STACK_ENV, NOTHING, SUBNET_ENV, TIMEOUT_S, Node, PodMaker, remove_namespace

WAYS = ("plain", "resident")
VERSIONS = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"]
"""All that Debian 12's plugins have in common with ours."""


def result_addresses(result: dict[str, Any]) -> list[str]:
    if "ips" in result:
        return [one["address"] for one in result["ips"]]
    return [result[key]["ip"] for key in ("ip4", "ip6") if key in result]


@pytest.mark.parametrize("version", VERSIONS)
def test_add_and_del_in_every_version(node: Node, pods: PodMaker, version: str) -> None:
    pod = pods()
    result = node.add(node.conf(version=version), pod.path)
    assert result["cniVersion"] == version
    assert result_addresses(result) == ["10.77.9.2/24"]
    addresses = [one["local"] for one in pod.ip_json("addr", "show", "eth0")[0]["addr_info"] if one["family"] == "inet"]
    assert addresses == ["10.77.9.2"]
    node.delete(node.conf(version=version), pod.path)
    assert node.left() == NOTHING
    assert [link["ifname"] for link in pod.ip_json("link")] == ["lo"]


def test_pod_has_both_families_routes_and_mtu(node: Node, pods: PodMaker) -> None:
    pod = pods()
    node.env_file.write_text(DUAL_STACK_ENV)
    result = node.add(node.conf(), pod.path)
    assert result_addresses(result) == ["10.77.9.2/24", "fd77:0:0:9::2/64"]
    assert pod.ip_json("link", "show", "eth0")[0]["mtu"] == 1400
    routes = {(route["dst"], route.get("gateway")) for route in pod.ip_json("route")}
    assert {("default", "10.77.9.1"), ("10.77.0.0/16", "10.77.9.1")} <= routes
    routes6 = {(route["dst"], route.get("gateway")) for route in pod.ip_json("-6", "route")}
    assert {("default", "fd77:0:0:9::1"), ("fd77::/48", "fd77:0:0:9::1")} <= routes6
    node.delete(node.conf(), pod.path)
    assert node.left() == NOTHING


def test_two_networks_give_two_routes(node: Node, pods: PodMaker) -> None:
    pod = pods()
    node.env_file.write_text(SUBNET_ENV.replace("10.77.0.0/16", "10.77.0.0/16,10.78.0.0/16"))
    node.add(node.conf(), pod.path)
    assert {"10.77.0.0/16", "10.78.0.0/16"} <= {route["dst"] for route in pod.ip_json("route")}


def test_pods_reach_each_other_over_the_bridge(node: Node, pods: PodMaker) -> None:
    one, two = pods(), pods()
    node.add(node.conf(), one.path, container="one")
    target = result_addresses(node.add(node.conf(), two.path, container="two"))[0].partition("/")[0]
    sender, receiver = (in_netns(pod.path, lambda: socket.socket(type=socket.SOCK_DGRAM)) for pod in (one, two))
    with sender, receiver:
        receiver.bind((target, 0))
        receiver.settimeout(TIMEOUT_S)
        sender.sendto(b"hello", receiver.getsockname())
        assert receiver.recvfrom(16)[1][0] == "10.77.9.2"


def test_result_feeds_portmap(node: Node, pods: PodMaker) -> None:
    pod = pods()
    result = node.add(node.conf(), pod.path)
    ports = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    conf = {
        "cniVersion": "1.0.0",
        "name": "cbr0",
        "type": "portmap",
        "prevResult": result,
        "runtimeConfig": {"portMappings": ports},
    }
    answer = node.call("ADD", conf, netns=pod.path, plugin="portmap")
    assert answer.code == 0, answer
    rules = node.space._run("ip", "netns", "exec", node.space.name, "iptables-save", "-t", "nat")
    assert "10.77.9.2:80" in rules
    assert node.call("DEL", conf, netns=pod.path, plugin="portmap").code == 0
    node.delete(node.conf(), pod.path)


def test_second_del_and_del_without_add_succeed(node: Node, pods: PodMaker) -> None:
    pod = pods()
    node.delete(node.conf(), pod.path)
    node.add(node.conf(), pod.path)
    node.delete(node.conf(), pod.path)
    node.delete(node.conf(), pod.path)
    assert node.left() == NOTHING


@pytest.mark.parametrize("given", ["", "/run/netns/gone"])
def test_del_after_the_namespace_is_gone(node: Node, pods: PodMaker, given: str) -> None:
    pod = pods()
    node.add(node.conf(), pod.path)
    remove_namespace(pod)
    node.env_file.unlink()
    node.delete(node.conf(), given)
    assert node.records() == [] and node.held() == []


def test_del_without_namespace_still_removes_the_interface(node: Node, pods: PodMaker) -> None:
    """Go's flannel leaves it there; the record knows the namespace, and that it is the same one."""
    pod = pods()
    node.add(node.conf(), pod.path)
    node.delete(node.conf(), "")
    assert node.left() == NOTHING
    assert [link["ifname"] for link in pod.ip_json("link")] == ["lo"]


def test_delegate_gets_runtime_config_and_arguments(node: Node, pods: PodMaker) -> None:
    seen = node.base / "seen"
    node.replace_plugin("bridge", f'cat >{seen}; env | grep ^CNI_ >>{seen}; exec "$REAL" <{seen}.none')
    answer = node.call("ADD", node.conf(runtimeConfig={"mac": "02:00:00:00:00:01"}, args={"a": 1}), netns=pods().path)
    assert answer.code == 1
    text = seen.read_text()
    given = json.JSONDecoder().raw_decode(text)[0]
    assert given["runtimeConfig"] == {"mac": "02:00:00:00:00:01"} and "args" not in given
    assert "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAME=web" in text
