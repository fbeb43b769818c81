"""The lab's results as text. Sans-I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from flanneld_py.lab.capture import Frame
from flanneld_py.lab.frames import side_by_side
from flanneld_py.lab.path import Hop, Path
from flanneld_py.lab.stream import StreamReport
from flanneld_py.lab.traffic import Matrix, PingResult

_INDENT = "    "
_LOST = "lost"
_SELF = "-"


@dataclass(frozen=True, slots=True)
class Paint:
    """Escape sequences, or nothing where output is no terminal."""

    bad: str = ""
    good: str = ""
    dim: str = ""
    bold: str = ""
    off: str = ""


PLAIN = Paint()
COLOURS = Paint(bad="\x1b[31m", good="\x1b[32m", dim="\x1b[2m", bold="\x1b[1m", off="\x1b[0m")


def matrix_lines(names: Sequence[str], matrix: Matrix, width: int, paint: Paint = PLAIN) -> list[str]:
    """Rows are sources, columns targets, cells the best round-trip time in ms; broad ones go in blocks of columns."""
    if not names:
        return []
    label = max(len(name) for name in names)
    cells = {pair: _cell(result) for pair, result in matrix.items()}
    column = max(label, *(len(text) for text in cells.values()), len(_SELF)) + 1 if cells else label + 1
    each = max(1, (width - label) // column)
    lines: list[str] = []
    for begin in range(0, len(names), each):
        block = names[begin : begin + each]
        if lines:
            lines.append("")
        lines.append(paint.dim + " " * label + "".join(f"{name:>{column}}" for name in block) + paint.off)
        for source in names:
            row = [_painted(cells.get((source, target), _SELF), column, paint) for target in block]
            lines.append(f"{paint.dim}{source:<{label}}{paint.off}" + "".join(row))
    return lines


def matrix_summary(matrix: Matrix) -> str:
    """One line: how many pairs there are, how many answered, what was lost."""
    silent = [pair for pair, result in matrix.items() if not result.rtts_s]
    partly = [pair for pair, result in matrix.items() if result.rtts_s and result.lost]
    if not silent and not partly:
        return f"all {len(matrix)} pairs answer, nothing lost"
    text = f"{len(matrix) - len(silent)} of {len(matrix)} pairs answer"
    if silent:
        text += f"; no answer: {_pairs(silent)}"
    if partly:
        text += f"; lost some: {_pairs(partly)}"
    return text


def complete(matrix: Matrix) -> bool:
    return all(result.lost == 0 for result in matrix.values())


def frame_lines(frame: Frame, number: int, width: int, paint: Paint = PLAIN) -> list[str]:
    """A frame as a heading and its layers."""
    at = datetime.fromtimestamp(frame.at_ns // 1_000_000_000, UTC).astimezone()
    stamp = f"{at:%H:%M:%S}.{frame.at_ns // 1000 % 1_000_000:06d}"
    way = "out" if frame.outgoing else "in"
    head = f"{paint.bold}#{number} {stamp} {frame.device} {way}, {frame.size} bytes{paint.off}"
    return [head, *(_INDENT + line for line in side_by_side(frame.packet, width - len(_INDENT)))]


def path_lines(path: Path, width: int, paint: Paint = PLAIN) -> list[str]:
    """The hops with the time since the first; headers are shown where they change."""
    begin = path.hops[0].frame.at_ns if path.hops else 0
    lines, shown = [], None
    for number, hop in enumerate(path.hops, 1):
        elapsed_us = (hop.frame.at_ns - begin) / 1000
        where = f"{hop.place} {hop.frame.device}"
        lines.append(f"{number:>2}. {paint.bold}{where:<18}{paint.off}{elapsed_us:>7.0f} us  {hop.meaning}")
        layers = _headers(hop)
        if layers != shown:
            lines += [f"{paint.dim}{' ' * 8}{line}{paint.off}" for line in side_by_side(hop.frame.packet, width - 8)]
            shown = layers
    answer = "the reply came back" if path.answered else f"{paint.bad}no reply came back{paint.off}"
    return [*lines, f"    {answer}"]


def stream_line(report: StreamReport) -> str:
    speed = report.bits_per_second
    scale, unit = (1e9, "Gbit/s") if speed >= 1e9 else (1e6, "Mbit/s")
    text = f"{report.protocol.upper()} {speed / scale:.2f} {unit} for {report.seconds:.1f} s"
    if report.protocol == "udp" and report.sent:
        text += f", {report.lost} of {report.sent} datagrams lost, {report.reordered} reordered"
    return text


def table_lines(rows: Sequence[Sequence[str]], paint: Paint = PLAIN) -> list[str]:
    """Rows in columns as wide as their widest cell; the first row is the heading."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [f"{paint.dim}{lines[0]}{paint.off}", *lines[1:]] if lines else []


def _headers(hop: Hop) -> tuple[str, ...]:
    packet = hop.frame.packet
    return (*packet.layers[1:], *(packet.inner.layers if packet.inner is not None else ()))


def _cell(result: PingResult) -> str:
    best = result.best_s
    if best is None:
        return _LOST
    mark = f"{best * 1000:.3f}" if best < 0.01 else f"{best * 1000:.1f}"
    return f"{mark}!{result.lost}" if result.lost else mark


def _painted(text: str, width: int, paint: Paint) -> str:
    colour = paint.bad if text == _LOST or "!" in text else paint.dim if text == _SELF else paint.good
    return f"{colour}{text:>{width}}{paint.off}"


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    shown = ", ".join(f"{source} > {target}" for source, target in pairs[:4])
    return f"{shown} and {len(pairs) - 4} more" if len(pairs) > 4 else shown
