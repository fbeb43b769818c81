"""Where the lab's words go: results to stdout, progress to stderr, as one changing line if that is a terminal."""

import shutil
import sys
from collections.abc import Iterable
from typing import TextIO

from flanneld_py.lab.view import COLOURS, PLAIN, Paint

_CLEAR = "\r\x1b[K"
_MIN_WIDTH = 60
_PLAIN_WIDTH = 120


class Screen:
    """A Progress that also prints results. Colours and the changing line are for terminals only."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out, self._err = out or sys.stdout, err or sys.stderr
        self._live = self._err.isatty()
        self._pending = False
        self._stopping = False
        self.paint: Paint = COLOURS if self._out.isatty() else PLAIN

    @property
    def width(self) -> int:
        """Columns to fill; where output is no terminal and COLUMNS is not set, a usual width."""
        return max(_MIN_WIDTH, shutil.get_terminal_size((_PLAIN_WIDTH, 24)).columns)

    def stop(self) -> None:
        """Make the next check raise. For signal handlers: an exception out of a handler may come up anywhere, also in
        code that swallows it or that must not be left half done."""
        self._stopping = True

    def check(self) -> None:
        if self._stopping:
            self._stopping = False
            raise KeyboardInterrupt

    def step(self, text: str) -> None:
        self.check()
        if self._live:
            self._err.write(f"{_CLEAR}{text[: self.width - 1]}")
            self._pending = True
        else:
            self._err.write(f"{text}\n")
        self._err.flush()

    def note(self, text: str) -> None:
        self.clear()
        self._err.write(f"{text}\n")
        self._err.flush()

    def clear(self) -> None:
        """End the changing line, so that something else can be written."""
        if self._pending:
            self._err.write(_CLEAR)
            self._err.flush()
            self._pending = False

    def show(self, lines: Iterable[str]) -> None:
        self.clear()
        for line in lines:
            self._out.write(f"{line}\n")
        self._out.flush()

    def title(self, text: str) -> None:
        self.show(["", f"{self.paint.bold}{text}{self.paint.off}"])
