"""The Kubernetes API as the store needs it: read, patch, create, and follow a collection. Calls wait while it is away.

lightkube finds the API and authenticates; its own list and watch are not used: they decode whole objects and leave 410,
back-off and silence to the caller.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from http import HTTPStatus
from random import Random, SystemRandom
from typing import Any, TypeVar

import httpx2
from lightkube.config import client_adapter
from lightkube.config.kubeconfig import SingleConfig
from lightkube.core.exceptions import ConfigError as LightkubeConfigError

from flanneld_py.errors import UsageError
from flanneld_py.kube.access import KubeAccess, read_config
from flanneld_py.kube.listwatch import ANSWER_S, ListWatch, Message, Request
from flanneld_py.kube.objects import MALFORMED, Malformed, Refusal, decode_refusal
from flanneld_py.kube.plugin import PluginAuth
from flanneld_py.kube.verdict import Refused, Trouble, Verdict, explain, judge, unreachable
from flanneld_py.model.backoff import Backoff
from flanneld_py.version import VERSION

_log = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_S = 10.0
STRATEGIC = "application/strategic-merge-patch+json"
JSON = "application/json"
_HEADERS = {"Accept": JSON, "Accept-Encoding": "identity", "User-Agent": f"flanneld/{VERSION}"}
# A list comes in pieces of some KiB, each of which costs us more than to unpack it.
_PACKED = {"Accept-Encoding": "gzip"}
_SLOWEST_S = 10.0
# The last two: a file that is being replaced, read for a new session; a credential plugin that fails.
_FAILURES = (httpx2.HTTPError, OSError, LightkubeConfigError, UsageError)


class KubeClient:
    """A client for one event loop. `report` hears why the API does not serve us, None when it does again.

    Raises UsageError for what cannot be a way to an API server.
    """

    def __init__(self, access: KubeAccess, report: Callable[[Trouble | None], None], rng: Random | None = None) -> None:
        self._access = access
        self._report = report
        self._rng = rng or SystemRandom()
        self._url = str(read_config(access).cluster.server)
        self._session: httpx2.AsyncClient | None = None

    def describe(self) -> str:
        """The address of the API server."""
        return self._url

    @property
    def rng(self) -> Random:
        return self._rng

    async def get(self, what: str, path: str, decode: Callable[[bytes], T]) -> T:
        """Raises Refused. `what` names the request in messages: "get node n1"; what is Malformed is no answer."""
        return await self._call(what, "GET", path, decode)

    async def patch(self, what: str, path: str, body: bytes, decode: Callable[[bytes], T]) -> T:
        """A strategic merge patch; the object after it. Raises Refused."""
        return await self._call(what, "PATCH", path, decode, body)

    async def create(self, what: str, path: str, body: bytes) -> None:
        """One attempt, for what nobody waits for. Raises Refused."""
        refusal = Refusal(0, message="no answer")
        with suppress(*_FAILURES):
            response = await self._open().request(
                "POST", path, content=body, headers=_HEADERS | {"Content-Type": JSON}, timeout=_timeout(ANSWER_S)
            )
            if response.is_success:
                return
            refusal = _refusal(response, response.content)
        raise Refused(what, refusal)

    async def _call(
        self,
        what: str,
        method: str,
        path: str,
        decode: Callable[[bytes], T],
        body: bytes | None = None,
    ) -> T:
        backoff = Backoff(0.25, _SLOWEST_S, self._rng)
        headers = _HEADERS if body is None else _HEADERS | {"Content-Type": STRATEGIC}
        while True:
            wait_s = backoff.next_s()
            try:
                response = await self._open().request(
                    method, path, content=body, headers=headers, timeout=_timeout(ANSWER_S)
                )
            except _FAILURES as error:
                await self._away(error)
            else:
                try:
                    if response.is_success:
                        found = decode(response.content)
                        self._report(None)
                        return found
                    refusal = _refusal(response, response.content)
                except Malformed as error:
                    refusal = Refusal(502, MALFORMED, str(error))
                if judge(refusal) is Verdict.ANSWER:
                    self._report(None)
                    raise Refused(what, refusal)
                await self._refused(what, refusal)
                wait_s = max(wait_s, min(refusal.retry_after_s or 0.0, 60.0))
            await asyncio.sleep(wait_s)

    async def follow(self, what: str, path: str, conversation: ListWatch[T]) -> AsyncGenerator[Message[T], None]:
        """All objects below `path`, then their changes, for ever."""
        while True:
            wait_s = 0.0
            async with aclosing(self._attempt(what, path, conversation)) as told:
                async for messages in told:
                    if isinstance(messages, float):
                        wait_s = messages
                        continue
                    for message in messages:
                        yield message
            await asyncio.sleep(wait_s)

    async def _attempt(
        self, what: str, path: str, conversation: ListWatch[T]
    ) -> AsyncGenerator[list[Message[T]] | float, None]:
        """The messages of one request, and then the seconds until the next one."""
        request = conversation.request()
        opened = asyncio.get_running_loop().time()
        refusal: Refusal | None = None
        try:
            async with aclosing(self._exchange(path, request, conversation)) as told:
                async for messages in told:
                    if isinstance(messages, Refusal):
                        refusal = messages
                    else:
                        yield messages
        except Malformed as error:
            refusal = Refusal(502, MALFORMED, str(error))
        except _FAILURES as error:
            if request.watch and isinstance(error, httpx2.ReadTimeout):
                # The usual end of a watch whose server is gone without a word. Its version is good for the next one.
                _log.info("%s: nothing heard for %.0f s, asking anew", what, request.silence_s)
            else:
                await self._away(error)
            yield conversation.failed()
            return
        if refusal is not None:
            wait_s = conversation.failed(refusal)
            if refusal.status == HTTPStatus.GONE:
                _log.info("%s: our version is gone, listing again", what)
            else:
                await self._refused(what, refusal)
            yield wait_s
        elif request.watch:
            yield conversation.ended(asyncio.get_running_loop().time() - opened)

    async def _exchange(
        self, path: str, request: Request, conversation: ListWatch[T]
    ) -> AsyncGenerator[list[Message[T]] | Refusal, None]:
        """The messages of one request; a refusal ends it."""
        headers = _HEADERS if request.watch else _HEADERS | _PACKED
        timeout = _timeout(request.silence_s)
        async with self._open().stream(
            "GET", path, params=dict(request.params), headers=headers, timeout=timeout
        ) as response:
            if not response.is_success:
                yield _refusal(response, await response.aread())
                return
            if not request.watch:
                messages = conversation.page(await response.aread())
                self._report(None)
                yield messages
                return
            self._report(None)
            async for piece in response.aiter_raw():
                told = conversation.data(piece)
                yield told.messages
                if told.refusal is not None:
                    yield told.refusal
                    return

    def _open(self) -> httpx2.AsyncClient:
        """A session; the credentials are read for a new one. lightkube reads a rotated token when it meets a 401."""
        if self._session is None:
            parameters = _Connection(timeout=_timeout(ANSWER_S))
            self._session = client_adapter.AsyncClient(read_config(self._access), parameters)
        return self._session

    async def _away(self, error: Exception) -> None:
        reason = str(error) if isinstance(error, UsageError) else _reason(error)
        _log.debug("Kubernetes API %s: %s", self._url, reason)
        if isinstance(error, UsageError):
            self._report(Trouble(f"no way to the Kubernetes API at {self._url}: {error.message}", error.hint))
        else:
            self._report(unreachable(self._url, reason, in_cluster=self._access.in_cluster))
        if not isinstance(error, httpx2.ReadTimeout):
            await self._forget()

    async def _refused(self, what: str, refusal: Refusal) -> None:
        _log.debug("Kubernetes API %s: %s: %s %s", self._url, what, refusal.status, refusal.message)
        self._report(explain(what, refusal))
        if judge(refusal) is Verdict.CREDENTIALS:
            await self._forget()

    async def _forget(self) -> None:
        """The next session reads certificates and tokens anew."""
        session, self._session = self._session, None
        if session is not None:
            with suppress(httpx2.HTTPError, OSError):
                await session.aclose()

    async def close(self) -> None:
        await self._forget()


class _Connection(client_adapter.ConnectionParams):
    """Trusts what Go's clients trust, and names a credential plugin that fails.

    Since Python 3.13 a default context also refuses authorities and certificates that lack extensions of RFC 5280;
    those of many a running cluster lack the key identifiers.
    """

    def httpx_params(self, config: SingleConfig) -> dict[str, Any]:
        found: dict[str, Any] = super().httpx_params(config)
        found["verify"].verify_flags &= ~ssl.VERIFY_X509_STRICT
        if isinstance(found["auth"], client_adapter.ExecAuth) and config.user is not None and config.user.exec:
            found["auth"] = PluginAuth(config.user.exec)
        return found


def _timeout(silence_s: float) -> httpx2.Timeout:
    return httpx2.Timeout(ANSWER_S, connect=CONNECT_S, read=silence_s)


def _refusal(response: httpx2.Response, body: bytes) -> Refusal:
    return decode_refusal(response.status_code, body, response.headers.get("Retry-After"))


def _reason(error: Exception) -> str:
    """The system's words, which httpx2 hides behind its own ("All connection attempts failed")."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return f"TLS: {cause.reason or cause}"
        if isinstance(cause, OSError) and cause.errno and cause.strerror:
            return cause.strerror
        cause = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else cause.__cause__ or cause.__context__
    if isinstance(error, httpx2.TimeoutException):
        return "no answer in time"
    return str(error) or type(error).__name__
