"""The client, the checks of the answers and the proxies of the load, and a short run of it."""

import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from benchmarks.load import main
from benchmarks.load.answers import Answer, Answers, States
from benchmarks.load.client import Client, Exchange, NotLoopbackError, request
from benchmarks.load.courses import course_id, rows_of, text_of
from benchmarks.load.mix import SHARES, Mix
from benchmarks.load.processes import ProcessSampler
from benchmarks.load.product import LoadedProduct
from benchmarks.load.proxy import Fault, Proxy
from benchmarks.serving import ROOT
from cli.processes import Supervisor, free_port
from embedding.vector_store.collections import CollectionInfo
from embedding.vector_store.records import Record
from models import course_state
from models.database import transaction
from models.fingerprint import FingerprintBuilder
from models.loading import load
from retrieval.relevance import Calibration
from search_api.app import create_app
from search_api.app_settings import SearchSettings
from search_api.courses import service
from tests.search_api.app_harness import LIMIT_SECONDS, AppHarness, StubCollection
from tests.support.servers.asgi import serving

COURSES, PASSAGES = 4, 6
SEARCH = request("hybrid, known", "POST", "/courses/load-00/search", b"{}")


def test_load_never_leaves_this_machine() -> None:
    for host in ("192.168.1.7", "0.0.0.0", "::"):
        with pytest.raises(NotLoopbackError):
            Client(host, 80, lambda _: None)


def test_latency_counts_from_the_scheduled_time_although_the_server_stalls() -> None:
    async def scenario() -> list[Exchange]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n{}")
            time.sleep(0.05)  # the whole server stalls
            writer.write(b"HTTP/1.1 503 X\r\nretry-after: 1\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
            await writer.drain()
            writer.close()

        ended: list[Exchange] = []
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        client = Client("127.0.0.1", server.sockets[0].getsockname()[1], ended.append)
        await client.open_loop(lambda: SEARCH, rate=200, seconds=0.025)
        client.close()
        server.close()
        return ended

    ended = asyncio.run(scenario())
    assert [(each.status, each.retry_after, each.body) for each in ended] == [(503, "1", b"{}")] * 5
    assert max(each.seconds for each in ended) >= 5 * 0.05 - 0.025, "the last one waited for all others"


def test_server_that_is_away_or_never_answers_is_a_problem_of_the_exchange() -> None:
    async def scenario() -> list[str]:
        problems: list[str] = []
        async with Proxy(free_port()) as proxy:
            client = Client("127.0.0.1", proxy.port, lambda each: problems.append(each.problem), timeout_seconds=0.1)
            await client.ask(SEARCH)  # its server is away
            await proxy.set(Fault.HUNG)
            await client.open_loop(lambda: SEARCH, 10, 0.1)
            await proxy.set(Fault.AWAY)
            await client.ask(SEARCH)
        return problems

    closed, hung, away = asyncio.run(scenario())
    assert (closed, hung) == ("connection closed", "time-out")
    assert away.startswith("no connection: ")


def test_request_on_a_connection_that_the_server_closes_meanwhile_is_sent_again() -> None:
    async def scenario() -> list[tuple[int, str]]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n{}")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")  # keeps the connection
            await reader.read(1)
            writer.close()

        ended: list[Exchange] = []
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        client = Client("127.0.0.1", server.sockets[0].getsockname()[1], ended.append)
        for _ in range(2):
            await client.ask(SEARCH)
        client.close()
        server.close()
        await asyncio.sleep(0.01)  # the server sees it
        return [(each.status, each.problem) for each in ended]

    assert asyncio.run(scenario()) == [(200, ""), (200, "")]


def answer_of(edition: int, generation: int, *, course: str = "load-00", mixed: bool = False) -> Exchange:
    number = int(course.removeprefix("load-"))
    results = [
        {
            "text": text_of(number, each, 0),
            "metadata": {"course_id": course, "edition": each},
            "citation": {"course_id": course},
            "context": None,
        }
        for each in (edition, edition + mixed)
    ]
    body = {"results": results, "generation": generation, "stale": False, "degraded": None}
    return Exchange(SEARCH, 1.0, sent=1.0, ended=1.5, status=200, body=json.dumps(body).encode())


