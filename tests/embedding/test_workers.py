"""Workers compute alone, in turns, and take nothing from the threads around them."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count

import pytest

from embedding.workers import Workers


def test_workers_compute_on_one_processor_each_and_others_as_before() -> None:
    import torch

    before = torch.get_num_threads()
    workers = Workers(3)
    try:
        assert [*workers.map(lambda _: torch.get_num_threads(), range(9))] == [1] * 9
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)


def test_results_come_in_order_and_no_more_is_begun_than_is_asked_for() -> None:
    import torch

    before = torch.get_num_threads()
    workers = Workers(2)
    torch.set_num_threads(before)
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        return -number

    with closing(workers.map(work, count())) as results:
        assert [next(results) for _ in range(50)] == [-number for number in range(50)]
    assert len(begun) <= 53


def test_a_failure_reaches_the_caller() -> None:
    import torch

    before = torch.get_num_threads()
    workers = Workers(2)
    torch.set_num_threads(before)
    with pytest.raises(ZeroDivisionError):
        list(workers.map(lambda number: 1 // number, [1, 1, 0, 1, 1]))
