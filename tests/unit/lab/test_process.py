import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flanneld_py.lab import process
from flanneld_py.lab.process import Process

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); signal.pause()"


@pytest.fixture
def stubborn() -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child
        child.kill()


def test_process_is_known_by_its_start(stubborn: "subprocess.Popen[str]") -> None:
    found = process.find(stubborn.pid)
    assert found is not None
    assert process.alive(found)
    assert not process.alive(Process(found.pid, found.started + 1))


def test_recycled_pid_is_not_signalled(stubborn: "subprocess.Popen[str]") -> None:
    found = process.find(stubborn.pid)
    assert found is not None
    stranger = Process(found.pid, found.started + 1)
    assert not process.send(stranger, signal.SIGKILL)
    process.end([stranger])
    assert process.alive(found)


def test_end_kills_what_does_not_heed_sigterm(stubborn: "subprocess.Popen[str]") -> None:
    found = process.find(stubborn.pid)
    assert found is not None
    assert not process.wait(found, 0)
    process.end([found], grace_s=0.01)
    assert not process.alive(found)


def test_descendants_are_found(stubborn: "subprocess.Popen[str]") -> None:
    pids = [one.pid for one in process.with_descendants([os.getpid()])]
    assert stubborn.pid in pids
    assert os.getpid() not in pids


def test_last_lines_of_a_long_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {n}\n" for n in range(10000)))
    assert process.last_lines(log, 2) == ["line 9998", "line 9999"]
    assert process.last_lines(tmp_path / "none", 2) == []


def test_a_server_holds_nothing_that_its_starter_was_given(tmp_path: Path) -> None:
    """Such as the lock of a command that has ended meanwhile."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    server = process.start(["/bin/sleep", "60"], namespace=None, log=tmp_path / "log")
    try:
        os.close(writing)
        assert os.read(reading, 1) == b""
    finally:
        os.close(reading)
        process.end([server])
