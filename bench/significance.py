"""Whether two sets of samples differ by more than chance: the Mann-Whitney U test, two-sided, with mid-ranks for ties.

Exact, by all ways to deal the ranks, while those are few; else by the normal approximation with the correction for
ties and for continuity. Over several tests the smallest p has to be smaller: Holm's step-down procedure.
"""

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache

MOST_WAYS = 10**7
"""C(24, 12) is 2.7 million; counted by a recurrence, not one by one."""


def mann_whitney(one: Sequence[float], other: Sequence[float]) -> float:
    """The probability to see two samples so far apart, either way, if both come from one distribution."""
    if not one or not other:
        raise ValueError("a sample is empty")
    ranks = doubled_ranks([*one, *other])
    size, total = len(one), len(ranks)
    observed = sum(ranks[:size])
    # Twice the rank sum that is expected, so that all sums are whole numbers.
    centre = size * (total + 1)
    distance = abs(observed - centre)
    if math.comb(total, size) <= MOST_WAYS:
        ways = _ways(tuple(sorted(ranks)), size)
        extreme = sum(number for value, number in ways.items() if abs(value - centre) >= distance)
        return extreme / math.comb(total, size)
    return _normal(ranks, size, distance)


def doubled_ranks(values: Sequence[float]) -> list[int]:
    """Twice the rank of each value, from 2 on; equal values share the mean of their ranks."""
    counts = Counter(values)
    below, ranks = 0, {}
    for value in sorted(counts):
        ranks[value] = 2 * below + counts[value] + 1
        below += counts[value]
    return [ranks[value] for value in values]


@cache
def _ways(ranks: tuple[int, ...], size: int) -> dict[int, int]:
    """How many choices of `size` of the ranks have each sum."""
    table: list[Counter[int]] = [Counter({0: 1}), *(Counter[int]() for _ in range(size))]
    for rank in ranks:
        for chosen in range(size, 0, -1):
            for value, number in table[chosen - 1].items():
                table[chosen][value + rank] += number
    return dict(table[size])


def _normal(ranks: Sequence[int], size: int, distance: int) -> float:
    """`distance`: between twice the rank sum and twice its expectation."""
    total = len(ranks)
    rest = total - size
    ties = sum(number**3 - number for number in Counter(ranks).values())
    variance = size * rest / 12 * (total + 1 - ties / (total * (total - 1)))
    if variance == 0:
        return 1.0
    deviation = max(0.0, distance / 2 - 0.5) / math.sqrt(variance)
    return math.erfc(deviation / math.sqrt(2))


def holm(chances: Sequence[float]) -> list[float]:
    """The p values, each raised by Holm's procedure for there being so many."""
    order = sorted(range(len(chances)), key=chances.__getitem__)
    raised, least = [0.0] * len(chances), 0.0
    for place, index in enumerate(order):
        least = max(least, min(1.0, chances[index] * (len(chances) - place)))
        raised[index] = least
    return raised
