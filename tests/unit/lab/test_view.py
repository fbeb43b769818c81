import re

from flanneld_py.lab.stream import StreamReport
from flanneld_py.lab.traffic import PingResult, ProbeReport
from flanneld_py.lab.view import COLOURS, complete, matrix_lines, matrix_summary, stream_line, table_lines

GOOD = PingResult(3, (0.0002, 0.0001, 0.0003))


def matrix(names: list[str], **silent: str) -> dict[tuple[str, str], PingResult]:
    pairs = {(a, b): GOOD for a in names for b in names if a != b}
    return pairs | {(a, b): PingResult(3, ()) for a, b in silent.items()}


def test_matrix_is_aligned_and_shows_the_best_time() -> None:
    lines = matrix_lines(["p1", "p2"], matrix(["p1", "p2"]), 80)
    assert lines == ["      p1    p2", "p1     - 0.100", "p2 0.100     -"]


def test_matrix_columns_line_up_for_names_of_any_length() -> None:
    names = [f"pod{n}-1" for n in range(1, 41)]
    for width in (60, 80, 200):
        lines = matrix_lines(names, matrix(names), width)
        assert max(map(len, lines)) <= width
        blocks = "\n".join(lines).split("\n\n")
        assert all(len(set(map(len, block.splitlines()))) == 1 for block in blocks)
        assert sum(block.splitlines()[0].split() != [] for block in blocks) == len(blocks)
        heads = [name for block in blocks for name in block.splitlines()[0].split()]
        assert heads == names


def test_matrix_in_a_place_narrower_than_one_column_still_shows_all() -> None:
    assert len(matrix_lines(["a-long-name", "b"], matrix(["a-long-name", "b"]), 5)) == 7


def test_matrix_of_nothing_is_nothing() -> None:
    assert matrix_lines([], {}, 80) == []


def test_silence_and_loss_are_told_apart() -> None:
    pairs = {("a", "b"): PingResult(3, ()), ("b", "a"): PingResult(3, (0.1,))}
    text = "\n".join(matrix_lines(["a", "b"], pairs, 80))
    assert "lost" in text
    assert "100.0!2" in text
    assert not complete(pairs)
    assert matrix_summary(pairs) == "1 of 2 pairs answer; no answer: a > b; lost some: b > a"


def test_summary_when_all_is_well() -> None:
    assert matrix_summary(matrix(["a", "b"])) == "all 2 pairs answer, nothing lost"
    assert complete(matrix(["a", "b"]))


def test_summary_names_a_few_and_counts_the_rest() -> None:
    pairs = {("a", str(n)): PingResult(1, ()) for n in range(9)}
    assert matrix_summary(pairs).endswith("a > 3 and 5 more")


def test_colours_do_not_move_columns() -> None:
    pairs = matrix(["a", "b"], a="b")
    painted = matrix_lines(["a", "b"], pairs, 80, COLOURS)
    assert [re.sub(r"\x1b\[\d*m", "", line) for line in painted] == matrix_lines(["a", "b"], pairs, 80)
    assert COLOURS.bad in "".join(painted)


def test_stream_line_scales() -> None:
    assert stream_line(StreamReport("tcp", 250_000_000, 1.0)) == "TCP 2.00 Gbit/s for 1.0 s"
    assert stream_line(StreamReport("udp", 125_000, 1.0, sent=10, lost=1, reordered=2)) == (
        "UDP 1.00 Mbit/s for 1.0 s, 1 of 10 datagrams lost, 2 reordered"
    )
    assert stream_line(StreamReport("tcp", 0, 0.0)).startswith("TCP 0.00")


def test_table_is_as_wide_as_its_cells() -> None:
    assert table_lines([["a", "b"], ["long", "x"]]) == ["a     b", "long  x"]


def test_probe_report_counts() -> None:
    report = ProbeReport(sent=6, arrived=(0, 2, 1, 1, 4), unsent=(5,), rtts_s={}, longest_gap_s=0.0)
    assert (report.lost, report.duplicates, report.reordered) == ((3, 5), 1, 2)
