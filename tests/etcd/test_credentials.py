"""TLS and authentication against real servers."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from flanneld_py.errors import AccessDenied, UsageError
from flanneld_py.etcd.client import EtcdAccess, EtcdClient, Events
from tests.etcd.certificates import Authority
from tests.etcd.conftest import Reports
from tests.etcd.server import Server

Clients = Callable[..., EtcdClient]
Servers = Callable[..., Server]

PASSWORD = "correct-horse-battery"


def says(*words: str) -> Callable[[Any], bool]:
    return lambda trouble: trouble is not None and all(word in str(trouble) for word in words)


async def test_ca_alone_is_enough(authority: Authority, tls_server: Server, clients: Clients) -> None:
    assert (await clients(tls_server.url, ca_file=authority.path).get(b"x"))[0] is None


async def test_endpoint_without_scheme_is_tls_when_tls_files_are_given(
    authority: Authority, tls_server: Server, clients: Clients
) -> None:
    await clients(tls_server.url.removeprefix("https://"), ca_file=authority.path).get(b"x")


async def test_mixed_schemes(authority: Authority, tls_server: Server, etcd: Server, clients: Clients) -> None:
    for _ in range(4):
        await clients(tls_server.url, etcd.url, ca_file=authority.path).get(b"x")


async def test_client_certificate(authority: Authority, servers: Servers, clients: Clients, reports: Reports) -> None:
    cert, key = authority.issue("server")
    trust = ["--client-cert-auth", f"--trusted-ca-file={authority.path}"]
    server = servers(tls=[f"--cert-file={cert}", f"--key-file={key}", *trust]).start()
    cert, key = authority.issue("client")
    await clients(server.url, ca_file=authority.path, cert_file=cert, key_file=key).get(b"x")
    task = asyncio.ensure_future(clients(server.url, ca_file=authority.path).get(b"x"))
    await reports.until(says("asks for a client certificate", "--etcd-certfile"))
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize(
    ("scheme", "ca", "words"),
    [
        ("http", True, ("speaks TLS", "https://")),
        ("https", False, ("certificate that we do not trust", "--etcd-cafile")),
        ("https", None, ("certificate that we do not trust", "other")),
    ],
)
async def test_tls_troubles_are_named(
    authority: Authority,
    tls_server: Server,
    clients: Clients,
    reports: Reports,
    scheme: str,
    ca: bool | None,
    words: Any,
) -> None:
    """`ca`: True the right one, False none, None another."""
    ca_file = {True: authority.path, False: None, None: Authority(authority.folder, "other").path}[ca]
    client = clients(f"{scheme}://127.0.0.1:{tls_server.client_port}", ca_file=ca_file)
    task = asyncio.ensure_future(client.get(b"x"))
    await reports.until(says(*words))
    task.cancel()
    await asyncio.wait([task])


async def test_tls_on_a_plaintext_port_is_named(
    authority: Authority, etcd: Server, clients: Clients, reports: Reports
) -> None:
    client = clients(etcd.url.replace("http:", "https:"), ca_file=authority.path)
    task = asyncio.ensure_future(client.get(b"x"))
    await reports.until(says("answers without TLS", "http://"))
    task.cancel()
    await asyncio.wait([task])


async def test_replaced_ca_is_used_without_a_restart(
    authority: Authority, tls_server: Server, clients: Clients, reports: Reports
) -> None:
    other = Authority(authority.folder, "other")
    task = asyncio.ensure_future(clients(tls_server.url, ca_file=other.path).get(b"x"))
    await reports.until(says("certificate that we do not trust"))
    other.become(authority)
    await asyncio.wait_for(task, 30)


@pytest.mark.parametrize("content", [None, "", "no pem at all"])
def test_unsound_tls_file_is_refused_at_once(authority: Authority, content: str | None) -> None:
    path = authority.folder / "unsound.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=r"--etcd-cafile .*unsound.pem"):
        EtcdClient(EtcdAccess(("https://127.0.0.1:1",), "/", ca_file=str(path)), lambda _: None)


@pytest.fixture
def guarded(servers: Servers) -> Server:
    """User flannel may use /net; a token lives for a second after its last use."""
    server = servers(extra=["--auth-token-ttl=1"]).start()
    for words in (
        *(["user", "add", "root:rootpw"], ["user", "grant-role", "root", "root"]),
        *(["user", "add", f"flannel:{PASSWORD}"], ["role", "add", "net"], ["user", "grant-role", "flannel", "net"]),
        ["role", "grant-permission", "net", "--prefix=true", "readwrite", "/net"],
        ["auth", "enable"],
    ):
        server.ctl(*words)
    return server


async def test_login_is_renewed_when_the_token_expires(guarded: Server, clients: Clients) -> None:
    client = clients(guarded.url, username="flannel", password=PASSWORD)
    async with aclosing(client.watch(b"/net/a", revision=1)) as messages, asyncio.timeout(60):
        await client.put(b"/net/a", b"1")
        assert isinstance(await anext(messages), Events)
        first = client._transport._token
        while client._transport._token == first:  # each look makes a token that still lives live longer
            await asyncio.sleep(2)
            await client.put(b"/net/b", b"")
        await client.put(b"/net/a", b"2")
        told = await anext(messages)
        assert isinstance(told, Events) and told.events[0].kv.value == b"2"


async def test_watch_with_an_expired_token_logs_in(guarded: Server, clients: Clients) -> None:
    client = clients(guarded.url, username="flannel", password=PASSWORD)
    revision = await client.put(b"/net/a", b"1")
    client._transport._token = "expired.1"
    async with aclosing(client.watch(b"/net/a", revision=revision)) as messages, asyncio.timeout(20):
        assert isinstance(await anext(messages), Events)


@pytest.mark.parametrize(
    ("access", "words"),
    [
        ({"username": "flannel", "password": PASSWORD + "x"}, ["'flannel'", "authentication failed"]),
        ({"username": "nobody", "password": PASSWORD}, ["'nobody'", "authentication failed"]),
        ({"username": "flannel", "password": PASSWORD}, ["'flannel'", "permission denied", "grant-permission"]),
        ({}, ["--etcd-username"]),
    ],
)
async def test_refusals_are_answers(
    guarded: Server, clients: Clients, access: dict[str, str], words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    client = clients(guarded.url, **access)
    with pytest.raises(AccessDenied) as caught:
        await asyncio.wait_for(client.put(b"/elsewhere", b""), 20)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert PASSWORD not in str(caught.value) + repr(client._transport._login) + caplog.text


async def test_watch_without_permission_is_denied(guarded: Server, clients: Clients) -> None:
    client = clients(guarded.url, username="flannel", password=PASSWORD)
    with pytest.raises(AccessDenied):
        async with asyncio.timeout(20):
            await anext(client.watch(b"/elsewhere", revision=1))


async def test_password_for_a_server_without_authentication_is_not_needed(etcd: Server, clients: Clients) -> None:
    await clients(etcd.url, username="flannel", password=PASSWORD).get(b"x")
