"""Did a data path change between two runs? Of each figure: its ratio to kernel vxlan in the same round, then and now.

Absolute figures of two runs say as much of the machine's mood as of the code, so they are compared only on demand.
Differences are tested by Mann-Whitney's U (two-sided), raised by Holm's procedure for the number of figures of a path.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.datapaths import VXLAN
from bench.measure import METRICS
from bench.publish import JSON, facts, number
from bench.results import Results, read
from bench.significance import holm, mann_whitney
from bench.textgrid import columns
from flanneld_py.errors import UsageError

ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one path. `chance`: the raised p value. `better`: if it changed, whether for the better."""

    path: str
    metric: str
    old: float
    new: float
    chance: float

    @property
    def certain(self) -> bool:
        return self.chance < ALPHA

    @property
    def better(self) -> bool:
        return (self.new > self.old) == METRICS[self.metric].more_is_better

    @property
    def verdict(self) -> str:
        if not self.certain:
            return "as before, as far as can be told"
        return "better" if self.better else "WORSE"


def run(argv: Sequence[str]) -> int:
    """1 if a figure is certainly worse than it was."""
    parser = argparse.ArgumentParser(prog="bench compare", description=__doc__, allow_abbrev=False)
    parser.add_argument("old", type=Path, help="a paths.json, or the directory that holds it")
    parser.add_argument("new", type=Path)
    parser.add_argument("--absolute", action="store_true", help="compare figures instead of ratios to kernel vxlan")
    args = parser.parse_args(argv)
    old, new = (read(path / JSON if path.is_dir() else path) for path in (args.old, args.new))
    found = changes(old, new, base=None if args.absolute else VXLAN)
    if not found:
        raise UsageError(
            "the two runs have no figure in common" + ("" if args.absolute else f" beside those of {VXLAN}"),
            hint=f"measure the same paths in both, {VXLAN} among them" if not args.absolute else None,
        )
    print("\n".join(render(old, new, found, absolute=args.absolute)))
    return 1 if any(change.certain and not change.better for change in found) else 0


def changes(old: Results, new: Results, base: str | None) -> list[Change]:
    """Every figure that both runs have, as ratio to `base`, or as it is without one."""
    found: list[Change] = []
    for path in new.measured:
        if path.name == base:
            continue
        pairs = []
        for metric in new.metrics:
            then, now = (_samples(one, path.name, base, metric) for one in (old, new))
            if then and now:
                pairs.append((metric, then, now))
        chances = holm([mann_whitney(then, now) for _, then, now in pairs])
        found += [
            Change(path.name, metric, median(then), median(now), chance)
            for (metric, then, now), chance in zip(pairs, chances, strict=True)
        ]
    return found


def _samples(results: Results, path: str, base: str | None, metric: str) -> list[float]:
    if base is None:
        return list(results.samples(path, metric).values())
    return results.ratios(path, base, metric)


def render(old: Results, new: Results, found: Sequence[Change], *, absolute: bool) -> list[str]:
    rows = [("path", "figure", "old", "new", "p", "verdict")]
    rows += [
        (one.path, METRICS[one.metric].title, number(one.old), number(one.new), f"{one.chance:.2g}", one.verdict)
        for one in found
    ]
    lines = [f"old: {facts(old)}", f"new: {facts(new)}"]
    if old.machine != new.machine:
        lines.append("the two machines, or their kernels, differ")
    lines += ["figures as they are" if absolute else "ratios to kernel vxlan within a round", "", *columns(rows)]
    least = _least_chance(old, new, max(Counter(one.path for one in found).values()))
    if least >= ALPHA:
        lines.append(f"no figure can be certain: with these rounds p is at least {least:.2g}; measure more rounds")
    return lines


def _least_chance(old: Results, new: Results, figures: int) -> float:
    """The p value of a difference as clear as can be, with as many rounds as there are and so many figures."""
    then, now = (max((turn.number for turn in one.rounds), default=1) for one in (old, new))
    return min(1.0, mann_whitney(list(range(then)), list(range(then, then + now))) * figures)
