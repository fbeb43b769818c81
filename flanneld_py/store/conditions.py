"""One condition out of three: the store is away, it refuses us, or what we wait for is not in it."""

from typing import Protocol

from flanneld_py.errors import AccessDenied
from flanneld_py.store.base import Condition, Report


class Trouble(Protocol):
    """Why nobody serves us, in words for an operator, and what mends it."""

    @property
    def message(self) -> str: ...

    @property
    def hint(self) -> str | None: ...


class Conditions:
    """Reports the gravest condition that holds, whenever that changes. `well`: the words for none.

    Several calls may be refused at once, and several things be missing; each is taken back by its own name alone.
    """

    def __init__(self, report: Report, well: str = "etcd answers") -> None:
        self._report = report
        self._well = Condition(True, well)
        self._away: Condition | None = None
        self._denied: dict[str, Condition] = {}
        self._missing: dict[str, Condition] = {}
        self._last: Condition | None = None

    def trouble(self, trouble: Trouble | None) -> None:
        self._away = None if trouble is None else Condition(False, trouble.message, trouble.hint)
        self._tell()

    def denied(self, call: str, error: AccessDenied | None) -> None:
        """`call` is refused; None: no longer."""
        _put(self._denied, call, None if error is None else Condition(False, error.message, error.hint))
        self._tell()

    def missing(self, what: str, condition: Condition | None) -> None:
        """`what` is not in the store, or not as it must be; None: it is now."""
        _put(self._missing, what, condition)
        self._tell()

    def _tell(self) -> None:
        now = self._away or _first(self._denied) or _first(self._missing) or self._well
        if now != self._last:
            self._last = now
            self._report(now)


def _put(conditions: dict[str, Condition], name: str, condition: Condition | None) -> None:
    if condition is None:
        conditions.pop(name, None)
    else:
        conditions[name] = condition


def _first(conditions: dict[str, Condition]) -> Condition | None:
    return next(iter(conditions.values()), None)
