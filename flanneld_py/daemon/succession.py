"""Who is the daemon of a directory, when one comes while another is there or leaves; and what ends a daemon.

In a container the daemon is the first process, and the kernel ends all others with it (pid_namespaces(7)): the udp
backend's worker, too. There a daemon that is to end, or whose place was taken, stays until its worker has handed over.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

from flanneld_py.daemon import control, rundir

log = logging.getLogger(__name__)

WORD = "place"
"""The question to a daemon that is to give up its place."""
TAKEN_S = 10.0
"""Who asked for our place and has not taken it by then has gone."""
CLEANING_S = 2.0
"""For a worker whose time is over, to free its device and to leave."""
_POLL_S = 0.05


class Order(Enum):
    END = "end"
    GIVE_WAY = "give way"


class Orders:
    """Signals and requests for our place, of which the first cancels the task that made this.

    A second signal kills: nobody may be locked out.
    """

    def __init__(self) -> None:
        self.given: Order | None = None
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop, number)

    def _stop(self, number: signal.Signals) -> None:
        log.info("%s: stopping, the data path stays", number.name)
        for each in (signal.SIGTERM, signal.SIGINT):
            self._loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        self._give(Order.END)

    async def give_way(self) -> dict[str, Any]:
        """The answer to a daemon that asks for our place."""
        log.info("another flanneld takes this one's place; the data path stays")
        self._loop.call_soon(self._give, Order.GIVE_WAY)
        return {"pid": os.getpid()}

    def _give(self, order: Order) -> None:
        if self.given is not Order.END:
            already, self.given = self.given, order
            if self._task is not None and already is None:
                self._task.cancel()

    def carried_out(self) -> None:
        """The task goes on after the cancellation."""
        self.given = None
        if self._task is not None:
            self._task.uncancel()


def is_first_process() -> bool:
    return os.getpid() == 1


def ask_for_place(directory: Path) -> None:
    """If a daemon is at work in `directory`, tell it to make room; it does so in its own time."""
    answer = control.ask(directory, WORD)
    if answer is None:
        return
    if "error" in answer:
        log.warning("the flanneld at work in %s is older and does not give way; waiting until it ends", directory)
        return
    log.info("taking the place of the flanneld at work in %s", directory)


async def until_taken(directory: Path) -> None:
    """Returns as soon as another process is at work in `directory`, or when none has come for a while."""
    await _until(lambda: rundir.is_held(directory), TAKEN_S)


async def outlive_children(seconds: float) -> None:
    """Returns when this process has no children any more, or when the time is over."""
    await _until(lambda: not _has_children(), seconds)


async def _until(holds: Callable[[], bool], seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                if holds():
                    return
                await asyncio.sleep(_POLL_S)


def _has_children() -> bool:
    """Those that have ended are reaped."""
    try:
        while True:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return True
    except ChildProcessError:
        return False
