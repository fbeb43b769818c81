"""A run for readers: tables for the terminal, and a directory with JSON, Markdown and plots."""

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from bench import results as store
from bench.datapaths import GO_UDP, NATIVE, VXLAN
from bench.goals import GOALS
from bench.measure import METRICS
from bench.results import MARGIN, Results, quiet_share
from bench.textgrid import Row, columns, grid

JSON, MARKDOWN = "paths.json", "paths.md"
BASES = ((VXLAN, "kernel vxlan"), (GO_UDP, "Go flannel's udp"))
PLOTS: Sequence[tuple[str, str, Sequence[str]]] = (
    ("throughput.png", "TCP throughput", ("tcp1", "tcp4")),
    ("packets.png", "UDP packets delivered", ("udp64", "udp512", "udp1400")),
    ("latency.png", "Half round trip", ("rtt_p50", "rtt_p99", "loaded_p50", "loaded_p99")),
    ("cpu.png", "CPU seconds per GB", ("cpu_carrier", "cpu_system")),
)
TOO_WEAK = "load too weak"
_WEAK_CELL = "(weak)"


def text(results: Results) -> list[str]:
    """The tables for a terminal."""
    lines = [facts(results), f"medians of {_count(results)} rounds"]
    lines += ["", *columns(_figure_rows(results))]
    for base, title in BASES:
        if rows := _ratio_rows(results, base):
            lines += ["", f"ratio to {title}, medians of ratios within a round", *columns(rows)]
    if any(_WEAK_CELL in line for line in lines):
        why = f"the generator did not bring {MARGIN} times the faster of the two over a bare veth"
        lines += ["", f"{_WEAK_CELL}: {TOO_WEAK}: {why}"]
    lines += [f"{path.name}: {path.status}: {path.reason}" for path in results.paths if path.reason]
    lines += [f"note: {note}" for note in results.notes]
    if rows := goal_rows(results):
        lines += ["", *columns((("promise", "value", "bound", "verdict"), *rows))]
    return lines


def facts(results: Results) -> str:
    machine = results.machine
    where = " (guest of a hypervisor)" if machine["hypervisor"] else ""
    congestion = f", TCP by {machine['congestion_control']}" if "congestion_control" in machine else ""
    return (
        f"{machine['kernel']}, {machine['cores']} x {machine['processor']}{where}, {machine['memory_mib']} MiB, "
        f"{machine['system']}, Python {machine['python']}{congestion}, commit {results.commit or 'unknown'}"
    )


def goal_rows(results: Results) -> list[Row]:
    """Promise, value, bound, verdict of each goal whose path was measured."""
    if not any(path.name == NATIVE for path in results.measured):
        return []
    rows: list[Row] = []
    for goal in GOALS:
        metric, value = METRICS[goal.metric], goal.value(results)
        against = f" against {goal.base}" if goal.base else f" in {metric.unit}"
        sign = ">=" if metric.more_is_better else "<="
        shown = "-" if value is None else number(value)
        rows.append((f"{metric.title}{against}", shown, f"{sign} {goal.bound:g}", goal.verdict(results)))
    return rows


