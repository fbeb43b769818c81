"""What the userspace data path promises, as ratios within one run, and whether a run keeps it."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.datapaths import FASTD, GO_UDP, NATIVE, VXLAN, WIREGUARD
from bench.measure import METRICS
from bench.results import Results


@dataclass(frozen=True, slots=True)
class Goal:
    """`path` to `base` in `metric` is at least `bound`, or at most, as the metric is better. No base: the figure."""

    metric: str
    base: str | None
    bound: float
    stretch: float | None = None
    path: str = NATIVE

    def value(self, results: Results) -> float | None:
        if self.base is not None:
            return results.ratio(self.path, self.base, self.metric)
        spread = results.spread(self.path, self.metric)
        return None if spread is None else spread.median

    def keeps(self, value: float, bound: float) -> bool:
        return value >= bound if METRICS[self.metric].more_is_better else value <= bound

    def verdict(self, results: Results) -> str:
        value = self.value(results)
        if value is None:
            return self._verdict_without(results)
        if self.stretch is not None and self.keeps(value, self.stretch):
            return "kept, and more than promised"
        return "kept" if self.keeps(value, self.bound) else "MISSED"

    def _verdict_without(self, results: Results) -> str:
        """Where there is no ratio to judge. One that is at least so much may be enough."""
        if self.base is None or not results.ratios(self.path, self.base, self.metric):
            return "not measured"
        least = results.at_least(self.path, self.base, self.metric)
        if least is not None and METRICS[self.metric].more_is_better and least >= self.bound:
            return f"kept: at least {least:.2f}, load too weak for more"
        return "load too weak"


GOALS: Sequence[Goal] = (
    Goal("tcp1", GO_UDP, 10, 20),
    Goal("tcp1", VXLAN, 0.65, 0.85),
    Goal("tcp4", VXLAN, 0.50, 0.75),
    Goal("udp64", VXLAN, 1.2, 1.5),
    Goal("rtt_p50", VXLAN, 1.8, 1.5),
    Goal("loaded_p99", GO_UDP, 0.6, 0.3),
    Goal("cpu_system", VXLAN, 1.8, 1.4),
    Goal("tcp1", WIREGUARD, 2.5),
    Goal("tcp1", FASTD, 15),
    Goal("rss", None, 40, 25),
)
