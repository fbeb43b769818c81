"""One condition out of three: etcd is away, it refuses us, or there is no configuration in it."""

from flanneld_py.errors import AccessDenied
from flanneld_py.etcd.verdict import Trouble
from flanneld_py.store.base import Condition, Report


class Conditions:
    """Reports the gravest condition that holds, whenever that changes."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._away: Condition | None = None
        self._denied: Condition | None = None
        self._missing: Condition | None = None
        self._last: Condition | None = None

    def trouble(self, trouble: Trouble | None) -> None:
        self._away = None if trouble is None else Condition(False, trouble.message, trouble.hint)
        self._tell()

    def denied(self, error: AccessDenied | None) -> None:
        self._denied = None if error is None else Condition(False, error.message, error.hint)
        self._tell()

    def missing(self, condition: Condition | None) -> None:
        self._missing = condition
        self._tell()

    def _tell(self) -> None:
        now = self._away or self._denied or self._missing or Condition(True, "etcd answers")
        if now != self._last:
            self._last = now
            self._report(now)
