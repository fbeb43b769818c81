"""Pods connected by real CNI plugins (Debian: containernetworking-plugins)."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from flanneld_py.errors import LabError
from flanneld_py.lab import build, chain, cni, reach, tables, wiring
from flanneld_py.lab.build import Lab
from flanneld_py.lab.chain import Attachment, Chain
from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.topology import Firewall, LabSpec, PortMapping, Stack, Wiring
from tests.lab.conftest import Trace
from tests.lab.test_build import SMALL, Tell, start_and_wait

NUMBERS = count(1)
STATE = (Path("/var/lib/cni"), Path("/etc/cni"), Path("/opt/cni"), Path("/run/flannel"))


def state_of_host() -> list[str]:
    """What a runtime and its plugins keep on a machine."""
    return sorted(str(path) for top in STATE for path in top.rglob("*"))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two nodes with both families, two pods each, a port published; nothing masquerades."""
    spec = LabSpec(
        name=f"n{os.getpid()}-{next(NUMBERS)}",
        nodes=2,
        stack=Stack.DUAL,
        firewall=Firewall.NONE,
        published=(PortMapping("pod1-1", host=8080, container=80),),
    )
    with build.temporary(spec, Silent()) as made:
        yield made


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of the real plugins, which a test may change, in the place where labs look for them."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    for name in cni.PLUGINS:
        (folder / name).symlink_to(cni.find_plugins() / name)
    monkeypatch.setattr(cni, "_PLACES", (folder,))
    return folder


def devices() -> list[str]:
    """The devices that /sys shows to the caller."""
    return sorted(path.name for path in Path("/sys/class/net").iterdir())


def refuse(plugins: Path, name: str, verb: str) -> None:
    """Let a plugin refuse one verb, and do all others."""
    path = plugins / name
    real = path.resolve()
    path.unlink()
    refusal = '{"code": 100, "msg": "out of luck", "details": "today"}'
    path.write_text(f"#!/bin/sh\n[ \"$CNI_COMMAND\" = {verb} ] && {{ echo '{refusal}'; exit 1; }}\nexec {real}\n")
    path.chmod(0o755)


def home(lab: Lab, node: int) -> Path:
    return lab.directory.node(f"node{node}") / "cni"


def test_each_node_has_its_own_programs_conflist_and_state(lab: Lab) -> None:
    for node in lab.topology.nodes:
        folder = home(lab, node.number)
        conflist = json.loads((folder / "net.d" / "10-flannel.conflist").read_text())
        assert [plugin["type"] for plugin in conflist["plugins"]] == ["flannel", "portmap"]
        given = {path.name for path in (folder / "networks" / "cbr0").iterdir() if not path.name.startswith("l")}
        assert given == {str(one.ip) for pod in node.pods for one in lab.record.pods[pod.name]}
        assert sorted(path.name for path in (folder / "flannel").iterdir()) == [
            f"cbr0@{pod.name}@eth0" for pod in node.pods
        ]
        assert {"flannel", *cni.PLUGINS} <= {path.name for path in (folder / "bin").iterdir()}
        assert "cni0" in inside(node.namespace, devices, sysfs=True)


def test_the_machine_keeps_nothing(name: str) -> None:
    before = state_of_host()
    with build.temporary(replace(SMALL, name=name), Silent()):
        assert state_of_host() == before
    assert state_of_host() == before
    Trace(name).assert_nothing()


def test_sysfs_is_mounted_for_the_caller_only(lab: Lab) -> None:
    ours = devices()
    pod = lab.topology.pods[0].namespace
    assert inside(pod, devices, sysfs=True) == ["eth0", "lo"]
    assert devices() == ours


@pytest.mark.parametrize("version", [4, 6])
def test_addresses_are_kept_where_nothing_masquerades(lab: Lab, version: int) -> None:
    findings = reach.survey(lab.topology, lab.record.pods, version)
    assert [finding.good for finding in findings] == [True] * 4, findings
    between, outside, host, published = (finding.outcome for finding in findings)
    own = next(str(one.ip) for one in lab.record.pods["pod1-1"] if one.version == version)
    assert between == f"arrives as {own}, pod1-1's own address"
    assert outside.startswith(f"arrives as {own}, pod1-1's own address; no answer finds it")
    assert host.endswith("an address of node1")
    caller = next(str(one.ip) for one in lab.topology.internet.addresses if one.version == version)
    assert published == f"arrives as {caller}, the caller's own address"