def test_answers_are_checked_by_what_they_contain() -> None:
    answers = Answers({})
    answers.add(answer_of(1, 1))
    answers.add(answer_of(2, 2))
    assert (answers.problems, answers.answered) == ([], 2)
    answers.add(answer_of(1, 2))
    answers.add(answer_of(2, 2, mixed=True))
    answers.add(answer_of(1, 1, course="load-01"))
    assert len(answers.problems) == 2 + 1 + 2, "a generation with another edition, two editions, and another course"


def test_a_refusal_needs_its_code_and_retry_after() -> None:
    answers, refusal = Answers({}), json.dumps({"error": {"code": "overloaded", "message": "too many"}}).encode()
    answers.add(Exchange(SEARCH, 0.0, status=503, retry_after="1", body=refusal))
    assert (len(answers.refused), answers.errors) == (1, {})
    assert (answers.refusals, sum(answers.refused_in.values())) == ({"too many": 1}, 1)
    answers.add(Exchange(SEARCH, 0.0, status=503, body=refusal))
    answers.add(Exchange(SEARCH, 0.0, status=500, body=b"Internal Server Error"))
    answers.add(Exchange(SEARCH, 0.0, problem="time-out"))
    assert set(answers.errors) == {
        "hybrid, known: 503 overloaded, no Retry-After",
        "hybrid, known: 500 not the shape of an error",
        "hybrid, known: 0 time-out",
    }


def test_answers_are_compared_with_the_catalogue(tmp_path: Path) -> None:
    file = tmp_path / "states.jsonl"
    looks = [
        (0.0, ["done", 1, 1]),
        (1.0, None),
        (2.0, ["running", 1, 2]),
        (3.0, None),
        (4.0, ["done", 2, 2]),
        (5, None),
    ]
    lines = [{"from": at, "at": at + 0.1, "states": {"load-00": state} if state else {}} for at, state in looks]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    states = States(file)
    assert states.during("load-00", 0.2, 0.9) == ((1, False), {1})
    assert states.during("load-00", 2.2, 2.9) == ((1, True), {1})
    assert states.during("load-00", 4.2, 4.9) == ((2, False), {2})
    assert states.during("load-00", 0.9, 2.5) == (None, {1})
    assert states.during("load-00", 3.5, 4.5) == (None, {1, 2})
    assert states.changes == {"load-00": 1}
    answers = Answers({})
    answers.add(answer_of(2, 2))
    answers.check_states(states)
    assert answers.problems == ["load-00: generation 2, not one of [1]"]


def test_answer_is_stale_without_reason_only_while_the_catalogue_is_away(tmp_path: Path) -> None:
    file = tmp_path / "states.jsonl"
    looks = [{"from": at, "at": at + 0.1, "states": {"load-00": ["done", 1, 1]} if not at else {}} for at in (0.0, 9.0)]
    file.write_text("".join(json.dumps(look) + "\n" for look in looks))
    answers = Answers({})
    answers.of_courses.append(Answer("load-00", 1, stale=True, sent=1.0, ended=2.0))
    answers.old_rows_are_expected = True
    answers.check_states(States(file))
    assert answers.problems == []
    answers.old_rows_are_expected = False
    answers.check_states(States(file))
    assert answers.problems == ["load-00: (1, True) instead of (1, False)"]


def test_growth_is_what_the_fitted_line_rises_after_the_warm_up() -> None:
    sampler = ProcessSampler({"app": list, "short": list})
    values = [0, 0, *range(100, 180, 20)]  # the first third does not count
    sampler.samples["app"] = [
        {"at": 10.0 * n, "rss_mb": value, "pss_mb": 100, "threads": 5, "files": 5} for n, value in enumerate(values)
    ]
    growth = sampler.growth()
    assert list(growth) == ["app"]
    assert (growth["app"]["rss_mb"].per_hour, growth["app"]["rss_mb"].rise) == pytest.approx((7200, 60))
    assert (growth["app"]["rss_mb"].is_flat, growth["app"]["pss_mb"].is_flat) == (False, True)


