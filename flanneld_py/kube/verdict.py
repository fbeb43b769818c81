"""What a call to the Kubernetes API that failed means for the caller. sans-I/O."""

from dataclasses import dataclass
from enum import Enum

from flanneld_py.errors import StoreError
from flanneld_py.kube.objects import MALFORMED, Refusal


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the API does not serve us, in words for an operator, and what mends it."""

    message: str
    hint: str | None = None


class Refused(StoreError):
    """The API has understood and says no; asking again changes nothing."""

    def __init__(self, what: str, refusal: Refusal) -> None:
        super().__init__(f"{what}: the Kubernetes API answers {said(refusal)}")
        self.refusal = refusal

    @property
    def status(self) -> int:
        return self.refusal.status


class Verdict(Enum):
    RETRY = "the server is busy, starting or not the API; later it may answer"
    CREDENTIALS = "the server does not know us: a token expired, or was signed by another cluster"
    FORBIDDEN = "the server knows us, and its rules do not allow this; they may be mended while we wait"
    ANSWER = "an answer"


def judge(refusal: Refusal) -> Verdict:
    """429, 5xx and what proxies say while there is nobody behind them are worth another try (API conventions)."""
    match refusal.status:
        case 401:
            return Verdict.CREDENTIALS
        case 403:
            return Verdict.FORBIDDEN
        case 408 | 425 | 429:
            return Verdict.RETRY
        case status if status >= 500 or status < 400:
            return Verdict.RETRY
        case _:
            return Verdict.ANSWER


def said(refusal: Refusal) -> str:
    words = ": ".join(part for part in (refusal.reason, refusal.message) if part)
    return f"{refusal.status} {words}" if words else f"{refusal.status}"


def explain(what: str, refusal: Refusal) -> Trouble:
    """`what`: the request, such as "list nodes"."""
    if refusal.reason == MALFORMED:
        return Trouble(
            f"what answers for the Kubernetes API is not it ({what}: {refusal.message})",
            "is the address that of an API server, and no proxy's or portal's?",
        )
    match judge(refusal):
        case Verdict.CREDENTIALS:
            message = f"the Kubernetes API does not accept our credentials ({said(refusal)})"
            return Trouble(
                message, "check the service account's token or the kubeconfig; new files are read by themselves"
            )
        case Verdict.FORBIDDEN:
            return Trouble(
                f"the Kubernetes API forbids us to {what}: {refusal.message or 'no reason given'}",
                "the service account needs: nodes get, list, watch; nodes/status patch; pods get; events create "
                "(kubectl apply the ClusterRole)",
            )
        case _:
            return Trouble(f"the Kubernetes API does not serve us ({what}: {said(refusal)})")


def unreachable(url: str, reason: str, *, in_cluster: bool) -> Trouble:
    """`reason`: the transport's words."""
    hint = "is the address right, and the API server up?"
    if in_cluster:
        hint = "the cluster's service address needs kube-proxy: give --kube-api-url=https://HOST:6443 to do without it"
    return Trouble(f"the Kubernetes API at {url} is away: {reason}", hint)
