"""Rows of text as tables: aligned for a terminal, or in Markdown."""

from collections.abc import Sequence

Row = Sequence[str]


def columns(rows: Sequence[Row]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def grid(rows: Sequence[Row]) -> list[str]:
    """In Markdown; the first row is the head."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]
