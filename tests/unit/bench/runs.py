"""Runs of `bench paths` made by hand."""

from collections.abc import Mapping, Sequence

from bench.results import PathReport, Results, Round

MACHINE = {
    "processor": "a processor",
    "cores": 2,
    "hypervisor": False,
    "memory_mib": 4096,
    "kernel": "Linux 6.1.0",
    "system": "Debian",
    "python": "3.11.2",
    "congestion_control": "cubic",
}


def a_run(figures: Mapping[str, Mapping[str, Sequence[float]]]) -> Results:
    """By path and metric, a figure for each round."""
    count = max(len(samples) for metrics in figures.values() for samples in metrics.values())
    rounds = tuple(
        Round(
            number + 1,
            path,
            quiet=number > 0,
            busy_share=0.05,
            values={metric: samples[number] for metric, samples in metrics.items() if number < len(samples)},
        )
        for number in range(count)
        for path, metrics in figures.items()
    )
    return Results(
        command="python -m bench paths",
        started="2026-01-02T03:04:05+00:00",
        seconds=12.5,
        commit="0123456789ab",
        machine=MACHINE,
        settings={"rounds": count, "seconds_each": 0.5, "patience_s": 2.0},
        paths=tuple(PathReport(path, path.title(), "measured", facts={"mtu": 1450}) for path in figures),
        rounds=rounds,
    )
