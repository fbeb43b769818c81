"""JSON objects of the configuration, read with the rules of Go's encoding/json, since Go nodes read the same text.

- Keys match case-insensitively. Of several spellings of one key the last counts, but `null` leaves a plain value
  (number, boolean, text) as it was.
- Numbers must be written as whole numbers: Go refuses 1.0 and 1e3 for an integer.
- Unknown keys are ignored by Go. Here they are a warning, or an error where the key was most probably meant to be
  another one whose absence changes what the node does.
"""

import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Final, TypeVar

from flanneld_py.errors import ConfigError

MAX_TEXT = 1 << 20
"""Characters; etcd refuses larger requests by default (--max-request-bytes 1.5 MiB)."""
MAX_DEPTH = 50
"""Levels of nesting; far below what exhausts the stack of any function that walks the value."""
_MAX_DIGITS = 300
_SHOWN = 60
_SUGGEST = 0.6
_SURELY_MEANT = 0.75
_BOOLEANS = {"true": True, "false": False}

D = TypeVar("D")


class _Absent:
    """The key is not there, or is `null` where Go takes this for the same."""


ABSENT: Final = _Absent()


def show(value: object) -> str:
    """The value as a short piece of one line: JSON in ASCII, cut when long; a container by its kind only."""
    if isinstance(value, str):
        cut = value if len(value) <= _SHOWN else value[: _SHOWN - 3] + "..."
        return json.dumps(cut)
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{...}" if value else "{}"
    if isinstance(value, list | tuple):
        return "[...]" if value else "[]"
    text = str(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def decode_object(text: str, source: str) -> dict[str, object]:
    """The object that `text` holds; `null` is an empty one, as for Go. ConfigError: it is no JSON object."""
    if len(text) > MAX_TEXT:
        raise ConfigError(f"{source}: {len(text)} characters are too many", hint=f"{MAX_TEXT} are allowed")
    if text.startswith("\ufeff"):
        raise ConfigError(f"{source}: begins with a byte order mark", hint="save it as UTF-8 without one")
    if not text.strip():
        raise ConfigError(f"{source}: is empty", hint='the least is {"Network": "10.244.0.0/16"}')
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_int=_whole, parse_constant=_refuse_constant)
    except json.JSONDecodeError as err:
        reason = err.msg[:1].lower() + err.msg[1:]
        raise ConfigError(f"{source}: line {err.lineno} column {err.colno}: not valid JSON: {reason}") from None
    except RecursionError:
        raise ConfigError(f"{source}: is nested too deeply") from None
    except ValueError as err:
        raise ConfigError(f"{source}: not valid JSON: {err}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{source}: {show(value)} is not a JSON object", hint='write {"Network": ...}')
    if _deeper(value, MAX_DEPTH):
        raise ConfigError(f"{source}: is nested more than {MAX_DEPTH} levels deep")
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {show(key)} stands twice in one object")
        found[key] = value
    return found


def _whole(digits: str) -> int | float:
    # int() refuses thousands of digits with an exception of its own; as a float the value fails every range check.
    return int(digits) if len(digits) <= _MAX_DIGITS else float("inf")


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON value")


