"""What runtimes hand over besides the configuration, and what they and the plugins after ours in the chain expect."""

import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.cni.node import NOTHING, REAL_PLUGINS, SUBNET_ENV, Node, PodMaker
from tests.netns.space import Namespace


def seen_by_delegate(node: Node) -> dict[str, str]:
    """The environment of the delegate's last call."""
    text = (node.base / "seen").read_bytes().decode()
    return dict(line.split("=", 1) for line in text.split("\0") if line)


@pytest.mark.parametrize("arguments", ["", "some;extra;args", "=", "K8S_POD_NAME=web;K8S_POD_UID=\N{SNOWMAN}"])
def test_arguments_are_nobody_s_business_but_the_delegate_s(node: Node, pods: PodMaker, arguments: str) -> None:
    seen = node.base / "seen"
    node.replace_plugin("bridge", f'cat /proc/$$/environ >{seen}; unset CNI_ARGS; exec "$REAL"')
    more = {"TRACEPARENT": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "BAGGAGE": "a=b"}
    node.add(node.conf(), pods().path, CNI_ARGS=arguments, **more)
    given = seen_by_delegate(node)
    assert {name: given[name] for name in ("CNI_ARGS", *more)} == {"CNI_ARGS": arguments, **more}
    node.delete(node.conf(), "", CNI_ARGS=arguments, **more)
    given = seen_by_delegate(node)
    assert given["TRACEPARENT"] == more["TRACEPARENT"] and given["CNI_COMMAND"] == "DEL"
    assert node.left() == NOTHING


def test_address_of_the_arguments_is_given(node: Node, pods: PodMaker) -> None:
    result = node.add(node.conf(), pods().path, CNI_ARGS="IgnoreUnknown=1;IP=10.77.9.77")
    assert result["ips"][0]["address"] == "10.77.9.77/24"


def test_version_is_answered_whatever_the_variables_hold(node: Node) -> None:
    """As libcni asks for it."""
    answer = node.call(
        "VERSION", {"cniVersion": "1.1.0"}, container="", netns="dummy", ifname="dummy", CNI_PATH="dummy"
    )
    assert answer.code == 0 and answer.document is not None and "1.1.0" in answer.document["supportedVersions"]


def test_keys_of_the_runtime_are_tolerated(node: Node, pods: PodMaker) -> None:
    pod = pods()
    keys: dict[str, Any] = {
        "capabilities": {"portMappings": True},
        "cni.dev/x": 1,
        "args": {"cni": {"ips": ["1.2.3.4"]}},
        "unknown": [],
    }
    result = node.add(node.conf(**keys), pod.path)
    assert result["ips"][0]["address"] == "10.77.9.2/24"
    node.delete(node.conf(**keys, prevResult=None), pod.path)
    assert node.left() == NOTHING


@pytest.mark.parametrize("override", ["1", "TRUE"])
def test_own_namespace_is_allowed_where_the_runtime_says_so(node: Node, override: str) -> None:
    node.add(node.conf(), node.space.path, CNI_NETNS_OVERRIDE=override)
    assert node.space.ip_json("link", "show", "eth0")
    node.delete(node.conf(), node.space.path, CNI_NETNS_OVERRIDE=override)
    assert node.left() == NOTHING


def test_stderr_of_a_delegate_that_succeeds_is_passed_on(node: Node, pods: PodMaker) -> None:
    node.replace_plugin("bridge", 'echo "by the way" >&2; exec "$REAL"')
    answer = node.call("ADD", node.conf(), netns=pods().path)
    assert answer.code == 0 and answer.log == "by the way\n"


def test_result_without_a_version_gets_that_of_the_configuration(node: Node, pods: PodMaker) -> None:
    """And the rest stays as it is: an index of 0, keys that nobody knows."""
    result = {"interfaces": [{"name": "eth0"}], "ips": [{"address": "10.0.0.1/24", "interface": 0}], "new": {"a": None}}
    node.replace_plugin("bridge", f"echo '{json.dumps(result)}'")
    assert node.add(node.conf(version="0.4.0"), pods().path) == result | {"cniVersion": "0.4.0"}


def test_plugin_is_the_first_regular_file_of_the_path(node: Node, pods: PodMaker) -> None:
    """A directory is passed over; a file that cannot be run is not."""
    first, second = node.base / "first", node.base / "second"
    (first / "bridge").mkdir(parents=True)
    second.mkdir()
    path = f":{node.base / 'none'}:{first}:{second}:{node.bin}"
    node.add(node.conf(), pods().path, container="one", CNI_PATH=path)
    (second / "bridge").write_text("")
    answer = node.call("ADD", node.conf(), netns=pods().path, container="two", CNI_PATH=path)
    assert answer.code == 1 and f"cannot run {second / 'bridge'}" in answer.text, answer
    assert node.records() == ["cbr0@one@eth0"]


REFUSED_BY_DELEGATE: list[tuple[dict[str, Any], str, str]] = [
    ({"delegate": {"hairpinMode": True, "promiscMode": True}}, SUBNET_ENV, "cannot set hairpin mode and promiscuous"),
    ({}, SUBNET_ENV.replace("10.77.9.1/24", "10.77.9.1/31"), "too small to allocate from"),
    ({"delegate": {"vlan": 5000}}, SUBNET_ENV, "invalid VLAN ID"),
]


