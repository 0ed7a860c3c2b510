"""Batches contain every text once and fit the token budget."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from embedding.engine.packing import packed_batches, padded_batches


@given(
    lengths=st.lists(st.integers(1, 600), max_size=60), budget=st.integers(1, 2000), workers=st.sampled_from([1, 2, 3])
)
def test_packed_batches_contain_every_text_once_within_the_budget(
    lengths: list[int], budget: int, workers: int
) -> None:
    batches = packed_batches(lengths, budget, workers)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(batch and (len(batch) == 1 or sum(lengths[index] for index in batch) <= budget) for batch in batches)


@given(lengths=st.lists(st.integers(1, 60), min_size=40, max_size=60), workers=st.sampled_from([1, 2, 3]))
def test_packed_batches_give_all_workers_the_same_amount_of_work(lengths: list[int], workers: int) -> None:
    """Otherwise all but one are idle at the end."""
    batches = packed_batches(lengths, 300, workers)
    tokens = [sum(lengths[index] for index in batch) for batch in batches]
    assert len(batches) % workers == 0
    assert max(tokens) - min(tokens) <= max(lengths)


@given(lengths=st.lists(st.integers(1, 600), max_size=60), budget=st.integers(1, 2000))
def test_padded_batches_contain_every_text_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(padded_batches(lengths, budget))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert batch
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget
    for earlier, later in pairwise(batches):  # the next text would not have fitted into the earlier batch
        assert (len(earlier) + 1) * max(lengths[index] for index in (*earlier, *later)) > budget
