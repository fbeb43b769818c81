"""The directory of a daemon's run-time files: that of subnet.env. One daemon a directory; several may share a host."""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from flanneld_py.errors import FlannelError

LOCK = "flanneld.lock"


def subnet_file(environ: Mapping[str, str]) -> Path:
    """Where the daemon of this environment puts subnet.env, for commands beside it."""
    return Path(environ.get("FLANNELD_SUBNET_FILE") or "/run/flannel/subnet.env")


@contextlib.contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Be the only one at work in `directory` while the context lasts. The lock goes with the process, however it ends.

    FlannelError: another process holds it, or the directory cannot be written.
    """
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise FlannelError(f"cannot use {directory}: {error.strerror}", hint="give another --subnet-file") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
            raise FlannelError(
                f"another flanneld (pid {holder}) is at work in {directory}",
                hint="stop it, or give this one a --subnet-file in a directory of its own",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
