"""`flanneld`: without a word it is the daemon, with flannel's flags; with one it is a command beside it."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module

from flanneld_py.errors import FlannelError
from flanneld_py.version import VERSION

COMMANDS = {
    "run": "flanneld_py.cli.run",
    "status": "flanneld_py.cli.status",
    "cleanup": "flanneld_py.cli.cleanup",
    "config": "flanneld_py.cli.config",
    "lab": "flanneld_py.cli.lab",
    "install-cni": "flanneld_py.cli.installcni",
    "bench": "flanneld_py.cli.bench",
}
"""Each has `run(argv) -> int`, and is imported only when it is asked for."""

INTERRUPTED = 130
"""What shells report for a program that SIGINT ended (128 + 2)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code. Errors of ours become one line on stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except FlannelError as error:
        print(f"flanneld: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); the interpreter must not complain of it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


@contextmanager
def _stopping_at_once() -> Iterator[None]:
    """SIGTERM and SIGINT end the program with 0 while it loads: nothing has begun, and a stop is no failure.

    The daemon puts its own handlers in their place.
    """

    def stop(number: int, frame: object) -> None:
        sys.exit(0)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _dispatch(words: list[str]) -> int:
    if words[:1] in (["--version"], ["-version"], ["version"]):
        print(f"flanneld {VERSION}")
        return 0
    if words and words[0] in COMMANDS:
        command, rest = words[0], words[1:]
    elif words and not words[0].startswith("-"):
        import difflib

        from flanneld_py.errors import UsageError

        near = difflib.get_close_matches(words[0], COMMANDS, 1)
        raise UsageError(
            f"there is no command {words[0][:60]!r}",
            hint=f"did you mean {near[0]}?" if near else f"commands are {', '.join(COMMANDS)}; flags start with -",
        )
    else:
        command, rest = "run", words
    with _stopping_at_once() if command == "run" else nullcontext():
        return int(import_module(COMMANDS[command]).run(rest))
