"""Texts are computed in groups that fit the budget, and none is forgotten."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from embedding.engine.packing import batches, packs


@given(lengths=st.lists(st.integers(1, 600), max_size=60), budget=st.integers(1, 2000))
def test_packs_hold_every_text_once_in_order_within_the_budget(lengths: list[int], budget: int) -> None:
    groups = list(packs(lengths, budget))
    assert [index for group in groups for index in group] == list(range(len(lengths)))
    assert all(group and (len(group) == 1 or sum(lengths[index] for index in group) <= budget) for group in groups)


@given(lengths=st.lists(st.integers(1, 600), max_size=60), budget=st.integers(1, 2000))
def test_batches_hold_every_text_once_within_the_budget(lengths: list[int], budget: int) -> None:
    groups = list(batches(lengths, budget))
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert group
        assert len(group) == 1 or len(group) * max(lengths[index] for index in group) <= budget
    for earlier, later in pairwise(groups):  # no group could have taken the next text too
        assert (len(earlier) + 1) * max(lengths[index] for index in (*earlier, *later)) > budget
