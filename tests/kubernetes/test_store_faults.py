"""What a real server does not show on demand: a proxy in front of it spoils answers, and nothing gets lost."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from flanneld_py.kube.access import KubeAccess
from flanneld_py.lab.certificates import Authority
from flanneld_py.lab.kubernetes import API_SERVER
from flanneld_py.lab.progress import Silent
from flanneld_py.model.lease import Changed, LeaseMessage, Snapshot
from flanneld_py.model.leaseset import LeaseSet
from flanneld_py.store.kube import KubeStore
from tests.etcd.conftest import Reports, bad
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.proxy import Answer, End, Fault, FaultProxy, Request, Spoil, gone, status
from tests.kubernetes.stores import PREFIX, Stores, ask, go_annotations, lease

DEADLINE_S = 30
EXPIRED = status(410, "Expired", "The provided continue parameter is too old")
NOT_JSON = b'{"type": "MODIFIED", "object": \n'


def is_list(request: Request) -> bool:
    return request.is_list


def is_watch(request: Request) -> bool:
    return request.is_watch


def is_next_page(request: Request) -> bool:
    return request.is_list and "continue=" in request.target


def is_patch(request: Request) -> bool:
    return request.method == "PATCH"


def own(cluster: Cluster) -> None:
    cluster.add_node("n1", annotations=go_annotations(1), pod_networks=["10.244.1.0/24"])


def peer(cluster: Cluster, number: int) -> Changed:
    """Add a node; what a watch tells of it."""
    net = f"10.244.{number}.0/24"
    cluster.add_node(f"n{number}", annotations=go_annotations(number), pod_networks=[net])
    return Changed(lease(number, net))


class Heard:
    """What a store's watch tells, read as it comes."""

    def __init__(self, store: KubeStore) -> None:
        self._queue: asyncio.Queue[LeaseMessage] = asyncio.Queue()
        self._task = asyncio.create_task(self._read(store))

    async def _read(self, store: KubeStore) -> None:
        async with aclosing(store.watch()) as messages:
            async for message in messages:
                self._queue.put_nowait(message)

    async def next(self) -> LeaseMessage:
        async with asyncio.timeout(DEADLINE_S):
            return await self._queue.get()

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@asynccontextmanager
async def watching(store: KubeStore) -> AsyncIterator[Heard]:
    """A watch whose first snapshot has come."""
    await store.acquire(ask(1))
    heard = Heard(store)
    try:
        assert isinstance(await heard.next(), Snapshot)
        yield heard
    finally:
        await heard.end()


def leases_in(message: LeaseMessage) -> set[object]:
    assert isinstance(message, Snapshot), message
    return set(message.leases)


@pytest.mark.parametrize(
    "fault",
    [
        Spoil(after_lines=1, insert=gone(), end=End.FINISH),
        Spoil(after_lines=1, insert=gone(), end=End.STALL),
        Spoil(after_lines=1, insert=NOT_JSON, end=End.STALL),
        Spoil(after_lines=1, insert=b'["no", "event"]\n', end=End.STALL),
    ],
    ids=["410", "410-and-silence", "garbage", "another-shape"],
)
async def test_history_is_lost_in_the_middle(cluster: Cluster, stores: Stores, proxy: FaultProxy, fault: Fault) -> None:
    own(cluster)
    proxy.plan(fault, is_watch, times=1)
    async with watching(stores.make("n1", proxy=proxy)) as heard:
        await proxy.seen(is_watch)
        change = peer(cluster, 2)
        assert await heard.next() == change
        assert leases_in(await heard.next()) == {lease(1, "10.244.1.0/24"), change.lease}
        assert peer(cluster, 3) == await heard.next(), "and the new watch goes on"


async def test_410_as_the_answer_to_a_watch(cluster: Cluster, stores: Stores, proxy: FaultProxy) -> None:
    own(cluster)
    proxy.plan(Answer(410, EXPIRED), is_watch, times=1)
    async with watching(stores.make("n1", proxy=proxy)) as heard:
        assert leases_in(await heard.next()) == {lease(1, "10.244.1.0/24")}
        assert peer(cluster, 2) == await heard.next()