def _deeper(value: object, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        layer = [
            child
            for parent in layer
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not layer:
            return False
    return True


class Fields:
    """The fields of one object. Each taker returns a usable value in any case; what was wrong is in `errors`."""

    def __init__(self, raw: Mapping[str, object], where: str, *, secret: Iterable[str] = ()) -> None:
        """`where` begins every message: the source of the text, or the key of the object.

        No message shows the value of a `secret` key, nor of a key that looks like one.
        """
        self.errors: list[ConfigError] = []
        self.warnings: list[str] = []
        self._where = where
        self._secret = [name.lower() for name in secret]
        self._taken: dict[str, str] = {}
        self._mistaken: set[str] = set()
        self._spellings: dict[str, list[tuple[str, object]]] = {}
        for key, value in raw.items():
            self._spellings.setdefault(key.lower(), []).append((key, value))

    def given(self, name: str) -> bool:
        """Whether the key is there at all, in any spelling and with any value."""
        return name.lower() in self._spellings

    def take(self, name: str, *, null_counts: bool = True) -> object:
        """The value as decoded; ABSENT if the key is missing, or is only `null` and `null_counts` is False."""
        self._taken[name.lower()] = name
        spellings = self._spellings.get(name.lower(), [])
        if len(spellings) > 1:
            names = ", ".join(show(key) for key, _ in spellings)
            self.warnings.append(f"{self._where}: {names} are one key in several spellings; the last counts")
        values = [value for _, value in spellings if null_counts or value is not None]
        return values[-1] if values else ABSENT

    def integer(self, name: str, default: D, *, low: int, high: int, hint: str | None = None) -> int | D:
        """A whole number from `low` to `high`."""
        value = self.take(name, null_counts=False)
        if isinstance(value, _Absent):
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            text = value.strip() if isinstance(value, str) else ""
            mend = f"write {text} without quotes" if text.isdecimal() else "write it without fraction and exponent"
            self.fail(name, value, "is not a whole number", hint if hint is not None else mend)
            return default
        if not low <= value <= high:
            self.fail(name, value, f"is not from {low} to {high}", hint)
            return default
        return value

    def boolean(self, name: str, default: bool) -> bool:
        value = self.take(name, null_counts=False)
        if isinstance(value, _Absent):
            return default
        if isinstance(value, str) and value.lower() in _BOOLEANS:
            self.warn(name, value, f"is a text; Go nodes refuse it: write {value.lower()} without quotes")
            return _BOOLEANS[value.lower()]
        if not isinstance(value, bool):
            self.fail(name, value, "is not a boolean", "write true or false, without quotes")
            return default
        return value

    def text(self, name: str, default: D) -> str | D:
        value = self.take(name, null_counts=False)
        if isinstance(value, _Absent):
            return default
        if not isinstance(value, str):
            self.fail(name, value, "is not a text", "put it in double quotes")
            return default
        return value

    def one_of(self, name: str, choices: tuple[str, ...]) -> str:
        """The text of a key with a few possible values, in lower case; the first is the default."""
        text = self.text(name, choices[0])
        if text.lower() not in choices:
            self.fail(name, text, "is unknown", f"write one of {', '.join(choices)}")
            return choices[0]
        return text.lower()

    def required_text(self, name: str, what: str) -> str | None:
        """A text that, if its key is there, is neither empty nor `null`; None if it is missing or wrong.

        `what` it should be, with its article, for the message.
        """
        value = self.take(name)
        if isinstance(value, _Absent):
            return None
        if not isinstance(value, str) or not value:
            self.fail(name, value, f"is not {what}", "write one in double quotes, or leave the key out")
            return None
        return value

    def fail(self, name: str, value: object, reason: str, hint: str | None = None) -> None:
        """Note an error about a value."""
        self.errors.append(ConfigError(f"{self._where}: {name} = {self._show(name, value)}: {reason}", hint=hint))

    def missing(self, name: str, reason: str, hint: str | None = None) -> None:
        """Note an error about a key that is not there."""
        self.errors.append(ConfigError(f"{self._where}: {name}: {reason}", hint=hint))

    def warn(self, name: str, value: object, text: str) -> None:
        self.warnings.append(f"{self._where}: {name} = {self._show(name, value)}: {text}")

    def note(self, text: str) -> None:
        """Note a warning about the object as a whole."""
        self.warnings.append(f"{self._where}: {text}")

    def _show(self, name: str, value: object) -> str:
        return "(hidden)" if get_close_matches(name.lower(), self._secret, 1, _SUGGEST) else show(value)

    def finish(self, known: Iterable[str] = (), *, harmless: Iterable[str] = ()) -> None:
        """Judge every key that no taker asked for and that is not `known` (a key that has no effect here).

        A near miss of a key that was taken but is absent is an error, unless that key is `harmless`; else a warning.
        """
        names = self._taken | {name.lower(): name for name in known}
        spared = {name.lower() for name in harmless}
        for folded, spellings in self._spellings.items():
            if folded in names:
                continue
            for key, value in spellings:
                self._judge_unknown(key, value, names, spared)

    def mistaken(self, name: str) -> bool:
        """Whether `finish` found a key that was meant to be this one, so that nothing more need be said of it."""
        return name.lower() in self._mistaken

    def _judge_unknown(self, key: str, value: object, names: Mapping[str, str], spared: set[str]) -> None:
        close = get_close_matches(key.lower(), [n for n in names if n not in self._spellings], 1, _SURELY_MEANT)
        if close and close[0] in self._taken and close[0] not in spared:
            meant = names[close[0]]
            message = f"{self._where}: {show(key)} = {self._show(key, value)}: unknown key, and {meant} is missing"
            self.errors.append(ConfigError(message, hint=f"did you mean {meant}?"))
            self._mistaken.add(close[0])
            return
        close = get_close_matches(key.lower(), list(names), 1, _SUGGEST)
        mend = f": did you mean {names[close[0]]}?" if close else ""
        self.warnings.append(f"{self._where}: unknown key {show(key)} has no effect{mend}")