@pytest.mark.parametrize("firewall", [Firewall.NFT, Firewall.IPTABLES])
def test_pods_are_masqueraded_outside_alone(name: str, firewall: Firewall) -> None:
    published = (PortMapping("pod2-1", host=8080, container=80),)
    spec = replace(SMALL, name=name, stack=Stack.DUAL, firewall=firewall, published=published)
    with build.temporary(spec, Silent()) as lab:
        for version in spec.stack.versions:
            findings = reach.survey(lab.topology, lab.record.pods, version)
            assert [finding.good for finding in findings] == [True] * 4, findings
            between, outside, _, _ = (finding.outcome for finding in findings)
            assert between.endswith("pod1-1's own address")
            assert outside.endswith("node1's address: masqueraded")
    Trace(name).assert_nothing()


def test_a_hidden_source_is_found(lab: Lab) -> None:
    node = lab.topology.nodes[0]
    rules = "table ip hide { chain post { type nat hook postrouting priority 200; oifname flannel.1 masquerade; }; }"
    inside(node.namespace, lambda: subprocess.run(["nft", rules], check=True))
    try:
        between, _, host, _ = reach.survey(lab.topology, lab.record.pods, 4)
    finally:
        inside(node.namespace, lambda: subprocess.run(["nft", "delete table ip hide"], check=True))
    assert not between.good and "which it should not be" in between.outcome
    assert host.good


def test_what_does_not_arrive_is_found(lab: Lab) -> None:
    node = lab.topology.nodes[0]
    drop = "table ip stop { chain pre { type filter hook prerouting priority -400; tcp dport 8080 drop; }; }"
    inside(node.namespace, lambda: subprocess.run(["nft", drop], check=True))
    try:
        published = reach.survey(lab.topology, lab.record.pods, 4)[-1]
    finally:
        inside(node.namespace, lambda: subprocess.run(["nft", "delete table ip stop"], check=True))
    assert not published.good and published.outcome == "nothing arrived there"


def test_delete_takes_everything_back(lab: Lab) -> None:
    node = lab.topology.nodes[0]
    pod = f"{lab.topology.spec.name}-guest"
    mine = made_chain(lab, home(lab, 1) / "bin")
    links = inside(node.namespace, devices, sysfs=True)
    before = given(lab)
    wiring.create_namespace(pod)
    try:
        addresses = mine.add(Attachment("guest", pod, {}))
        assert given(lab) == before | {str(one.ip) for one in addresses}
        assert mine.delete_all() == mine.delete_all() == []
    finally:
        wiring.remove_namespace(pod)
    assert given(lab) == before
    assert inside(node.namespace, devices, sysfs=True) == links
    assert not list(mine.notes.iterdir())


def test_a_failed_add_is_undone(lab: Lab, plugins: Path) -> None:
    refuse(plugins, "portmap", "ADD")
    (plugins / "flannel").symlink_to(home(lab, 1) / "bin" / "flannel")
    before = given(lab)
    pod = f"{lab.topology.spec.name}-guest"
    mine = made_chain(lab, plugins)
    wiring.create_namespace(pod)
    try:
        with pytest.raises(LabError, match=r"portmap ADD guest on .*: out of luck; today"):
            mine.add(Attachment("guest", pod, {}))
        assert inside(pod, devices, sysfs=True) == ["lo"]
    finally:
        wiring.remove_namespace(pod)
    assert given(lab) == before
    assert not list(mine.notes.iterdir())


def made_chain(lab: Lab, bin_dir: Path) -> Chain:
    """A runtime beside the lab's on node1, with notes of its own."""
    folder = home(lab, 1)
    notes = folder / "notes"
    notes.mkdir(exist_ok=True)
    node = lab.topology.nodes[0].namespace
    return Chain(folder / "net.d" / "10-flannel.conflist", bin_dir, notes, folder / "log", node)


