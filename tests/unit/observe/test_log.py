"""Log lines: one record is one line, whatever is in it."""

import json
import logging
import re

import pytest

from flanneld_py.observe.log import JsonFormatter, KlogFormatter, configure


def record(message: str, *args: object, level: int = logging.INFO) -> logging.LogRecord:
    made = logging.LogRecord("flanneld_py.x", level, "/somewhere/app.py", 204, message, args, None)
    made.created = 1_700_000_000.25
    return made


@pytest.mark.parametrize(
    ("level", "letter"), [(logging.DEBUG, "I"), (logging.INFO, "I"), (logging.WARNING, "W"), (logging.ERROR, "E")]
)
def test_a_line_has_the_form_of_klog(level: int, letter: str) -> None:
    line = KlogFormatter().format(record("lease %s: new", "10.5.1.0/24", level=level))
    assert re.fullmatch(letter + r"\d{4} \d\d:\d\d:\d\d\.250000 +\d+ app\.py:204\] lease 10\.5\.1\.0/24: new", line)


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\x1b[2Jb", "a\x00b", "a\u2028b", "a\x85b", "a\ud800b"])
@pytest.mark.parametrize("formatter", [KlogFormatter(), JsonFormatter()])
def test_the_text_of_others_starts_no_line_of_its_own(formatter: logging.Formatter, text: str) -> None:
    line = formatter.format(record("key %s", text))
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line
    line.encode()


def test_printable_text_stays_as_it_is() -> None:
    assert KlogFormatter().format(record("Zürich → 東京")).endswith("] Zürich → 東京")


def test_a_json_line_can_be_parsed() -> None:
    line = json.loads(JsonFormatter().format(record("peer %s", 'a "b"\n', level=logging.WARNING)))
    assert line == {"ts": 1_700_000_000.25, "v": "warning", "source": "app.py:204", "msg": 'peer a "b"\n'}


@pytest.mark.parametrize(
    ("verbosity", "shown"),
    [(0, ["ours info"]), (1, ["ours debug", "ours info"]), (4, ["ours debug", "ours info", "theirs debug"])],
)
def test_verbosity_chooses_what_is_shown(verbosity: int, shown: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    root, package = logging.getLogger(), logging.getLogger("flanneld_py")
    before = root.handlers[:], root.level, package.level
    try:
        configure(verbosity, "json")
        logging.getLogger("flanneld_py.x").debug("ours debug")
        logging.getLogger("flanneld_py.x").info("ours info")
        logging.getLogger("pyroute2").debug("theirs debug")
        logging.getLogger("pyroute2").info("theirs info")
    finally:
        root.handlers[:], root.level, package.level = before
    said = [json.loads(line)["msg"] for line in capsys.readouterr().err.splitlines()]
    assert [text for text in said if text != "theirs info"] == shown
    assert ("theirs info" in said) is (verbosity >= 4)