async def test_410_in_the_middle_of_a_list(cluster: Cluster, stores: Stores, proxy: FaultProxy) -> None:
    own(cluster)
    for number in range(150):
        cluster.add_node(f"p{number}")
    proxy.plan(Answer(410, EXPIRED), is_next_page, times=1)
    async with watching(stores.make("n1", proxy=proxy)):
        pages = [request for request in proxy.requests if request.is_list]
    assert ["continue=" in page.target for page in pages] == [False, True, False, True]


@pytest.mark.parametrize(
    "fault",
    [
        Spoil(after_bytes=500, end=End.RESET),
        Spoil(after_bytes=500, end=End.CLOSE),
        Answer(200, b'{"kind":"NodeList","metadata":{"resourceVersion":"7"},"items":[{"metadata":{"na'),
        Answer(200, b'{"kind":"NodeList","metadata":{},"items":[]}'),
        Answer(200, b"<html>portal</html>", {"Content-Type": "text/html"}),
        Answer(502, b"<html>bad gateway</html>", {"Content-Type": "text/html"}),
        Answer(500, status(500, "InternalError", "etcdserver: leader changed")),
        Answer(503, b""),
        Answer(302, b"", {"Location": "/login"}),
    ],
    ids=["reset", "closed", "truncated", "no-version", "portal", "proxy", "500", "503", "302"],
)
async def test_a_list_that_failed_is_asked_for_again(
    cluster: Cluster, stores: Stores, proxy: FaultProxy, fault: Fault, reports: Reports
) -> None:
    own(cluster)
    proxy.plan(fault, is_list, times=2)
    async with watching(stores.make("n1", proxy=proxy, reports=reports)) as heard:
        assert peer(cluster, 2) == await heard.next()
    assert not all(report.ok for report in reports.seen) and reports.seen[-1].ok


PORTAL = Answer(200, b"<html>portal</html>", {"Content-Type": "text/html"})


@pytest.mark.parametrize("of", [lambda request: request.target.endswith("/nodes/n1"), is_patch], ids=["get", "patch"])
async def test_what_is_no_node_is_named_and_asked_for_again(
    cluster: Cluster, stores: Stores, proxy: FaultProxy, reports: Reports, of: Callable[[Request], bool]
) -> None:
    cluster.add_node("n1", pod_networks=["10.244.1.0/24"])
    proxy.plan(PORTAL, of, times=2)
    assert await stores.make("n1", proxy=proxy, reports=reports).acquire(ask(1)) == lease(1, "10.244.1.0/24")
    told = await reports.until(bad("what answers for the Kubernetes API is not it"))
    assert "portal" in told.hint and "\n" not in told.message
    assert reports.seen[-1].ok
    assert cluster.annotations("n1")[f"{PREFIX}public-ip"] == "192.0.2.1"


async def test_a_kubeconfig_that_is_spoilt_while_we_run_is_told_and_read_again(
    cluster: Cluster, stores: Stores, proxy: FaultProxy, reports: Reports, tmp_path: Path
) -> None:
    own(cluster)
    path, text = tmp_path / "spoilt", cluster.kubeconfig.read_text()
    path.write_text(text)
    access = KubeAccess(kubeconfig=path, api_url=proxy.url)
    async with watching(stores.make("n1", access=access, reports=reports)) as heard:
        await proxy.seen(is_watch)
        path.write_text(text.replace("LS0t", "\u00fc", 1))
        assert path.read_text() != text
        proxy.cut()
        told = await reports.until(bad("its certificate-authority-data is not base64"))
        assert str(path) in told.message
        path.write_text(text)
        change = peer(cluster, 2)
        assert await heard.next() == change
    assert reports.seen[-1].ok


@pytest.mark.parametrize(
    "fault",
    [
        Spoil(after_bytes=150, end=End.RESET),
        Spoil(after_bytes=150, end=End.CLOSE),
        Spoil(after_lines=1, end=End.RESET),
        Spoil(after_lines=1, end=End.FINISH),
        Spoil(after_lines=1, insert=b'{"type":"MODIF', end=End.FINISH),
    ],
    ids=["in-a-line-reset", "in-a-line-closed", "after-a-line", "ended", "ended-in-a-line"],
)
async def test_a_watch_that_broke_goes_on_where_it_stopped(
    cluster: Cluster, stores: Stores, proxy: FaultProxy, fault: Fault
) -> None:
    own(cluster)
    proxy.plan(fault, is_watch, times=2)
    async with watching(stores.make("n1", proxy=proxy)) as heard:
        for number in (2, 3, 4):
            assert peer(cluster, number) == await heard.next()
    assert len([request for request in proxy.requests if request.is_list]) == 1, "nothing is listed again"


