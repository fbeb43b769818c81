"""Waiting for what comes about by itself, and tells nobody."""

import time
from collections.abc import Callable

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
