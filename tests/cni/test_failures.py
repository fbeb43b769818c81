"""An ADD that fails leaves the node as it was, and says what the delegate said."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cni.node import NOTHING, REAL_PLUGINS, Node, PodMaker

WAYS = ("plain", "launcher")


def refused(node: Node, conf: dict[str, Any], netns: str, **more: Any) -> dict[str, Any]:
    answer = node.call("ADD", conf, netns=netns, **more)
    assert answer.code == 1 and answer.document is not None, answer
    return answer.document


def test_failed_add_is_undone(node: Node, pods: PodMaker) -> None:
    """Go's flannel leaves eth0, the host's veth and the record; a retry finds eth0 in its way."""
    pod = pods()
    node.replace_plugin("host-local", '[ $CNI_COMMAND != ADD ] && exec "$REAL"; "$REAL" >/dev/null; exit 1')
    refused(node, node.conf(), pod.path)
    assert node.left() == NOTHING
    assert [link["ifname"] for link in pod.ip_json("link")] == ["lo"]
    # The bridge is there, and lost its hardware address with its only port: bridge 1.1 then fails for ever.
    assert node.space.ip_json("link", "show", "cni0")[0]["address"] == "00:00:00:00:00:00"
    node.restore_plugin("host-local")
    node.add(node.conf(), pod.path)


def test_add_that_cannot_be_undone_keeps_its_record_for_del(node: Node, pods: PodMaker) -> None:
    pod = pods()
    node.replace_plugin("bridge", '[ $CNI_COMMAND = ADD ] && "$REAL" >/dev/null; echo "no $CNI_COMMAND" >&2; exit 3')
    document = refused(node, node.conf(), pod.path)
    assert "no ADD" in document["details"] and "DEL will try again" in document["details"]
    assert node.records() == ["cbr0@pod1@eth0"]
    node.restore_plugin("bridge")
    node.delete(node.conf(), pod.path)
    assert node.left() == NOTHING


def test_repeated_add_does_not_harm_the_first(node: Node, pods: PodMaker) -> None:
    pod = pods()
    node.add(node.conf(), pod.path)
    document = refused(node, node.conf(), pod.path)
    assert "already" in document["msg"]
    assert len(node.held()) == 1 and node.records() == ["cbr0@pod1@eth0"]
    node.delete(node.conf(), pod.path)
    assert node.left() == NOTHING


def test_interface_of_another_stays(node: Node, pods: PodMaker) -> None:
    pod = pods()
    pod.ip("link", "add", "eth0", "type", "bridge")
    refused(node, node.conf(), pod.path)
    node.delete(node.conf(), pod.path)
    assert pod.ip_json("link", "show", "eth0")
    assert node.left() == NOTHING


def test_own_namespace_is_refused_before_anything_happens(node: Node) -> None:
    """The Go plugins do the work first, and then print a second document."""
    document = refused(node, node.conf(), node.space.path)
    assert document["code"] == 8
    assert node.left() == NOTHING and not node.data.exists()


def test_del_in_the_own_namespace_spares_its_interfaces(node: Node, pods: PodMaker) -> None:
    pod = pods()
    node.add(node.conf(), pod.path)
    node.space.ip("link", "add", "eth0", "type", "bridge")
    answer = node.delete(node.conf(), node.space.path)
    assert "own namespace" in answer.log
    assert node.space.ip_json("link", "show", "eth0")
    assert node.records() == [] and node.held() == []


def test_missing_namespace(node: Node) -> None:
    document = refused(node, node.conf(), "/run/netns/none")
    assert document["code"] == 4 and "/run/netns/none" in document["msg"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 1", "it said nothing"),
        ("kill -SEGV $$", "was ended by signal 11"),
        ("echo half a; exit 0", "is not usable"),
        ("exit 0", "is not usable: it is empty"),
        ("echo '[]'", "is not usable"),
        ("echo 'panic: nil pointer' >&2; exit 2", "panic: nil pointer"),
        ("""echo '{"code": "x"}'; exit 1""", "failed with exit status 1"),
        ("head -c 9000000 /dev/zero", "more than"),
        ("head -c 9000000 /dev/zero >&2; exit 1", "failed with exit status 1"),
    ],
)
def test_delegate_that_misbehaves(node: Node, pods: PodMaker, script: str, said: str) -> None:
    node.replace_plugin("bridge", f"[ $CNI_COMMAND = ADD ] || exit 0\n{script}")
    document = refused(node, node.conf(), pods().path)
    assert document["code"] == 101 and said in f"{document['msg']} {document.get('details')}"
    assert node.left() == NOTHING


def test_error_of_the_delegate_comes_through_unchanged(node: Node, pods: PodMaker) -> None:
    node.replace_plugin(
        "bridge", """[ $CNI_COMMAND = DEL ] || { echo '{"code": 123, "msg": "m", "details": "d"}'; exit 1; }"""
    )
    document = refused(node, node.conf(), pods().path)
    assert document == {"cniVersion": "1.0.0", "code": 123, "msg": "m", "details": "d"}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "failed to find plugin 'bridge'"),
        (lambda path: (path.unlink(), path.mkdir()), "failed to find plugin 'bridge'"),
        (lambda path: (path.unlink(), path.write_text("x")), "cannot run"),
        (lambda path: (path.unlink(), path.write_text(""), path.chmod(0o755)), "cannot run"),
    ],
)
def test_delegate_that_is_not_there(node: Node, pods: PodMaker, damage: Any, said: str) -> None:
    damage(node.bin / "bridge")
    document = refused(node, node.conf(), pods().path)
    assert said in document["msg"] and document["code"] == 101
    assert node.left() == NOTHING


def test_ipam_plugin_that_is_not_there(node: Node, pods: PodMaker) -> None:
    document = refused(node, node.conf(ipam={"type": "absent"}), pods().path)
    assert "'absent'" in document["msg"] and node.left() == NOTHING


def test_configuration_that_the_delegate_cannot_read(node: Node, pods: PodMaker) -> None:
    """Its DEL cannot read it either: a record would keep the pod from ever being deleted."""
    document = refused(node, node.conf(delegate={"mtu": "big"}), pods().path)
    assert "failed to load netconf" in document["msg"] and node.left() == NOTHING


def test_del_waits_for_the_delegate_of_a_killed_add(node: Node, pods: PodMaker) -> None:
    pod = pods()
    started, go_on = node.base / "started", node.base / "go-on"
    os.mkfifo(started)
    os.mkfifo(go_on)
    node.replace_plugin("bridge", f'[ $CNI_COMMAND = ADD ] && {{ echo >{started}; read x <{go_on}; }}; exec "$REAL"')
    environ = node.environ("ADD", "pod1", pod.path, "eth0")
    conf = node.base / "conf"
    conf.write_text(json.dumps(node.conf()))
    with conf.open() as stdin:
        adding = subprocess.Popen(node.command(), stdin=stdin, env=environ, stdout=subprocess.DEVNULL)
    started.read_text()
    adding.kill()
    adding.wait()
    environ["CNI_COMMAND"] = "DEL"
    with conf.open() as stdin:
        deleting = subprocess.Popen(node.command(), stdin=stdin, env=environ, stdout=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        deleting.wait(0.5)
    go_on.write_text("\n")
    assert deleting.communicate(timeout=60)[0] == b"" and deleting.returncode == 0
    assert node.left() == NOTHING
    assert [link["ifname"] for link in pod.ip_json("link")] == ["lo"]


def test_signals_that_the_interpreter_ignores_are_not_ignored_by_the_delegate(node: Node, pods: PodMaker) -> None:
    seen = node.base / "seen"
    node.replace_plugin("bridge", f'grep SigIgn /proc/self/status >{seen}; exec "$REAL"')
    node.add(node.conf(), pods().path)
    ignored = int(Path(seen).read_text().split()[1], 16)
    assert not ignored & (1 << 12 | 1 << 24)  # SIGPIPE, SIGXFSZ


def test_other_failures_are_not_taken_for_an_old_address(node: Node, pods: PodMaker) -> None:
    node.add(node.conf(), pods().path, container="old")
    node.replace_plugin("host-local", """echo '{"code": 11, "msg": "full"}'; exit 1""")
    answer = node.call("ADD", node.conf(), netns=pods().path)
    assert answer.document is not None and answer.document["code"] == 11


def test_real_plugins_are_what_is_tested() -> None:
    assert (REAL_PLUGINS / "bridge").read_bytes()[:4] == b"\x7fELF"
