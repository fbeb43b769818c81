"""What two runs say of a change."""

from pathlib import Path

import pytest

from bench import compare, results
from bench.compare import changes
from flanneld_py.errors import UsageError
from tests.unit.bench.runs import a_run

STEADY = [10.0, 10.1, 10.2, 10.3, 10.4, 10.5, 10.6]
OLD = a_run({"vxlan": {"tcp1": [20.0] * 7, "rtt_p50": [5.0] * 7}, "udp": {"tcp1": STEADY, "rtt_p50": STEADY}})


def with_udp(**metrics: list[float]) -> results.Results:
    return a_run({"vxlan": {"tcp1": [20.0] * 7, "rtt_p50": [5.0] * 7}, "udp": metrics})


def test_same_is_as_before() -> None:
    assert not any(change.certain for change in changes(OLD, OLD, "vxlan"))


def test_more_throughput_is_better_and_more_latency_worse() -> None:
    new = with_udp(tcp1=[value + 2 for value in STEADY], rtt_p50=[value + 2 for value in STEADY])
    found = {change.metric: change for change in changes(OLD, new, "vxlan")}
    assert found["tcp1"].verdict == "better"
    assert found["rtt_p50"].verdict == "WORSE"
    assert found["tcp1"].old == pytest.approx(10.3 / 20)


def test_whole_machine_slower_is_no_change() -> None:
    """All figures are half of what they were, those of kernel vxlan, too."""
    new = a_run({"vxlan": {"tcp1": [10.0] * 7}, "udp": {"tcp1": [value / 2 for value in STEADY]}})
    assert [change.verdict for change in changes(OLD, new, "vxlan")] == ["as before, as far as can be told"]
    assert {change.verdict for change in changes(OLD, new, None)} == {"WORSE"}


def test_few_rounds_cannot_be_certain() -> None:
    old = a_run({"vxlan": {"tcp1": [20.0] * 3}, "udp": {"tcp1": [10, 11, 12]}})
    new = a_run({"vxlan": {"tcp1": [20.0] * 3}, "udp": {"tcp1": [1, 2, 3]}})
    found = changes(old, new, "vxlan")
    assert not any(change.certain for change in found)
    assert "measure more rounds" in compare.render(old, new, found, absolute=False)[-1]


def test_command_fails_on_worse_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worse = with_udp(tcp1=[value - 2 for value in STEADY])
    for name, run in (("old", OLD), ("new", worse)):
        (tmp_path / name).mkdir()
        results.write(run, tmp_path / name / "paths.json")
    assert compare.run([str(tmp_path / "old"), str(tmp_path / "new" / "paths.json")]) == 1
    assert "WORSE" in capsys.readouterr().out
    assert compare.run([str(tmp_path / "new"), str(tmp_path / "old")]) == 0
    assert "better" in capsys.readouterr().out


def test_nothing_in_common(tmp_path: Path) -> None:
    results.write(OLD, tmp_path / "old.json")
    results.write(a_run({"direct": {"tcp1": [1.0]}}), tmp_path / "new.json")
    with pytest.raises(UsageError, match="no figure in common"):
        compare.run([str(tmp_path / "old.json"), str(tmp_path / "new.json")])
