"""Single-threaded workers use one core each, and results and errors reach the caller in order."""

from contextlib import closing
from itertools import count

import pytest

from embedding.engine.compute_threads import Workers


def test_single_threaded_workers_do_not_change_other_threads() -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        workers = Workers.single_threaded(2)
        assert [*workers.map(lambda _: torch.get_num_threads(), range(9))] == [1] * 9
        assert torch.get_num_threads() == 3
        assert Workers(1, "other").run(torch.get_num_threads) == 3
    finally:
        torch.set_num_threads(before)


def test_map_yields_results_in_order_and_submits_few_items_ahead() -> None:
    started = []

    def negate(number: int) -> int:
        started.append(number)
        return -number

    with closing(Workers(2, "test").map(negate, count())) as results:
        assert [next(results) for _ in range(50)] == [-number for number in range(50)]
    assert len(started) <= 53


def test_run_and_map_raise_the_error_of_the_function() -> None:
    workers = Workers(2, "test")
    with pytest.raises(ZeroDivisionError):
        list(workers.map(lambda number: 1 // number, [1, 1, 0, 1, 1]))
    with pytest.raises(ZeroDivisionError):
        workers.run(lambda: 1 // 0)
