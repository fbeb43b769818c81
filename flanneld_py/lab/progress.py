"""How long work tells that it goes on, and hears that it shall end."""

from typing import Protocol

from flanneld_py.errors import LabError
from flanneld_py.lab.process import last_lines
from flanneld_py.lab.state import LabDirectory

_LAST_WORDS = 8


class Progress(Protocol):
    """A terminal shows one line that changes with each step; notes stay."""

    def check(self) -> None:
        """Raises KeyboardInterrupt, once, if the work shall end. To be called wherever it waits."""

    def step(self, text: str) -> None:
        """What is being done now; a check, too."""

    def note(self, text: str) -> None:
        """Something that the user should still see when all is done."""


class Silent:
    """Progress for callers that want none."""

    def check(self) -> None:
        """Nobody interrupts."""

    def step(self, text: str) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""


def ended(server: str, directory: LabDirectory, progress: Progress) -> LabError:
    """The error for a server that ended by itself; the end of its log is noted, since the log goes with the lab."""
    lines = last_lines(directory.log(server), _LAST_WORDS)
    for line in lines[:-1]:
        progress.note(f"{server}: {line}")
    return LabError(f"{server} ended by itself: {lines[-1] if lines else 'its log is empty'}")
