"""The server for probes: what it answers, and that nobody who misbehaves keeps others from their answer."""

import asyncio
import http.client
from contextlib import AsyncExitStack
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanneld_py.errors import FlannelError
from flanneld_py.observe import http as server
from flanneld_py.observe.http import MAX_CONNECTIONS, MAX_HEAD_BYTES, Answer, reply, serving

LOOPBACK = IPv4Address("127.0.0.1")
GOOD = b"GET /good HTTP/1.1\r\nHost: node1\r\n\r\n"
ROUTES = {
    "/good": lambda: Answer(HTTPStatus.OK, "all is well"),
    "/bad": lambda: Answer(HTTPStatus.SERVICE_UNAVAILABLE, "not yet: größer"),
}


def status_of(answer: bytes) -> int:
    version, code, _ = answer.split(b" ", 2)
    assert version == b"HTTP/1.1"
    return int(code)


def body_of(answer: bytes) -> bytes:
    return answer.split(b"\r\n\r\n", 1)[1]


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        (b"GET /good HTTP/1.1", 200, "all is well\n"),
        (b"GET /good HTTP/1.0", 200, "all is well\n"),
        (b"GET /good?verbose=1 HTTP/1.1", 200, "all is well\n"),
        (b"GET /bad HTTP/1.1", 503, "not yet: größer\n"),
        (b"HEAD /bad HTTP/1.1", 503, ""),
        (b"GET /good/ HTTP/1.1", 404, "no such path; known are /good, /bad\n"),
        (b"GET / HTTP/1.1", 404, "no such path; known are /good, /bad\n"),
        (b"POST /good HTTP/1.1", 405, "GET and HEAD are known\n"),
        (b"get /good HTTP/1.1", 405, "GET and HEAD are known\n"),
        (b"GET /good HTTP/2.0", 400, "not an HTTP/1.1 request\n"),
        (b"GET /good", 400, "not an HTTP/1.1 request\n"),
        (b"GET  /good HTTP/1.1", 400, "not an HTTP/1.1 request\n"),
        (b"", 400, "not an HTTP/1.1 request\n"),
        (b"\x16\x03\x01\x02\x00", 400, "not an HTTP/1.1 request\n"),
    ],
)
def test_answers(line: bytes, code: int, text: str) -> None:
    answer = reply(line + b"\r\nHost: node1", ROUTES)
    assert (status_of(answer), body_of(answer).decode()) == (code, text)


def test_a_host_field_is_demanded_of_http_1_1_only() -> None:
    assert status_of(reply(b"GET /good HTTP/1.1\r\nAccept: */*", ROUTES)) == 400
    assert status_of(reply(b"GET /good HTTP/1.0", ROUTES)) == 200


def test_a_method_that_is_not_known_is_told_the_known_ones() -> None:
    assert b"\r\nAllow: GET, HEAD\r\n" in reply(b"PUT /good HTTP/1.1\r\nHost: x", ROUTES)


def test_head_tells_the_length_that_get_would_have() -> None:
    assert b"\r\nContent-Length: 18\r\n" in reply(b"HEAD /bad HTTP/1.1\r\nHost: x", ROUTES)


@given(st.binary(max_size=300))
def test_any_bytes_have_an_answer(head: bytes) -> None:
    assert status_of(reply(head, ROUTES)) in (200, 400, 404, 405, 503)


async def ask(port: int, request: bytes = GOOD) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await reader.read()
    finally:
        writer.close()


async def test_a_real_client_understands_it() -> None:
    def fetch(port: int, method: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request(method, "/bad")
        answer = connection.getresponse()
        return answer.status, answer.read()

    async with serving(LOOPBACK, 0, ROUTES) as port:
        assert await asyncio.to_thread(fetch, port, "GET") == (503, "not yet: größer\n".encode())
        assert await asyncio.to_thread(fetch, port, "HEAD") == (503, b"")


async def test_a_request_may_come_byte_by_byte() -> None:
    async with serving(LOOPBACK, 0, ROUTES) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for byte in GOOD:
            writer.write(bytes((byte,)))
            await writer.drain()
        assert status_of(await reader.read()) == 200
        writer.close()


async def test_a_head_without_end_is_refused() -> None:
    """The answer arrives although there is input that nobody read."""
    async with serving(LOOPBACK, 0, ROUTES) as port:
        answer = await ask(port, b"GET /good HTTP/1.1\r\nX: " + b"x" * (2 * MAX_HEAD_BYTES))
        assert status_of(answer) == 431
        assert status_of(await ask(port, GOOD[:-2] + b"X: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n")) == 431


async def test_a_client_that_sends_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PATIENCE_S", 0.05)
    async with serving(LOOPBACK, 0, ROUTES) as port:
        assert await ask(port, b"GET /good HT") == b""


async def test_a_client_that_takes_its_answer_and_stays_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PATIENCE_S", 0.05)
    async with serving(LOOPBACK, 0, ROUTES) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GOOD)
        assert status_of(await reader.read()) == 200
        with pytest.raises(ConnectionError):
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0)


async def test_who_came_first_leaves_first_when_too_many_are_there() -> None:
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(serving(LOOPBACK, 0, ROUTES))
        idle = []
        for _ in range(MAX_CONNECTIONS + 1):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            idle.append(reader)
        assert status_of(await ask(port)) == 200
        for reader in idle[:2]:
            assert await reader.read() == b""
        assert not any(reader.at_eof() for reader in idle[2:])


async def test_the_end_does_not_wait_for_clients() -> None:
    async with AsyncExitStack() as stack:
        async with serving(LOOPBACK, 0, ROUTES) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            assert status_of(await ask(port)) == 200
        with pytest.raises(ConnectionError):
            await ask(port)


async def test_a_port_in_use_is_one_line_that_names_it() -> None:
    async with serving(LOOPBACK, 0, ROUTES) as port:
        with pytest.raises(FlannelError) as caught:
            async with serving(LOOPBACK, port, ROUTES):
                pass
    assert str(caught.value) == (
        f"cannot answer probes on 127.0.0.1 port {port}: Address already in use; "
        "give another --healthz-port or --healthz-ip"
    )


async def test_an_address_that_is_not_ours_is_refused() -> None:
    with pytest.raises(FlannelError, match=r"on 192\.0\.2\.1 port 0: Cannot assign requested address"):
        async with serving(IPv4Address("192.0.2.1"), 0, ROUTES):
            pass


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_the_unspecified_ipv6_address_is_every_address_of_both_families(address: str) -> None:
    async with serving(IPv6Address("::"), 0, ROUTES) as port:
        reader, writer = await asyncio.open_connection(str(ip_address(address)), port)
        writer.write(GOOD)
        assert status_of(await reader.read()) == 200
        writer.close()
