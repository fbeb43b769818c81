"""Processes of the lab: started into a namespace, found again by later commands, ended with certainty.

A process is known by pid and start time, since a pid alone may be another program's by the time it is used. Signals go
through a pidfd that was opened before the start time was compared (pidfd_open(2)), so they cannot hit a stranger.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flanneld_py.errors import LabError
from flanneld_py.lab.namespaces import inside

GRACE_S = 3.0
_TAIL_BYTES = 16384


@dataclass(frozen=True, slots=True)
class Process:
    """`started`: clock ticks after boot, field 22 of /proc/PID/stat (proc(5))."""

    pid: int
    started: int


def start(argv: list[str], *, namespace: str | None, log: Path, env: Mapping[str, str] | None = None) -> Process:
    """A process in the namespace (None: the caller's), in a session of its own, with its output appended to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
        # What this process was itself given, such as the lock of whoever runs it, must not live as long as a server.
        *((os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable()),
    ]
    environ = dict(os.environ if env is None else env)

    def spawn() -> int:
        return os.posix_spawn(
            argv[0],
            argv,
            environ,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            # CPython ignores SIGPIPE, and an ignored signal stays ignored across exec (signal(7)).
            setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
        )

    try:
        pid = spawn() if namespace is None else inside(namespace, spawn)
    except OSError as err:
        raise LabError(f"cannot start {argv[0]}: {err.strerror}") from None
    found = find(pid)
    return Process(pid, 0) if found is None else found


def find(pid: int) -> Process | None:
    """The process of that pid, if there is one."""
    fields = _stat(pid)
    return None if fields is None else Process(pid, int(fields[19]))


def alive(process: Process) -> bool:
    """Whether it runs; a zombie does not."""
    fields = _stat(process.pid)
    return fields is not None and int(fields[19]) == process.started and fields[0] not in "ZX"


def send(process: Process, number: signal.Signals) -> bool:
    """Signal the process; False if it is gone."""
    with _pidfd(process) as fd:
        if fd is None:
            return False
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, number)
        return True


def wait(process: Process, timeout_s: float) -> bool:
    """Whether the process ended within the time. A child of ours is reaped."""
    with _pidfd(process) as fd:
        if fd is not None:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            if not poll.poll(max(0, int(timeout_s * 1000))):
                return False
    with suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
    return True


def end(processes: Iterable[Process], grace_s: float = GRACE_S) -> None:
    """Ensure that none of them runs: SIGTERM to all, and SIGKILL to those that are still there after the grace."""
    left = list(processes)
    for number, seconds in ((signal.SIGTERM, grace_s), (signal.SIGKILL, GRACE_S)):
        for process in left:
            send(process, number)
        deadline = time.monotonic() + seconds
        left = [process for process in left if not wait(process, deadline - time.monotonic())]
        if not left:
            return
    pids = ", ".join(str(process.pid) for process in left)
    raise LabError(f"process {pids} does not end", hint="it hangs in the kernel; see /proc/PID/stack")


def with_descendants(pids: Iterable[int]) -> list[Process]:
    """The processes of these pids and all that they started, as far as the kernel still knows their parent."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    todo, seen = list(pids), set[int]()
    while todo:
        pid = todo.pop()
        if pid not in seen:
            seen.add(pid)
            todo += children.get(pid, ())
    seen.discard(os.getpid())
    return [process for pid in sorted(seen) if (process := find(pid)) is not None]


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a log; none if there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return []


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def _inheritable() -> list[int]:
    """The descriptors beyond the standard ones that a new program would get."""
    found = []
    for name in (entry.name for entry in Path("/proc/self/fd").iterdir()):
        with suppress(OSError):
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.append(int(name))
    return found


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on: [0] state, [1] parent, [19] start time."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the program's name in parentheses, which may itself hold spaces and parentheses.
    return text[text.rindex(")") + 2 :].split()


@contextmanager
def _pidfd(process: Process) -> Iterator[int | None]:
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        found = find(process.pid)
        yield fd if found == process else None
    finally:
        os.close(fd)
