"""How far a run is: a bar on a terminal, a line for each path's turn elsewhere. Hears when the run shall end."""

import sys
import time

from flanneld_py.lab.terminal import Screen

_CELLS = 24


class Bar:
    """A Progress for labs too, whose steps are shown on terminals only. `total`: steps, once it is known."""

    def __init__(self, screen: Screen, *, live: bool | None = None) -> None:
        self._screen = screen
        self._live = sys.stderr.isatty() if live is None else live
        self._begin = time.monotonic()
        self._spoken = ""
        self.total = 0
        self.done = 0

    def check(self) -> None:
        self._screen.check()

    def step(self, text: str) -> None:
        self._screen.check()
        if self._live:
            self._screen.step(text)

    def note(self, text: str) -> None:
        self._screen.note(text)

    def advance(self, place: str, detail: str) -> None:
        """One step more is done, and `detail` at `place` comes next."""
        self._screen.check()
        if self._live:
            self._screen.step(f"{drawing(self.done, self.total)} {place}: {detail}{self._left()}")
        elif place != self._spoken:
            self._spoken = place
            self._screen.step(place)
        self.done += 1

    def _left(self) -> str:
        if not self.done:
            return ""
        seconds = (time.monotonic() - self._begin) / self.done * max(0, self.total - self.done)
        return f", {seconds / 60:.0f} min left" if seconds >= 90 else f", {seconds:.0f} s left"

    def restart(self, total: int) -> None:
        """From here on there are that many steps."""
        self._begin, self.total, self.done = time.monotonic(), total, 0


def drawing(done: int, total: int) -> str:
    """[######------] 50 %"""
    share = min(1.0, done / total) if total else 0.0
    full = int(share * _CELLS)
    return f"[{'#' * full}{'-' * (_CELLS - full)}] {share * 100:3.0f} %"
