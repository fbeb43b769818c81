"""One daemon after another in a directory: containers that end with their daemon, and by hand with --replace."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flanneld_py.daemon import rundir
from flanneld_py.daemon.control import ask
from flanneld_py.lab import process, servers
from tests.udp.overlay import UdpField, workers_in
from tests.udp.streams import CheckedStream
from tests.waiting import eventually

MEGABYTE = 1 << 20
ARRIVALS = 50
UNSHARE = (str(shutil.which("unshare")), "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--")


class Container:
    """A daemon of node 1 that is the first process of its PID namespace."""

    def __init__(self, field: UdpField, log: Path, *flags: str) -> None:
        node, lab = field.node(1), field.lab
        argv = [*UNSHARE, *servers.daemon_argv(lab.topology, node, lab.directory), *flags]
        self._field, self._log = field, log
        self._shell = process.start(argv, namespace=node.namespace, log=log)

    def log(self) -> str:
        return self._log.read_text()

    def ready(self) -> "Container":
        """As soon as this one, and not one before it, has a worker of its own."""

        def well() -> bool:
            assert process.alive(self._shell), self.log()
            return "Wrote subnet file" in self.log() and bool(self.worker()) and self._is_settled()

        eventually("the daemon is ready", well, lambda: (self.log(), ask(self._field.folder(1), "status")))
        return self

    def _is_settled(self) -> bool:
        """Its answer may be long in coming while a worker loads its code."""
        return (ask(self._field.folder(1), "status") or {}).get("ops") == []

    @property
    def daemon(self) -> process.Process:
        # `unshare` itself has but one child.
        return process.with_descendants([self._shell.pid])[1]

    def worker(self) -> set[int]:
        inside = {one.pid for one in process.with_descendants([self._shell.pid])}
        return inside & workers_in(self._field.namespace(1))

    def owns_its_place(self) -> bool:
        """What a startup probe asks, in the container."""
        flanneld = [sys.executable, "-m", "flanneld_py", "status", "--own"]
        subnet_file = f"--subnet-file={self._field.folder(1)}/subnet.env"
        enter = ["nsenter", "--target", str(self.daemon.pid), "--pid", "--mount"]
        done = subprocess.run([*enter, *flanneld, subnet_file], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 3), done.stderr
        return done.returncode == 0

    def signal(self, number: signal.Signals) -> None:
        assert process.send(self.daemon, number)

    def has_ended(self, timeout_s: float = 20.0) -> bool:
        return process.wait(self._shell, timeout_s)

    def runs(self) -> bool:
        return process.alive(self._shell)

    def end(self) -> None:
        process.end([self._shell], 0.0)


Contain = Callable[..., Container]


@pytest.fixture
def contain(field: UdpField, tmp_path: Path) -> Iterator[Contain]:
    """A function that starts containers on node 1; the lab's own daemon of it comes back in the end."""
    made: list[Container] = []

    def start(*flags: str) -> Container:
        made.append(Container(field, tmp_path / f"container{len(made)}", *flags))
        return made[-1]

    field.stop(1)
    yield start
    for container in made:
        container.end()
    field.restart(1)


def test_a_container_that_is_told_to_end_stays_until_the_next_one_carries(field: UdpField, contain: Contain) -> None:
    first = contain().ready()
    drops = {number: field.drops(number) for number in (1, 2)}
    places, before = field.endpoints(), first.worker()
    with (
        CheckedStream(places["pod1-1"], places["pod2-1"]) as stream,
        field.probe("pod2-1", "pod1-1") as probe,
    ):
        stream.wait_for(20 * MEGABYTE)
        first.signal(signal.SIGTERM)
        eventually("the first has left its place", lambda: not rundir.is_held(field.folder(1)))
        stream.wait_for(20 * MEGABYTE)
        assert first.worker() == before
        second = contain().ready()
        assert first.has_ended(), first.log()
        stream.wait_for(20 * MEGABYTE)
        assert probe.wait_for(ARRIVALS, 10.0)
        report = probe.stop()
        stream.finish()
    assert (report.lost, report.unsent, report.duplicates, report.reordered) == ((), (), 0, 0)
    assert workers_in(field.namespace(1)) == second.worker() != before
    assert {number: field.drops(number) for number in (1, 2)} == drops
    assert first.log().rstrip().endswith("Exiting cleanly...")


def test_a_container_gives_its_place_to_one_that_asks(field: UdpField, contain: Contain) -> None:
    first = contain().ready()
    with field.probe("pod2-1", "pod1-1") as probe:
        assert probe.wait_for(ARRIVALS, 10.0)
        second = contain("--replace").ready()
        # Its kubelet would start it again if it ended now.
        assert first.runs()
        assert (first.owns_its_place(), second.owns_its_place()) == (False, True)
        eventually("its worker has left", lambda: workers_in(field.namespace(1)) == second.worker())
        first.signal(signal.SIGTERM)
        assert first.has_ended(), first.log()
        assert probe.wait_for(ARRIVALS, 10.0)
        report = probe.stop()
    assert (report.lost, report.unsent, report.duplicates, report.reordered) == ((), (), 0, 0)


def test_a_container_takes_its_place_again_when_its_successor_ends(field: UdpField, contain: Contain) -> None:
    first = contain().ready()
    assert first.owns_its_place()
    second = contain("--replace").ready()
    eventually("the first one's worker has left", lambda: not first.worker())
    second.end()
    first.ready()
    eventually("the pods reach each other", field.answers, lambda: field.ask(1))


def test_a_container_whom_nobody_relieves_frees_device_and_port(field: UdpField, contain: Contain) -> None:
    only = contain("--udp-linger=1").ready()
    only.signal(signal.SIGTERM)
    assert only.has_ended(), only.log()
    assert workers_in(field.namespace(1)) == set()
    assert not field.has_device(1)
    assert field.port_is_free(1)


def test_a_daemon_by_hand_takes_the_place_of_another_and_its_worker(field: UdpField) -> None:
    before, worker = field.daemon(1), field.worker_process(1)
    with field.probe("pod2-1", "pod1-1") as probe:
        assert probe.wait_for(ARRIVALS, 10.0)
        field.restart(1, "--replace")
        assert process.wait(before, 10.0)
        assert probe.wait_for(ARRIVALS, 10.0)
        report = probe.stop()
    assert (report.lost, report.unsent, report.duplicates, report.reordered) == ((), (), 0, 0)
    assert field.worker_process(1) == worker
