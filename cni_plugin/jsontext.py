"""JSON text <-> values through the C half of the standard json module.

`import json` costs 6 ms, most of it for `re`, in a program that is started twice for each pod. The C functions that
json uses inside need none of that; where a Python lacks them, json does the work. A test holds both to one answer.
"""

Object = dict[str, object]

_BLANKS = " \t\n\r"
_MAX_DEPTH_TEXT = "nested too deeply"


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


class _Rules:
    """What the C scanner asks of its maker: plain JSON, as RFC 8259 has it."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_no_constant)
    memo: dict[str, str] = {}  # noqa: RUF012


def decode(data: bytes) -> object:
    """The value that the UTF-8 text holds. ValueError with the reason if it holds none, or more than one."""
    text = data.decode()  # UnicodeDecodeError is a ValueError
    start = len(text) - len(text.lstrip(_BLANKS))
    try:
        value, end = _scan(text, start)
    except StopIteration:
        raise ValueError("it is empty" if start == len(text) else f"no value at character {start}") from None
    except RecursionError:
        raise ValueError(_MAX_DEPTH_TEXT) from None
    except SystemError:
        # The C scanner takes its exception from json.decoder, and finds nothing there while that is not imported.
        value, end = _scan_with_reason(text, start)
    if text[end:].strip(_BLANKS):
        raise ValueError(f"more text after the value, at character {end}")
    return value


def decode_object(data: bytes) -> Object:
    """As `decode`, and ValueError if the value is no object."""
    value = decode(data)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object is needed, not {kind(value)}")
    return value


def encode(value: object) -> bytes:
    """The shortest text, ASCII only, keys sorted: equal values give equal bytes. ValueError if JSON cannot hold it."""
    try:
        return _encode(value).encode("ascii")
    except RecursionError:
        raise ValueError(_MAX_DEPTH_TEXT) from None


def kind(value: object) -> str:
    """The word that JSON has for a value's type."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        return "a string"
    if value is None:
        return "null"
    return "a boolean" if isinstance(value, bool) else "a number"


def _scan_with_reason(text: str, start: int) -> tuple[object, int]:
    import json

    return json.JSONDecoder().raw_decode(text, start)


try:
    from _json import encode_basestring_ascii, make_encoder, make_scanner

    _scan = make_scanner(_Rules)  # type: ignore[arg-type]

    def _no_default(value: object) -> object:
        raise ValueError(f"JSON cannot hold {value!r}")

    def _encode(value: object) -> str:
        # In the order of json.encoder.c_make_encoder; the first, a dict, would be there to find cycles.
        encoder = make_encoder(None, _no_default, encode_basestring_ascii, None, ":", ",", True, False, False)
        return "".join(encoder(value, 0))

except ImportError:
    import json

    _scan = json.JSONDecoder(parse_constant=_no_constant).raw_decode  # type: ignore[assignment]

    def _encode(value: object) -> str:
        return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)
