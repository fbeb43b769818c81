"""CHECK sees what is wrong with an attachment, and does not see what is not."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.cni.node import DUAL_STACK_ENV, Node, PodMaker
from tests.netns.space import Namespace

WAYS = ("plain", "resident")


def checked(node: Node, pod: Namespace, result: dict[str, Any] | None, **changes: Any) -> Any:
    conf = node.conf(**changes) | ({} if result is None else {"prevResult": result})
    return node.call("CHECK", conf, netns=pod.path)


@pytest.mark.parametrize("env", ["", DUAL_STACK_ENV])
def test_untouched_attachment_is_as_it_was_added(node: Node, pods: PodMaker, env: str) -> None:
    """With bridge 1.1, which looks in vain for the routes to flannel's network unless their gateway is named."""
    pod = pods()
    if env:
        node.env_file.write_text(env)
    result = node.add(node.conf(), pod.path)
    assert any("gw" not in route for route in result["routes"])
    answer = checked(node, pod, result)
    assert (answer.code, answer.document) == (0, None)


DAMAGES: dict[str, Callable[[Node, Namespace], object]] = {
    "the interface": lambda node, pod: pod.ip("link", "del", "eth0"),
    "the address": lambda node, pod: pod.ip("addr", "flush", "dev", "eth0"),
    "a route with a gateway": lambda node, pod: pod.ip("route", "del", "default"),
    "the route to the network": lambda node, pod: pod.ip("route", "del", "10.77.0.0/16"),
    "the record": lambda node, pod: (node.data / "cbr0@pod1@eth0").unlink(),
    "the record's content": lambda node, pod: (node.data / "cbr0@pod1@eth0").write_bytes(b""),
    "host-local's file": lambda node, pod: (node.addresses / "cbr0" / "10.77.9.2").unlink(),
    "the bridge": lambda node, pod: node.space.ip("link", "del", "cni0"),
    "the lease": lambda node, pod: node.env_file.write_text(node.env_file.read_text().replace("10.77.9.", "10.77.5.")),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_check_misses_what_was_taken_away(node: Node, pods: PodMaker, what: str) -> None:
    """Go's flannel answers that all is well."""
    pod = pods()
    result = node.add(node.conf(), pod.path)
    DAMAGES[what](node, pod)
    answer = checked(node, pod, result)
    assert answer.code == 1 and answer.document["msg"], what


def test_check_goes_on_while_the_daemon_is_not_ready(node: Node, pods: PodMaker) -> None:
    pod = pods()
    result = node.add(node.conf(), pod.path)
    node.env_file.unlink()
    assert checked(node, pod, result).code == 0


def test_check_needs_the_result_of_add(node: Node, pods: PodMaker) -> None:
    pod = pods()
    node.add(node.conf(), pod.path)
    answer = checked(node, pod, None)
    assert answer.code == 1 and answer.document["code"] == 7


def test_check_came_with_version_0_4(node: Node, pods: PodMaker) -> None:
    pod = pods()
    result = node.add(node.conf(version="0.3.1"), pod.path)
    answer = checked(node, pod, result, version="0.3.1")
    assert answer.document["code"] == 1


def test_check_changes_nothing(node: Node, pods: PodMaker) -> None:
    pod = pods()
    result = node.add(node.conf(), pod.path)
    before = node.left()
    checked(node, pod, result)
    pod.ip("link", "del", "eth0")
    checked(node, pod, result)
    assert node.left() == before | {"links": []}
