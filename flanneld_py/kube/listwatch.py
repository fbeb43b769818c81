"""Following a collection of objects: list it, then watch it from that version on; list again when history is lost.

The conversation with the API server as a state machine; the client only moves bytes. sans-I/O.

    LISTING   page by page; the last page begins WATCHING at the list's version
    WATCHING  lines of changes; bookmarks move the version on, so that a broken watch is resumed where it stopped

A version that the server no longer has (410 Gone) leads back to LISTING, in the middle of a list too. What the server
says with a status other than that, and every broken connection, leaves the state as it is and costs a wait. Sources:
kubernetes.io/docs/reference/using-api/api-concepts, "Efficient detection of changes".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Final, Generic, NamedTuple, TypeVar

from flanneld_py.kube.objects import MALFORMED, Kind, Malformed, Node, Refusal, decode_line, decode_page
from flanneld_py.model.backoff import Backoff

T = TypeVar("T")

PAGE: Final = 100
"""Nodes a page. With a kubelet's list of images a node is 5 to 20 KiB: a page stays below 2 MiB."""
SILENCE_S: Final = 150.0
"""A bookmark comes about every minute; a watch that says nothing for so long has lost its server."""
ANSWER_S: Final = 30.0
WATCH_S: Final = (300, 600)
"""How long a watch may last, as client-go asks: it spreads the watches of many nodes over a restarted server."""
MAX_LINE_BYTES: Final = 8 << 20
"""etcd holds no object above 1.5 MiB."""
_STEADY_S = 5.0
_STUCK = 4
"""Refusals one after the other, until a watch that the server will not resume is given up for a list."""


@dataclass(frozen=True, slots=True)
class Request:
    """A GET of the collection. `silence_s`: how long the server may keep quiet before the connection counts as dead."""

    params: Mapping[str, str]
    watch: bool
    silence_s: float


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """All objects there are. What is not among them is gone."""

    objects: tuple[T, ...]


@dataclass(frozen=True, slots=True)
class Put(Generic[T]):
    """An object is new or has changed, or is told again."""

    object: T


@dataclass(frozen=True, slots=True)
class Deleted(Generic[T]):
    """An object is gone; as it last was."""

    object: T


Message = Listed[T] | Put[T] | Deleted[T]


class Told(NamedTuple, Generic[T]):
    """What a piece of a watch told, in order; `refusal`: how the server ended the watch after that."""

    messages: list[Message[T]]
    refusal: Refusal | None = None


class ListWatch(Generic[T]):
    """`read` makes of an object what is kept of it; `params` select objects; `rng` spreads clients over time.

    For each `request`, call `page` with the body or `data` with each piece of the stream, then, if that ended other
    than with a page taken, `ended` or `failed`, and wait for the seconds that these return.
    """

    def __init__(
        self,
        read: Callable[[Node], T],
        rng: Random,
        *,
        params: Mapping[str, str] | None = None,
        page: int = PAGE,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._read = read
        self._rng = rng
        self._params = dict(params or {})
        self._page = page
        self._silence_s = silence_s
        self._backoff = Backoff(0.25, 10.0, rng)
        self._revision = ""
        self._more = ""
        self._listed: list[T] = []
        self._tail = bytearray()
        self._refusals = 0

    @property
    def watching(self) -> bool:
        return self._revision != ""

    def request(self) -> Request:
        self._tail.clear()
        if not self.watching:
            more = {"continue": self._more} if self._more else {}
            return Request(self._params | {"limit": str(self._page)} | more, False, ANSWER_S)
        params = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._revision,
            "timeoutSeconds": str(self._rng.randint(*WATCH_S)),
        }
        return Request(self._params | params, True, self._silence_s)

    def page(self, body: bytes) -> list[Message[T]]:
        """The list, once its last page is there. Malformed: take it for `failed`."""
        page = decode_page(body)
        if not page.revision:
            raise Malformed("not what the Kubernetes API documents: a list without a version")
        self._listed += map(self._read, page.nodes)
        self._more = page.more
        if page.more:
            return []
        listed = tuple(self._listed)
        self._listed.clear()
        self._revision = page.revision
        return [Listed(listed)]

    def data(self, piece: bytes) -> "Told[T]":
        """The changes that end in this piece of the stream. With a refusal the watch is over: tell it to `failed`."""
        messages: list[Message[T]] = []
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            line = bytes(self._tail) + piece[start:end]
            self._tail.clear()
            start = end + 1
            if line.strip():
                refusal = self._line(line, messages)
                if refusal is not None:
                    return Told(messages, refusal)
        self._tail += piece[start:]
        if len(self._tail) > MAX_LINE_BYTES:
            return Told(messages, Refusal(400, MALFORMED, f"a line of more than {MAX_LINE_BYTES} bytes"))
        return Told(messages)

    def _line(self, line: bytes, messages: list[Message[T]]) -> Refusal | None:
        try:
            told = decode_line(line)
        except Malformed as error:
            # Whatever it told is lost, and a later version would hide that: only a list tells the state now.
            return Refusal(400, MALFORMED, str(error))
        if told.node is None:
            return told.refusal or Refusal(500)
        self._revision = told.node.metadata.resource_version or self._revision
        self._backoff.reset()
        self._refusals = 0
        if told.kind is Kind.DELETED:
            messages.append(Deleted(self._read(told.node)))
        elif told.kind is not Kind.BOOKMARK:
            messages.append(Put(self._read(told.node)))
        return None

    def ended(self, lived_s: float) -> float:
        """The stream is over after `lived_s`: seconds until the next request."""
        if lived_s < _STEADY_S:
            return self._backoff.next_s()
        self._backoff.reset()
        return 0.0

    def failed(self, refusal: Refusal | None = None) -> float:
        """No answer, or one that is no result: seconds until the next request."""
        self._refusals += refusal is not None
        if refusal is not None and self._is_lost(refusal):
            self.relist()
        wait_s = self._backoff.next_s()
        if refusal is not None and refusal.retry_after_s is not None:
            # Later than asked by up to a half, so that all who were sent away do not come back at once.
            wait_s = max(wait_s, min(refusal.retry_after_s, 60.0) * self._rng.uniform(1.0, 1.5))
        return wait_s

    def _is_lost(self, refusal: Refusal) -> bool:
        """Whether what we ask for cannot be had: a version or a page that is gone, or that never will be (a server
        restored from a backup says "too large resource version" for ever)."""
        if 400 <= refusal.status < 500 and refusal.status not in (401, 403, 408, 425, 429):
            return True
        return self.watching and refusal.status == 504 and self._refusals >= _STUCK

    def relist(self) -> None:
        """Begin again with a list, from its first page."""
        self._revision = self._more = ""
        self._listed.clear()
        self._refusals = 0