async def test_429_is_obeyed(cluster: Cluster, stores: Stores, proxy: FaultProxy, reports: Reports) -> None:
    own(cluster)
    busy = Answer(429, status(429, "TooManyRequests", "slow down"), {"Retry-After": "1"})
    proxy.plan(busy, lambda _: True, times=2)
    begin = time.monotonic()
    await stores.make("n1", proxy=proxy, reports=reports).acquire(ask(1))
    assert time.monotonic() - begin >= 2, "two answers asked for a second each"
    assert len(proxy.requests) == 3
    assert "429 TooManyRequests: slow down" in reports.seen[0].message


async def test_a_watch_without_a_word_is_given_up(cluster: Cluster, stores: Stores, proxy: FaultProxy) -> None:
    own(cluster)
    async with watching(stores.make("n1", proxy=proxy, silence_s=0.5)) as heard:
        await proxy.seen(is_watch)
        proxy.stall()
        change = peer(cluster, 2)
        proxy.resume()
        await proxy.seen(is_watch, 3)
        assert await heard.next() == change


async def test_a_dead_server_is_found_by_its_silence(cluster: Cluster, stores: Stores, proxy: FaultProxy) -> None:
    """Half open: the server's machine has gone, and nobody has closed the connection."""
    own(cluster)
    proxy.plan(Spoil(after_bytes=0, end=End.STALL), is_watch, times=1)
    async with watching(stores.make("n1", proxy=proxy, silence_s=0.5)) as heard:
        assert peer(cluster, 2) == await heard.next()
    assert len([request for request in proxy.requests if request.is_list]) == 1


async def test_the_answer_to_a_write_is_lost(cluster: Cluster, stores: Stores, proxy: FaultProxy) -> None:
    cluster.add_node("n1", pod_networks=["10.244.1.0/24"])
    proxy.plan(Spoil(after_bytes=0, end=End.RESET), is_patch, times=2)
    assert await stores.make("n1", proxy=proxy).acquire(ask(1)) == lease(1, "10.244.1.0/24")


NOTHING = Answer(200, {"kind": "NodeList", "metadata": {"resourceVersion": "1"}, "items": []})


async def test_empty_lists_are_doubted(cluster: Cluster, stores: Stores, proxy: FaultProxy, reports: Reports) -> None:
    """A server in front of a database that is being restored; no node at all would end the network of all pods."""
    own(cluster)
    proxy.plan(NOTHING, is_list, skip=1, times=3)
    proxy.plan(Answer(410, EXPIRED), is_watch, times=1)
    async with watching(stores.make("n1", proxy=proxy, reports=reports, doubt_s=(0.0, 0.0))) as heard:
        assert leases_in(await heard.next()) == {lease(1, "10.244.1.0/24")}
        assert len([request for request in proxy.requests if request.is_list]) == 5
    assert [report.ok for report in reports.seen if "lists no node" in report.message] == [False]
    assert reports.seen[-1].ok


async def test_an_empty_list_that_stays_is_believed(cluster: Cluster, stores: Stores, proxy: FaultProxy) -> None:
    own(cluster)
    proxy.plan(NOTHING, is_list, skip=1, times=4)
    proxy.plan(Answer(410, EXPIRED), is_watch, times=1)
    async with watching(stores.make("n1", proxy=proxy, doubt_s=(0.0, 0.0))) as heard:
        assert leases_in(await heard.next()) == set()


async def test_an_empty_list_is_not_asked_for_again_at_once(
    cluster: Cluster, stores: Stores, proxy: FaultProxy
) -> None:
    """The same server would say the same, a moment later."""
    own(cluster)
    proxy.plan(NOTHING, is_list, skip=1, times=None)
    proxy.plan(Answer(410, EXPIRED), is_watch, times=1)
    begin = time.monotonic()
    async with watching(stores.make("n1", proxy=proxy, doubt_s=(0.5, 0.6))) as heard:
        assert leases_in(await heard.next()) == set()
    assert time.monotonic() - begin >= 3 * 0.5


