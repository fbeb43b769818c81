"""What is remembered of an attachment, for how long, and what DEL does when that is lost."""

import json
import os
import posix
from pathlib import Path

import pytest

from cni_plugin import scratch
from cni_plugin.result import CniError
from cni_plugin.scratch import Attachment
from tests.cni.node import NOTHING, Node, PodMaker
from tests.netns.space import Namespace

POD = Attachment("cbr0", "pod1", "eth0")
CONFIG: dict[str, object] = {"name": "cbr0", "type": "bridge"}


def interfaces(pod: Namespace) -> list[str]:
    return sorted(link["ifname"] for link in pod.ip_json("link"))


def test_two_interfaces_of_one_container_do_not_share_a_record(node: Node, pods: PodMaker) -> None:
    """Go's flannel keys by container: the second ADD overwrites the first, and one DEL leaks."""
    pod = pods()
    node.add(node.conf(), pod.path, ifname="eth0")
    node.add(node.conf(delegate={"hairpinMode": True}), pod.path, ifname="net1")
    assert len(node.held()) == 2
    node.delete(node.conf(), pod.path, ifname="net1")
    assert interfaces(pod) == ["eth0", "lo"] and len(node.held()) == 1
    node.delete(node.conf(), pod.path, ifname="eth0")
    assert node.left() == NOTHING


def test_two_networks_share_the_data_directory(node: Node, pods: PodMaker) -> None:
    pod = pods()
    other = node.conf(name="other", delegate={"bridge": "cni1"})
    node.add(node.conf(), pod.path, ifname="eth0")
    node.env_file.write_text(node.env_file.read_text().replace("10.77.9.1", "10.77.10.1"))
    node.add(other, pod.path, ifname="net1")
    node.delete(node.conf(), pod.path, ifname="eth0")
    assert node.held("other") != [] and interfaces(pod) == ["lo", "net1"]
    node.delete(other, pod.path, ifname="net1")
    assert node.held("other") == [] and node.records() == []


def test_record_stays_until_the_delegate_succeeded(node: Node, pods: PodMaker) -> None:
    """Go's flannel removes it whatever the delegate says; the second DEL then succeeds and everything leaks."""
    pod = pods()
    node.add(node.conf(), pod.path)
    node.replace_plugin("bridge", """echo '{"code": 11, "msg": "not now", "details": "busy"}'; exit 1""")
    failed = node.call("DEL", node.conf(), netns=pod.path)
    assert failed.code == 1 and failed.document is not None
    assert (failed.document["code"], failed.document["msg"], failed.document["details"]) == (11, "not now", "busy")
    assert node.records() == ["cbr0@pod1@eth0"]
    node.restore_plugin("bridge")
    node.delete(node.conf(), pod.path)
    assert node.left() == NOTHING


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\x00", b"[]", b'{"delegate": 5}', b'{"delegate": {"name": "cbr0"}}']
)
@pytest.mark.parametrize("daemon", ["ready", "gone"])
def test_unreadable_record_neither_blocks_nor_leaks(node: Node, pods: PodMaker, content: bytes, daemon: str) -> None:
    """Go's flannel succeeds too, but leaves the interface, the address and the file."""
    pod = pods()
    node.add(node.conf(), pod.path)
    (node.data / "cbr0@pod1@eth0").write_bytes(content)
    if daemon == "gone":
        node.env_file.unlink()
    answer = node.delete(node.conf(), pod.path)
    assert "cannot be read" in answer.log
    assert node.left() == NOTHING


def test_lost_record_does_not_leak_the_address(node: Node, pods: PodMaker) -> None:
    pod = pods()
    node.add(node.conf(), pod.path)
    (node.data / "cbr0@pod1@eth0").unlink()
    node.delete(node.conf(), pod.path)
    assert node.held() == []


def test_del_without_a_record_leaves_the_interface_of_another_network(node: Node, pods: PodMaker) -> None:
    pod = pods()
    node.add(node.conf(name="other"), pod.path)
    node.delete(node.conf(), pod.path)
    assert interfaces(pod) == ["eth0", "lo"] and len(node.held("other")) == 1