@pytest.mark.parametrize(("changes", "env", "said"), REFUSED_BY_DELEGATE, ids=[row[2] for row in REFUSED_BY_DELEGATE])
def test_refusal_of_the_delegate_is_said_and_nothing_is_left(
    node: Node, pods: PodMaker, changes: dict[str, Any], env: str, said: str
) -> None:
    pod = pods()
    node.env_file.write_text(env)
    answer = node.call("ADD", node.conf(**changes), netns=pod.path)
    assert answer.code == 1 and said in answer.text, answer
    assert node.left() == NOTHING
    node.delete(node.conf(**changes), pod.path)


def test_full_subnet_is_said_and_an_address_that_comes_back_is_given_again(node: Node, pods: PodMaker) -> None:
    node.env_file.write_text(SUBNET_ENV.replace("10.77.9.1/24", "10.77.9.1/29"))
    all_pods = [pods() for _ in range(6)]
    for number, pod in enumerate(all_pods[:5]):
        node.add(node.conf(), pod.path, container=f"pod{number}")
    before = node.left()
    answer = node.call("ADD", node.conf(), netns=all_pods[5].path, container="pod5")
    assert answer.code == 1 and "no IP addresses available in range set" in answer.text, answer
    assert node.left() == before
    node.delete(node.conf(), all_pods[2].path, container="pod2")
    result = node.add(node.conf(), all_pods[5].path, container="pod5")
    assert result["ips"][0]["address"] == "10.77.9.4/29"


def test_many_at_the_same_time(node: Node, pods: PodMaker) -> None:
    """On a node without a bridge: the first of them all make it."""
    spaces = [pods() for _ in range(20)]

    def each(verb: str, number: int, space: Namespace) -> Any:
        answer = node.call(verb, node.conf(), netns=space.path, container=f"pod{number}")
        assert answer.code == 0, answer
        return answer.document

    with ThreadPoolExecutor(len(spaces)) as threads:
        results = list(threads.map(each, ["ADD"] * 20, range(20), spaces))
        assert len({result["ips"][0]["address"] for result in results}) == 20
        assert len(node.held()) == len(node.records()) == len(node.links()) == 20
        list(threads.map(each, ["DEL"] * 20, range(20), spaces))
    assert node.left() == NOTHING


class Chain:
    """The plugins of a conflist, called as a runtime does it: each gets the result of the one before."""

    def __init__(self, node: Node, *plugins: dict[str, Any]) -> None:
        self.node = node
        self.plugins = [node.conf(), *({"cniVersion": "1.0.0", "name": "cbr0"} | plugin for plugin in plugins)]
        for plugin in self.plugins[1:]:
            path = node.bin / plugin["type"]
            if not path.exists():
                path.symlink_to(REAL_PLUGINS / plugin["type"])

    def add(self, netns: str) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for plugin in self.plugins:
            given = plugin | ({"prevResult": result} if result else {})
            answer = self.node.call("ADD", given, netns=netns, plugin=plugin["type"])
            assert answer.code == 0 and answer.document is not None, (plugin, answer)
            result = answer.document
        return result

    def delete(self, netns: str, result: dict[str, Any]) -> None:
        for plugin in reversed(self.plugins):
            answer = self.node.call("DEL", plugin | {"prevResult": result}, netns=netns, plugin=plugin["type"])
            assert answer.code == 0, (plugin, answer)


PORTS = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]


def test_other_plugins_of_a_chain_work_with_our_result_and_check_with_theirs(node: Node, pods: PodMaker) -> None:
    """tuning changes the container's MAC, bandwidth adds an interface: prevResult of CHECK is not what we answered."""
    pod = pods()
    chain = Chain(
        node,
        {"type": "portmap", "runtimeConfig": {"portMappings": PORTS}},
        {"type": "tuning", "mac": "02:00:00:00:00:07"},
        {"type": "bandwidth", "ingressRate": 1 << 30, "ingressBurst": 1 << 20},
    )
    result = chain.add(pod.path)
    assert [one["name"] for one in result["interfaces"]][::2] == ["cni0", "eth0"]
    assert pod.ip_json("link", "show", "eth0")[0]["address"] == "02:00:00:00:00:07"
    answer = node.call("CHECK", node.conf(prevResult=result), netns=pod.path)
    assert (answer.code, answer.document) == (0, None), answer
    chain.delete(pod.path, result)
    assert node.left() == NOTHING


def test_firewall_and_sbr_take_our_result(node: Node, pods: PodMaker) -> None:
    assert shutil.which("iptables"), "install the package iptables"
    pod = pods()
    chain = Chain(node, {"type": "firewall", "backend": "iptables"}, {"type": "sbr"})
    result = chain.add(pod.path)
    rules = subprocess.run(
        ["ip", "netns", "exec", node.space.name, "iptables-save"], capture_output=True, text=True, check=True
    ).stdout
    assert "10.77.9.2/32" in rules
    chain.delete(pod.path, result)
    assert node.left() == NOTHING
