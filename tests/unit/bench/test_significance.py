"""The rank test against enumeration and against values from tables; Holm's procedure."""

from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import significance
from bench.significance import doubled_ranks, holm, mann_whitney

SAMPLES = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=6)


def enumerated(one: list[float], other: list[float]) -> float:
    """By the definition: of all ways to deal the values, how many have a rank sum as far from the middle."""
    ranks, size = doubled_ranks([*one, *other]), len(one)
    centre = size * (len(ranks) + 1)
    distance = abs(sum(ranks[:size]) - centre)
    hits = sum(abs(sum(chosen) - centre) >= distance for chosen in combinations(ranks, size))
    return hits / comb(len(ranks), size)


@given(SAMPLES, SAMPLES)
def test_is_what_enumeration_gives(one: list[float], other: list[float]) -> None:
    assert mann_whitney(one, other) == pytest.approx(enumerated(one, other))


@given(SAMPLES, SAMPLES)
def test_does_not_depend_on_which_sample_is_first(one: list[float], other: list[float]) -> None:
    assert mann_whitney(one, other) == pytest.approx(mann_whitney(other, one))


@pytest.mark.parametrize(("size", "chance"), [(3, 2 / 20), (5, 2 / 252), (7, 2 / 3432)])
def test_samples_that_do_not_overlap(size: int, chance: float) -> None:
    assert mann_whitney(range(size), range(size, 2 * size)) == pytest.approx(chance)


def test_critical_value_of_tables() -> None:
    # For 7 and 7 samples, two-sided at 5 %: U of 8 is significant, U of 9 is not.
    def with_u(u: int) -> tuple[list[float], list[float]]:
        one, other = list(range(7)), [value + 7.0 for value in range(7)]
        full, rest = divmod(u, 7)
        moved = [*(100.0 + n for n in range(full)), *([7.0 + rest - 0.5] if rest else [])]
        return [*map(float, one[: 7 - len(moved)]), *moved], other

    assert mann_whitney(*with_u(8)) < 0.05 < mann_whitney(*with_u(9))


def test_equal_samples_are_no_surprise() -> None:
    assert mann_whitney([1, 1, 1], [1, 1, 1]) == 1


def test_approximation_is_near_the_exact_value(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = [1, 2, 3, 5, 8, 9, 12, 13, 14, 20], [4, 6, 7, 10, 11, 15, 16, 17, 18, 19]
    exact = mann_whitney(one, other)
    monkeypatch.setattr(significance, "MOST_WAYS", 0)
    assert mann_whitney(one, other) == pytest.approx(exact, abs=0.01)
    assert mann_whitney([2] * 30, [2] * 30) == 1


def test_empty_sample() -> None:
    with pytest.raises(ValueError, match="empty"):
        mann_whitney([], [1])


def test_ranks_of_equal_values_are_shared() -> None:
    assert doubled_ranks([5, 1, 5, 9]) == [5, 2, 5, 8]


def test_holm_raises_in_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
