"""What the Kubernetes API says, as values: of each object only the fields that we use. sans-I/O.

A node's object has ten to a hundred times what we read of it (images, conditions, managed fields); the decoder passes
over the rest without making objects of it.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeVar

import msgspec
from msgspec import Struct, field

MALFORMED: Final = "Malformed"
"""The reason of a Refusal that is ours: the server called the answer a success."""


class Malformed(ValueError):
    """The answer is no JSON, or not of the shape that the API documents."""


class Metadata(Struct, rename="camel"):
    name: str = ""
    uid: str = ""
    resource_version: str = ""
    annotations: dict[str, str] | None = None


class NodeSpec(Struct):
    pod_cidr: str | None = field(name="podCIDR", default=None)
    pod_cidrs: list[str] | None = field(name="podCIDRs", default=None)


class Node(Struct):
    """`spec.podCIDR` repeats the first of `spec.podCIDRs`; servers before 1.16 have it alone."""

    metadata: Metadata = field(default_factory=Metadata)
    spec: NodeSpec = field(default_factory=NodeSpec)

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def annotations(self) -> dict[str, str]:
        return self.metadata.annotations or {}

    @property
    def cidrs(self) -> tuple[str, ...]:
        if self.spec.pod_cidrs:
            return tuple(self.spec.pod_cidrs)
        return (self.spec.pod_cidr,) if self.spec.pod_cidr else ()


class Kind(Enum):
    """What a line of a watch tells (k8s.io/apimachinery pkg/watch)."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the objects of a list. `more`: the token for the next page, "" after the last."""

    nodes: tuple[Node, ...]
    revision: str
    more: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is no result. `status`: HTTP's; `retry_after_s`: how long the server asks us to stay away."""

    status: int
    reason: str = ""
    message: str = ""
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class WatchLine:
    """`refusal` for ERROR; `node` for the others, a bookmark's holds a version and nothing else."""

    kind: Kind
    node: Node | None = None
    refusal: Refusal | None = None


class _ListMeta(Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = field(name="continue", default="")


class _NodeList(Struct):
    metadata: _ListMeta
    items: list[Node] | None


class _Event(Struct):
    type: Kind
    object: msgspec.Raw


class _Details(Struct, rename="camel"):
    retry_after_seconds: float = 0


class _Status(Struct):
    kind: str = ""
    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None


class _PodSpec(Struct, rename="camel"):
    node_name: str = ""


class _Pod(Struct):
    spec: _PodSpec


T = TypeVar("T")

_NODE = msgspec.json.Decoder(Node)
_NODES = msgspec.json.Decoder(_NodeList)
_EVENT = msgspec.json.Decoder(_Event)
_STATUS = msgspec.json.Decoder(_Status)
_POD = msgspec.json.Decoder(_Pod)


def decode_node(body: bytes) -> Node:
    return _decode(_NODE, body)


def decode_page(body: bytes) -> Page:
    found = _decode(_NODES, body)
    return Page(tuple(found.items or ()), found.metadata.resource_version, found.metadata.continue_)


def decode_line(line: bytes | bytearray) -> WatchLine:
    event = _decode(_EVENT, line)
    if event.type is Kind.ERROR:
        return WatchLine(event.type, refusal=_refusal(_decode(_STATUS, event.object), 500, None))
    return WatchLine(event.type, node=_decode(_NODE, event.object))


def decode_pod_node(body: bytes) -> str:
    """The node that a pod runs on; "" before it is scheduled."""
    return _decode(_POD, body).spec.node_name


def decode_refusal(status: int, body: bytes, retry_after: str | None) -> Refusal:
    """An answer with an HTTP status that is no success; a proxy's page of HTML is one too. Never raises."""
    asked_s = float(retry_after) if retry_after and retry_after.isdecimal() and len(retry_after) < 7 else None
    try:
        found = _STATUS.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        found = _Status()
    if found.kind != "Status":
        return Refusal(status, retry_after_s=asked_s)
    return _refusal(found, status, asked_s)


def _refusal(found: _Status, status: int, asked_s: float | None) -> Refusal:
    if asked_s is None and found.details is not None and found.details.retry_after_seconds > 0:
        asked_s = found.details.retry_after_seconds
    return Refusal(found.code or status, found.reason[:100], found.message[:500], asked_s)


def _decode(decoder: "msgspec.json.Decoder[T]", data: bytes | bytearray | msgspec.Raw) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not what the Kubernetes API documents: {error}") from None
