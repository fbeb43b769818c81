"""The daemon's own notice board: one `Status`, kept current in status.json and told to systemd."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flanneld_py.host.files import write_atomic
from flanneld_py.model.entry import Failure
from flanneld_py.observe.notify import notify
from flanneld_py.observe.status import Report, Stage, Status
from flanneld_py.store.base import Condition

log = logging.getLogger(__name__)

FILE = "status.json"
COALESCE_S = 0.05


class Board:
    """Writes to `directory`, after each change, but not more often than every COALESCE_S.

    The CNI plugin reads the file to say why there is no network yet, so it must be readable by all, and hold no secret.
    """

    def __init__(
        self, directory: Path, status: Status, *, notify_socket: str | None, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = directory / FILE
        self._notify_socket = notify_socket
        self._clock = clock
        self._pending: asyncio.TimerHandle | None = None
        self._store = Condition(True, "")
        self._blocking: Failure | None = None
        self.status = status
        self.reached_ready = asyncio.Event()
        self.details: Callable[[], Awaitable[Report]] | None = None
        self.flush()

    async def report(self) -> dict[str, Any]:
        """The answer to `flanneld status`: the status alone, until somebody sets `details`."""
        found = Report(self.status) if self.details is None else await self.details()
        return found.as_json()

    def update(self, **changes: Any) -> None:
        """Replace fields of the status."""
        self._set(replace(self.status, **changes))

    def warn(self, mark: str, texts: Sequence[str]) -> None:
        """Put `texts` in the place of the warnings that contain `mark`; new ones are said in the log."""
        for text in texts:
            if text not in self.status.warnings:
                log.warning("%s", text)
        self.update(warnings=(*(old for old in self.status.warnings if mark not in old), *texts))

    def worker(self, stats: Mapping[str, Any] | None) -> None:
        """What the udp backend's worker counts."""
        self.update(worker=stats)

    def at(self, stage: Stage) -> None:
        if stage is not self.status.stage:
            self.update(stage=stage, since=self._clock())
            self.flush()
            notify(self._notify_socket, f"STATUS={stage.value}")

    def ready(self) -> None:
        if self.status.stage is not Stage.READY:
            self.at(Stage.READY)
            self.reached_ready.set()
            notify(self._notify_socket, "READY=1")

    def condition(self, condition: Condition) -> None:
        """How the store is doing; said in the log when it changes."""
        if condition.ok:
            if not self._store.ok:
                log.info("%s", condition.message)
        elif condition != self._store:
            log.warning("%s%s", condition.message, f"; {condition.hint}" if condition.hint else "")
        self._store = condition
        self._tell_trouble()
        if not condition.ok:
            self.flush()

    def block(self, failure: Failure | None) -> None:
        """What the kernel refuses of the node's own part; None: all of it stands."""
        self._blocking = failure
        self._tell_trouble()

    def _tell_trouble(self) -> None:
        """The kernel's counts more: without the store, packets go on."""
        error, hint = (None, None) if self._store.ok else (self._store.message, self._store.hint)
        if self._blocking is not None:
            error, hint = f"cannot {self._blocking.op}: {self._blocking.reason}", self._blocking.hint
        self.update(store_ok=self._store.ok, blocked=self._blocking is not None, error=error, hint=hint)

    def stop(self, stage: Stage, error: str | None = None, hint: str | None = None) -> None:
        """The last word: the data path stays, the daemon goes."""
        self._set(replace(self.status, stage=stage, since=self._clock(), error=error, hint=hint))
        self.flush()
        notify(self._notify_socket, "STOPPING=1", f"STATUS={error or stage.value}")

    def flush(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        text = json.dumps(self.status.as_json(), indent=1) + "\n"
        try:
            write_atomic(self._path, text.encode(), 0o644)
        except OSError as error:
            log.warning("cannot write %s: %s", self._path, error.strerror)

    def _set(self, status: Status) -> None:
        if status != self.status:
            self.status = status
            if self._pending is None:
                self._pending = asyncio.get_running_loop().call_later(COALESCE_S, self.flush)
