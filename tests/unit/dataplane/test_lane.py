"""Which processor a lane has."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanneld_py.dataplane.lane import MOST_LANES, choose_processors, count_lanes


@pytest.mark.parametrize(
    ("lanes", "allowed", "processors"),
    [
        (1, {0}, [0]),
        (1, {5, 6}, [5]),
        (2, {0, 1}, [0, 1]),
        (4, set(range(64)), [0, 1, 2, 3]),
        (2, {6, 7}, [6, 7]),
        (4, {8, 9, 10, 15}, [8, 9, 10, 15]),
        (2, {2, 4}, [2, 4]),
        (4, {3}, [3, 3, 3, 3]),
        (4, {1, 3, 5, 7}, [5, 1, 7, 3]),
    ],
)
def test_a_lane_is_where_its_datagrams_arrive_if_it_may_be(
    lanes: int, allowed: set[int], processors: list[int]
) -> None:
    assert choose_processors(lanes, allowed) == processors


@given(st.sets(st.integers(0, 300), min_size=1), st.integers(1, MOST_LANES))
def test_lanes_share_a_processor_only_if_there_are_too_few(allowed: set[int], lanes: int) -> None:
    chosen = choose_processors(lanes, allowed)
    assert set(chosen) <= allowed
    assert len(set(chosen)) == min(lanes, len(allowed))


def test_the_portable_pump_has_one() -> None:
    assert count_lanes("portable") == 1


def test_there_are_no_more_lanes_than_processors() -> None:
    allowed = os.sched_getaffinity(0)
    assert count_lanes("native") == min(len(allowed), MOST_LANES)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert count_lanes("native") == 1
    finally:
        os.sched_setaffinity(0, allowed)
