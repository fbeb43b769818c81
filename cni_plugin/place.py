"""Putting files where a runtime looks for them while it looks: whole or not at all, and durable."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

_PIECE = 1 << 18


def read_if_there(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def pieces(data: bytes | Path) -> Iterator[bytes]:
    """The content, or that of the file that holds it: a whole bundle is more than a container may have of memory."""
    if isinstance(data, bytes):
        yield data
        return
    with data.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def write_file(path: Path, data: bytes | Path, mode: int, *, sync: bool = True) -> bool:
    """Whether the file had to be changed. It has the content and the mode now; after a power failure too, if `sync`.

    The temporary file stands in the same directory: containerd (issue 11715) does not notice one from elsewhere. Its
    name is of no kind that a runtime loads, and unlike any other's. A running program is replaced, not overwritten.
    """
    if not path.is_symlink() and path.is_file() and path.stat().st_mode & 0o777 == mode and _holds(path, data):
        return False
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            for piece in pieces(data):
                file.write(piece)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    if sync:
        sync_directory(path.parent)
    return True


def _holds(path: Path, data: bytes | Path) -> bool:
    with path.open("rb") as file:
        return all(file.read(len(piece)) == piece for piece in pieces(data)) and not file.read(1)


def write_link(path: Path, target: str) -> bool:
    """Whether the symbolic link had to be changed. It leads to `target` now."""
    if path.is_symlink() and str(path.readlink()) == target:
        return False
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    temporary.symlink_to(target)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise
    sync_directory(path.parent)
    return True


def remove_file(path: Path) -> bool:
    """Whether there was one."""
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    sync_directory(path.parent)
    return True


def sync_tree(folder: Path) -> None:
    """All below is durable. Not by sync(2), which waits for every file system of the host, one of a dead server too."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in files:
        # All begin to be written before the first is waited for: each for itself, a hundred take many seconds on a
        # busy disk.
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    for directory in (*filter(Path.is_dir, folder.rglob("*")), folder):
        sync_directory(directory)


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Some file systems have nothing to sync here, and say EINVAL.
        with contextlib.suppress(OSError):
            os.fsync(fd)
    finally:
        os.close(fd)
