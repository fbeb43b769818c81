"""GC removes what nobody names any more, also where the delegates know nothing of GC."""

import json
from typing import Any

import pytest

from tests.cni.node import NOTHING, Answer, Node, PodMaker

WAYS = ("plain", "resident")

KEY = "cni.dev/valid-attachments"

SPEAKS_1_1 = """
case $CNI_COMMAND in GC) {gc} ;; esac
out=$(sed 's/"cniVersion":"1.1.0"/"cniVersion":"1.0.0"/' | "$REAL")
code=$?
printf '%s' "$out" | sed 's/"cniVersion": "1.0.0"/"cniVersion": "1.1.0"/'
exit $code
"""
"""The real bridge, to which version 1.1.0 is translated: the two differ in nothing that is used here."""


def collect(node: Node, valid: Any, key: str = KEY, **changes: Any) -> Answer:
    return node.call("GC", conf(node, **changes) | {key: valid}, container="", ifname="")


def conf(node: Node, **changes: Any) -> dict[str, Any]:
    return node.conf(version="1.1.0", **changes)


def attachment(container: str, ifname: str = "eth0") -> dict[str, str]:
    return {"containerID": container, "ifname": ifname}


@pytest.fixture
def modern(node: Node) -> Node:
    node.replace_plugin("bridge", SPEAKS_1_1.format(gc='exec "$REAL"'))
    return node


@pytest.mark.parametrize("key", [KEY, "cni.dev/attachments"])
def test_only_what_is_not_valid_goes(modern: Node, pods: PodMaker, key: str) -> None:
    """Go's flannel answers that all is done."""
    one, two = pods(), pods()
    modern.add(conf(modern), one.path, container="one")
    modern.add(conf(modern), two.path, container="two")
    modern.add(conf(modern, delegate={}), two.path, container="two", ifname="net1")
    answer = collect(modern, [attachment("two")], key)
    assert (answer.code, answer.document) == (0, None)
    assert modern.records() == ["cbr0@two@eth0"] and modern.held() == ["10.77.9.3"]
    assert [link["ifname"] for link in one.ip_json("link")] == ["lo"]
    assert sorted(link["ifname"] for link in two.ip_json("link")) == ["eth0", "lo"]


@pytest.mark.parametrize("nothing", [[], None])
def test_empty_list_removes_all(modern: Node, pods: PodMaker, nothing: Any) -> None:
    modern.add(conf(modern), pods().path)
    assert collect(modern, nothing).code == 0
    assert modern.left() == NOTHING


def test_without_a_list_nothing_goes(modern: Node, pods: PodMaker) -> None:
    modern.add(conf(modern), pods().path)
    assert modern.call("GC", conf(modern), container="", ifname="").code == 0
    assert len(modern.held()) == 1


@pytest.mark.parametrize(
    "valid", [5, "pod1", {}, [1], [{}], [{"containerID": "a"}], [{"containerID": 1, "ifname": "a"}]]
)
def test_malformed_list_removes_nothing(modern: Node, pods: PodMaker, valid: Any) -> None:
    modern.add(conf(modern), pods().path)
    answer = collect(modern, valid)
    assert answer.document is not None and answer.document["code"] == 7
    assert len(modern.held()) == 1 and len(modern.records()) == 1


def test_address_without_a_record_is_released(modern: Node, pods: PodMaker) -> None:
    """As after a crash, or a reinstallation that emptied only one of the directories."""
    for container in ("one", "two"):
        modern.add(conf(modern), pods().path, container=container)
        (modern.data / f"cbr0@{container}@eth0").unlink()
    assert collect(modern, [attachment("two")]).code == 0
    assert modern.held() == ["10.77.9.3"]


def test_other_network_keeps_its_own(modern: Node, pods: PodMaker) -> None:
    modern.add(conf(modern, name="other"), pods().path)
    assert collect(modern, []).code == 0
    assert len(modern.held("other")) == 1 and modern.records() == ["other@pod1@eth0"]


def test_records_of_go_are_collected(modern: Node, pods: PodMaker) -> None:
    for container in ("one", "two"):
        modern.add(conf(modern), pods().path, container=container)
        ours = modern.data / f"cbr0@{container}@eth0"
        (modern.data / container).write_text(json.dumps(json.loads(ours.read_bytes())["delegate"]))
        ours.unlink()
    (modern.data / "foreign").write_text("something else")
    assert collect(modern, [attachment("two")]).code == 0
    assert modern.records() == ["foreign", "two"] and modern.held() == ["10.77.9.3"]


def test_goes_on_after_an_error_and_reports_it(modern: Node, pods: PodMaker) -> None:
    for container in ("one", "two"):
        modern.add(conf(modern), pods().path, container=container)
    bad = SPEAKS_1_1.format(gc="exit 0")
    modern.replace_plugin("bridge", '[ "$CNI_CONTAINERID" = one ] && { echo broken >&2; exit 1; }\n' + bad)
    answer = collect(modern, [])
    assert answer.code == 1 and "container one" in answer.text and "broken" in answer.text
    assert modern.records() == ["cbr0@one@eth0"] and modern.held() == ["10.77.9.2"]


def test_delegate_gets_gc_with_the_list(node: Node) -> None:
    seen = node.base / "seen"
    node.replace_plugin("bridge", SPEAKS_1_1.format(gc=f"cat >{seen}; exit 0"))
    valid = [attachment("one")]
    assert collect(node, valid).code == 0
    given = json.loads(seen.read_text())
    assert given[KEY] == valid and given["type"] == "bridge" and given["ipam"]["type"] == "host-local"


def test_error_of_a_delegate_that_knows_gc_is_reported(node: Node) -> None:
    gc = """echo '{"code": 100, "msg": "cannot sweep"}'; exit 1"""
    node.replace_plugin("bridge", SPEAKS_1_1.format(gc=gc))
    answer = collect(node, [])
    assert answer.code == 1 and "cannot sweep" in answer.text


def test_works_while_the_daemon_is_not_ready(modern: Node, pods: PodMaker) -> None:
    modern.add(conf(modern), pods().path)
    modern.env_file.unlink()
    assert collect(modern, []).code == 0
    assert modern.left() == NOTHING
