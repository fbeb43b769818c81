"""Calls on whichever endpoint answers: failover, login, retry, and one report of how etcd is doing.

Every request that goes through here may reach etcd twice, since a call whose answer was lost is made again. Callers
build them so that the second time changes nothing: transactions with guards, leases with an ID of our choice.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from flanneld_py.errors import AccessDenied, StoreError, UsageError
from flanneld_py.etcd.diagnose import diagnose
from flanneld_py.etcd.endpoints import Endpoint
from flanneld_py.etcd.tls import TlsFiles
from flanneld_py.etcd.verdict import CallError, Trouble, Verdict, cancelled_watch, explain, judge
from flanneld_py.etcd.wire import AUTHENTICATE, WATCH, Message, Rpc
from flanneld_py.model.backoff import Backoff

# gRPC's core would print handshake failures and reconnects to stderr; they reach us as statuses anyway.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# Its handlers of fork() start threads in the child, which crash it now and then before it becomes iptables or whatever
# else it was to be (measured: 12 of 3,200, beside calls). Who only forks to run programs needs none of them.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
import grpc
import grpc.aio

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

Metadata = tuple[tuple[str, str], ...]
Work = Callable[[Any, Metadata], Awaitable[_T]]
"""What to do on a channel; raises CallError."""

DEADLINE_S = 2.5
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 2.0
_OPTIONS = [
    # etcd ends connections that ping more often than each 5 s (embed.DefaultGRPCKeepAliveMinTime).
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # The one that counts: gRPC waits 60 s for the answer to a ping otherwise, whatever keepalive_timeout_ms says.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", 64 << 20),
    # A proxy for the web in the environment is none for etcd; etcd's own client does not ask it either.
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass(frozen=True, slots=True)
class Login:
    username: str
    password: str = field(repr=False)


class Line:
    """The channel to one endpoint, made anew when the TLS files were replaced."""

    def __init__(self, endpoint: Endpoint, tls: TlsFiles) -> None:
        self.endpoint = endpoint
        self._tls = tls
        self._stamp = tls.stamp()
        self._channel: Any = None
        self._retired: Any = None

    def channel(self) -> Any:
        if self._channel is None:
            target = f"dns:///{self.endpoint.authority}"
            if self.endpoint.tls:
                credentials = grpc.ssl_channel_credentials(**self._tls.grpc_arguments())
                self._channel = grpc.aio.secure_channel(target, credentials, options=_OPTIONS)
            else:
                self._channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        return self._channel

    async def refresh(self) -> None:
        """After a failed connection: the next one uses the TLS files as they are now, if they are sound."""
        stamp = self._tls.stamp()
        if not self.endpoint.tls or stamp == self._stamp:
            return
        try:
            self._tls.context()
        except UsageError as error:
            _log.warning("etcd %s: new TLS files are not used: %s", self.endpoint, error)
            return
        _log.info("etcd %s: using the new TLS files", self.endpoint)
        if self._retired is not None:
            await self._retired.close()
        # Not closed yet: another call may still wait on it, and closing would cancel that call's task.
        self._stamp, self._retired, self._channel = stamp, self._channel, None

    async def close(self) -> None:
        for channel in (self._retired, self._channel):
            if channel is not None:
                await channel.close()
        self._retired = self._channel = None


class Transport:
    """`report` is told a Trouble when no endpoint serves us, and None when one does again; only changes are told."""

    def __init__(
        self,
        endpoints: tuple[Endpoint, ...],
        tls: TlsFiles,
        login: Login | None,
        report: Callable[[Trouble | None], None],
        rng: Random,
    ) -> None:
        self._tls = tls
        if any(endpoint.tls for endpoint in endpoints):
            tls.context()
        self._lines = [Line(endpoint, tls) for endpoint in endpoints]
        self._current = rng.randrange(len(endpoints))
        self._login = login
        self._token: str | None = None
        self._login_lock = asyncio.Lock()
        self._report = report
        self._reported: Trouble | None = None
        self._looked: dict[Endpoint, tuple[str, Trouble]] = {}
        self._passed_over: dict[Endpoint, str] = {}
        self._rng = rng
        self.attempts = 0

    def describe(self) -> str:
        return ",".join(str(line.endpoint) for line in self._lines)

    def backoff(self) -> Backoff:
        return Backoff(FIRST_WAIT_S, LONGEST_WAIT_S, self._rng)

    async def call(self, rpc: Rpc, request: Message) -> Message:
        """The response, for as long as it takes to get one. Raises AccessDenied, or CallError that is an answer."""
        return await self.run(lambda channel, metadata: unary(channel, rpc, request, metadata))

    async def run(self, work: Work[_T]) -> _T:
        """The result of `work` on the first endpoint where it succeeds, tried round after round with growing waits."""
        backoff = self.backoff()
        while True:
            failures: dict[Endpoint, CallError] = {}
            for line in self._lines[self._current :] + self._lines[: self._current]:
                try:
                    result = await self._on(line, work)
                except CallError as failure:
                    if judge(failure) is Verdict.ANSWER:
                        self._served(line)
                        raise
                    failures[line.endpoint] = failure
                    await line.refresh()
                else:
                    self._pass_over(failures)
                    self._served(line)
                    return result
            await self._tell(failures)
            await asyncio.sleep(backoff.next_s())

    async def _on(self, line: Line, work: Work[_T]) -> _T:
        """`work` with a valid token: a refusal of one that is not fresh is answered by one login and one more try."""
        fresh = False
        while True:
            if self._login is not None and self._token is None:
                await self._log_in(line, self._login)
                fresh = True
            token = self._token
            self.attempts += 1
            try:
                return await work(line.channel(), (("token", token),) if token else ())
            except CallError as failure:
                verdict = judge(failure)
                if verdict not in (Verdict.LOGIN, Verdict.DENIED):
                    raise
                if not token or (fresh and verdict is Verdict.DENIED):
                    self._served(line)
                    raise self._denied(line, failure) from None
                if fresh:
                    raise  # a token that dies within one call is etcd's trouble: wait and try again
                if self._token == token:
                    self._token = None

    async def _log_in(self, line: Line, login: Login) -> None:
        async with self._login_lock:
            if self._token is not None:
                return
            request = AUTHENTICATE.request(name=login.username, password=login.password)
            self.attempts += 1
            try:
                self._token = (await unary(line.channel(), AUTHENTICATE, request, ())).token
            except CallError as failure:
                if "authentication is not enabled" in failure.details:
                    # etcd's own client goes on without a token then, too.
                    self._token = ""
                elif judge(failure) in (Verdict.DENIED, Verdict.LOGIN, Verdict.ANSWER):
                    self._served(line)
                    raise self._denied(line, failure) from None
                else:
                    raise

    def _denied(self, line: Line, failure: CallError) -> StoreError:
        words = failure.details.partition("etcdserver: ")[2] or failure.details
        if self._login is None:
            who, hint = "us", "etcd has authentication on: give --etcd-username and --etcd-password-file"
        elif "authentication failed" in words:
            who, hint = f"user {self._login.username!r}", "check --etcd-username and the password"
        else:
            who = f"user {self._login.username!r}"
            hint = (
                "let its role write below --etcd-prefix: etcdctl role grant-permission --prefix ROLE readwrite PREFIX"
            )
        return AccessDenied(f"etcd at {line.endpoint} refuses {who}: {words}", hint=hint)

    def _served(self, line: Line) -> None:
        self._current = self._lines.index(line)
        if self._passed_over.pop(line.endpoint, None) or self._looked.pop(line.endpoint, None):
            _log.info("etcd %s answers again", line.endpoint)
        if self._reported is not None:
            self._reported = None
            self._report(None)

    def _pass_over(self, failures: dict[Endpoint, CallError]) -> None:
        """Log, once, the endpoints that fail while another one serves us."""
        for endpoint, failure in failures.items():
            if self._passed_over.get(endpoint) != failure.code:
                self._passed_over[endpoint] = failure.code
                _log.info("etcd %s is passed over: %s", endpoint, failure.details)

    async def _tell(self, failures: dict[Endpoint, CallError]) -> None:
        """Report why no endpoint serves us, having looked at those that fail in a new way."""
        troubles = await asyncio.gather(*(self._trouble(endpoint, failure) for endpoint, failure in failures.items()))
        named = sorted(zip(failures, troubles, strict=True), key=lambda pair: str(pair[0]))
        message = "; ".join(f"etcd at {endpoint} {trouble.message}" for endpoint, trouble in named)
        report = Trouble(message, next((trouble.hint for _, trouble in named if trouble.hint), None))
        if report != self._reported:
            self._reported = report
            self._report(report)

    async def _trouble(self, endpoint: Endpoint, failure: CallError) -> Trouble:
        said = f"{failure.code} {failure.details}"
        known = self._looked.get(endpoint)
        if known is not None and known[0] == said:
            return known[1]
        trouble = explain(failure) or await diagnose(endpoint, self._tls)
        if trouble is None:
            slow = failure.code == "DEADLINE_EXCEEDED"
            trouble = Trouble(f"does not answer within {DEADLINE_S} s" if slow else f"fails: {failure.details}")
        self._looked[endpoint] = (said, trouble)
        return trouble

    async def close(self) -> None:
        for line in self._lines:
            await line.close()


async def unary(channel: Any, rpc: Rpc, request: Message, metadata: Metadata) -> Message:
    """One call, once. Raises CallError."""
    method = channel.unary_unary(
        rpc.path, request_serializer=rpc.request.SerializeToString, response_deserializer=rpc.response.FromString
    )
    try:
        return await method(request, timeout=DEADLINE_S, metadata=metadata or None)
    except grpc.aio.AioRpcError as error:
        raise _call_error(error) from None


async def open_watch(request: Message, channel: Any, metadata: Metadata) -> tuple[Any, Message]:
    """A watch stream, and etcd's first answer on it. Raises CallError.

    Without a leader etcd ends the stream, instead of staying silent; the caller cancels it in the end.
    """
    method = channel.stream_stream(
        WATCH.path, request_serializer=WATCH.request.SerializeToString, response_deserializer=WATCH.response.FromString
    )
    stream = method(metadata=(*metadata, ("hasleader", "true")))
    try:
        async with asyncio.timeout(DEADLINE_S):
            with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):  # ended already: reading tells how
                await stream.write(request)
            answer = await read_stream(stream)
        if answer.canceled and not answer.compact_revision:
            raise cancelled_watch(answer.cancel_reason)
    except BaseException as error:
        stream.cancel()
        if isinstance(error, TimeoutError):
            raise CallError("DEADLINE_EXCEEDED", "no answer to a watch") from None
        raise
    return stream, answer


async def read_stream(stream: Any) -> Message:
    """The next answer. Raises CallError if the stream has ended."""
    try:
        answer = await stream.read()
    except grpc.aio.AioRpcError as error:
        raise _call_error(error) from None
    except asyncio.CancelledError:
        # gRPC says the same when the channel was closed under the call as when our task is cancelled.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise CallError("CANCELLED", "the connection was closed") from None
    if answer is grpc.aio.EOF:
        raise CallError((await stream.code()).name, await stream.details() or "the stream has ended")
    return answer


def _call_error(error: Any) -> CallError:
    return CallError(error.code().name, error.details() or "")