def test_mix_has_every_kind_in_its_share() -> None:
    mix, again = Mix(COURSES, PASSAGES), Mix(COURSES, PASSAGES)
    calls = [mix.next() for _ in range(3000)]
    assert calls[:50] == [again.next() for _ in range(50)]
    for kind, share in SHARES.items():
        assert abs(sum(call.kind == kind for call in calls) / 30 - share) < 3


@contextmanager
def product(directory: Path) -> Iterator[LoadedProduct]:
    """A search app with published courses, in place of the whole product."""
    harness = AppHarness(directory)
    for number in range(COURSES):
        with transaction(harness.engine) as session:
            load(session, [(course_id(number), rows_of(number, 1, PASSAGES))])
        rows = [json.loads(line) for line in rows_of(number, 1, PASSAGES).readlines()]
        fields = ("course_id", "lecture_id", "section_id", "order_in_section", "source_type")
        records = [
            Record(row["id"], row["text"], {**row["metadata"], **{name: row[name] for name in fields}}, row["text"])
            for row in rows
        ]
        content = FingerprintBuilder()
        for record in records:
            content.add_hashed(record.chunk_id, record.content_hash, len(record.text))
        cosines = np.linspace(1, 0.5, PASSAGES).tolist()
        info = CollectionInfo(course_id(number), "stub-model", harness.embedder.signature)
        harness.stub_store.by_course[info.course_id] = StubCollection(
            info.course_id, info.model_signature, records, cosines
        )
        with transaction(harness.engine) as session:
            assert course_state.claim_course(session, info.course_id, "run")
            fingerprint, calibration = str(content.build(info.model_signature)), Calibration(0.1, 0.1, 0.9)
            text = calibration.as_text(info.model_signature)
            assert course_state.publish(session, info.course_id, "run", fingerprint, calibration=text)
    environment = {"DATABASE_URL": f"sqlite:///{harness.database}", "PYTHONPATH": str(ROOT)}
    with (
        serving(create_app(SearchSettings(), harness.services)) as url,
        Supervisor(directory / "logs", os.environ | environment) as supervisor,
    ):
        address = urlsplit(url)
        yield LoadedProduct(supervisor, directory, str(address.hostname), address.port or 0, "stub-model")


@pytest.mark.integration
def test_short_run_passes_its_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main, "loaded_product", lambda *_: product(tmp_path))
    monkeypatch.setattr(service, "PATIENCE_SECONDS", LIMIT_SECONDS)  # a busy machine is no outage
    out = tmp_path / "figures.json"
    short = {"courses": COURSES, "passages": PASSAGES, "changed": 0, "seconds": 1, "step-seconds": 0.1}
    options = [f"--{name}={value}" for name, value in short.items()]
    monkeypatch.setattr("sys.argv", ["load", *options, "--overload-seconds=0.5", "--fault-seconds=0", f"--out={out}"])
    with pytest.raises(SystemExit):  # the figures depend on the machine
        main.main()
    figures: dict[str, Any] = json.loads(out.read_text())
    wrong = [
        problem
        for problem in figures["problems"]
        if not any(part in problem for part in ("refused", "bottleneck", "overload"))
    ]
    assert wrong == []
    assert figures["steady"]["all"]["answers"] > 0
    assert set(figures["capacity"]["kinds"]) <= set(SHARES)
    printed = capsys.readouterr().out
    for title in ("Capacity", "At 80 % of capacity", "Above capacity"):
        assert title in printed


def test_tables_are_printed_and_written_whatever_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "_measure", interrupt)
    monkeypatch.setattr("sys.argv", ["load", f"--out={tmp_path / 'figures.json'}"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    assert "ended by an interrupt" in capsys.readouterr().out
    assert json.loads((tmp_path / "figures.json").read_text())["problems"] == ["ended by an interrupt"]
