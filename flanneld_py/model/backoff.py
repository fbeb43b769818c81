"""How long to wait before the next attempt."""

from random import Random


class Backoff:
    """Waits that double from `first_s` up to `limit_s`, each shortened by a random part of up to one half.

    The random part keeps nodes that lost the same server, or the same race, from coming back in step.
    """

    def __init__(self, first_s: float, limit_s: float, rng: Random) -> None:
        self._first_s = first_s
        self._limit_s = limit_s
        self._rng = rng
        self._next_s = first_s

    def next_s(self) -> float:
        """Seconds to wait now."""
        wait_s = self._next_s
        self._next_s = min(wait_s * 2, self._limit_s)
        return wait_s * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        self._next_s = self._first_s
