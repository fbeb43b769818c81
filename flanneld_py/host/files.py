"""Files that other programs read while we write them."""

import contextlib
import os
import secrets
from pathlib import Path


def write_atomic(path: str | Path, content: str | bytes, mode: int = 0o644) -> None:
    """Replaces the file at `path`: a reader, and a machine that loses power, sees the old content or the new, whole.

    The file has `mode` and missing directories 0755, whatever the umask. OSError where the file system refuses; then
    the old file is as it was and nothing is left beside it. A symbolic link at `path` is replaced, not followed.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    make_directory(path.parent)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(6)}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    _sync_directory(path.parent)


def make_directory(path: Path) -> None:
    """The directory and those above it exist; made ones have mode 0755."""
    if path.is_dir():
        return
    make_directory(path.parent)
    try:
        path.mkdir()
    except FileExistsError:  # somebody else made it at the same moment; a plain file makes the write fail
        return
    path.chmod(0o755)


def _sync_directory(path: Path) -> None:
    """Makes the new name durable. Some file systems cannot sync a directory (EINVAL), and then have nothing to sync."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            os.fsync(fd)
    finally:
        os.close(fd)
