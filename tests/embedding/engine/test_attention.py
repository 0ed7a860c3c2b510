"""Attention over a pack is that over each text alone, on the CPU and by the kernel that a GPU has."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedding.engine import attention
from embedding.engine.packing import Pack, Spans

HEADS, KEY_HEADS, SIZE = 6, 2, 8

lengths = st.lists(st.one_of(st.integers(1, 9), st.integers(120, 300)), min_size=1, max_size=4)


def tensors(queries: int, keys: int) -> Any:
    import torch

    random = torch.Generator().manual_seed(queries)
    shapes = (HEADS, queries, SIZE), (KEY_HEADS, keys, SIZE), (KEY_HEADS, keys, SIZE)
    return [torch.randn(shape, generator=random) for shape in shapes]


def plain(query: Any, key: Any, value: Any, *, scaling: float = 0.3) -> Any:
    """One text, as the textbook has it: (queries, heads, head size)."""
    import torch

    key, value = (each.repeat_interleave(HEADS // KEY_HEADS, dim=0) for each in (key, value))
    scores = query @ key.transpose(1, 2) * scaling
    later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1 + key.shape[1] - query.shape[1])
    return (scores.masked_fill(later, -torch.inf).softmax(dim=-1) @ value).transpose(0, 1)


def varlen_attn(
    query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int, **options: Any
) -> Any:
    """What the kernel promises: (tokens, heads, head size) in and out, the diagonal at the lower right."""
    import torch

    assert (options["window_size"], options["enable_gqa"]) == ((-1, 0), True)
    assert [cu_seq_q.diff().max(), cu_seq_k.diff().max()] == [max_q, max_k]
    assert cu_seq_q.dtype == torch.int32
    found = []
    for text in range(len(cu_seq_q) - 1):
        mine, its = slice(*cu_seq_q[text : text + 2]), slice(*cu_seq_k[text : text + 2])
        parts = (part.transpose(0, 1) for part in (query[mine], key[its], value[its]))
        found.append(plain(*parts, scaling=options["scale"]))
    return torch.cat(found)


@pytest.fixture(params=["_attend_in_blocks", "_attend_on_gpu"])
def attend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    return getattr(attention, request.param)


def expected(query: Any, key: Any, value: Any, ours: Sequence[int], theirs: Sequence[int], start: Any) -> Any:
    import torch

    texts = zip(query.split(ours, dim=1), key.split(theirs, dim=1), value.split(theirs, dim=1), strict=True)
    return torch.cat(
        [
            plain(mine, *(torch.cat([kept, its], dim=1) for kept, its in zip(start, (keys, values), strict=True)))
            for mine, keys, values in texts
        ]
    )


def test_texts_see_themselves_and_what_all_start_with(attend: Any) -> None:
    @given(lengths=lengths, started=st.integers(0, 140), last_only=st.booleans())
    def check(lengths: list[int], started: int, last_only: bool) -> None:
        import torch

        ours = [1] * len(lengths) if last_only else lengths
        query, key, value = tensors(sum(ours), sum(lengths))
        _, *start = tensors(1, started)
        spans = Spans(ours, [started + length for length in lengths], torch.device("cpu"))
        found = attend(query, key, value, spans, scaling=0.3, start=tuple(start) if started else None)
        assert torch.allclose(found, expected(query, key, value, ours, lengths, start), atol=1e-5)

    check()


def test_a_pack_tells_where_texts_are() -> None:
    import torch

    pack = Pack.of([[7, 8, 9], [5]], start=10, device=torch.device("cpu"))
    assert pack.ids.tolist() == [7, 8, 9, 5]
    assert pack.positions.tolist() == [10, 11, 12, 10]
    assert pack.ends.tolist() == [2, 3]
    assert [each.tolist() for each in pack.spans.boundaries] == [[0, 3, 4], [0, 13, 24]]
