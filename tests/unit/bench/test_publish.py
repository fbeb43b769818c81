"""What readers see of a run."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench import publish
from bench.results import PathReport, read
from tests.unit.bench.runs import a_run

RUN = a_run(
    {
        "direct": {"tcp1": [20, 30], "tcp4_free": [60, 60], "udp64": [300, 300]},
        "vxlan": {"tcp1": [10, 20], "udp64": [280, 280]},
        "udp": {"tcp1": [8, 14], "udp64": [200, 200]},
    }
)
MISSING = replace(RUN, paths=(*RUN.paths, PathReport("fastd", "fastd", "missing", "its program is not here")))


def test_terminal_shows_medians_ratios_and_why_not() -> None:
    text = "\n".join(publish.text(MISSING))
    assert "TCP, 1 stream" in text
    assert "0.75" in text  # 8 / 10 and 14 / 20
    assert "(weak): load too weak" in text
    assert "fastd: missing: its program is not here" in text
    assert "TCP, 1 stream against vxlan" in text


def test_ratio_table_needs_its_base() -> None:
    assert not any("Go flannel" in line for line in publish.text(RUN) if "ratio to" in line)


def test_markdown_has_every_figure_with_its_spread() -> None:
    lines = publish.markdown(MISSING, [])
    assert "| udp | 11 | 8 | 14 | 2 | 0.75 | - |" in lines
    assert "| udp | 200 | 200 | 200 | 2 | load too weak | - |" in lines
    assert any(line.startswith("| fastd | fastd | missing |") for line in lines)
    assert "- 3 of 6 turns began on a quiet machine" in lines


def test_tables_in_markdown_are_whole() -> None:
    lines = publish.markdown(RUN, [])
    for number, line in enumerate(lines):
        if line.startswith("| ") and not lines[number - 1].startswith("|"):
            columns = line.count("|")
            rest = lines[number : lines.index("", number) if "" in lines[number:] else None]
            assert {row.count("|") for row in rest} == {columns}


@pytest.mark.parametrize(("value", "shown"), [(12345.6, "12,346"), (99.96, "100"), (1.234, "1.23"), (0.0, "0")])
def test_numbers_have_three_digits_that_count(value: float, shown: str) -> None:
    assert publish.number(value) == shown


def test_directory_is_whole(tmp_path: Path) -> None:
    notes: list[str] = []
    publish.write(RUN, tmp_path, notes.append)
    assert read(tmp_path / publish.JSON).as_json() == RUN.as_json()
    names = {path.name for path in tmp_path.iterdir()}
    plots = {name for name, _, _ in publish.PLOTS}
    # matplotlib is an extra: either all plots are there, or a note says why there is none.
    assert names - plots == {publish.JSON, publish.MARKDOWN}
    assert (names & plots == plots) != (len(notes) == 1)
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in names & plots)
