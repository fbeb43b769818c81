"""Whether the node's network stands, and if not, why: the answers of /healthz and /readyz."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from flanneld_py.observe.status import Stage, Status

ALIVE: Final = "flanneld is running"
"""Whoever can say so is: a process that hangs answers nothing, and the probe's own deadline ends it."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """`text`: one line for a person; its first words are those that scripts for Go flannel look for (main.go)."""

    ready: bool
    text: str


def readiness(status: Status) -> Readiness:
    """Ready: subnet.env is written and the node's own part of the overlay stands.

    A store that is away makes nobody unready, since packets go on with what is known; neither does a peer in trouble.
    Unlike Go flannel's, the answer is taken back when the node's own part fails later.
    """
    if status.stage is Stage.READY and not status.blocked:
        return Readiness(True, "flanneld is ready")
    since = datetime.fromtimestamp(status.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    stage = "" if status.stage is Stage.READY else f": {status.stage.value} since {since}"
    yet = "" if status.stage in (Stage.READY, Stage.STOPPED, Stage.FAILED) else " yet"
    error = f": {status.error}" if status.error else ""
    hint = f"; {status.hint}" if status.error and status.hint else ""
    return Readiness(False, f"flanneld is not ready{yet}{stage}{error}{hint}")
