"""A supervisor and a real worker in a namespace of the test's own: what goes wrong between the two."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop

from flanneld_py.dataplane import control, link, supervisor
from flanneld_py.dataplane.link import WorkerLink, closing_all
from flanneld_py.dataplane.supervisor import SOCKET, WorkerSupervisor
from flanneld_py.dataplane.tun import QUEUE_LENGTH
from flanneld_py.lab import process, wiring
from flanneld_py.lab.namespaces import inside, processes
from flanneld_py.model.entry import Desired, Op, UdpPeer, UdpWorker, Verb
from tests.daemon.field import ip
from tests.waiting import DEADLINE_S, POLL_S

T = TypeVar("T")
NUMBERS = count(1)
LOCAL, PORT = IPv4Address("127.0.0.1"), 8285
WORKER = UdpWorker("flannel0", LOCAL, PORT, IPv4Network("10.244.1.0/24"), 1472, validation="off")
Run = Callable[[Callable[[], Awaitable[Any]]], Any]


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"us{os.getpid()}-{next(NUMBERS)}"
    wiring.create_namespace(name)
    try:
        yield name
    finally:
        process.end(process.with_descendants(processes([name])))
        wiring.remove_namespace(name)


@pytest.fixture
def run(namespace: str) -> Run:
    """A function that runs a coroutine to its end, in the namespace."""

    def to_end(scenario: Callable[[], Awaitable[T]]) -> T:
        async def body() -> T:
            async with asyncio.timeout(60):
                return await scenario()

        def loop() -> T:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(body())

        return inside(namespace, loop)

    return to_end


async def until(what: str, holds: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(int(DEADLINE_S / POLL_S)):
        if await holds():
            return
        await asyncio.sleep(POLL_S)
    pytest.fail(f"not within {DEADLINE_S:.0f} s: {what}")


async def started(directory: Path, worker: UdpWorker = WORKER, *peers: UdpPeer) -> WorkerSupervisor:
    made = WorkerSupervisor(directory)
    assert await made.apply([Op(Verb.ADD, worker), *(Op(Verb.ADD, peer) for peer in peers)]) == []
    return made


async def pid_of(made: WorkerSupervisor) -> int:
    stats = await made.stats()
    assert stats is not None
    return int(stats["pid"])


async def truncated(asked: WorkerLink) -> int:
    """How many datagrams the worker found too short."""
    return int((await asked.ask("stats"))["inbound"]["drops"].get("truncated", 0))


def send_short() -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.sendto(b"\x45", (str(LOCAL), PORT))


async def halt(pid: int) -> None:
    """Make the process stand still."""
    os.kill(pid, signal.SIGSTOP)

    def states() -> set[str]:
        threads = Path(f"/proc/{pid}/task").iterdir()
        return {(thread / "stat").read_text().rpartition(")")[2].split()[0] for thread in threads}

    async def stopped() -> bool:
        return await asyncio.to_thread(states) == {"T"}

    await until("the worker stands still", stopped)


def ended(pid: int) -> bool:
    return process.find(pid) is None or not process.alive(process.find(pid) or process.Process(0, 0))


def test_the_answer_to_a_question_that_was_given_up_is_not_taken_for_the_next(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        made = await started(tmp_path)
        pid = await pid_of(made)
        asked = await WorkerLink.connect(tmp_path / SOCKET, lambda _: None)
        await halt(pid)
        question = asyncio.create_task(asked.ask("stats"))
        await asyncio.sleep(0)
        question.cancel()
        with pytest.raises(asyncio.CancelledError):
            await question
        os.kill(pid, signal.SIGCONT)
        assert set(await asked.ask("hello")) == {"build", "pid"}
        asked.close()
        made.close()

    run(scenario)


@pytest.mark.parametrize("daemon", ["the same", "a new one"])
def test_a_worker_that_hangs_is_replaced(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, daemon: str
) -> None:
    async def scenario() -> None:
        made = await started(tmp_path)
        pid = await pid_of(made)
        if daemon == "a new one":
            made.close()
            made = WorkerSupervisor(tmp_path)
        monkeypatch.setattr(link, "ANSWER_S", 0.3)
        await halt(pid)
        assert await made.known(Desired()) == {}
        assert ended(pid)
        monkeypatch.setattr(link, "ANSWER_S", 10.0)
        assert await made.apply([Op(Verb.ADD, WORKER)]) == []
        assert await pid_of(made) != pid
        made.close()

    run(scenario)


def test_a_daemon_that_is_killed_in_a_hand_over_leaves_the_worker_carrying(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        made = await started(tmp_path)
        asked = await WorkerLink.connect(tmp_path / SOCKET, lambda _: None)
        dying = await WorkerLink.connect(tmp_path / SOCKET, lambda _: None)
        _, fds = await dying.ask_for_fds("release")
        with closing_all(fds):
            send_short()
            assert await truncated(asked) == 0
        dying.close()

        async def carries() -> bool:
            return await truncated(asked) == 1

        await until("the worker reads what came while nobody read", carries)
        assert (await made.known(Desired())).keys() == {WORKER.key}
        asked.close()
        made.close()

    run(scenario)


def test_a_worker_whose_daemon_was_killed_before_it_had_its_name_is_found(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        made = await started(tmp_path)
        pid = await pid_of(made)
        made.close()
        path = tmp_path / SOCKET
        path.rename(path.with_suffix(".new"))
        again = WorkerSupervisor(tmp_path)
        assert await again.known(Desired()) == {WORKER.key: WORKER}
        assert await pid_of(again) == pid
        assert path.exists()
        again.close()

    run(scenario)


def test_a_worker_that_nobody_told_to_carry_leaves_with_the_last_who_asks(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "unclaimed.sock"
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as listener:
            listener.bind(str(path))
            listener.listen()
            command = [sys.executable, "-m", "flanneld_py.dataplane.worker", str(listener.fileno())]
            child = subprocess.Popen(command, pass_fds=(listener.fileno(),))  # noqa: ASYNC220 - it does not block
        asked = await WorkerLink.connect(path, lambda _: None)
        assert child.poll() is None
        asked.close()
        assert await asyncio.to_thread(child.wait, DEADLINE_S) == 0

    run(scenario)


def test_a_worker_of_newer_files_than_its_daemon_is_not_replaced_again_and_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package was upgraded under a running daemon, and then the worker ended: the next one runs the new files."""
    monkeypatch.setattr(supervisor, "BUILD", "an older one")

    async def scenario() -> None:
        made = await started(tmp_path)
        assert await made.known(Desired()) == {WORKER.key: WORKER}
        made.close()
        later = WorkerSupervisor(tmp_path)
        (found,) = (await later.known(Desired())).values()
        assert isinstance(found, UdpWorker)
        assert found.build not in ("", "an older one")
        later.close()

    run(scenario)


