"""Waiting for what comes about by itself, and tells nobody."""

import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

DEADLINE_S = 60.0
POLL_S = 0.02


def eventually(
    what: str, holds: Callable[[], object], seen: Callable[[], object] = str, *, deadline_s: float = DEADLINE_S
) -> None:
    """Ensure that the condition comes to hold; `seen` is told if it does not."""
    end = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < end, f"not within {deadline_s:.0f} s: {what}: {seen()}"
        time.sleep(POLL_S)


def sleeps(thread: Thread) -> bool:
    """Whether a thread of this process waits in the kernel (proc_pid_stat(5)), and neither runs nor looks around."""
    stat = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "S"
