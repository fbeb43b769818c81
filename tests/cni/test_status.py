"""What the plugin says while the node has no network: the daemon's own reason."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flanneld_py.observe.status import Stage, Status
from tests.cni.node import NOTHING, Node, PodMaker

WAYS = ("plain", "launcher")
SINCE = time.time()
WAITING = Status(
    stage=Stage.LEASE,
    since=SINCE,
    pid=1,
    version="0.1.0",
    host="n1",
    error="no podCIDR on node n1",
    hint="run the controller manager with --allocate-node-cidrs",
)


def publish(node: Node, status: Status) -> None:
    (node.env_file.parent / "status.json").write_text(json.dumps(status.as_json()))


def status(node: Node, **changes: Any) -> Any:
    """The answer of STATUS from a delegate as bridge 1.5 is, which knows the command."""
    return node.call("STATUS", node.conf(version="1.1.0", **changes), container="", ifname="")


@pytest.fixture
def modern(node: Node) -> Node:
    node.replace_plugin("bridge", "exit 0")
    return node


def test_add_says_why_there_is_no_network(node: Node, pods: PodMaker) -> None:
    """Go's flannel says only that a file is missing."""
    node.env_file.unlink()
    publish(node, WAITING)
    answer = node.call("ADD", node.conf(), netns=pods().path)
    assert answer.code == 1 and answer.document is not None and answer.document["code"] == 11
    # The words that people search for.
    assert f"open {node.env_file}: no such file or directory" in answer.text
    clock = time.strftime("%H:%M:%S", time.localtime(SINCE))
    for part in ("flanneld on n1: waiting for a lease since", clock, "no podCIDR on node n1", "--allocate-node-cidrs"):
        assert part in answer.text
    assert node.left() == NOTHING and not node.data.exists()


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b"{}", b"\xff" * 100, b'{"stage": 1}', b"[" * 100_000, b"0" * 3_000_000]
)
def test_status_file_that_says_nothing(node: Node, pods: PodMaker, content: bytes | None) -> None:
    node.env_file.unlink()
    if content is not None:
        (node.env_file.parent / "status.json").write_bytes(content)
    answer = node.call("ADD", node.conf(), netns=pods().path)
    assert answer.document is not None and answer.document["code"] == 11
    assert "flanneld has not run here" in answer.text


@pytest.mark.parametrize(
    ("since", "error"),
    [(1e300, "x"), (-1.0, "x" * 100_000), (0.0, "tab\tand\nline\x00\ud800")],
    ids=["far", "long", "odd"],
)
def test_strange_status_is_said_in_one_line(node: Node, pods: PodMaker, since: float, error: str) -> None:
    node.env_file.unlink()
    publish(node, replace(WAITING, since=since, error=error))
    answer = node.call("ADD", node.conf(), netns=pods().path)
    assert answer.document is not None and answer.document["code"] == 11
    assert "\n" not in answer.text and len(answer.text) < 5000


def test_subnet_env_in_the_place_of_which_is_a_fifo_or_a_directory(node: Node, pods: PodMaker, tmp_path: Path) -> None:
    node.env_file.unlink()
    node.env_file.mkdir()
    answer = node.call("ADD", node.conf(), netns=pods().path)
    assert answer.document is not None and answer.document["code"] == 100 and "Is a directory" in answer.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK, FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ"),
        ("FLANNEL_MTU\n", "line 1 is not an assignment"),
        (
            "FLANNEL_NETWORK=10.0.0.0/8\nFLANNEL_SUBNET=10.1.0.1/24\nFLANNEL_MTU=many\nFLANNEL_IPMASQ=true\n",
            "FLANNEL_MTU",
        ),
        ("FLANNEL_NETWORK=10.0.0.0/8\nFLANNEL_SUBNET=10.1.0.1/24\nFLANNEL_MTU=1400\nFLANNEL_IPMASQ=True\n", "'True'"),
        ("\x00" * 1000, "not an assignment"),
        ("x" * 3_000_000, "larger than"),
    ],
)
def test_unusable_subnet_env(node: Node, pods: PodMaker, text: str, said: str) -> None:
    node.env_file.write_text(text)
    answer = node.call("ADD", node.conf(), netns=pods().path)
    assert answer.document is not None and answer.document["code"] == 100
    assert said in answer.text and str(node.env_file) in answer.text
    assert node.left() == NOTHING


def test_status_of_a_node_that_is_ready(modern: Node) -> None:
    publish(modern, replace(WAITING, stage=Stage.READY, error=None, hint=None))
    answer = status(modern)
    assert (answer.code, answer.document) == (0, None)


def test_status_without_a_network_is_50(modern: Node) -> None:
    modern.env_file.unlink()
    publish(modern, WAITING)
    answer = status(modern)
    assert answer.document["code"] == 50 and "no podCIDR on node n1" in answer.text


def test_status_of_a_daemon_that_gave_up_is_51(modern: Node) -> None:
    publish(modern, replace(WAITING, stage=Stage.FAILED, error="the lease is another node's"))
    answer = status(modern)
    assert answer.document["code"] == 51 and "the lease is another node's" in answer.text


@pytest.mark.parametrize("stage", [Stage.STARTING, Stage.STORE, Stage.STOPPED])
def test_status_does_not_flap_while_the_daemon_restarts(modern: Node, stage: Stage) -> None:
    publish(modern, replace(WAITING, stage=stage))
    assert status(modern).code == 0


def test_status_asks_the_delegate(node: Node) -> None:
    node.replace_plugin("bridge", """cat >/dev/null; echo '{"code": 51, "msg": "no iptables"}'; exit 1""")
    answer = status(node)
    assert answer.document["code"] == 51 and answer.document["msg"] == "no iptables"


def test_status_with_a_delegate_that_does_not_know_it(node: Node) -> None:
    """The real bridge 1.1: an ADD in version 1.1.0 would fail, but nothing of that is known from STATUS."""
    assert status(node).code == 0


def test_status_without_the_delegate_is_50(node: Node) -> None:
    (node.bin / "bridge").unlink()
    assert status(node).document["code"] == 50


def test_status_and_gc_came_with_version_1_1(node: Node) -> None:
    for verb in ("STATUS", "GC"):
        answer = node.call(verb, node.conf(version="1.0.0"), container="", ifname="")
        assert answer.document is not None and answer.document["code"] == 1