def processors_of_threads(pid: int) -> set[frozenset[int]]:
    return {frozenset(os.sched_getaffinity(int(task.name))) for task in Path(f"/proc/{pid}/task").iterdir()}


def test_another_way_to_choose_lanes_needs_no_other_worker(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        made = await started(tmp_path)
        before = await made.stats()
        assert await made.apply([Op(Verb.CHANGE, replace(WORKER, by_sender=True))]) == []
        after = await made.stats()
        assert before is not None
        assert after is not None
        assert (before["by_sender"], after["by_sender"]) == (False, True)
        assert after["pid"] == before["pid"]
        assert processors_of_threads(after["pid"]) == {frozenset(os.sched_getaffinity(0))}
        made.close()

    run(scenario)


def test_without_room_for_the_socket_filter_the_worker_checks_alone(run: Run, tmp_path: Path) -> None:
    """Linux before 6.7 has room for some hundred scattered peers; new peers must not stay locked out there."""
    strict = UdpWorker("flannel0", LOCAL, PORT, WORKER.own, 1472)

    def peer(number: int) -> UdpPeer:
        subnet = IPv4Network((int(IPv4Address("10.245.0.0")) + 256 * number, 24))
        return UdpPeer("flannel0", subnet, IPv4Address("192.0.2.0") + 2 * number, PORT, 1472)

    def leave_no_room() -> None:
        path = Path("/proc/sys/net/core/optmem_max")
        if not path.exists():
            pytest.skip("this kernel has one optmem_max for all namespaces: that a filter does not fit stays untested")
        path.write_text("1024")

    async def scenario() -> None:
        made = await started(tmp_path, strict, peer(1))
        stats = await made.stats()
        assert stats is not None
        assert stats["filtered"]
        leave_no_room()
        more = [Op(Verb.ADD, peer(number)) for number in range(2, 60)]
        more.append(Op(Verb.ADD, UdpPeer("flannel0", IPv4Network("10.246.0.0/24"), LOCAL, PORT, 1472)))
        assert await made.apply(more) == []
        send_short()

        async def came() -> bool:
            found = await made.stats()
            assert found is not None
            assert not found["filtered"]
            return bool(found["inbound"]["drops"].get("truncated"))

        await until("the new peer's datagram reaches the worker", came)
        made.close()

    run(scenario)


def test_a_worker_that_speaks_another_version_is_replaced(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        made = await started(tmp_path)
        pid = await pid_of(made)
        made.close()
        with monkeypatch.context() as patch:
            patch.setattr(control, "VERSION", control.VERSION + 1)
            assert await made.known(Desired()) == {}
            assert ended(pid)
        assert await made.apply([Op(Verb.ADD, WORKER)]) == []
        assert await pid_of(made) != pid
        made.close()

    run(scenario)


def test_a_port_that_is_taken_is_said_so_and_leaves_no_process_behind(run: Run, tmp_path: Path, namespace: str) -> None:
    async def scenario() -> None:
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as other:
            other.bind((str(LOCAL), PORT))
            made = WorkerSupervisor(tmp_path)
            (failure,) = await made.apply([Op(Verb.ADD, WORKER)])
            assert "cannot bind UDP 127.0.0.1:8285" in failure.reason
            assert failure.hint is not None
        made.close()

    run(scenario)
    assert processes([namespace]) == set()


def test_what_the_device_has_no_room_for_is_counted(run: Run, tmp_path: Path, namespace: str) -> None:
    """While the worker stands still its device's queue overflows."""

    async def scenario() -> None:
        made = await started(tmp_path)
        pid = await pid_of(made)
        for words in (
            "addr add 10.244.1.0/32 dev flannel0",
            "link set flannel0 up",
            "route add 10.244.0.0/16 dev flannel0",
        ):
            ip(namespace, words)
        await halt(pid)
        try:
            with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
                for _ in range(QUEUE_LENGTH + 100):
                    sock.sendto(b"x", ("10.244.2.2", 9))
        finally:
            os.kill(pid, signal.SIGCONT)
        stats = await made.stats()
        assert stats is not None
        assert stats["queue_drops"] >= 100
        made.close()

    run(scenario)
