"""etcd's v3 messages, and our values for what we say and hear in them.

The etcd3 package carries etcd's protocol as serialized descriptors in modules that no protobuf above 3.20 imports
("Descriptors cannot be created directly"). The descriptors are sound, so they are read out of the installed files and
turned into classes in a pool of our own, which cannot clash with another package's protos. No code of etcd3 runs.
"""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

Message = Any
"""A protobuf message: its fields are known at run time only."""

_DESCRIPTOR = re.compile(r"serialized_pb=_b\(('(?:[^'\\]|\\.)*')\)")


def _load_protocol() -> DescriptorPool:
    spec = find_spec("etcd3")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("the package etcd3 is not installed; pip install etcd3==0.12.0", name="etcd3")
    folder = Path(spec.submodule_search_locations[0]) / "etcdrpc"
    pool = DescriptorPool()
    for name in ("kv", "auth", "rpc"):
        path = folder / f"{name}_pb2.py"
        found = _DESCRIPTOR.search(path.read_text(encoding="utf-8"))
        if found is None:
            raise ImportError(f"{path} holds no descriptor; pip install etcd3==0.12.0", name="etcd3", path=str(path))
        pool.AddSerializedFile(ast.literal_eval(found[1]).encode("latin1"))
    return pool


_PROTOCOL = _load_protocol()


@dataclass(frozen=True, slots=True)
class Rpc:
    """One method of a service, as a gRPC channel wants it: `path` is `/package.Service/Method`."""

    path: str
    request: Any
    response: Any


def _rpc(service: str, method: str) -> Rpc:
    found = _PROTOCOL.FindServiceByName(f"etcdserverpb.{service}").methods_by_name[method]
    path = f"/etcdserverpb.{service}/{method}"
    return Rpc(path, GetMessageClass(found.input_type), GetMessageClass(found.output_type))


RANGE = _rpc("KV", "Range")
PUT = _rpc("KV", "Put")
TXN = _rpc("KV", "Txn")
COMPACT = _rpc("KV", "Compact")
GRANT = _rpc("Lease", "LeaseGrant")
REVOKE = _rpc("Lease", "LeaseRevoke")
TIME_TO_LIVE = _rpc("Lease", "LeaseTimeToLive")
WATCH = _rpc("Watch", "Watch")
AUTHENTICATE = _rpc("Auth", "Authenticate")

_COMPARE = GetMessageClass(_PROTOCOL.FindMessageTypeByName("etcdserverpb.Compare"))
_DELETE_EVENT = 1  # mvccpb.Event.EventType


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key as etcd holds it. `lease` 0: it never expires. A deleted key has an empty value and no lease."""

    key: bytes
    value: bytes
    mod_revision: int
    create_revision: int
    lease: int


@dataclass(frozen=True, slots=True)
class Guard:
    """What must hold for a transaction: the key was last changed at `mod_revision`; 0: the key is not there."""

    key: bytes
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Put:
    key: bytes
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    key: bytes


@dataclass(frozen=True, slots=True)
class Find:
    """Read one key, or with `end` all keys in [key, end); with `created_from` only those created since then."""

    key: bytes
    end: bytes = b""
    created_from: int = 0
    keys_only: bool = False


TxnOp = Put | Delete | Find


@dataclass(frozen=True, slots=True)
class TxnResult:
    """`found`: for each Find of the branch that ran, in order, what it found."""

    succeeded: bool
    revision: int
    found: tuple[tuple[KeyValue, ...], ...]


@dataclass(frozen=True, slots=True)
class Event:
    deleted: bool
    kv: KeyValue


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of keys that begin with `prefix`; b"\\0", all keys from there, if none follows."""
    for last in range(len(prefix) - 1, -1, -1):
        if prefix[last] < 0xFF:
            return prefix[:last] + bytes([prefix[last] + 1])
    return b"\0"


def range_request(key: bytes, *, end: bytes = b"", limit: int = 0, revision: int = 0) -> Message:
    return RANGE.request(key=key, range_end=end, limit=limit, revision=revision)


def watch_request(key: bytes, *, end: bytes, start_revision: int) -> Message:
    """A watch that also tells its revision from time to time while nothing happens (every 10 minutes)."""
    create = {"key": key, "range_end": end, "start_revision": start_revision, "progress_notify": True}
    return WATCH.request(create_request=create)


def encode_txn(guards: Sequence[Guard], then: Sequence[TxnOp], otherwise: Sequence[TxnOp]) -> Message:
    compare = [_encode_guard(guard) for guard in guards]
    return TXN.request(compare=compare, success=[*map(_encode_op, then)], failure=[*map(_encode_op, otherwise)])


def _encode_guard(guard: Guard) -> Message:
    # A key that is not there compares as one of version 0 and mod revision 0 (etcd server/etcdserver/apply.go).
    return _COMPARE(key=guard.key, target=_COMPARE.MOD, result=_COMPARE.EQUAL, mod_revision=guard.mod_revision)


def _encode_op(op: TxnOp) -> dict[str, Message]:
    match op:
        case Put(key, value, lease):
            return {"request_put": {"key": key, "value": value, "lease": lease}}
        case Delete(key):
            return {"request_delete_range": {"key": key}}
        case Find(key, end, created_from, keys_only):
            wanted = {"key": key, "range_end": end, "min_create_revision": created_from, "keys_only": keys_only}
            return {"request_range": wanted}


def decode_txn(message: Message) -> TxnResult:
    ranges = [op.response_range for op in message.responses if op.HasField("response_range")]
    found = tuple(decode_kvs(found.kvs) for found in ranges)
    return TxnResult(message.succeeded, message.header.revision, found)


def decode_kvs(kvs: Sequence[Message]) -> tuple[KeyValue, ...]:
    return tuple(KeyValue(kv.key, kv.value, kv.mod_revision, kv.create_revision, kv.lease) for kv in kvs)


def decode_events(message: Message) -> tuple[Event, ...]:
    kvs = decode_kvs([event.kv for event in message.events])
    return tuple(Event(event.type == _DELETE_EVENT, kv) for event, kv in zip(message.events, kvs, strict=True))
