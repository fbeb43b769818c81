"""What `bench cni` makes of its figures."""

from bench.cni import BARE, GO, PLAIN, RESIDENT, Figures, render


def figures(add: list[float]) -> Figures:
    return Figures(add, [2 * one for one in add], [100.0], [50.0], [9216.0])


def test_promises_compare_within_a_round() -> None:
    """The machine was ten times slower in the second round, for all ways: that changes no ratio."""
    lines = render({BARE: figures([10, 100, 10]), PLAIN: figures([20, 110, 20]), RESIDENT: figures([6, 60, 8])}, 20)
    text = "\n".join(lines)
    assert "our ADD beyond bare bridge, ms     10   <= 12     kept" in text
    assert "resident ADD to bare bridge's     0.6  <= 0.7     kept" in text
    assert f"{GO}: not measured" in text


def test_a_missed_promise_is_said() -> None:
    lines = render({BARE: figures([10]), PLAIN: figures([30]), RESIDENT: figures([8])}, 20)
    assert [line.split()[-1] for line in lines[-5:]] == ["MISSED", "MISSED", "kept", "kept", "MISSED"]