async def test_the_server_restarts(cluster: Cluster, stores: Stores, reports: Reports) -> None:
    own(cluster)
    async with watching(stores.make("n1", reports=reports)) as heard:
        await asyncio.to_thread(cluster.control.stop, API_SERVER)
        away = await reports.until(bad("is away"))
        assert away.message.startswith(f"the Kubernetes API at {cluster.url} is away: ")
        cluster.control.start(API_SERVER)
        await asyncio.to_thread(cluster.control.wait_for_api, Silent())
        change = peer(cluster, 2)
        # A server that has just come up may say that it does not know our version yet: then there is a snapshot.
        known = LeaseSet()
        while change.lease not in set(known):
            known.apply(await heard.next())
    assert reports.seen[-1].ok


async def test_the_server_comes_back_without_its_history(cluster: Cluster, stores: Stores) -> None:
    own(cluster)
    change = peer(cluster, 2)
    async with watching(stores.make("n1")) as heard:
        await asyncio.to_thread(cluster.control.stop, API_SERVER)
        cluster.compact()
        cluster.control.start(API_SERVER)
        await asyncio.to_thread(cluster.control.wait_for_api, Silent())
        cluster.delete_node("n2")
        known = LeaseSet()
        known.apply(Snapshot((lease(1, "10.244.1.0/24"), change.lease)))
        while set(known) != {lease(1, "10.244.1.0/24")}:
            known.apply(await heard.next())


def service_account(cluster: Cluster, stores: Stores, token: str, port: int) -> KubeAccess:
    folder = stores.folder / "serviceaccount"
    folder.mkdir()
    (folder / "token").write_text(token)
    (folder / "ca.crt").write_bytes(cluster.ca.read_bytes())
    return KubeAccess(service=("127.0.0.1", str(port)), service_account=folder)


async def test_a_rotated_token_is_taken_up(cluster: Cluster, stores: Stores, reports: Reports) -> None:
    own(cluster)
    access = service_account(cluster, stores, "expired", cluster.site.api_port)
    waiting = asyncio.ensure_future(stores.make("n1", access=access, reports=reports).acquire(ask(1)))
    refused = await reports.until(bad("does not accept our credentials"))
    assert "expired" not in str(refused)
    (access.service_account / "token").write_text(cluster.token)
    assert await asyncio.wait_for(waiting, DEADLINE_S) == lease(1, "10.244.1.0/24")
    assert reports.seen[-1].ok


async def test_a_watch_outlives_its_token(cluster: Cluster, stores: Stores, proxy: FaultProxy) -> None:
    own(cluster)
    access = service_account(cluster, stores, cluster.token, proxy.port)
    unauthorized = Answer(401, status(401, "Unauthorized", "Unauthorized"))
    old = f"Bearer {cluster.token}"
    proxy.plan(unauthorized, lambda request: request.headers["authorization"] == old and request.is_watch, skip=1)
    async with watching(stores.make("n1", access=access, silence_s=0.5)) as heard:
        await proxy.seen(is_watch, 2)
        (access.service_account / "token").write_text(cluster.new_token())
        change = peer(cluster, 2)
        assert await heard.next() == change
    assert len({request.headers["authorization"] for request in proxy.requests}) == 2


async def test_another_authority(cluster: Cluster, stores: Stores, reports: Reports) -> None:
    own(cluster)
    access = service_account(cluster, stores, cluster.token, cluster.site.api_port)
    ca = access.service_account / "ca.crt"
    Authority(stores.folder / "other")
    ca.write_bytes((stores.folder / "other" / "ca.crt").read_bytes())
    waiting = asyncio.ensure_future(stores.make("n1", access=access, reports=reports).acquire(ask(1)))
    refused = await reports.until(bad("TLS: CERTIFICATE_VERIFY_FAILED"))
    assert "--kube-api-url" in refused.hint
    ca.write_bytes(cluster.ca.read_bytes())
    assert await asyncio.wait_for(waiting, DEADLINE_S) == lease(1, "10.244.1.0/24")
