"""A proxy in front of a real API server that spoils chosen answers: what a real server does not show on demand.

It ends TLS on both sides and knows as much of HTTP/1.1 (RFC 9112) as it takes to tell one answer from the next. What is
not to be spoilt passes unchanged. Clients are known by their token: a client certificate would end here.
"""

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Self

from flanneld_py.lab.certificates import Authority
from flanneld_py.model.net import Addr

_BLOCK = 65536
_LIMIT = 4 << 20


class End(Enum):
    """How an answer ends that was spoilt."""

    FINISH = "finish"
    """As if it were whole."""
    CLOSE = "close"
    """FIN in the middle of it."""
    RESET = "reset"
    """RST in the middle of it."""
    STALL = "stall"
    """Nothing comes any more, and the connection stays: a server whose machine is gone."""


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def is_watch(self) -> bool:
        return "watch=1" in self.target or "watch=true" in self.target

    @property
    def is_list(self) -> bool:
        return self.method == "GET" and self.target.partition("?")[0].endswith("/nodes") and not self.is_watch


@dataclass(frozen=True)
class Answer:
    """This, without asking the server. `body`: of Status objects and the like, JSON is made."""

    status: int
    body: object = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    end: End = End.FINISH


@dataclass(frozen=True)
class Spoil:
    """The server's own answer, up to so many bytes or lines of its body; then `insert`, then `end`.

    A body that ends before that ends as the server ended it.
    """

    after_bytes: int | None = None
    after_lines: int | None = None
    insert: bytes = b""
    end: End = End.RESET


Fault = Answer | Spoil


def gone(message: str = "too old resource version: 1 (2)") -> bytes:
    """The line that ends a watch whose version the server has forgotten."""
    return json.dumps({"type": "ERROR", "object": status(410, "Expired", message)}).encode() + b"\n"


def status(code: int, reason: str, message: str) -> dict[str, object]:
    """A Status object, as the API server puts into the body of an error."""
    head = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return head | {"message": message, "reason": reason, "code": code}


@dataclass
class _Plan:
    fault: Fault
    when: Callable[[Request], bool]
    skip: int
    left: int | None


class _Ended(Exception):
    """The answer was ended as a fault wants it; the connection is not to be used any more."""


