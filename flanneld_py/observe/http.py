"""A server for probes: HTTP/1.1 (RFC 9112), GET and HEAD of a few paths, one answer a connection, nothing else.

Whoever reaches the port may connect, pods too, and whoever occupies the server makes a liveness probe fail. So every
connection has one deadline for all that it does, a head of bounded size, and must leave when too many newer ones came.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from flanneld_py.errors import FlannelError
from flanneld_py.observe.connections import Connections

log = logging.getLogger(__name__)

MAX_HEAD_BYTES: Final = 8192
MAX_CONNECTIONS: Final = 64
PATIENCE_S: Final = 5.0
_END: Final = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """`text` goes out as UTF-8 with a closing line end."""

    status: HTTPStatus
    text: str


Routes = Mapping[str, Callable[[], Answer]]
"""By path, without query."""


def reply(head: bytes, routes: Routes) -> bytes:
    """What to send for a request whose head is `head`, up to the empty line."""
    line, _, fields = head.partition(b"\r\n")
    words = line.decode("latin-1").split(" ")
    if len(words) != 3 or words[2] not in ("HTTP/1.1", "HTTP/1.0"):
        return _format(Answer(HTTPStatus.BAD_REQUEST, "not an HTTP/1.1 request"))
    method, target, version = words
    if version == "HTTP/1.1" and not any(each.lower().startswith(b"host:") for each in fields.split(b"\r\n")):
        return _format(Answer(HTTPStatus.BAD_REQUEST, "a Host field is missing"))  # RFC 9112 section 3.2
    if method not in ("GET", "HEAD"):
        return _format(Answer(HTTPStatus.METHOD_NOT_ALLOWED, "GET and HEAD are known"), "Allow: GET, HEAD")
    route = routes.get(target.partition("?")[0])
    known = f"no such path; known are {', '.join(routes)}"
    answer = Answer(HTTPStatus.NOT_FOUND, known) if route is None else route()
    return _format(answer, body=method == "GET")


def _format(answer: Answer, *fields: str, body: bool = True) -> bytes:
    content = f"{answer.text}\n".encode()
    lines = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(content)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        *fields,
        "Connection: close",
    )
    return "\r\n".join(lines).encode() + _END + (content if body else b"")


@contextlib.asynccontextmanager
async def serving(ip: IPv4Address | IPv6Address, port: int, routes: Routes) -> AsyncIterator[int]:
    """Answer while the context lasts; the port, which the kernel chose if 0 was given.

    FlannelError: the address or the port cannot be had.
    """
    connections = Connections(partial(_converse, routes), MAX_CONNECTIONS)
    server = await asyncio.start_server(connections.accept, sock=_listener(ip, port), limit=MAX_HEAD_BYTES)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        await connections.end(server)


def _listener(ip: IPv4Address | IPv6Address, port: int) -> socket.socket:
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if (
            family == socket.AF_INET6
        ):  # asyncio would set it, and :: would no longer mean every address of both families
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((str(ip), port))
        sock.listen(MAX_CONNECTIONS)
    except OSError as error:
        sock.close()
        raise FlannelError(
            f"cannot answer probes on {ip} port {port}: {error.strerror or error}",
            hint="give another --healthz-port or --healthz-ip",
        ) from error
    return sock


async def _converse(routes: Routes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            writer.write(await _reply(reader, routes))
            writer.write_eof()
            # Closing with input unread would reset the connection, and the answer with it (RFC 9112 section 9.6).
            for _ in range(16):
                if not await reader.read(MAX_HEAD_BYTES):
                    break
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        log.debug("a probe was not answered: %s", str(error) or type(error).__name__)


async def _reply(reader: asyncio.StreamReader, routes: Routes) -> bytes:
    try:
        return reply((await reader.readuntil(_END)).removesuffix(_END), routes)
    except asyncio.LimitOverrunError:
        too_large = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        return _format(Answer(too_large, f"a request has at most {MAX_HEAD_BYTES} bytes"))
