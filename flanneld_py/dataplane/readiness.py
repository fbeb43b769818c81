"""Waiting for a socket that neither asyncio nor uvloop has a transport for (SOCK_SEQPACKET with descriptors). I/O."""

import asyncio
import socket


async def readable(sock: socket.socket) -> None:
    """Until there is something to read, or the other end is closed. The socket may be closed meanwhile."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    fd = sock.fileno()
    loop.add_reader(fd, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(fd)
