"""Descriptors opened in another network namespace, without moving the caller into it."""

import ctypes
import os
import threading
from collections.abc import Callable
from typing import TypeVar

from flanneld_py.errors import KernelError

_CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h

T = TypeVar("T")
Netns = str | int | None
"""A namespace: a path such as /run/netns/NAME or /proc/PID/ns/net, an open descriptor, or None for our own."""


def in_netns(netns: Netns, make: Callable[[], T]) -> T:
    """What `make` returns when called in `netns`, by a thread that ends with the call. Sockets keep the namespace in
    which they were made. KernelError: the namespace is not there, or we may not enter it.
    """
    if netns is None:
        return make()
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            _enter(netns)
            outcome.append(make())
        except BaseException as err:  # raised again in the caller's thread
            failure.append(err)

    thread = threading.Thread(target=run, name="netns")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def _enter(netns: str | int) -> None:
    try:
        fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC) if isinstance(netns, str) else netns
    except OSError as err:
        raise KernelError(f"cannot open network namespace {netns}: {err.strerror}", errno=err.errno or 0) from err
    try:
        if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise KernelError(
                f"cannot enter network namespace {netns}: {os.strerror(code)}",
                hint="run as root, or with CAP_SYS_ADMIN",
                errno=code,
            )
    finally:
        if isinstance(netns, str):
            os.close(fd)
