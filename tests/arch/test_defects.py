"""Defects that Python and asyncio only warn of, or log, fail the test in which they come about."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEFECTS = """
import asyncio
import threading
from pathlib import Path


async def work(fails: bool) -> None:
    if fails:
        raise ValueError


def test_coroutine_that_nobody_awaits() -> None:
    work(False)


async def test_coroutine_that_is_kept_and_never_awaited() -> None:
    kept = [work(False)]


async def test_task_whose_failure_nobody_sees() -> None:
    asyncio.create_task(work(True))
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def test_exception_in_a_thread() -> None:
    thread = threading.Thread(target=int, args=("x",))
    thread.start()
    thread.join()


def test_file_that_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "file").open("w")


async def test_none() -> None:
    task = asyncio.create_task(work(False))
    await task
"""


def test_defects_fail_tests(tmp_path: Path) -> None:
    (tmp_path / "test_defects.py").write_text(DEFECTS)
    settings = ["-c", str(ROOT / "pyproject.toml"), "-p", "tests.conftest"]
    command = [sys.executable, "-m", "pytest", *settings, "-rA", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    ends = [line.split("::")[1] for line in done.stdout.splitlines() if re.match(r"(FAILED|ERROR) .*::", line)]
    names = [line.removeprefix("def ").partition("(")[0] for line in DEFECTS.splitlines() if "def test_" in line]
    wanted = {name.removeprefix("async def ") for name in names} - {"test_none"}
    assert {end.split(" ")[0] for end in ends} == wanted, done.stdout + done.stderr
