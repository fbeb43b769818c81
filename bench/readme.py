"""Puts the report of a run of `paths` into the README: the section's tables, and one small plot beside this file."""

import argparse
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from bench import publish
from bench.datapaths import DIRECT, GO_UDP, NATIVE, VXLAN
from bench.measure import METRICS
from bench.results import Results, quiet_share, read
from bench.textgrid import Row, grid
from flanneld_py.errors import FlannelError, UsageError

ROOT = Path(__file__).parents[1]
PLOT = Path("bench") / "how-fast.png"
BEGIN, END = "<!-- bench readme: begin -->", "<!-- bench readme: end -->"
RATIOS: Sequence[tuple[str, str]] = (
    ("tcp1", "TCP, one stream"),
    ("tcp4", "TCP, four streams"),
    ("udp64", "UDP, 64-byte datagrams delivered"),
    ("rtt_p50", "half round trip on an idle machine, median"),
    ("loaded_p99", "half round trip beside a TCP stream, 99th percentile"),
    ("cpu_system", "CPU seconds a GB, whole machine"),
)
FIGURES = ("tcp1", "tcp4", "udp64", "rtt_p50", "loaded_p99", "cpu_system")
PLOTTED = ("tcp1", "udp64", "cpu_system")


def run(argv: Sequence[str]) -> int:
    """Print the block, or put it in place. FlannelError: the run has too little, or the README no place for it."""
    parser = argparse.ArgumentParser(prog="bench readme", description=__doc__)
    parser.add_argument("results", type=Path, help=f"directory of a run, with {publish.JSON}")
    parser.add_argument("--write", action="store_true", help=f"into README.md and {PLOT}, instead of to the terminal")
    args = parser.parse_args(argv)
    results = read(args.results / publish.JSON)
    lines = block(results)
    if not args.write:
        print("\n".join(lines))
        return 0
    readme = ROOT / "README.md"
    text = replaced(readme.read_text(), lines)
    draw(results, ROOT / PLOT)
    readme.write_text(text)
    return 0


def block(results: Results) -> list[str]:
    """What stands between the two marks. UsageError if the run has not all three paths."""
    names = {path.name for path in results.measured}
    if missing := [name for name in (NATIVE, VXLAN, GO_UDP) if name not in names]:
        raise UsageError(f"the run did not measure {', '.join(missing)}", hint="python -m bench paths, without --paths")
    quiet, turns = quiet_share(results.rounds)
    rounds = max(one.number for one in results.rounds)
    # Where its files went is nobody's business but the measurer's.
    command = re.sub(r" --out[= ]\S+", "", results.command)
    return [
        f"{publish.facts(results)}; `{command}`, {results.started[:10]}, {rounds} rounds, {quiet} of {turns} "
        "turns begun on a quiet machine. Both nodes, pods and load are on this one machine.",
        "",
        *grid((("userspace `udp`", "against flannel's `udp`", "against kernel VXLAN"), *_ratio_rows(results))),
        "",
        *grid((("medians of the run", *(_heading(name) for name in FIGURES)), *_figure_rows(results))),
        "",
        f"![TCP throughput, packets and CPU by data path]({PLOT})",
    ]


def _ratio_rows(results: Results) -> list[Row]:
    return [
        (title, *(_ratio(results, base, metric) for base in (GO_UDP, VXLAN)))
        for metric, title in RATIOS
        if metric in results.metrics
    ]


def _ratio(results: Results, base: str, metric: str) -> str:
    ratio = results.ratio(NATIVE, base, metric)
    if ratio is not None:
        return f"{publish.number(ratio)} x"
    least = results.at_least(NATIVE, base, metric)
    return "load too weak" if least is None else f"at least {publish.number(least)} x"


def _heading(metric: str) -> str:
    return f"{METRICS[metric].title}, {METRICS[metric].unit}"


def _figure_rows(results: Results) -> list[Row]:
    rows: list[Row] = []
    for path in results.measured:
        spreads = [results.spread(path.name, metric) for metric in FIGURES]
        rows.append((path.title, *("-" if one is None else publish.number(one.median) for one in spreads)))
    return rows


def replaced(readme: str, lines: Sequence[str]) -> str:
    """The README with these lines between the marks."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise FlannelError(f"README.md has no place between {BEGIN} and {END}", hint="put both marks where it shall be")
    return "\n".join([before + BEGIN, "", *lines, "", END + after])


def draw(results: Results, path: Path) -> None:
    """One bar a path, in three small panels. FlannelError without matplotlib."""
    try:
        import_module("matplotlib").use("Agg")
        pyplot: Any = import_module("matplotlib.pyplot")
    except ImportError:
        raise FlannelError("no plot: matplotlib is missing", hint="pip install 'flanneld-py[bench]'") from None
    shown = [one for one in results.measured if one.name != DIRECT]
    metrics = [name for name in PLOTTED if name in results.metrics]
    figure, axes = pyplot.subplots(1, len(metrics), figsize=(9, 0.3 * len(shown) + 0.9), squeeze=False)
    for axis, metric in zip(axes[0], metrics, strict=True):
        for place, one in enumerate(shown):
            if (spread := results.spread(one.name, metric)) is not None:
                colour = "#c44e52" if one.name == NATIVE else "#8fa6c8"
                axis.barh(place, spread.median, color=colour)
                axis.text(spread.median, place, f" {publish.number(spread.median)}", va="center", fontsize=7)
        axis.set_yticks(range(len(shown)), [one.name for one in shown] if axis is axes[0][0] else [""] * len(shown))
        axis.tick_params(labelsize=7)
        axis.invert_yaxis()
        axis.margins(x=0.2)
        axis.set_title(_heading(metric), fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
