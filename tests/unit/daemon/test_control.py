"""The daemon's socket, asked by programs that do not do as they should, and asked at its end."""

import asyncio
import json
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flanneld_py.daemon import control


async def answer() -> dict[str, Any]:
    return {"pid": 1}


def connect(directory: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(directory / control.FILE))
    return sock


async def test_who_asks_nothing_is_left_without_an_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with control.listening(tmp_path, {"place": answer}):
        silent = connect(tmp_path)
        assert await asyncio.to_thread(control.ask, tmp_path, "place") == {"pid": 1}
    with closing(silent):
        assert silent.recv(1) == b""
    assert [record for record in caplog.records if record.name == "asyncio"] == []


async def test_the_question_that_ends_the_daemon_is_answered(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def end() -> dict[str, Any]:
        ended.set()
        return {"pid": 1}

    async with control.listening(tmp_path, {"place": end}):
        asker = connect(tmp_path)
        asker.sendall(json.dumps({"get": "place"}).encode() + b"\n")
        await ended.wait()
    with closing(asker):
        assert json.loads(asker.recv(100)) == {"pid": 1}
