"""Log lines on stderr: klog's form, which flannel's users know how to read and grep, or one JSON object a line."""

import json
import logging
import os
import sys
import time

_LETTERS = {logging.DEBUG: "I", logging.INFO: "I", logging.WARNING: "W", logging.ERROR: "E", logging.CRITICAL: "F"}


class KlogFormatter(logging.Formatter):
    """`I1121 01:42:08.860487 14883 app.py:204] text` (severity, month and day, time, pid, source)."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%m%d %H:%M:%S", time.localtime(record.created))
        micros = int(record.created % 1 * 1e6)
        where = f"{record.filename}:{record.lineno}"
        letter = _LETTERS.get(record.levelno, "I")
        text = f"{letter}{stamp}.{micros:06d} {os.getpid():5d} {where}] {_one_line(record.getMessage())}"
        return text + "\n" + self.formatException(record.exc_info) if record.exc_info else text


class JsonFormatter(logging.Formatter):
    """`ts` is Unix seconds; `v` is the level's name in lower case."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": round(record.created, 6),
            "v": record.levelname.lower(),
            "source": f"{record.filename}:{record.lineno}",
            "msg": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _one_line(text: str) -> str:
    """Other machines' text stands in our lines: no control character of theirs may start a line of its own."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def configure(verbosity: int, form: str) -> None:
    """Log to stderr as `text` or `json`. Verbosity 0 shows what operators need, 1 every op, 4 the libraries too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else KlogFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbosity >= 4 else logging.WARNING)
    logging.getLogger("flanneld_py").setLevel(logging.DEBUG if verbosity >= 1 else logging.INFO)
