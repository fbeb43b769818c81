"""Assignments in the syntax that shells, systemd and dotenv readers share, without any expansion."""

_NAME_FIRST = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
_NAME = _NAME_FIRST | frozenset("0123456789")


def is_name(text: str) -> bool:
    """Whether a shell takes `text` for the name of a variable."""
    return text[:1] in _NAME_FIRST and _NAME.issuperset(text)


def parse_dotenv(text: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """The variables, the last value of each, and a line for everything that is no assignment. Never raises.

    Understood: `export`, single and double quotes, comments, blanks around `=`, CRLF, a byte order mark.
    """
    found: dict[str, str] = {}
    problems: list[str] = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, equals, rest = stripped.partition("=")
        words = name.split()
        if len(words) == 2 and words[0] == "export":
            del words[0]
        value = _value(rest.strip())
        if not equals or len(words) != 1 or not is_name(words[0]):
            problems.append(f"line {number} is not an assignment")
        elif value is None:
            problems.append(f"line {number}: the value of {words[0]} has an open quote")
        else:
            found[words[0]] = value
    return found, tuple(problems)


def _value(text: str) -> str | None:
    """The value before a comment, without its quotes; None if a quote is not closed."""
    if text[:1] not in ("'", '"'):
        return text.split(" #", 1)[0].split("\t#", 1)[0].rstrip() if not text.startswith("#") else ""
    quote, out, escaped = text[0], "", False
    for char in text[1:]:
        if escaped:
            out += char if char in '"\\$`' else "\\" + char
            escaped = False
        elif char == "\\" and quote == '"':
            escaped = True
        elif char == quote:
            return out
        else:
            out += char
    return None
