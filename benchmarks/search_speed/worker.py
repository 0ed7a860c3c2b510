"""The main loop of a process that benchmarks one search system. It executes commands from its standard input.

A command is one line with a JSON object, and so is its reply, `{"reply": …}` or `{"error": "…"}`. The first reply,
before any command, says that the system is set up.

    {"command": "search", "method": "vector", "filtered": false}      replies the found ids of each question
    {"command": "measure", …, "clients": 8, "seconds": 1.5}           replies the durations of the calls of 8 threads

This module imports only numpy, because the baselines run in a separate environment.
"""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

RESULTS = 10
"""Number of results of every search (top_k)."""
STRIDE = 7
"""Distance between the first questions of two clients."""


class Question(NamedTuple):
    """A query with its vector."""

    text: str
    vector: NDArray[np.float32]
    section: str
    """Section that filtered searches use."""


class Call(NamedTuple):
    """One search."""

    question: Question
    method: str
    filtered: bool


Search = Callable[[Call], Sequence[str]]
"""Searches a system; returns the ids of the found chunks, best first."""


def read_questions(file: Path) -> list[Question]:
    """Read the questions that `MadeUpCourse.save_questions` wrote."""
    with np.load(file) as saved:
        texts, vectors, sections = (saved[name] for name in ("texts", "vectors", "sections"))
    return [Question(*question) for question in zip(texts.tolist(), vectors, sections.tolist(), strict=True)]


def handle_commands(
    search: Search, questions: Sequence[Question], extra_commands: Mapping[str, Callable[[], Any]] | None = None
) -> None:
    """Execute commands until standard input ends.

    Args:
        search: Searches the system.
        questions: The questions to search for.
        extra_commands: Further commands by name.
    """
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # keeps the output of libraries out of the replies
    print(json.dumps({"reply": "ready"}), file=replies, flush=True)
    for line in sys.stdin:
        try:
            reply = {"reply": _execute(json.loads(line), search, questions, extra_commands or {})}
        except Exception as error:  # noqa: BLE001 - a failed command must not prevent the next one
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)


def _execute(
    command: Mapping[str, Any],
    search: Search,
    questions: Sequence[Question],
    extra_commands: Mapping[str, Callable[[], Any]],
) -> Any:
    calls = [Call(question, command.get("method", ""), command.get("filtered", False)) for question in questions]
    match command["command"]:
        case "search":
            return [list(search(call)) for call in calls]
        case "measure":
            return measure(search, calls, command["clients"], command["seconds"])
        case name:
            return extra_commands[name]()


def measure(search: Search, calls: Sequence[Call], clients: int, seconds: float) -> dict[str, Any]:
    """Search from `clients` threads for about `seconds`; each thread makes at least one call.

    Returns:
        The total `seconds`, the `durations` of all calls in seconds, and the `cpu_seconds` of this process. If the
        process is only a client, they show whether the client limits the figures.
    """
    durations: list[float] = []
    errors: list[BaseException] = []
    ready = threading.Barrier(clients + 1)

    def client(number: int) -> None:
        own_durations: list[float] = []
        try:
            ready.wait()
            deadline = time.perf_counter() + seconds
            for call in _repeat(calls, number * STRIDE):
                started = time.perf_counter()
                search(call)
                ended = time.perf_counter()
                own_durations.append(round(ended - started, 7))
                if ended > deadline:
                    break
        except BaseException as error:  # noqa: BLE001 - raised below, in the main thread
            errors.append(error)
        durations.extend(own_durations)

    threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    ready.wait()
    started, cpu_started = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "durations": durations,
    }


def _repeat(calls: Sequence[Call], start: int) -> Iterator[Call]:
    """All calls in an endless cycle that begins at index `start`."""
    return islice(cycle(calls), start % len(calls), None)
