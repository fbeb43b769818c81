"""Named network namespaces: where they are, how a thread enters one, which processes are in them.

A thread may be in another network namespace than its process (setns(2)), and what it opens or starts stays there: a
socket keeps the namespace in which it was made, a child inherits that of the thread which spawned it. So `inside` is
all that is needed to put sockets and processes into a namespace. Only /sys shows the namespace in which it was mounted
(sysfs(5)), so whoever reads /sys/class/net there needs a mount of its own.
"""

import ctypes
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from flanneld_py.errors import LabError

RUN_DIR = Path("/run/netns")
CLONE_NEWNET = 0x40000000
_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_SLAVE = 0x4000, 0x80000
_T = TypeVar("_T")


def exists(namespace: str) -> bool:
    return (RUN_DIR / namespace).exists()


def enter(namespace: str) -> None:
    """Move the calling thread into the namespace, for good."""
    try:
        fd = os.open(RUN_DIR / namespace, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise LabError(
            f"network namespace {namespace} does not exist", hint="is the lab up? flanneld lab status"
        ) from None
    try:
        _call("enter network namespace " + namespace, lambda libc: libc.setns(fd, CLONE_NEWNET))
    finally:
        os.close(fd)


def mount_sysfs() -> None:
    """Let /sys show the calling thread's network namespace, to it and what it starts; nobody else sees the mount."""
    _call("make a mount namespace", lambda libc: libc.unshare(_CLONE_NEWNS))
    _call("keep mounts apart", lambda libc: libc.mount(b"none", b"/", None, _MS_REC | _MS_SLAVE, None))
    _call("mount /sys", lambda libc: libc.mount(b"sysfs", b"/sys", b"sysfs", 0, None))


def _call(purpose: str, function: Callable[[ctypes.CDLL], int]) -> None:
    if function(ctypes.CDLL(None, use_errno=True)) != 0:
        raise LabError(f"cannot {purpose}: {os.strerror(ctypes.get_errno())}")


def inside(namespace: str, call: Callable[[], _T], *, sysfs: bool = False) -> _T:
    """What `call` returns, run by a thread of its own in the namespace; with `sysfs`, with the /sys that belongs to it.

    `call` must be short: an interrupt waits until it is done, so that nothing goes on behind the caller's back.
    """
    outcome: Future[_T] = Future()

    def body() -> None:
        try:
            enter(namespace)
            if sysfs:
                mount_sysfs()
            outcome.set_result(call())
        except BaseException as err:
            outcome.set_exception(err)

    thread = threading.Thread(target=body, name=f"in {namespace}")
    try:
        thread.start()
        thread.join()
    finally:
        if thread.ident is not None:
            thread.join()
    return outcome.result()


def processes(names: Iterable[str]) -> set[int]:
    """The processes that are in one of the namespaces now."""
    wanted = set()
    for name in names:
        try:
            stat = (RUN_DIR / name).stat()
        except OSError:
            continue
        wanted.add((stat.st_dev, stat.st_ino))
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "ns/net").stat()
        except OSError:
            continue
        if (stat.st_dev, stat.st_ino) in wanted:
            found.add(int(entry.name))
    return found
