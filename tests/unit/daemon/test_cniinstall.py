"""When the installer is called, what becomes of what it says, and that it does not outlive the daemon."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
import uvloop

from flanneld_py.daemon import cniinstall
from flanneld_py.daemon.board import Board
from flanneld_py.observe.status import Stage, Status

DEADLINE_S = 30.0

OTHERS = "MTU of eth0 is 500, and the overlay keeps to 1500"


@pytest.fixture
async def board(tmp_path: Path) -> Board:
    return Board(tmp_path, Status(Stage.STARTING, 0.0, 1, "1", "n1", warnings=(OTHERS,)), notify_socket=None)


def installer(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """The program takes the installer's place; its arguments begin at argv[1]."""
    monkeypatch.setattr(cniinstall, "command", lambda arguments: [sys.executable, "-c", program, *arguments])
    monkeypatch.setattr(cniinstall, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(cniinstall, "MAX_RETRY_S", 0.01)


async def test_nothing_is_installed_before_the_network_works(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    installer(monkeypatch, "import sys, pathlib; pathlib.Path(sys.argv[1]).touch()")
    task = asyncio.create_task(cniinstall.install_when_ready(board, [str(mark)]))
    for stage in (Stage.STORE, Stage.CONFIG, Stage.LEASE, Stage.KERNEL):
        board.at(stage)
        await asyncio.sleep(0)
    assert not task.done() and not mark.exists()
    board.ready()
    await asyncio.wait_for(task, DEADLINE_S)
    assert mark.exists() and board.status.warnings == (OTHERS,)


async def test_refusal_is_told_and_tried_again(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = tmp_path / "tries"
    installer(
        monkeypatch,
        "import sys, pathlib; path = pathlib.Path(sys.argv[1]); path.open('a').write('x')\n"
        "if len(path.read_text()) < 4: sys.exit('flannel install: no bridge here')",
    )
    board.ready()
    seen: list[tuple[str, ...]] = []
    update = board.update

    def updated(**changes: tuple[str, ...]) -> None:
        seen.append(changes["warnings"])
        update(**changes)

    monkeypatch.setattr(board, "update", updated)
    await asyncio.wait_for(cniinstall.install_when_ready(board, [str(tries)]), DEADLINE_S)
    refused = (OTHERS, "the CNI plugin is not installed: no bridge here")
    assert seen == [refused, refused, refused, (OTHERS,)]
    assert len([record for record in caplog.records if "no bridge here" in record.message]) == 1
    assert tries.read_text() == "xxxx"


async def test_warning_of_the_installer_stays_in_the_status(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    installer(monkeypatch, "import sys; print('flannel install: warning: 05-x.conf comes before', file=sys.stderr)")
    board.ready()
    await asyncio.wait_for(cniinstall.install_when_ready(board, []), DEADLINE_S)
    assert board.status.warnings == (OTHERS, "the CNI plugin: 05-x.conf comes before")


async def test_silent_failure_is_told_too(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    installer(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    outcome = await cniinstall._install([])
    assert not outcome.done and outcome.complaints == ("its installer ended with exit status -9",)
    monkeypatch.setattr(cniinstall, "command", lambda arguments: ["/nowhere/python"])
    outcome = await cniinstall._install([])
    assert not outcome.done and outcome.complaints == ("its installer cannot be run: No such file or directory",)


async def test_installer_ends_with_the_daemon(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    installer(monkeypatch, "import os, signal, sys; open(sys.argv[1], 'w').write(str(os.getpid())); signal.pause()")
    board.ready()
    task = asyncio.create_task(cniinstall.install_when_ready(board, [str(fifo)]))
    process = Path("/proc") / await asyncio.wait_for(asyncio.to_thread(fifo.read_text), DEADLINE_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, DEADLINE_S)
    assert not await asyncio.to_thread(process.exists)


def test_installer_that_has_ended_may_have_its_output_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child of its own that holds it is not waited for."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    child = "(open(sys.argv[1], 'w').write(str(os.getpid())), signal.pause())"
    installer(monkeypatch, f"import os, signal, sys; print('installed', flush=True); os.fork() or {child}")

    async def scenario() -> None:
        task = asyncio.create_task(cniinstall._install([str(fifo)]))
        left = int(await asyncio.to_thread(fifo.read_text))
        try:
            outcome = await asyncio.wait_for(task, DEADLINE_S)
        finally:
            os.kill(left, signal.SIGKILL)
        assert outcome == cniinstall.Outcome(True, ("installed",), ())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
