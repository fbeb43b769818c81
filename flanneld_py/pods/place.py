"""Directories of the host, below a root directory that somebody else opened.

A daemon in a container sees another file system than the plugin; by the descriptor of the plugin's root both keep
their state in the same files, without any mount.
"""

import ctypes
import errno
import os
from struct import Struct

from flanneld_py.errors import FlannelError

_OPENAT2 = 437  # asm-generic/unistd.h; one number on all machines but alpha
_OPEN_HOW = Struct("=QQQ")
"""include/uapi/linux/openat2.h struct open_how: flags, mode, resolve."""
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10
_LIBC = ctypes.CDLL(None, use_errno=True)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class PlaceError(FlannelError):
    """A directory or file of the host that cannot be used as the plugin would use it."""


def open_directory(root: int, path: str, mode: int) -> int:
    """A descriptor of the directory at `path` as whoever lives in `root` means it, links included.

    What is missing is made with `mode`. PlaceError: it cannot be had.
    """
    try:
        return _open_in(root, path)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise PlaceError(f"cannot open {path}: {error.strerror}") from error
    above, _, name = path.rstrip("/").rpartition("/")
    if not name:
        raise PlaceError(f"cannot open {path}: it is not there")
    parent = open_directory(root, above or "/", mode)
    try:
        make_directory(parent, name, mode)
    except OSError as error:
        raise PlaceError(f"cannot make {path}: {error.strerror}") from error
    finally:
        os.close(parent)
    try:
        return _open_in(root, path)
    except OSError as error:
        raise PlaceError(f"cannot open {path}: {error.strerror}") from error


def make_directory(parent: int, name: str, mode: int) -> None:
    """It is there, with the mode that was asked for, whatever this process masks, if it was not there before."""
    try:
        os.mkdir(name, mode, dir_fd=parent)
    except FileExistsError:
        return
    os.chmod(name, mode, dir_fd=parent)


def _open_in(root: int, path: str) -> int:
    how = _OPEN_HOW.pack(_DIRECTORY, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    fd = int(_LIBC.syscall(_OPENAT2, root, os.fsencode(path), how, len(how)))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return fd