def given(lab: Lab) -> set[str]:
    """The addresses that node1's plugins have given out."""
    return {path.name for path in (home(lab, 1) / "networks" / "cbr0").iterdir()} - {"lock"}


def test_missing_plugins_are_named_with_the_package(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cni, "_PLACES", (tmp_path,))
    with pytest.raises(LabError, match="bridge, host-local, portmap are not in") as caught:
        build.up(replace(SMALL, name=name), Silent())
    assert "apt install containernetworking-plugins" in str(caught.value)
    with build.temporary(replace(SMALL, name=name, wiring=Wiring.PLAIN), Silent()) as lab:
        assert not (home(lab, 1)).exists()
    Trace(name).assert_nothing()


def test_missing_iptables_is_named_with_the_package(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(chain, "_SBIN", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match="published ports need the program iptables"):
        build.up(replace(SMALL, name=name, published=(PortMapping("pod1-1", 80, 80),)), Silent())
    Trace(name).assert_nothing()


@pytest.mark.parametrize(("plugin", "verb"), [("bridge", "VERSION"), ("bridge", "ADD"), ("host-local", "ADD")])
def test_a_plugin_that_refuses_is_quoted_and_nothing_is_left(name: str, plugins: Path, plugin: str, verb: str) -> None:
    refuse(plugins, plugin, verb)
    words = "does not tell its versions" if verb == "VERSION" else r"flannel ADD pod\d-1 on .*: out of luck; today"
    with pytest.raises(LabError, match=words):
        build.up(replace(SMALL, name=name), Silent())
    Trace(name).assert_nothing()


def test_down_says_what_delete_left(name: str) -> None:
    build.up(replace(SMALL, name=name), Silent())
    lab = build.find(name)
    bridge = home(lab, 1) / "bin" / "bridge"
    bridge.unlink()
    bridge.write_text("#!/bin/sh\n")
    bridge.chmod(0o755)
    tell = Tell()
    build.down(name, tell)
    address = lab.record.pods["pod1-1"][0].ip
    assert [note for note in tell.notes if str(address) in note and "after DEL there is still" in note]
    Trace(name).assert_nothing()


def test_a_delete_that_fails_does_not_keep_the_lab(name: str) -> None:
    build.up(replace(SMALL, name=name), Silent())
    for node in (1, 2):
        bridge = home(build.find(name), node) / "bin" / "bridge"
        bridge.unlink()
    tell = Tell()
    assert build.down(name, tell)
    assert len([note for note in tell.notes if "DEL pod" in note]) == 2
    Trace(name).assert_nothing()


def test_pods_of_a_killed_up_are_deleted_by_the_next(name: str) -> None:
    with start_and_wait(name, "pods: node1") as child:
        child.kill()
    tell = Tell()
    with build.temporary(replace(SMALL, name=name), tell) as lab:
        assert not [note for note in tell.notes if "DEL" in note]
        assert all(lab.record.pods.values())
    Trace(name).assert_nothing()


def test_plain_pods_have_the_same_devices(name: str) -> None:
    """What is measured on plain wiring is the path that CNI pods have."""
    kinds = {}
    for kind in (Wiring.PLAIN, Wiring.CNI):
        with build.temporary(replace(SMALL, name=name, nodes=1, wiring=kind), Silent()) as lab:
            node, pod = lab.topology.nodes[0], lab.topology.pods[0]
            routes = tables.read_routes(node, (4,))
            kinds[kind] = (
                sorted(link.rstrip("0123456789abcdef-") for link in inside(node.namespace, devices, sysfs=True)),
                inside(pod.namespace, devices, sysfs=True),
                inside(pod.namespace, lambda: Path("/sys/class/net/eth0/mtu").read_text(), sysfs=True),
                sorted({route.dev for route in routes}),
            )
    assert kinds[Wiring.PLAIN] == kinds[Wiring.CNI]
