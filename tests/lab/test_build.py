import select
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pyroute2 import netns

from flanneld_py.errors import LabError
from flanneld_py.lab import build, process, tables
from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.state import LabDirectory, LabRecord, Stage
from flanneld_py.lab.topology import LabSpec, Stack, Topology, Underlay
from flanneld_py.lab.traffic import endpoints, ping_matrix
from flanneld_py.lab.view import complete
from tests.lab.conftest import Trace

CLI = [sys.executable, "-m", "flanneld_py", "lab"]
SMALL = LabSpec(nodes=2, pods=1)


class Tell:
    """A Progress that calls back at a step, and keeps the notes."""

    def __init__(self, at: str = "", call: Callable[[], None] = lambda: None) -> None:
        self._at, self._call = at, call
        self.notes: list[str] = []

    def check(self) -> None:
        """Nobody interrupts."""

    def step(self, text: str) -> None:
        if self._at and text.startswith(self._at):
            self._call()

    def note(self, text: str) -> None:
        self.notes.append(text)


def host_links() -> list[str]:
    return sorted(entry.name for entry in Path("/sys/class/net").iterdir())


@pytest.mark.parametrize("stack", list(Stack))
def test_pods_reach_each_other_and_nothing_is_left(name: str, stack: Stack) -> None:
    before = host_links()
    spec = replace(SMALL, name=name, stack=stack)
    with build.temporary(spec, Silent()) as lab:
        for version in stack.versions:
            places = endpoints(lab.topology, lab.record.pods, version)
            assert len(places) == 2
            assert complete(ping_matrix(places, count=1))
        assert Trace(name).namespaces() == sorted(Topology(spec).namespaces)
        assert len(Trace(name).processes()) == 3
    Trace(name).assert_nothing()
    assert host_links() == before


def test_up_stays_until_down(name: str) -> None:
    spec = replace(SMALL, name=name)
    build.up(spec, Silent())
    lab = build.find(name)
    assert lab.topology.spec == spec
    with pytest.raises(LabError, match="is up already, with 2 nodes") as caught:
        build.up(spec, Silent())
    assert f"flanneld lab down --name {name}" in str(caught.value)
    assert complete(ping_matrix(endpoints(lab.topology, lab.record.pods, 4), count=1))
    assert build.down(name, Silent())
    Trace(name).assert_nothing()
    assert not build.down(name, Silent())
    with pytest.raises(LabError, match="no lab"):
        build.find(name)


def test_a_daemon_that_refuses_is_quoted_and_nothing_is_left(name: str) -> None:
    tell = Tell()
    with pytest.raises(LabError, match=r"node\d ended by itself: .*there is no such backend"):
        build.up(replace(SMALL, name=name, backend="carrier-pigeon"), tell)
    Trace(name).assert_nothing()


@pytest.mark.parametrize("step", ["underlay: node2", "etcd:", "daemons:", "pods: node2"])
def test_an_error_at_any_point_removes_all(name: str, step: str) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build.up(replace(SMALL, name=name), Tell(step, fail))
    Trace(name).assert_nothing()


def test_a_namespace_of_somebody_else_is_refused_and_left_alone(name: str) -> None:
    netns.create(f"{name}-node2")
    try:
        with pytest.raises(LabError, match=f"{name}-node2 exists and belongs to no lab"):
            build.up(replace(SMALL, name=name), Silent())
        assert Trace(name).namespaces() == [f"{name}-node2"]
        assert not LabDirectory(name).path.exists()
    finally:
        netns.remove(f"{name}-node2")


def test_two_labs_side_by_side(name: str) -> None:
    spec = replace(SMALL, name=name)
    other = replace(SMALL, name=f"{name}-b", networks=())
    with build.temporary(spec, Silent()) as lab:
        with build.temporary(other, Silent()) as second:
            for one in (lab, second):
                assert complete(ping_matrix(endpoints(one.topology, one.record.pods, 4), count=1))
        Trace(other.name).assert_nothing()
        assert complete(ping_matrix(endpoints(lab.topology, lab.record.pods, 4), count=1))


