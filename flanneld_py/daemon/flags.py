"""Command line flags with the syntax of Go's flag package, and the environment variables that stand for them.

`-x v`, `--x v`, `-x=v` and `--x=v` mean the same; a boolean takes its value only with `=`; `--` and the first word that
is no flag end the flags. Unlike Go, words after that are an error, since what they follow would silently be lost.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from flanneld_py.errors import UsageError

ENVIRONMENT_PREFIX: Final = "FLANNELD_"

Value = bool | int | str | tuple[str, ...]

# strconv.ParseBool and strconv.ParseInt with base 0, Go 1.22.
_BOOLEANS: Final = dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "false", "FALSE", "False"), False
)
_INTEGER = re.compile(
    r"([+-]?)(?:0[xX]((?:_?[0-9a-fA-F])+)|0[bB]((?:_?[01])+)|0[oO]?((?:_?[0-7])+)|(0|[1-9](?:_?[0-9])*))"
)
_BASES = (16, 2, 8, 10)
_INT64_MAX = (1 << 63) - 1
_NAME = re.compile(r"[A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Flag:
    """One row of a table of flags. The type of `default` is the type of the flag; a tuple may be given repeatedly.

    `metavar` is what the help text shows for the value. `variable` False: the environment has no say.
    """

    name: str
    default: Value
    help: str
    metavar: str = ""
    secret: bool = False
    variable: bool = True

    @property
    def env(self) -> str:
        return ENVIRONMENT_PREFIX + self.name.upper().replace("-", "_")


@dataclass(frozen=True, slots=True)
class Setting:
    """A value that was given. `origin`: the flag or the variable, as messages call it."""

    value: Value
    origin: str


@dataclass(frozen=True, slots=True)
class Given:
    """What was given, by flag name. `help`: it was asked for, and nothing after it was read."""

    settings: Mapping[str, Setting]
    operands: tuple[str, ...] = ()
    help: bool = False


def parse_flags(
    flags: Sequence[Flag], argv: Sequence[str], environ: Mapping[str, str], *, operands: bool = False
) -> Given:
    """What the command line gives, and the environment for the rest. An empty variable counts as not set.

    `operands`: words that are no flags are allowed, anywhere. Raises UsageError; it never repeats a secret value.
    """
    table = {flag.name: flag for flag in flags}
    words = _Words(argv)
    settings: dict[str, Setting] = {}
    found: list[str] = []
    previous: Flag | None = None
    for word in words:
        if word == "--":
            found += words
            break
        if len(word) < 2 or not word.startswith("-"):
            found.append(word)
            if not operands:
                raise _unexpected(word, previous)
            continue
        name, equals, text = word[2 if word.startswith("--") else 1 :].partition("=")
        if name in ("h", "help") and name not in table:
            return Given({}, help=True)
        previous = _find(table, name)
        settings[name] = _given(previous, text if equals else None, words, settings.get(name))
    if found and not operands:
        raise _unexpected(found[0], previous)
    for flag in flags:
        text = environ.get(flag.env, "") if flag.variable else ""
        if text and flag.name not in settings:
            settings[flag.name] = Setting(_convert(flag, text, flag.env), flag.env)
    return Given(settings, tuple(found))


class _Words(Iterator[str]):
    """The command line, taken word by word by the loop and by flags that need a value."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._rest = list(reversed(argv))

    def __next__(self) -> str:
        if not self._rest:
            raise StopIteration
        return self._rest.pop()


def _find(table: Mapping[str, Flag], name: str) -> Flag:
    if name in table:
        return table[name]
    # Only what can be a name is repeated: after it may come a secret that lacks its `=`.
    match = _NAME.match(name)
    shown = match.group() if match is not None else ""
    if not shown.strip("-"):
        raise UsageError("a flag without a name", hint="--help lists the flags")
    close = get_close_matches(shown, table, 1)
    raise UsageError(
        f"--{shown}: there is no such flag", hint=f"did you mean --{close[0]}?" if close else "--help lists the flags"
    )


def _given(flag: Flag, text: str | None, words: _Words, before: Setting | None) -> Setting:
    """The flag's setting; `text` None: there was no `=`, so that the value of most is the next word."""
    origin = f"--{flag.name}"
    if text is None and isinstance(flag.default, bool):
        return Setting(True, origin)
    if text is None:
        text = next(words, None)
        if text is None:
            raise UsageError(f"{origin}: needs a value", hint=f"write {origin}={flag.metavar or 'VALUE'}")
    value = _convert(flag, text, origin)
    if isinstance(value, tuple) and before is not None and isinstance(before.value, tuple):
        value = before.value + value
    return Setting(value, origin)


def _convert(flag: Flag, text: str, origin: str) -> Value:
    if isinstance(flag.default, bool):
        if text not in _BOOLEANS:
            raise UsageError(f"{origin}={text[:60]!a}: is not a boolean", hint="write true or false")
        return _BOOLEANS[text]
    if isinstance(flag.default, int):
        number = _integer(text)
        if number is None:
            raise UsageError(f"{origin}={text[:60]!a}: is not a whole number", hint="such as 60")
        return number
    return (text,) if isinstance(flag.default, tuple) else text


def _integer(text: str) -> int | None:
    """What Go reads: 0x, 0b, 0o or 0 begin other bases than ten, underscores may stand between digits; 64 bits."""
    match = _INTEGER.fullmatch(text) if len(text) <= 80 else None
    if match is None:
        return None
    sign, *digits = match.groups()
    number = next(int(part.replace("_", ""), base) for part, base in zip(digits, _BASES, strict=True) if part)
    number = -number if sign == "-" else number
    return number if -_INT64_MAX - 1 <= number <= _INT64_MAX else None


def _unexpected(word: str, previous: Flag | None) -> UsageError:
    if previous is not None and isinstance(previous.default, bool) and word in _BOOLEANS:
        mend = f"a boolean takes its value with =: write --{previous.name}={str(_BOOLEANS[word]).lower()}"
        return UsageError(f"--{previous.name} {word}: unexpected argument {word}", hint=mend)
    if previous is not None and previous.secret:
        return UsageError(f"unexpected argument after --{previous.name}", hint="put its value in quotes")
    return UsageError(f"unexpected argument {word[:60]!a}", hint="flags begin with - and --help lists them")
