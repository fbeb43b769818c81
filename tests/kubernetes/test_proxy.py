"""The proxy that spoils answers: what passes is unchanged, and each fault looks to a client as it should."""

import asyncio
import json
import socket
import ssl
from http.client import IncompleteRead, RemoteDisconnected

import pytest

from tests.kubernetes.account import Response, ask, connect, watch
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.proxy import Answer, End, FaultProxy, Request, Spoil, gone, status

NODES = "/api/v1/nodes"


def is_watch(request: Request) -> bool:
    return request.is_watch


async def ask_proxy(cluster: Cluster, proxy: FaultProxy, method: str = "GET", path: str = NODES) -> Response:
    return await asyncio.to_thread(ask, cluster, method, path, url=proxy.url)


async def test_what_is_not_spoilt_passes_unchanged(cluster: Cluster, proxy: FaultProxy) -> None:
    await many_nodes(cluster)
    through = await ask_proxy(cluster, proxy)
    direct = ask(cluster, "GET", NODES)
    assert through.status == direct.status == 200
    names = [[item["metadata"]["name"] for item in answer.json["items"]] for answer in (through, direct)]
    assert names[0] == names[1] and len(names[0]) == 40
    assert (await ask_proxy(cluster, proxy, "DELETE", f"{NODES}/n1")).status == 403
    assert [request.method for request in proxy.requests] == ["GET", "DELETE"]


async def test_several_requests_go_over_one_connection(cluster: Cluster, proxy: FaultProxy) -> None:
    connection = connect(cluster, proxy.url)

    def twice() -> list[int]:
        found = []
        for _ in range(2):
            connection.request("GET", f"{NODES}?limit=5", headers={"Authorization": f"Bearer {cluster.token}"})
            response = connection.getresponse()
            response.read()
            found.append(response.status)
        return found

    assert await asyncio.to_thread(twice) == [200, 200]
    connection.close()


async def test_an_answer_instead_of_the_servers_comes_as_often_as_planned(cluster: Cluster, proxy: FaultProxy) -> None:
    busy = Answer(429, status(429, "TooManyRequests", "slow down"), {"Retry-After": "1"})
    proxy.plan(busy, lambda request: request.is_list, skip=1, times=2)
    seen = [await ask_proxy(cluster, proxy) for _ in range(4)]
    assert [one.status for one in seen] == [200, 429, 429, 200]
    assert (seen[1].retry_after, seen[1].json["reason"]) == ("1", "TooManyRequests")


async def test_a_watch_ends_with_gone_in_the_middle(cluster: Cluster, proxy: FaultProxy) -> None:
    for name in "abc":
        cluster.add_node(name)
    proxy.plan(Spoil(after_lines=2, insert=gone(), end=End.FINISH), is_watch)

    def events() -> list[str]:
        with watch(cluster, f"{NODES}?watch=1", proxy.url) as lines:
            return [event["type"] for event in lines]

    assert await asyncio.to_thread(events) == ["ADDED", "ADDED", "ERROR"]


async def many_nodes(cluster: Cluster) -> None:
    """So many that a list has more than one piece."""
    for number in range(40):
        cluster.add_node(f"n{number}", annotations={"t/long": "x" * 2000})


@pytest.mark.parametrize("end", [End.CLOSE, End.RESET])
async def test_a_list_is_cut_in_the_middle(cluster: Cluster, proxy: FaultProxy, end: End) -> None:
    await many_nodes(cluster)
    proxy.plan(Spoil(after_bytes=1000, end=end))
    with pytest.raises(IncompleteRead):
        await ask_proxy(cluster, proxy)
    assert (await ask_proxy(cluster, proxy)).status == 200


@pytest.mark.parametrize(("end", "last"), [(End.CLOSE, "FIN"), (End.RESET, "RST")])
async def test_fin_and_rst_are_different(cluster: Cluster, proxy: FaultProxy, end: End, last: str) -> None:
    """Python's own TLS shows both as the end of the data."""
    proxy.plan(Answer(200, b"{}", end=end))

    def ending() -> str:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=str(cluster.ca))
        tls = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as sock:
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    incoming.write(sock.recv(65536))
            tls.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            sock.sendall(outgoing.read())
            try:
                while sock.recv(65536):
                    pass
            except ConnectionResetError:
                return "RST"
            return "FIN"

    assert await asyncio.to_thread(ending) == last


async def test_truncated_json_with_a_proper_end(cluster: Cluster, proxy: FaultProxy) -> None:
    """What a broken middle box makes of an answer: HTTP says that it is whole, and it is not JSON."""
    await many_nodes(cluster)
    proxy.plan(Spoil(after_bytes=1000, end=End.FINISH))
    answer = await ask_proxy(cluster, proxy)
    assert answer.status == 200
    with pytest.raises(json.JSONDecodeError):
        _ = answer.json


async def test_a_watch_that_goes_silent_stays_open(cluster: Cluster, proxy: FaultProxy) -> None:
    cluster.add_node("a")
    proxy.plan(Spoil(after_lines=1, end=End.STALL), is_watch)

    def first_then_silence() -> str:
        with watch(cluster, f"{NODES}?watch=1", proxy.url) as lines:
            first = next(lines)["type"]
            cluster.add_node("b")
            with pytest.raises(TimeoutError):
                next(lines)
            return str(first)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tests.kubernetes.account.TIMEOUT_S", 5.0)
        assert await asyncio.to_thread(first_then_silence) == "ADDED"


async def test_connections_are_cut_refused_and_accepted_again(cluster: Cluster, proxy: FaultProxy) -> None:
    def until_cut() -> None:
        with watch(cluster, f"{NODES}?watch=1", proxy.url) as lines:
            for _ in lines:
                pass

    waiting = asyncio.create_task(asyncio.to_thread(until_cut))
    await proxy.seen(is_watch)
    proxy.refuse()
    with pytest.raises((ConnectionError, ssl.SSLError, IncompleteRead)):
        await waiting
    with pytest.raises((ConnectionError, ssl.SSLError, RemoteDisconnected)):
        await ask_proxy(cluster, proxy)
    proxy.accept()
    assert (await ask_proxy(cluster, proxy)).status == 200


async def test_nothing_passes_while_it_is_stalled(cluster: Cluster, proxy: FaultProxy) -> None:
    proxy.stall()
    asking = asyncio.create_task(ask_proxy(cluster, proxy))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(asking), 0.3)
    proxy.resume()
    assert (await asking).status == 200


async def test_it_speaks_no_http_2(cluster: Cluster, proxy: FaultProxy) -> None:
    """A client that would rather have HTTP/2, as those in Go, is told so before it begins."""
    context = ssl.create_default_context(cafile=str(cluster.ca))
    context.set_alpn_protocols(["h2", "http/1.1"])

    def chosen() -> str | None:
        with (
            socket.create_connection(("127.0.0.1", proxy.port)) as sock,
            context.wrap_socket(sock, server_hostname="127.0.0.1") as tls,
        ):
            return tls.selected_alpn_protocol()

    assert await asyncio.to_thread(chosen) == "http/1.1"
