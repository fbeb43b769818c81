"""A server's connections at its end: none stays open, whenever a client came."""

import asyncio
import gc
import socket
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import uvloop

from flanneld_py.observe.connections import Connections

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readline())


async def listen(at: Path, turns: int) -> list[str]:
    """A client comes and goes; the server ends `turns` turns of the loop later. What the loop complains of."""
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))

    connections = Connections(echo)
    server = await asyncio.start_unix_server(connections.accept, at)
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(str(at))
    for _ in range(turns):
        await asyncio.sleep(0)
    await connections.end(server)
    return complaints


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("turns", range(8))
def test_whoever_connects_while_the_server_ends_is_closed(
    tmp_path: Path, turns: int, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with asyncio.Runner(loop_factory=loop) as runner:
            assert runner.run(listen(tmp_path / "socket", turns)) == []
        gc.collect()
    assert [str(each.message) for each in caught] == []


async def test_who_has_no_answer_in_time_leaves_without_it(tmp_path: Path) -> None:
    connections = Connections(echo)
    server = await asyncio.start_unix_server(connections.accept, tmp_path / "socket")
    silent, idle = await asyncio.open_unix_connection(tmp_path / "socket")
    asker, question = await asyncio.open_unix_connection(tmp_path / "socket")
    ending = asyncio.create_task(connections.end(server, patience=60))
    question.write(b"who?\n")
    assert await asker.readline() == b"who?\n"
    assert not ending.done()
    ending.cancel()
    await asyncio.wait([ending])
    await connections.end(server)
    assert await silent.read() == b""
    for writer in (idle, question):
        writer.close()
        await writer.wait_closed()