class FaultProxy:
    """Listens at a free port of 127.0.0.1 while it is entered; `requests` are those that came, in order."""

    def __init__(self, address: Addr, port: int, ca: Path, authority: Authority) -> None:
        self._upstream = (str(address), port)
        self._client = ssl.create_default_context(cafile=str(ca))
        self._server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        identity = authority.issue(f"proxy-{id(self):x}", "proxy", addresses=[address])
        self._server.load_cert_chain(identity.certificate, identity.key)
        self._server.set_alpn_protocols(["http/1.1"])
        self._plans: list[_Plan] = []
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._aborted: list[asyncio.StreamWriter] = []
        self._flows = asyncio.Event()
        self._flows.set()
        self._accepts = True
        self._news = asyncio.Condition()
        self.requests: list[Request] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._server, limit=_LIMIT)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in self._aborted:
            with suppress(OSError):
                await writer.wait_closed()

    def plan(
        self,
        fault: Fault,
        when: Callable[[Request], bool] = lambda _: True,
        *,
        skip: int = 0,
        times: int | None = 1,
    ) -> None:
        """Spoil requests that fit: `times` of them (None: all) after the first `skip`. The oldest plan goes first."""
        self._plans.append(_Plan(fault, when, skip, times))

    def forget_plans(self) -> None:
        self._plans.clear()

    def cut(self) -> None:
        """Reset every connection that there is."""
        for writer in list(self._connections.values()):
            _reset(writer)

    def refuse(self) -> None:
        """Reset what is there and what comes, until `accept`."""
        self._accepts = False
        self.cut()

    def accept(self) -> None:
        self._accepts = True

    def stall(self) -> None:
        """Let no byte pass, in either direction, until `resume`: connections stay as if the other machine were gone."""
        self._flows.clear()

    def resume(self) -> None:
        self._flows.set()

    async def seen(self, when: Callable[[Request], bool], count: int = 1, timeout_s: float = 30.0) -> list[Request]:
        """The requests that fit, as soon as there are so many of them."""
        async with asyncio.timeout(timeout_s), self._news:
            await self._news.wait_for(lambda: sum(map(when, self.requests)) >= count)
        return [request for request in self.requests if when(request)]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        upstream: asyncio.StreamWriter | None = None
        try:
            if not self._accepts:
                _reset(writer)
                return
            source, upstream = await asyncio.open_connection(*self._upstream, ssl=self._client, limit=_LIMIT)
            while (head := await _read_head(reader)) is not None:
                await self._exchange(head, reader, writer, source, upstream)
        except (_Ended, OSError, asyncio.IncompleteReadError):
            _reset(writer)
        except asyncio.CancelledError:
            _reset(writer)
        finally:
            del self._connections[task]
            for one in (writer, upstream):
                if one is not None:
                    # Without TLS's own farewell: the answer to it would be waited for.
                    one.transport.abort()
                    self._aborted.append(one)

    async def _exchange(
        self,
        head: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        source: asyncio.StreamReader,
        upstream: asyncio.StreamWriter,
    ) -> None:
        first, headers = _parse(head)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        method, target, _ = first.split(" ", 2)
        request = Request(method, target, headers)
        await self._flows.wait()
        async with self._news:
            self.requests.append(request)
            self._news.notify_all()
        fault = self._choose(request)
        if isinstance(fault, Answer):
            await _answer(fault, writer)
            return
        upstream.write(head + body)
        await upstream.drain()
        await self._relay(request, fault, source, writer)

    def _choose(self, request: Request) -> Fault | None:
        for plan in self._plans:
            if plan.left == 0 or not plan.when(request):
                continue
            if plan.skip:
                plan.skip -= 1
                continue
            if plan.left is not None:
                plan.left -= 1
            return plan.fault
        return None

    async def _relay(
        self, request: Request, fault: Spoil | None, source: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = await _read_head(source)
        if head is None:
            raise _Ended
        first, headers = _parse(head)
        empty = request.method == "HEAD" or first.split()[1] in ("204", "304")
        chunked = headers.get("transfer-encoding") == "chunked"
        await self._flows.wait()
        writer.write(head)
        budget = _Budget(fault)
        async for piece in _body(source, headers, empty=empty):
            await self._flows.wait()
            writer.write(_frame(budget.take(piece), chunked=chunked))
            if budget.spent and fault is not None:
                writer.write(_frame(fault.insert, chunked=chunked))
                await writer.drain()
                await _end(fault.end, writer, chunked=chunked)
            await writer.drain()
        if chunked:
            writer.write(b"0\r\n\r\n")
        await writer.drain()


class _Budget:
    """How much of a body may pass."""

    def __init__(self, fault: Spoil | None) -> None:
        self._bytes = None if fault is None else fault.after_bytes
        self._lines = None if fault is None else fault.after_lines
        self.spent = False

    def take(self, piece: bytes) -> bytes:
        if self._bytes is not None:
            passed = piece[: self._bytes]
            self._bytes -= len(passed)
            self.spent = self._bytes == 0
            return passed
        if self._lines is None:
            return piece
        lines = piece.splitlines(keepends=True)
        whole = [n for n, line in enumerate(lines, 1) if line.endswith(b"\n")]
        if len(whole) < self._lines:
            self._lines -= len(whole)
            return piece
        self.spent = True
        return b"".join(lines[: whole[self._lines - 1]]) if self._lines else b""


async def _read_head(reader: asyncio.StreamReader) -> bytes | None:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as err:
        if err.partial:
            raise
        return None


def _parse(head: bytes) -> tuple[str, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return first, {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _body(source: asyncio.StreamReader, headers: Mapping[str, str], *, empty: bool) -> AsyncIterator[bytes]:
    """The pieces of a body, without what frames them."""
    if empty:
        return
    if headers.get("transfer-encoding") == "chunked":
        while size := int((await source.readline()).split(b";")[0], 16):
            yield await source.readexactly(size)
            await source.readline()
        await source.readline()
        return
    left = int(headers["content-length"])
    while left:
        piece = await source.read(min(left, _BLOCK))
        if not piece:
            raise _Ended
        left -= len(piece)
        yield piece


def _frame(piece: bytes, *, chunked: bool) -> bytes:
    return b"%x\r\n%s\r\n" % (len(piece), piece) if chunked and piece else piece


async def _answer(fault: Answer, writer: asyncio.StreamWriter) -> None:
    body = fault.body if isinstance(fault.body, bytes) else json.dumps(fault.body).encode()
    length = len(body) if fault.end is End.FINISH else len(body) + 1
    headers = {"Content-Type": "application/json", "Content-Length": str(length)} | dict(fault.headers)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {fault.status} Spoilt\r\n{head}\r\n".encode() + body)
    await writer.drain()
    if fault.end is not End.FINISH:
        await _end(fault.end, writer, chunked=False)


async def _end(end: End, writer: asyncio.StreamWriter, *, chunked: bool) -> None:
    """End the answer that way; raises _Ended, since the connection cannot serve another one."""
    if end is End.STALL:
        await asyncio.Event().wait()
    if end is End.RESET:
        _reset(writer)
    elif end is End.CLOSE:
        # Without TLS's own farewell: the answer to it would be waited for.
        writer.transport.abort()
    if end is not End.FINISH:
        raise _Ended
    if chunked:
        writer.write(b"0\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    raise _Ended


def _reset(writer: asyncio.StreamWriter) -> None:
    if writer.is_closing():
        return
    sock = writer.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
