"""The CNI plugin's own installer, called once the network works: a conflist before that would start pods without one.

The plugin is a package of its own, which knows nothing of us, so that it is called and not imported.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from flanneld_py.daemon.board import Board

log = logging.getLogger(__name__)

FIRST_RETRY_S = 5.0
MAX_RETRY_S = 300.0

_MARK = "the CNI plugin"
_NAME = "flannel install: "


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the installer did, line by line, and what it complained of: warnings, or why it refused."""

    done: bool
    lines: tuple[str, ...]
    complaints: tuple[str, ...]


def command(arguments: Sequence[str]) -> list[str]:
    """The installer's command line. -P: no module of the working directory is taken for one of ours."""
    return [sys.executable, "-P", "-m", "cni_plugin", "install", *arguments]


async def install_when_ready(board: Board, arguments: Sequence[str]) -> None:
    """Plugin and conflist are in place after the network works. What keeps them from it is said, and tried again."""
    await board.reached_ready.wait()
    delay_s = FIRST_RETRY_S
    while True:
        outcome = await _install(arguments)
        for line in outcome.lines:
            log.info("%s: %s", _MARK, line)
        mark = f"{_MARK}: " if outcome.done else f"{_MARK} is not installed: "
        _warn(board, tuple(mark + text for text in outcome.complaints))
        if outcome.done:
            return
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 2, MAX_RETRY_S)


async def _install(arguments: Sequence[str]) -> Outcome:
    # Not pipes: a child of its own may hold them for longer than it runs itself.
    with os.fdopen(os.memfd_create("output"), "w+b") as output, os.fdopen(os.memfd_create("errors"), "w+b") as errors:
        try:
            process = await asyncio.create_subprocess_exec(
                *command(arguments), stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=errors
            )
        except OSError as error:
            return Outcome(False, (), (f"its installer cannot be run: {error.strerror}",))
        try:
            await process.wait()
        except asyncio.CancelledError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        return _outcome(process.returncode or 0, _read(output), _read(errors))


def _read(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _outcome(code: int, output: bytes, errors: bytes) -> Outcome:
    complaints = tuple(line.removeprefix(_NAME).removeprefix("warning: ") for line in _lines(errors))
    if code and not complaints:
        complaints = (f"its installer ended with exit status {code}",)
    return Outcome(code == 0, _lines(output), complaints)


def _lines(text: bytes) -> tuple[str, ...]:
    return tuple(line for line in text.decode(errors="replace").splitlines() if line.strip())


def _warn(board: Board, texts: tuple[str, ...]) -> None:
    """Replaces what the status says of the plugin; in the log is only what is new."""
    before = [text for text in board.status.warnings if text.startswith(_MARK)]
    for text in texts:
        if text not in before:
            log.warning("%s", text)
    others = tuple(text for text in board.status.warnings if not text.startswith(_MARK))
    board.update(warnings=(*others, *texts))
