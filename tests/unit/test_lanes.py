"""Lanes: what lies on one lane is apart, or nests."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npuscope.profile.lanes import assign_lanes, nest_lanes

SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 15), st.integers(0, 2)), min_size=1, max_size=60)


def columns(spans, *, longest_first):
    spans = sorted(spans, key=lambda span: (span[0], -span[1] if longest_first else 0))
    start, duration, group = (np.array(values, np.int64) for values in zip(*spans, strict=True))
    return start, start + duration, group


@settings(deadline=None, max_examples=150)
@given(SPANS)
def test_intervals_of_a_lane_are_apart_and_no_lane_is_wasted(spans):
    start, end, group = columns(spans, longest_first=False)
    lanes = assign_lanes(start, end, group)
    for key in set(zip(group.tolist(), lanes.tolist(), strict=True)):
        own = (group == key[0]) & (lanes == key[1])
        assert (start[own][1:] >= end[own][:-1]).all()
    for key in set(group.tolist()):
        own = group == key
        instants = np.unique(start[own])
        open_at_once = max(
            max(int(((start[own] <= at) & ((end[own] > at) | (start[own] == at))).sum()) for at in instants), 1
        )
        assert lanes[own].max() + 1 <= open_at_once


@settings(deadline=None, max_examples=150)
@given(SPANS)
def test_intervals_of_a_nesting_lane_nest_and_know_their_parent(spans):
    start, end, group = columns(spans, longest_first=True)
    lanes, depths, parents = nest_lanes(start, end, group)
    for index, parent in enumerate(parents.tolist()):
        if parent < 0:
            assert depths[index] == 0
            continue
        assert (group[parent], lanes[parent]) == (group[index], lanes[index])
        assert depths[index] == depths[parent] + 1
        assert start[parent] <= start[index] <= end[index] <= end[parent]
    for key in set(zip(group.tolist(), lanes.tolist(), depths.tolist(), strict=True)):
        own = (group == key[0]) & (lanes == key[1]) & (depths == key[2])
        assert (start[own][1:] >= end[own][:-1]).all()


def test_very_many_crossing_intervals_take_no_quadratic_time():
    count = 20_000
    start = np.arange(count, dtype=np.int64)
    lanes, _, _ = nest_lanes(start, start + 10_000, np.zeros(count, np.int64))
    assert lanes.max() == 9_999
    assert assign_lanes(start, start + 10_000, np.zeros(count, np.int64)).max() == 9_999


@pytest.mark.parametrize("function", [assign_lanes, nest_lanes])
def test_nothing_needs_no_lane(function):
    empty = np.zeros(0, np.int64)
    found = function(empty, empty, empty)
    assert (found if function is assign_lanes else found[0]).size == 0
