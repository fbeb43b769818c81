"""The README's section, as a run writes it."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench import publish, readme, results
from bench.readme import BEGIN, END, block, draw, replaced
from flanneld_py.errors import FlannelError, UsageError
from tests.unit.bench.runs import a_run

RUN = a_run(
    {
        "direct": {"tcp1": [20, 30], "tcp4_free": [60, 60], "udp64": [300, 300]},
        "vxlan": {"tcp1": [10, 20], "udp64": [280, 280], "rtt_p50": [10, 12]},
        "udp": {"tcp1": [8, 14], "udp64": [200, 200], "rtt_p50": [20, 18]},
        "go-udp": {"tcp1": [0.5, 0.7], "udp64": [40, 40], "rtt_p50": [40, 36]},
    }
)


def test_ratios_are_those_of_the_report() -> None:
    lines = block(RUN)
    assert "| TCP, one stream | 18 x | 0.75 x |" in lines
    assert "| UDP, 64-byte datagrams delivered | 5 x | load too weak |" in lines
    assert "| half round trip on an idle machine, median | 0.5 x | 1.75 x |" in lines
    assert not any(line.startswith("| TCP, four streams") for line in lines)
    assert lines[-1].endswith("(bench/how-fast.png)")


def test_the_measurers_folders_are_not_told() -> None:
    lines = block(replace(RUN, command="python -m bench paths --quick --out /tmp/mine --rounds 5"))
    assert "`python -m bench paths --quick --rounds 5`" in lines[0]


def test_a_run_without_one_of_the_three_is_refused() -> None:
    with pytest.raises(UsageError, match="did not measure go-udp"):
        block(a_run({"vxlan": {"tcp1": [1]}, "udp": {"tcp1": [1]}}))


def test_the_rest_of_the_readme_stays_and_a_second_time_changes_nothing() -> None:
    text = f"# Title\n\n{BEGIN}\n\nold\n\n{END}\n\n## Next\n"
    once = replaced(text, ["new"])
    assert once == f"# Title\n\n{BEGIN}\n\nnew\n\n{END}\n\n## Next\n"
    assert replaced(once, ["new"]) == once


@pytest.mark.parametrize("text", ["# Title\n", f"{BEGIN}\n", f"{END}\n{BEGIN}\n"])
def test_a_readme_without_a_place_is_left_alone(text: str) -> None:
    with pytest.raises(FlannelError, match="no place"):
        replaced(text, ["new"])


def test_the_readme_has_a_place() -> None:
    assert "new" in replaced((readme.ROOT / "README.md").read_text(), ["new"])


def test_it_is_written_with_its_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="the plot of the README stays undrawn: matplotlib is an extra")
    (tmp_path / "bench").mkdir()
    (tmp_path / "README.md").write_text(f"{BEGIN}\n{END}\n")
    results.write(RUN, tmp_path / publish.JSON)
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    assert readme.run([str(tmp_path), "--write"]) == 0
    assert "| TCP, one stream | 18 x | 0.75 x |" in (tmp_path / "README.md").read_text()
    plot = (tmp_path / readme.PLOT).read_bytes()
    assert plot.startswith(b"\x89PNG") and len(plot) < 100_000


def test_what_was_not_measured_leaves_a_gap_in_the_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plot of the README stays undrawn: matplotlib is an extra")
    draw(a_run({"udp": {"tcp1": [1]}, "vxlan": {"udp64": [3]}}), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").exists()
