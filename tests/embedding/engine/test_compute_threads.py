"""Workers compute alone, in turns, and take nothing from the threads around them."""

from contextlib import closing
from itertools import count

import pytest

from embedding.engine.compute_threads import Workers


def test_workers_compute_on_one_processor_each_and_others_as_before() -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        workers = Workers.alone(2)
        assert [*workers.map(lambda _: torch.get_num_threads(), range(9))] == [1] * 9
        assert torch.get_num_threads() == 3
        assert Workers(1, "another").run(torch.get_num_threads) == 3
    finally:
        torch.set_num_threads(before)


def test_results_come_in_order_and_no_more_is_begun_than_is_asked_for() -> None:
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        return -number

    with closing(Workers(2, "test").map(work, count())) as results:
        assert [next(results) for _ in range(50)] == [-number for number in range(50)]
    assert len(begun) <= 53


def test_a_failure_reaches_the_caller() -> None:
    workers = Workers(2, "test")
    with pytest.raises(ZeroDivisionError):
        list(workers.map(lambda number: 1 // number, [1, 1, 0, 1, 1]))
    with pytest.raises(ZeroDivisionError):
        workers.run(lambda: 1 // 0)