class TestRecordsOfGo:
    """Those of Go's flannel, so that a node changes over with its pods running."""

    def add_as_go(self, node: Node, netns: str, content: bytes | None = None) -> None:
        node.add(node.conf(), netns)
        ours = node.data / "cbr0@pod1@eth0"
        config = json.loads(ours.read_bytes())["delegate"]
        ours.unlink()
        (node.data / "pod1").write_bytes(json.dumps(config).encode() if content is None else content)

    def test_del_uses_it_once(self, node: Node, pods: PodMaker) -> None:
        pod = pods()
        self.add_as_go(node, pod.path)
        node.env_file.unlink()
        node.delete(node.conf(delegate={"type": "ptp"}), pod.path)
        assert node.left() == NOTHING and interfaces(pod) == ["lo"]

    def test_empty_one_neither_blocks_nor_leaks(self, node: Node, pods: PodMaker) -> None:
        pod = pods()
        self.add_as_go(node, pod.path, b"")
        node.delete(node.conf(), pod.path)
        assert node.left() == NOTHING and interfaces(pod) == ["lo"]

    def test_one_of_another_network_is_left_alone(self, node: Node, pods: PodMaker) -> None:
        pod = pods()
        self.add_as_go(node, pod.path)
        node.delete(node.conf(name="other"), pod.path)
        assert node.records() == ["pod1"] and len(node.held()) == 1

    def test_second_interface_of_ours_lives_beside_it(self, node: Node, pods: PodMaker) -> None:
        pod = pods()
        self.add_as_go(node, pod.path)
        conf = node.conf(delegate={})
        node.add(conf, pod.path, ifname="net1")
        node.delete(conf, pod.path, ifname="net1")
        assert node.records() == ["pod1"] and interfaces(pod) == ["eth0", "lo"]


def test_record_is_private_and_whole(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    record = scratch.write(str(folder), POD, CONFIG, "/run/netns/x")
    assert [path.name for path in folder.iterdir()] == ["cbr0@pod1@eth0"]
    path = folder / "cbr0@pod1@eth0"
    assert path.stat().st_mode & 0o777 == 0o600 and folder.stat().st_mode & 0o777 == 0o700
    record.close()
    taken = scratch.take(str(folder), POD)
    assert taken is not None and taken.config == CONFIG
    taken.remove()
    assert list(folder.iterdir()) == [] and scratch.take(str(folder), POD) is None


def test_leftover_of_a_killed_write_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".cbr0@pod1@eth0").write_bytes(b'{"deleg')
    assert [str(one) for one in scratch.recorded(str(tmp_path), "cbr0")] == ["interface eth0 of container pod1"]
    assert scratch.take(str(tmp_path), POD) is None
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(posix, "write", full)
    with pytest.raises(CniError, match="cannot be kept") as caught:
        scratch.write(str(tmp_path), POD, CONFIG, "")
    assert "No space left" in caught.value.details
    assert list(tmp_path.iterdir()) == []


def test_symbolic_link_in_the_place_of_a_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("{}")
    (tmp_path / "cbr0@pod1@eth0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CniError) as caught:
        scratch.take(str(tmp_path), POD)
    assert "symbolic link" in caught.value.details


@pytest.mark.parametrize("netns", ["/proc/self/ns/net", "/run/nothing"])
def test_namespace_of_a_process_or_another_one_is_not_remembered(tmp_path: Path, netns: str) -> None:
    scratch.write(str(tmp_path), POD, CONFIG, netns).close()
    record = scratch.take(str(tmp_path), POD)
    assert record is not None and record.netns == ""
    record.close()


def test_container_id_that_is_too_long_for_a_file_name(node: Node, pods: PodMaker) -> None:
    pod = pods()
    answer = node.call("ADD", node.conf(), netns=pod.path, container="c" * 300)
    assert answer.code == 1 and "File name too long" in answer.text
    node.delete(node.conf(), pod.path, container="c" * 300)
    assert node.left() == NOTHING
