"""The process in which a system is measured: it carries out orders from its standard input.

An order is a JSON object on a line, and so is what comes back:

    {"do": "answer", "method": "vector", "filtered": false}                          ids for every question
    {"do": "measure", …, "clients": 8, "seconds": 1.5}         how long each of the calls of 8 threads took

Only numpy is needed here, since rivals have an environment of their own.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

RESULTS = 10
"""What every call asks for."""
STRIDE = 7
"""How far apart in the questions the clients begin."""


class Question(NamedTuple):
    """What a call asks."""

    text: str
    vector: NDArray[np.float32]
    section: str
    """To filter by."""


class Call(NamedTuple):
    """What a call asks for."""

    question: Question
    method: str
    filtered: bool


Ask = Callable[[Call], Sequence[str]]
"""The ids of the chunks that were found, best first."""


def read_questions(file: Path) -> list[Question]:
    """The questions that `MadeUpCourse.save_questions` wrote."""
    with np.load(file) as saved:
        texts, vectors, sections = (saved[name] for name in ("texts", "vectors", "sections"))
    return [Question(*question) for question in zip(texts.tolist(), vectors, sections.tolist(), strict=True)]


def work(ask: Ask, questions: Sequence[Question], others: Mapping[str, Callable[[], Any]] | None = None) -> None:
    """Carry out orders until there are none.

    Args:
        ask: Asks the system.
        questions: What to ask.
        others: Further orders by name.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries may print what they like
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        calls = [Call(question, order.get("method", ""), order.get("filtered", False)) for question in questions]
        match order["do"]:
            case "answer":
                answer: Any = [list(ask(call)) for call in calls]
            case "measure":
                answer = measure(ask, calls, order["clients"], order["seconds"])
            case other:
                answer = (others or {})[other]()
        print(json.dumps(answer), file=answers, flush=True)


def measure(ask: Ask, calls: Sequence[Call], clients: int, seconds: float) -> dict[str, Any]:
    """Ask from so many threads for so long; tells how long it took and how long each call did, in seconds."""
    durations: list[float] = []
    errors: list[BaseException] = []
    started = threading.Barrier(clients + 1)

    def client(number: int) -> None:
        mine: list[float] = []
        try:
            started.wait()
            deadline = time.perf_counter() + seconds
            for call in _from(calls, number * STRIDE):
                began = time.perf_counter()
                ask(call)
                ended = time.perf_counter()
                mine.append(round(ended - began, 7))
                if ended > deadline:
                    break
        except BaseException as error:  # noqa: BLE001 - raised below, in the main thread
            errors.append(error)
        durations.extend(mine)

    threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    started.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return {"seconds": time.perf_counter() - began, "durations": durations}


def _from(calls: Sequence[Call], start: int) -> Iterator[Call]:
    """All calls over and over, from one of them on."""
    return islice(cycle(calls), start % len(calls), None)
