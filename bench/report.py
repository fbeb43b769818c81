"""Figures of repeated measurements: medians with spread, beside the bound that they are held to."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True, slots=True)
class Figure:
    """One question's samples, in `unit`. `bound`: what the median should not exceed, None where there is none."""

    name: str
    unit: str
    samples: Sequence[float]
    bound: float | None = None

    @property
    def median(self) -> float:
        return median(self.samples)

    def line(self) -> tuple[str, ...]:
        held = "" if self.bound is None else f"<= {self.bound:g} {'held' if self.median <= self.bound else 'MISSED'}"
        spread = f"{min(self.samples):.3g}..{max(self.samples):.3g}"
        return (self.name, f"{self.median:.3g} {self.unit}", spread, str(len(self.samples)), held)


def render(figures: Sequence[Figure]) -> str:
    """The figures as a table, under a line that says on what they were taken."""
    rows = [("figure", "median", "spread", "runs", "bound"), *(figure.line() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([facts(), *table])


def facts() -> str:
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    load = os.getloadavg()[0]
    return (
        f"Linux {platform.release()}, {os.cpu_count()} x {model}, Python {platform.python_version()}, load {load:.1f}"
    )
