"""Which data path is how fast? All of them side by side in one run: interleaved rounds, medians, ratios."""

import argparse
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from bench import publish, results
from bench.bar import Bar
from bench.datapaths import DIRECT, KINDS, Context, DataPath, Kind
from bench.generator import Generator, compile_load
from bench.machine import commit, machine_facts, wait_until_quiet
from bench.measure import MEASUREMENTS, Bench, answers, measure_round
from bench.peers import INSTALL, Program
from bench.results import PathReport, Results, Round
from flanneld_py.errors import FlannelError, UsageError
from flanneld_py.lab import build
from flanneld_py.lab.terminal import Screen

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TURN_COST_S = 2.0
"""Of one path's turn besides its measurements: the look whether all is quiet, processes that start and end."""
_LAB_COST_S = 4.0
"""To build and remove a lab."""
_LEAST_S, _MOST_S = 0.2, 3.0
_WAITING_SHARE = 0.15
"""Of the budget: what all waits for a quiet machine may take together."""
_MOST_SILENT = 2
"""Turns without any figure, after which a path is left out."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure. `budget_s`: for the whole run. `patience_s`: each turn's wait for a quiet machine."""

    rounds: int
    budget_s: float
    patience_s: float
    seconds: float | None = None

    def seconds_each(self, paths: int) -> float:
        """Of one measurement, so that the run keeps to its budget when nothing waits long."""
        if self.seconds is not None:
            return self.seconds
        turns = paths * self.rounds
        left = self.budget_s * (1 - _WAITING_SHARE) - paths * _LAB_COST_S - turns * _TURN_COST_S
        return min(_MOST_S, max(_LEAST_S, left / turns / len(MEASUREMENTS)))


QUICK = Plan(rounds=3, budget_s=330, patience_s=2)
FULL = Plan(rounds=7, budget_s=1680, patience_s=6)


def run(argv: Sequence[str]) -> int:
    """Measure, print, write; 0 if every path was measured that is not missing."""
    args = _parser().parse_args(argv)
    build.require_root("python -m bench paths")
    kinds = _chosen(args.paths)
    base = QUICK if args.quick else FULL
    plan = replace(base, rounds=args.rounds or base.rounds, seconds=args.seconds)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    screen = Screen()
    bar = Bar(screen)
    with _signals_stop(screen):
        program = compile_load()
        context = Context(bar, args.prefix, Program(args.flanneld_go) if args.flanneld_go else None)
        found = _measure(kinds, plan, context, Generator(program, bar.check), bar)
    found = replace(found, command=f"python -m bench paths {shlex.join(argv)}".strip())
    publish.write(found, out, note=screen.note)
    screen.show(publish.text(found))
    screen.show(["", f"written to {out}/: {publish.JSON}, {publish.MARKDOWN} and plots where matplotlib is"])
    return 0 if all(path.status != "failed" for path in found.paths) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench paths", description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="at most 6 minutes, for a first look; else at most 30")
    parser.add_argument("--paths", metavar="A,B", help=f"of {', '.join(kind.name for kind in KINDS)}")
    parser.add_argument("--rounds", type=_positive, help=f"default {FULL.rounds}, with --quick {QUICK.rounds}")
    parser.add_argument("--seconds", type=_seconds, help="of each measurement (default: what the time allows)")
    parser.add_argument("--out", default="bench-results", metavar="DIR", help="default %(default)s")
    parser.add_argument("--flanneld-go", metavar="PATH", help=f"Go flannel's flanneld (or: {INSTALL})")
    parser.add_argument("--prefix", default="bench", help="of the labs' names (default %(default)s)")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.05 <= value <= 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0.05 and 60")
    return value


def _chosen(names: str | None) -> tuple[Kind, ...]:
    """The kinds of these names, the bare veth always among them: without it nobody knows what the generator brings."""
    if names is None:
        return KINDS
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    if strangers := wanted - {kind.name for kind in KINDS}:
        known = ", ".join(kind.name for kind in KINDS)
        raise UsageError(f"--paths: there is no path {sorted(strangers)[0]!r}", hint=f"there are {known}")
    return tuple(kind for kind in KINDS if kind.name in wanted | {DIRECT})


@dataclass(slots=True)
class _Standing:
    """A path whose lab stands. `silent`: how many turns gave no figure."""

    kind: Kind
    path: DataPath
    bench: Bench
    silent: int = 0