def number(value: float) -> str:
    """Three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def write(results: Results, directory: Path, note: Callable[[str], None]) -> None:
    """JSON, Markdown and, where matplotlib is installed, plots."""
    store.write(results, directory / JSON)
    plots = _write_plots(results, directory)
    if not plots:
        note("no plots: matplotlib is not installed; pip install 'flanneld-py[bench]'")
    (directory / MARKDOWN).write_text("\n".join(markdown(results, plots)) + "\n")


def markdown(results: Results, plots: Iterable[str]) -> list[str]:
    """The report: what was measured on what, every figure with its spread and ratios."""
    lines = ["# Data paths side by side", "", f"- {facts(results)}", f"- `{results.command}`"]
    quiet, turns = quiet_share(results.rounds)
    lines += [
        f"- {results.started}, {results.seconds:.0f} s, {_count(results)} rounds, "
        f"{results.settings['seconds_each']:g} s a measurement",
        f"- {quiet} of {turns} turns began on a quiet machine",
        "- two nodes with a pod each in network namespaces, joined by veth and a bridge; TCP and UDP from pod to pod",
        "- half round trips: UDP of 64 bytes; idle ones between two pinned cores, as between two machines",
        "- figures are medians (least to most); ratios are medians of the ratios within a round",
        f"- ratios of throughput count only where the generator of load brought {MARGIN} times the faster of the two "
        f"over a bare veth in the same round (for TCP, one with BIG TCP, since a plain veth is the limit); "
        f'else "{TOO_WEAK}"',
        *(f"- {note}" for note in results.notes),
    ]
    lines += ["", "## Paths", "", *grid((("path", "what", "state", "details"), *_path_rows(results)))]
    if rows := goal_rows(results):
        lines += ["", "## Promises", "", *grid((("promise", "value", "bound", "verdict"), *rows))]
    lines += ["", "## Medians", "", *grid(_figure_rows(results))]
    lines += [line for name in plots for line in ("", f"![{name}]({name})")]
    for name in results.metrics:
        lines += ["", f"## {METRICS[name].title}, {METRICS[name].unit}", "", *grid(_detail_rows(results, name))]
    return lines


def _count(results: Results) -> int:
    return max((one.number for one in results.rounds), default=0)


def _path_rows(results: Results) -> list[Row]:
    return [
        (
            path.name,
            path.title,
            path.status,
            "; ".join([*([path.reason] if path.reason else []), *(f"{k}: {v}" for k, v in path.facts.items())]),
        )
        for path in results.paths
    ]


def _figure_rows(results: Results) -> list[Row]:
    """A row for each metric, a column for each path."""
    paths = results.measured
    rows: list[Row] = [("", "", *(path.name for path in paths))]
    for name in results.metrics:
        spreads = [results.spread(path.name, name) for path in paths]
        cells = ["-" if spread is None else number(spread.median) for spread in spreads]
        rows.append((METRICS[name].title, METRICS[name].unit, *cells))
    return rows


def _ratio_rows(results: Results, base: str) -> list[Row]:
    """As `_figure_rows`, in ratios; none if the base was not measured."""
    paths = [path for path in results.measured if path.name != base]
    if len(paths) == len(results.measured):
        return []
    rows: list[Row] = [("", *(path.name for path in paths))]
    for name in results.metrics:
        cells = [_ratio_cell(results, path.name, base, name, _WEAK_CELL) for path in paths]
        if set(cells) != {"-"}:
            rows.append((METRICS[name].title, *cells))
    return rows


def _ratio_cell(results: Results, path: str, base: str, metric: str, weak: str) -> str:
    if not results.ratios(path, base, metric):
        return "-"
    ratio = results.ratio(path, base, metric)
    if ratio is not None:
        return number(ratio)
    least = results.at_least(path, base, metric)
    return weak if least is None or weak == _WEAK_CELL else f"{weak}: at least {number(least)}"


def _detail_rows(results: Results, metric: str) -> list[Row]:
    """One metric: a row for each path."""
    rows: list[Row] = [("path", "median", "least", "most", "rounds", *(f"to {title}" for _, title in BASES))]
    for path in results.measured:
        if (spread := results.spread(path.name, metric)) is None:
            continue
        ratios = [_ratio_cell(results, path.name, base, metric, TOO_WEAK) for base, _ in BASES]
        figures = [number(value) for value in (spread.median, spread.low, spread.high)]
        rows.append((path.name, *figures, str(spread.count), *ratios))
    return rows


def _write_plots(results: Results, directory: Path) -> list[str]:
    """The names of the files; none if matplotlib is not installed."""
    try:
        import_module("matplotlib").use("Agg")
        pyplot = import_module("matplotlib.pyplot")
    except ImportError:
        return []
    for name, title, metrics in PLOTS:
        _plot(pyplot, results, title, [metric for metric in metrics if metric in results.metrics], directory / name)
    return [name for name, _, _ in PLOTS]


def _plot(pyplot: Any, results: Results, title: str, metrics: Sequence[str], path: Path) -> None:
    """Bars of medians, with the spread as error bars: a panel for each metric, on a scale that shows small ones too."""
    names = [one.name for one in results.measured]
    panels = max(1, len(metrics))
    figure, axes = pyplot.subplots(1, panels, figsize=(3.6 * panels + 1, 0.42 * len(names) + 1.6), squeeze=False)
    for axis, metric in zip(axes[0], metrics, strict=False):
        for place, name in enumerate(names):
            if (spread := results.spread(name, metric)) is None:
                continue
            reach = [[spread.median - spread.low], [spread.high - spread.median]]
            colour = "#c44e52" if name.startswith("udp") else "#4c72b0"
            axis.barh(place, spread.median, xerr=reach, color=colour, ecolor="#444444", capsize=2)
            axis.text(spread.high, place, f" {number(spread.median)}", va="center", fontsize=8)
        axis.set_yticks(range(len(names)), names if axis is axes[0][0] else [""] * len(names))
        axis.invert_yaxis()
        axis.margins(x=0.2)
        axis.set_title(f"{METRICS[metric].title} ({METRICS[metric].unit})", fontsize=9)
        better = "longer" if METRICS[metric].more_is_better else "shorter"
        axis.set_xlabel(f"{better} is better", fontsize=8)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
