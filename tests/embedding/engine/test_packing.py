"""Batches contain every text once and fit the token budget."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from embedding.engine.packing import packed_batches, padded_batches


@given(lengths=st.lists(st.integers(1, 600), max_size=60), budget=st.integers(1, 2000))
def test_packed_batches_contain_every_text_once_in_order_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(packed_batches(lengths, budget))
    assert [index for batch in batches for index in batch] == list(range(len(lengths)))
    assert all(batch and (len(batch) == 1 or sum(lengths[index] for index in batch) <= budget) for batch in batches)


@given(lengths=st.lists(st.integers(1, 600), max_size=60), budget=st.integers(1, 2000))
def test_padded_batches_contain_every_text_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(padded_batches(lengths, budget))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert batch
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget
    for earlier, later in pairwise(batches):  # the next text would not have fitted into the earlier batch
        assert (len(earlier) + 1) * max(lengths[index] for index in (*earlier, *later)) > budget
