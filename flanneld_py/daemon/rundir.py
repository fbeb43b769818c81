"""The directory of a daemon's run-time files: that of subnet.env. One daemon a directory; several may share a host."""

import asyncio
import contextlib
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

from flanneld_py.errors import FlannelError

LOCK = "flanneld.lock"
DEFAULT = Path("/run/flannel/subnet.env")
_POLL_S = 0.05


def subnet_file(environ: Mapping[str, str]) -> Path:
    """Where the daemon of this environment puts subnet.env, for commands beside it."""
    return Path(environ.get("FLANNELD_SUBNET_FILE") or DEFAULT)


def instance(subnet_file: Path) -> str:
    """What tells this daemon's packet filter rules from those of others on the host; "" for the usual place."""
    directory = subnet_file.parent.absolute()
    return "" if directory == DEFAULT.parent else hashlib.sha256(os.fsencode(directory)).hexdigest()[:6]


def is_held(directory: Path) -> bool:
    """Whether some process is at work in `directory`."""
    try:
        descriptor = os.open(directory / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class Held(FlannelError):
    """Another process is at work in the directory."""


@contextlib.contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Be the only one at work in `directory` while the context lasts. The lock goes with the process, however it ends.

    Held: another process holds it. FlannelError: the directory cannot be written.
    """
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = _locked(directory)
    except BlockingIOError as error:
        raise Held(
            f"another flanneld (pid {_holder(directory)}) is at work in {directory}",
            hint="stop it, or give this one a --subnet-file in a directory of its own",
        ) from error
    except OSError as error:
        raise FlannelError(f"cannot use {directory}: {error.strerror}", hint="give another --subnet-file") from error
    try:
        _sign(descriptor, directory)
        yield
    finally:
        os.close(descriptor)


@contextlib.asynccontextmanager
async def holding(directory: Path, *, patient: bool) -> AsyncIterator[None]:
    """As `hold`; `patient`: once whoever is at work in `directory` has gone."""
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(hold(directory))
                break
            except Held:
                if not patient:
                    raise
            await asyncio.sleep(_POLL_S)
        yield


def remove_lock(directory: Path) -> None:
    """Take the lock's file away; only for its holder."""
    (directory / LOCK).unlink(missing_ok=True)


def _locked(directory: Path) -> int:
    """A descriptor of the lock's file, locked. BlockingIOError: another process has it."""
    while True:
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its holder may have removed it since it was opened: then it locks nobody out.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), (directory / LOCK).stat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _sign(descriptor: int, directory: Path) -> None:
    """Put our pid into the lock's file."""
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        raise FlannelError(
            f"cannot write {directory / LOCK}: {error.strerror}",
            hint=f"see: df {directory}; make room there, or give another --subnet-file",
        ) from error


def _holder(directory: Path) -> str:
    with contextlib.suppress(OSError):
        return (directory / LOCK).read_text(errors="replace").strip()[:20] or "unknown"
    return "unknown"