def test_a_lab_at_work_is_left_alone(name: str) -> None:
    with build.temporary(replace(SMALL, name=name), Silent()):
        for command in (lambda: build.up(replace(SMALL, name=name), Silent()), lambda: build.down(name, Silent())):
            with pytest.raises(LabError, match="another command is at work"):
                command()
        with pytest.raises(LabError, match="being built"):
            build.find(name)
        assert Trace(name).namespaces()


def start_and_wait(name: str, words: str) -> "subprocess.Popen[str]":
    """`lab up` as a process that has just said these words."""
    argv = [*CLI, "up", "--name", name, "--nodes", "2", "--pods", "1"]
    child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith(words):
            return child
    raise AssertionError(f"it never said {words!r}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("words", ["underlay: node1", "daemons: starting", "pods: node1"])
def test_an_interrupted_up_removes_all(name: str, number: signal.Signals, words: str) -> None:
    with start_and_wait(name, words) as child:
        child.send_signal(number)
        child.send_signal(number)
        _, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "interrupted; all that was made is removed" in errors
    assert "Traceback" not in errors
    Trace(name).assert_nothing()


@pytest.mark.parametrize("words", ["underlay: node1", "daemons: starting"])
def test_what_a_killed_up_left_is_removed_by_the_next(name: str, words: str) -> None:
    with start_and_wait(name, words) as child:
        child.kill()
    assert Trace(name).namespaces()
    with pytest.raises(LabError, match="is being built, or was when its builder was killed"):
        build.find(name)
    tell = Tell()
    with build.temporary(replace(SMALL, name=name, nodes=1), tell) as lab:
        assert any("was killed; removing what it left" in note for note in tell.notes)
        assert Trace(name).namespaces() == sorted(lab.topology.namespaces)
        assert len(Trace(name).processes()) == 2
    Trace(name).assert_nothing()


def test_down_removes_what_a_killed_up_left(name: str) -> None:
    with start_and_wait(name, "daemons: starting") as child:
        child.kill()
    assert build.down(name, Silent())
    Trace(name).assert_nothing()


def test_down_spares_a_process_that_has_a_recorded_pid_by_chance(name: str) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        directory, found = LabDirectory(name), process.find(stranger.pid)
        assert found is not None
        record = LabRecord(replace(SMALL, name=name), Stage.UP, {"etcd": replace(found, started=found.started - 1)})
        with directory.locked(create=True):
            directory.write(record)
        assert build.down(name, Silent())
        Trace(name).assert_nothing()
        assert stranger.poll() is None


def test_down_ends_what_a_user_left_in_a_node(name: str) -> None:
    build.up(replace(SMALL, name=name), Silent())
    argv = [*CLI, "exec", "--name", name, "node1", "--", sys.executable, "-c", "print('in', flush=True); input()"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdout is not None
        assert select.select([user.stdout], [], [], 30)[0]
        assert user.stdout.readline() == b"in\n"
        build.down(name, Silent())
        user.wait(10)
    Trace(name).assert_nothing()


def test_routed_underlay_makes_direct_routing_choose_by_peer(name: str) -> None:
    spec = LabSpec(name=name, pods=1, underlay=Underlay.ROUTED, backend_options=(("DirectRouting", True),))
    with build.temporary(spec, Silent()) as lab:
        node = lab.topology.nodes[0]
        routes = {str(route.dst): route for route in tables.read_routes(node, (4,)) if route.dev != "cni0"}
        nets = {pod: str(addresses[0].network) for pod, addresses in lab.record.pods.items()}
        near, far = routes[nets["pod2-1"]], routes[nets["pod3-1"]]
        assert (near.dev, str(near.via), near.onlink) == ("eth0", "172.18.1.12", False)
        assert (far.dev, far.onlink) == ("flannel.1", True)
        tunnels = tables.read_tunnels(node)
        assert "no tunnel is needed" in tables.explain(near, lab.topology, node, tunnels)
        assert "node3's subnet: VXLAN" in tables.explain(far, lab.topology, node, tunnels)


def test_the_host_is_not_in_the_lab(name: str) -> None:
    with build.temporary(replace(SMALL, name=name, nodes=1), Silent()) as lab:
        node = lab.topology.nodes[0]
        ours = Path("/proc/self/ns/net").stat().st_ino
        assert inside(node.namespace, lambda: Path("/proc/thread-self/ns/net").stat().st_ino) != ours
        assert Path("/proc/thread-self/ns/net").stat().st_ino == ours