def _measure(kinds: Sequence[Kind], plan: Plan, context: Context, generator: Generator, bar: Bar) -> Results:
    started, begin = datetime.now(UTC), time.monotonic()
    seconds = plan.seconds_each(len(kinds))
    reports: dict[str, PathReport] = {}
    rounds: list[Round] = []
    notes: list[str] = []
    # The labs are removed in reverse order when the block ends, whatever ends it.
    with ExitStack() as stack:
        standing = []
        for number, kind in enumerate(kinds, 1):
            bar.step(f"building {kind.name}, {number} of {len(kinds)}")
            if made := _stand(kind, stack, context, generator, seconds, reports):
                standing.append(made)
            else:
                bar.note(f"{kind.name}: {reports[kind.name].status}: {reports[kind.name].reason}")
        _run_rounds(standing, plan, begin, bar, rounds, notes)
    settings = {"rounds": plan.rounds, "seconds_each": round(seconds, 3), "patience_s": plan.patience_s}
    for one in standing:
        reports[one.kind.name] = _judged(one, rounds)
    return Results(
        command="",
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - begin, 1),
        commit=commit(),
        machine=machine_facts(),
        settings=settings,
        paths=tuple(reports[kind.name] for kind in kinds),
        rounds=tuple(rounds),
        notes=(*notes, *_quiet_note(rounds)),
    )


def _run_rounds(
    standing: Sequence[_Standing], plan: Plan, begin: float, bar: Bar, rounds: list[Round], notes: list[str]
) -> None:
    """Fill `rounds`, as long as the budget has time for one more; `notes` say so if it has not."""
    bar.restart(plan.rounds * len(standing) * (len(MEASUREMENTS) + 1))
    waiting_s, taken_s = plan.budget_s * _WAITING_SHARE, 0.0
    for number in range(1, plan.rounds + 1):
        round_begin = time.monotonic()
        if number > 1 and round_begin - begin + taken_s > plan.budget_s:
            notes.append(f"the time was over after {number - 1} of {plan.rounds} rounds")
            return
        # Each round begins with another path, so that none is always the first to be measured.
        first = number % len(standing) if standing else 0
        for one in (*standing[first:], *standing[:first]):
            if one.silent < _MOST_SILENT:
                turn, waited_s = _turn(one, number, plan, min(plan.patience_s, waiting_s), bar)
                waiting_s -= waited_s
                rounds.append(turn)
        taken_s = time.monotonic() - round_begin


def _stand(
    kind: Kind,
    stack: ExitStack,
    context: Context,
    generator: Generator,
    seconds: float,
    reports: dict[str, PathReport],
) -> _Standing | None:
    """The path, ready and answering; None, with the reason among the reports, if it cannot be had."""
    if kind.peer is not None and kind.peer(context) is None:
        reports[kind.name] = PathReport(kind.name, kind.title, "missing", f"its program is not here: {INSTALL}")
        return None
    own = ExitStack()
    try:
        path = own.enter_context(kind.build(context))
        server = own.enter_context(generator.serving(path.target))
        bench = Bench(path, server, generator, seconds)
        answers(bench)
        path.pause()
        # What sleeps does not hear that it shall end.
        own.callback(path.resume)
    except (FlannelError, OSError) as error:
        own.close()
        reports[kind.name] = PathReport(kind.name, kind.title, "failed", str(error))
        return None
    except BaseException:
        own.close()
        raise
    stack.push(own)
    return _Standing(kind, path, bench)


def _turn(one: _Standing, number: int, plan: Plan, patience_s: float, bar: Bar) -> tuple[Round, float]:
    """The path's figures in this round, and the seconds that it waited for a quiet machine."""
    place = f"round {number} of {plan.rounds}, {one.kind.name}"
    bar.advance(place, "waiting until the machine is quiet")
    one.path.resume()
    try:
        calm = wait_until_quiet(patience_s, bar.check)
        found = measure_round(one.bench, lambda name: bar.advance(place, name))
    finally:
        one.path.pause()
    if not found.values:
        one.silent += 1
    turn = Round(number, one.kind.name, calm.quiet, round(calm.busy_share, 3), found.values, found.failures)
    return turn, calm.waited_s


def _judged(one: _Standing, rounds: Sequence[Round]) -> PathReport:
    """What became of a path that was built. It failed if not one turn of it is whole."""
    turns = [turn for turn in rounds if turn.path == one.kind.name]
    broken = [f"{name}: {why}" for turn in turns for name, why in turn.failures.items()]
    whole = any(not turn.failures for turn in turns)
    facts: dict[str, str | int] = {**one.path.facts, "mtu": one.path.mtu}
    status = "measured" if whole else "failed"
    return PathReport(one.kind.name, one.kind.title, status, broken[0] if broken else None, facts)


def _quiet_note(rounds: Sequence[Round]) -> tuple[str, ...]:
    quiet, turns = results.quiet_share(rounds)
    if quiet == turns:
        return ()
    return (f"others used the machine: {turns - quiet} of {turns} turns did not begin on a quiet one",)


@contextmanager
def _signals_stop(screen: Screen) -> Iterator[None]:
    """Signals end the work at its next check, so that what was made is removed."""

    def stop(number: int, frame: FrameType | None) -> None:
        screen.stop()

    before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {
        number: signal.signal(number, stop) for number in _SIGNALS
    }
    try:
        yield
    except KeyboardInterrupt:
        screen.note("interrupted; all that was made is removed")
        raise
    finally:
        screen.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
