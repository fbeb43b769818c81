"""What a failed call to etcd means for the caller. sans-I/O."""

from dataclasses import dataclass
from enum import Enum

from flanneld_py.errors import StoreError


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why no endpoint serves us, in words for an operator, and what mends it."""

    message: str
    hint: str | None = None

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}; {self.hint}"


class CallError(StoreError):
    """A call that has no result. `code`: name of the gRPC status; `details`: the server's or gRPC's words."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(f"etcd answers {code}: {details}")
        self.code = code
        self.details = details


class Verdict(Enum):
    RETRY = "the endpoint is away, busy or not what it should be; another one, or this one later, may answer"
    LOGIN = "our token is no longer valid"
    DENIED = "etcd knows us, or not, and refuses"
    ANSWER = "etcd has understood and says no; asking again changes nothing"


_LOGIN = ("invalid auth token", "revision of auth store is old")
_DENIED = ("permission denied", "authentication failed", "user name is empty", "user name not found")
_ANSWERS = frozenset({"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "OUT_OF_RANGE"})


def judge(failure: CallError) -> Verdict:
    """By etcd's own words where there are some (api/v3rpc/rpctypes/error.go), since its codes changed over versions."""
    details = failure.details.lower()
    if any(words in details for words in _LOGIN):
        return Verdict.LOGIN
    if failure.code == "PERMISSION_DENIED" or any(words in details for words in _DENIED):
        return Verdict.DENIED
    if failure.code == "UNAUTHENTICATED":
        return Verdict.LOGIN
    return Verdict.ANSWER if failure.code in _ANSWERS else Verdict.RETRY


def explain(failure: CallError) -> Trouble | None:
    """The trouble, if etcd named it itself; None: the transport failed, and only a look at the endpoint tells why."""
    details = failure.details
    if failure.code == "UNIMPLEMENTED":
        return Trouble("does not speak etcd's v3 API", "flanneld needs etcd 3.3 or later with the v3 API")
    if "etcdserver:" not in details and not details.startswith("mvcc:"):
        return None
    words = details.partition("etcdserver: ")[2] or details
    if "no leader" in details or "leader changed" in details or "request timed out" in details:
        return Trouble(f"answers: {words}", "most members must be up: etcdctl endpoint status --cluster")
    if "database space exceeded" in details:
        return Trouble(f"answers: {words}", "compact and defragment etcd, then: etcdctl alarm disarm")
    return Trouble(f"answers: {words}")


def cancelled_watch(reason: str) -> CallError:
    """A watch that etcd ended with words alone, as a failed call."""
    lowered = reason.lower()
    if "permission" in lowered:
        return CallError("PERMISSION_DENIED", reason)
    if "unauthenticated" in lowered or "auth token" in lowered:
        return CallError("UNAUTHENTICATED", reason)
    return CallError("UNAVAILABLE", reason or "watch cancelled by etcd")
