"""Attention over a packed batch equals attention over each text alone, on the CPU and with the kernel for GPUs."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedding.engine.attention import attend_in_blocks, attend_with_flash_attention
from embedding.engine.packing import PackedBatch, SequenceLengths

HEADS, KEY_HEADS, SIZE = 6, 2, 8

lengths = st.lists(st.one_of(st.integers(1, 9), st.integers(120, 300)), min_size=1, max_size=4)


def random_qkv(queries: int, keys: int) -> Any:
    """Random query, key and value."""
    import torch

    random = torch.Generator().manual_seed(queries)
    shapes = (HEADS, queries, SIZE), (KEY_HEADS, keys, SIZE), (KEY_HEADS, keys, SIZE)
    return [torch.randn(shape, generator=random) for shape in shapes]


def reference_attention(query: Any, key: Any, value: Any, *, scaling: float = 0.3) -> Any:
    """Causal attention of one text, from its definition: (queries, heads, head size)."""
    import torch

    key, value = (tensor.repeat_interleave(HEADS // KEY_HEADS, dim=0) for tensor in (key, value))
    scores = query @ key.transpose(1, 2) * scaling
    mask = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1 + key.shape[1] - query.shape[1])
    return (scores.masked_fill(mask, -torch.inf).softmax(dim=-1) @ value).transpose(0, 1)


def fake_varlen_attn(
    query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int, **options: Any
) -> Any:
    """Replaces torch's GPU kernel: (tokens, heads, head size) in and out, causal mask aligned at the last query."""
    import torch

    assert (options["window_size"], options["enable_gqa"]) == ((-1, 0), True)
    assert [cu_seq_q.diff().max(), cu_seq_k.diff().max()] == [max_q, max_k]
    assert cu_seq_q.dtype == torch.int32
    outputs = []
    for text in range(len(cu_seq_q) - 1):
        queries, keys = slice(*cu_seq_q[text : text + 2]), slice(*cu_seq_k[text : text + 2])
        qkv = (tensor.transpose(0, 1) for tensor in (query[queries], key[keys], value[keys]))
        outputs.append(reference_attention(*qkv, scaling=options["scale"]))
    return torch.cat(outputs)


@pytest.fixture(params=[attend_in_blocks, attend_with_flash_attention], ids=lambda function: function.__name__)
def attend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", fake_varlen_attn)
    return request.param


def expected_output(
    query: Any, key: Any, value: Any, query_counts: Sequence[int], key_counts: Sequence[int], prefix: Any
) -> Any:
    """The reference attention of each text, with the prefix before its keys and values."""
    import torch

    outputs = []
    for text_query, *key_value in zip(
        query.split(query_counts, dim=1), key.split(key_counts, dim=1), value.split(key_counts, dim=1), strict=True
    ):
        with_prefix = (torch.cat(pair, dim=1) for pair in zip(prefix, key_value, strict=True))
        outputs.append(reference_attention(text_query, *with_prefix))
    return torch.cat(outputs)


def test_tokens_attend_to_the_prefix_and_their_own_text(attend: Any) -> None:
    @given(lengths=lengths, prefix_length=st.integers(0, 140), last_only=st.booleans())
    def check(lengths: list[int], prefix_length: int, last_only: bool) -> None:
        import torch

        query_counts = [1] * len(lengths) if last_only else lengths
        query, key, value = random_qkv(sum(query_counts), sum(lengths))
        _, *prefix = random_qkv(1, prefix_length)
        key_counts = [prefix_length + length for length in lengths]
        sequence_lengths = SequenceLengths(query_counts, key_counts, torch.device("cpu"))
        output = attend(
            query, key, value, sequence_lengths, scaling=0.3, prefix=tuple(prefix) if prefix_length else None
        )
        assert torch.allclose(output, expected_output(query, key, value, query_counts, lengths, prefix), atol=1e-5)

    check()


def test_packed_batch_locates_texts_and_positions() -> None:
    import torch

    batch = PackedBatch.of([[7, 8, 9], [5]], prefix_length=10, device=torch.device("cpu"))
    assert batch.ids.tolist() == [7, 8, 9, 5]
    assert batch.positions.tolist() == [10, 11, 12, 10]
    assert batch.last_indices.tolist() == [2, 3]
    assert [counts.tolist() for counts in batch.lengths.cumulative] == [[0, 3, 4], [0, 13, 24]]
