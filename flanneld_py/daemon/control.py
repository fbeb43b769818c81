"""The daemon's socket: a question in JSON, one line; an answer in JSON, one line. For `flanneld status` and its like.

Only the owner may connect (0600), and a question is one object such as {"get": "status"}.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from flanneld_py.dataplane.peer import is_elsewhere, peer_pid
from flanneld_py.errors import FlannelError
from flanneld_py.observe.connections import Connections

log = logging.getLogger(__name__)

FILE = "flanneld.sock"
MAX_QUESTION_BYTES = 4096
PATIENCE_S = 5.0
CLOSING_S = 0.2

Answer = Callable[[], Awaitable[dict[str, Any]]]


@contextlib.asynccontextmanager
async def listening(directory: Path, answers: Mapping[str, Answer]) -> AsyncIterator[None]:
    """Answer questions while the context lasts; `answers` by the word after "get".

    FlannelError: the socket cannot be made.
    """
    path = directory / FILE
    # The lock on the directory is ours, so a socket there is a dead daemon's.
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)
    try:
        sock.bind(str(path))
    except OSError as error:
        sock.close()
        raise FlannelError(
            f"cannot make the socket {path}: {error.strerror or error}", hint="give another --subnet-file"
        ) from error
    finally:
        os.umask(mask)

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                line = await reader.readline()
            reply = await _reply(line, answers)
            writer.write(json.dumps(reply).encode() + b"\n")
            async with asyncio.timeout(PATIENCE_S):
                await writer.drain()
        except (OSError, TimeoutError, ValueError) as error:
            log.debug("a question on %s was not answered: %s", path, error)

    connections = Connections(converse)
    server = await asyncio.start_unix_server(connections.accept, sock=sock, limit=MAX_QUESTION_BYTES)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        # The one that ends us waits for its answer.
        await connections.end(server, CLOSING_S)


async def _reply(line: bytes, answers: Mapping[str, Answer]) -> dict[str, Any]:
    try:
        question = json.loads(line)
        answer = answers[question["get"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {"error": f"not a question; ask one of {sorted(answers)}"}
    try:
        return await answer()
    except FlannelError as error:
        return {"error": str(error)}


def is_own(directory: Path) -> bool:
    """Whether a daemon listens there, and in our PID namespace: not one of another container."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(str(directory / FILE))
        except OSError:
            return False
        return not is_elsewhere(peer_pid(sock))


def ask(directory: Path, word: str) -> dict[str, Any] | None:
    """The daemon's answer, or None if no daemon answers there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE_S)
        try:
            sock.connect(str(directory / FILE))
            sock.sendall(json.dumps({"get": word}).encode() + b"\n")
            with sock.makefile("rb") as stream:
                reply = json.loads(stream.readline())
        except (OSError, ValueError):
            return None
    return reply if isinstance(reply, dict) else None
