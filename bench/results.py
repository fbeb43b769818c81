"""One run's measurements as values and JSON, and what follows from them: medians, spreads, ratios."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.measure import METRICS
from bench.schema import problems
from flanneld_py.errors import FlannelError, UsageError

FORMAT = 1
SCHEMA = Path(__file__).with_name("schema.json")
MARGIN = 1.5
"""How much more the generator must bring over a bare veth than the faster of two paths, for their ratio to count."""
BARE = "direct"


@dataclass(frozen=True, slots=True)
class PathReport:
    """`status`: measured, failed or missing; `reason`: why, unless measured. `facts`: of its set-up."""

    name: str
    title: str
    status: str
    reason: str | None = None
    facts: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Round:
    """One path's turn. `busy_share`: of the machine, just before, by others. `failures`: why, by measurement."""

    number: int
    path: str
    quiet: bool
    busy_share: float
    values: Mapping[str, float]
    failures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one metric's samples."""

    median: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Results:
    """A run. `started`: ISO 8601, UTC. `seconds`: how long it took; `settings`: of the command line."""

    command: str
    started: str
    seconds: float
    commit: str | None
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    paths: tuple[PathReport, ...]
    rounds: tuple[Round, ...]
    notes: tuple[str, ...] = ()

    def samples(self, path: str, metric: str) -> dict[int, float]:
        """By round."""
        return {one.number: one.values[metric] for one in self.rounds if one.path == path and metric in one.values}

    def spread(self, path: str, metric: str) -> Spread | None:
        found = list(self.samples(path, metric).values())
        return Spread(median(found), min(found), max(found), len(found)) if found else None

    def ratios(self, path: str, base: str, metric: str) -> list[float]:
        """Path to base, each within one round. Rounds whose base is 0 give none."""
        below = self.samples(base, metric)
        return [value / below[number] for number, value in self.samples(path, metric).items() if below.get(number)]

    def ratio(self, path: str, base: str, metric: str) -> float | None:
        """The median of `ratios`; None if there are none, or if the load was `too_weak`."""
        found = self.ratios(path, base, metric)
        return None if not found or self.too_weak(path, base, metric) else median(found)

    def too_weak(self, path: str, base: str, metric: str) -> bool:
        """Whether the generator may have been the limit: in the median round, the faster of the two paths came nearer
        than MARGIN to what the generator brings over a bare veth in that round."""
        return path != base and not self._has_margin(metric, (path, base))

    def at_least(self, path: str, base: str, metric: str) -> float | None:
        """Of a ratio whose load was too weak for the faster path alone, what it is at least; else None.

        The base then is what it is, and the path would be faster with a stronger load, if it changed at all.
        """
        found = self.ratios(path, base, metric)
        if not found or median(found) <= 1 or not self.too_weak(path, base, metric):
            return None
        return median(found) if self._has_margin(metric, (base,)) else None

    def _has_margin(self, metric: str, paths: Sequence[str]) -> bool:
        """Whether the generator, in the median round, brings MARGIN times the fastest of the paths."""
        gate = METRICS[metric].gate
        if gate is None:
            return True
        bare, samples = self.samples(BARE, gate), [self.samples(path, metric) for path in paths]
        common = bare.keys() & set.intersection(*(set(one) for one in samples))
        fastest = {number: max(one[number] for one in samples) for number in common}
        headroom = [bare[number] / speed for number, speed in fastest.items() if speed]
        return bool(headroom) and median(headroom) >= MARGIN

    @property
    def measured(self) -> tuple[PathReport, ...]:
        """The paths of which there is at least one figure."""
        return tuple(path for path in self.paths if any(one.path == path.name and one.values for one in self.rounds))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those that at least one path has, in the usual order."""
        found = {name for one in self.rounds for name in one.values}
        return tuple(name for name in METRICS if name in found)

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"format": FORMAT, **asdict(self)}
        # asdict leaves tuples as they are; JSON and its schema know lists only.
        again: dict[str, Any] = json.loads(json.dumps(found))
        return again


def write(results: Results, path: Path) -> None:
    path.write_text(json.dumps(results.as_json(), indent=1) + "\n")


def read(path: Path) -> Results:
    """The run that a file holds. FlannelError if it holds none, with the first thing that is wrong."""
    try:
        raw = json.loads(path.read_text())
    except OSError as error:
        raise FlannelError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    return parse(raw, str(path))


def parse(raw: Any, origin: str) -> Results:
    """The inverse of `as_json`. UsageError if `raw` breaks the schema."""
    if found := problems(raw, json.loads(SCHEMA.read_text())):
        raise UsageError(f"{origin} holds no results of `bench paths`: {found[0]}")
    fields = {key: value for key, value in raw.items() if key != "format"}
    paths = tuple(PathReport(**one) for one in fields.pop("paths"))
    rounds = tuple(Round(**one) for one in fields.pop("rounds"))
    return Results(**fields | {"paths": paths, "rounds": rounds, "notes": tuple(fields["notes"])})


def quiet_share(rounds: Iterable[Round]) -> tuple[int, int]:
    """How many of the turns began on a quiet machine, and how many there were."""
    all_turns: Sequence[Round] = tuple(rounds)
    return sum(one.quiet for one in all_turns), len(all_turns)
