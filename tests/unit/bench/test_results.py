"""Medians, ratios within a round, the generator's margin, JSON."""

import copy
import json
from pathlib import Path

import pytest

from bench import results
from bench.goals import Goal
from bench.results import Results, Spread
from flanneld_py.errors import FlannelError, UsageError
from tests.unit.bench.runs import a_run

RUN = a_run(
    {
        "direct": {"tcp1": [10, 20, 30], "tcp4_free": [40, 80, 120], "udp64": [300, 300, 300]},
        "vxlan": {"tcp1": [10, 20, 30], "udp64": [100, 210, 300], "rtt_p50": [10, 20, 40]},
        "udp": {"tcp1": [8, 14, 27], "udp64": [150, 180, 290], "rtt_p50": [20, 30, 40]},
    }
)


def test_spread_is_of_all_rounds() -> None:
    assert RUN.spread("udp", "tcp1") == Spread(14, 8, 27, 3)
    assert RUN.spread("udp", "connect") is None


def test_ratio_is_the_median_of_those_within_a_round() -> None:
    assert RUN.ratios("udp", "vxlan", "tcp1") == pytest.approx([0.8, 0.7, 0.9])
    # Not 14 / 20, the ratio of the medians.
    assert RUN.ratio("udp", "vxlan", "tcp1") == pytest.approx(0.8)


def test_ratio_needs_both_paths_in_a_round() -> None:
    run = a_run({"vxlan": {"rtt_p50": [10]}, "udp": {"rtt_p50": [20, 90, 90]}})
    assert run.ratios("udp", "vxlan", "rtt_p50") == [2]


def test_ratio_to_nothing_is_none() -> None:
    run = a_run({"vxlan": {"loss10k": [0, 0]}, "udp": {"loss10k": [1, 2]}})
    assert run.ratio("udp", "vxlan", "loss10k") is None


def test_weak_load_refuses_the_ratio() -> None:
    # 300 / 150 = 2, 300 / 210 = 1.43, 300 / 300 = 1: the median round is below 1.5.
    assert RUN.too_weak("udp", "vxlan", "udp64")
    assert RUN.ratio("udp", "vxlan", "udp64") is None
    assert not RUN.too_weak("udp", "vxlan", "tcp1")


def test_weak_load_is_of_the_faster_path() -> None:
    run = a_run({"direct": {"udp64": [300]}, "vxlan": {"udp64": [250]}, "udp": {"udp64": [10]}, "x": {"udp64": [20]}})
    assert run.too_weak("udp", "vxlan", "udp64")
    assert run.too_weak("vxlan", "udp", "udp64")
    assert run.ratio("x", "udp", "udp64") == 2


def test_weak_load_for_the_faster_path_alone_still_bounds_the_ratio() -> None:
    run = a_run({"direct": {"udp64": [300, 330]}, "vxlan": {"udp64": [100, 110]}, "udp": {"udp64": [250, 260]}})
    assert run.ratio("udp", "vxlan", "udp64") is None
    assert run.at_least("udp", "vxlan", "udp64") == pytest.approx((250 / 100 + 260 / 110) / 2)
    # The slower one's ratio to a path that the load limited is at most so much, not at least.
    assert run.at_least("vxlan", "udp", "udp64") is None
    assert Goal("udp64", "vxlan", 1.2, 1.5).verdict(run) == "kept: at least 2.43, load too weak for more"
    assert Goal("udp64", "vxlan", 2.5).verdict(run) == "load too weak"


def test_weak_load_for_both_bounds_nothing() -> None:
    run = a_run({"direct": {"udp64": [300]}, "vxlan": {"udp64": [250]}, "udp": {"udp64": [290]}})
    assert run.at_least("udp", "vxlan", "udp64") is None
    assert RUN.at_least("udp", "vxlan", "tcp1") is None


def test_without_a_bare_veth_nobody_knows_what_the_load_brings() -> None:
    run = a_run({"vxlan": {"tcp1": [10]}, "udp": {"tcp1": [5]}})
    assert run.ratio("udp", "vxlan", "tcp1") is None


def test_latency_needs_no_strong_generator() -> None:
    assert RUN.ratio("udp", "vxlan", "rtt_p50") == pytest.approx(1.5)


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "paths.json"
    results.write(RUN, path)
    again = results.read(path)
    assert again.as_json() == RUN.as_json()
    assert again.ratio("udp", "vxlan", "tcp1") == RUN.ratio("udp", "vxlan", "tcp1")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda raw: raw.update(format=2), "format is not 1"),
        (lambda raw: raw.pop("rounds"), "lacks 'rounds'"),
        (lambda raw: raw["rounds"][0]["values"].update(tcp1="fast"), "values.tcp1 is not of type number"),
        (lambda raw: raw["rounds"][0].update(number=True), "number is not of type integer"),
        (lambda raw: raw["paths"][0].update(status="perhaps"), "status is none of"),
        (lambda raw: raw.update(surprise=1), "has 'surprise'"),
        (lambda raw: raw["machine"].update(cores=0), "cores is less than 1"),
        (lambda raw: raw.update(paths=[]), "fewer than 1"),
    ],
)
def test_what_breaks_the_schema_is_refused(change: object, complaint: str) -> None:
    raw = copy.deepcopy(RUN.as_json())
    assert callable(change)
    change(raw)
    with pytest.raises(UsageError, match=complaint):
        results.parse(raw, "a file")


def test_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FlannelError, match="cannot read"):
        results.read(tmp_path / "absent.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UsageError, match="is not JSON"):
        results.read(tmp_path / "broken.json")
    (tmp_path / "other.json").write_text(json.dumps([1]))
    with pytest.raises(UsageError, match="is not of type object"):
        results.read(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("goal", "verdict"),
    [
        (Goal("tcp1", "vxlan", 0.65, 0.85), "kept"),
        (Goal("tcp1", "vxlan", 0.65, 0.75), "kept, and more than promised"),
        (Goal("tcp1", "vxlan", 0.85), "MISSED"),
        (Goal("rtt_p50", "vxlan", 1.8, 1.6), "kept, and more than promised"),
        (Goal("rtt_p50", "vxlan", 1.4), "MISSED"),
        (Goal("udp64", "vxlan", 1.0), "load too weak"),
        (Goal("tcp1", "fastd", 15), "not measured"),
        (Goal("rss", None, 40), "not measured"),
    ],
)
def test_verdict_on_a_goal(goal: Goal, verdict: str) -> None:
    assert goal.verdict(RUN) == verdict


def test_paths_without_a_figure_are_not_measured() -> None:
    run: Results = a_run({"vxlan": {"tcp1": [1]}, "udp": {"tcp1": []}})
    assert [path.name for path in run.measured] == ["vxlan"]
