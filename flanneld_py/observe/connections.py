"""The open connections of a stream server: each is a task of ours, and none outlives the server."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

Converse = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]

_TURNS: Final = 3
"""Turns of the event loop from a server's accept(2) until the connection has come to `Connections.accept`."""


class Connections:
    """`accept` is what `asyncio.start_server` calls. The oldest must leave when there are more than `most`.

    A server's own task for each connection would not do: Python 3.11 logs its cancellation as an error, and one that is
    cancelled before it began leaves its connection open.
    """

    def __init__(self, converse: Converse, most: int | None = None) -> None:
        self._converse = converse
        self._most = most
        self._open: dict[asyncio.Task[None], None] = {}

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._converse(reader, writer))
        self._open[task] = None

        def left(done: asyncio.Task[None]) -> None:
            self._open.pop(done, None)
            if done.cancelled():
                writer.transport.abort()
            else:
                writer.close()

        task.add_done_callback(left)
        if self._most is not None and len(self._open) > self._most:
            next(iter(self._open)).cancel()

    async def end(self, server: asyncio.Server, patience: float = 0) -> None:
        """Accept no more; who has no answer within `patience` seconds leaves without it."""
        # asyncio leaks a connection that it has accepted but not set up when its server closes.
        await _settle()
        server.close()
        await _settle()
        if self._open and patience > 0:
            await asyncio.wait(self._open, timeout=patience)
        silent = tuple(self._open)
        for task in silent:
            task.cancel()
        await asyncio.gather(*silent, return_exceptions=True)
        await _settle()


async def _settle() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)
