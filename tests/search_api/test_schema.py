"""The OpenAPI documents of both apps tell the truth: schemathesis sends what they allow, and what they do not allow.

All checks are on: no answer of 500 or above, none with a status, content type, header or body that is not documented,
no valid request refused, no invalid one accepted, `405` with `Allow` for other methods, and `401` without the token
exactly if the app has one. `make fuzz` runs the same with more examples, and with sequences of requests.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from schemathesis import Case, HookContext
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import Failure
from schemathesis.core.transport import Response
from schemathesis.engine import from_schema
from schemathesis.engine.events import EngineEvent, NonFatalError, ScenarioFinished

from search_api.app import create_app, create_embedding_app
from search_api.app_settings import SearchSettings
from search_api.reranking.service import Reranking, RerankService
from search_api.services import ModelServices, open_embedding
from tests.search_api.app_harness import AppHarness
from tests.support.servers.asgi import serving

pytestmark = pytest.mark.integration

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "2"))
"""Random requests of each kind to an operation."""
IS_LONG = "FUZZ_EXAMPLES" in os.environ
TOKEN = "s3cret"
COURSES = ("abc123", "maths", "ml", "pcb-en", "pcb-zh")
"""Those of the examples in the document."""

BEYOND_A_SCHEMA = (
    "body: diversity cannot be combined with offset or group_by",
    'body: group_by cannot be combined with rerank "model"',
    "body: group_by cannot be combined with per_course",
    "contains a course twice",  # "1" and 1 are the same course, and the same lecture
    "contains a lecture twice",
    "course_id: must have at most",
    "course_id: must not",
    "cursor: must be the next_cursor of an answer",
    "dimensions: ",  # of the model
    "documents: at most",  # a setting, as for texts, input and top_k
    "input: at most",
    "is not embedded: its status is",
    "more than 500 values",
    "must be a number, or a date or time",
    "must be valid Unicode",
    "must not be blank",  # there are more characters that show nothing than white space
    "nested more than 8 deep",
    "no chunk of the course has this field",
    "per_course cannot be combined",
    "texts: at most",
    "the lectures of the course have no order",
    "the values of this field are",
    "There is no such file in IMPORT_DIR",
    "top_k: at most",
    "up_to: ",  # a lecture of the course
    "file: is empty",
    "file: its name",
    "file: has no file name",
)
"""Parts of the messages about what a JSON schema cannot say, or what depends on settings and on the course."""


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: Case[Any], response: Response) -> bool:
    """Whether it is a failure: a valid request may be refused for what a schema cannot say."""
    if failure.code != "ST202" or response.status_code not in (400, 422):
        return True
    message: str = response.json()["error"]["message"]
    return not any(reason in message for reason in BEYOND_A_SCHEMA)


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppHarness:
    (tmp_path / "import" / "week1").mkdir(parents=True)
    (tmp_path / "import" / "week1" / "slides.pdf").write_bytes(b"not read here")
    monkeypatch.setenv("IMPORT_DIR", str(tmp_path / "import"))
    monkeypatch.setenv("UPLOAD_DIR", str(tmp_path / "uploads"))
    monkeypatch.setattr(RerankService, "rerank", lambda _, __, documents: Reranking((0.5,) * len(documents)))
    monkeypatch.setattr(RerankService, "count_tokens", lambda *_: 1)
    harness = AppHarness(tmp_path)
    for course in COURSES:
        harness.add_searchable_course(
            course,
            *(f"text {number}" for number in range(20)),
            metadata=[{"lecture_id": "4", "lecture_number": 1, "page": number} for number in range(20)],
        )
    return harness


def answers_to(document_url: str, token: str | None) -> Iterator[EngineEvent]:
    """Run schemathesis on the app that has this document."""
    phases = {name: {"enabled": True} for name in ("examples", "coverage", "fuzzing")}
    config: dict[str, Any] = {
        "seed": 1,
        "headers": {"X-Internal-Token": token} if token else {},
        "continue-on-failure": True,
        "generation": {"max-examples": EXAMPLES, "deterministic": True, "database": "none"},
        "phases": {**phases, "stateful": {"enabled": IS_LONG}},
    }
    if not IS_LONG:  # thousands of requests each
        searches = {"include-path-regex": "/(search|rerank)$", "phases": {"coverage": {"enabled": False}}}
        config["operations"] = [searches]
    schema = schemathesis.openapi.from_url(document_url, config=SchemathesisConfig.from_dict(config))
    for operations in schema.raw_schema["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("default", None)  # each status must be documented by itself
    yield from from_schema(schema).execute()


@contextmanager
def search_app(harness: AppHarness, token: str | None) -> Iterator[str]:
    with serving(create_app(SearchSettings(internal_token=token, query_log=True), harness.services)) as url:
        yield url


@contextmanager
def embedding_app(harness: AppHarness, token: str | None) -> Iterator[str]:
    @contextmanager
    def services(settings: SearchSettings) -> Iterator[ModelServices]:
        with open_embedding(settings, lambda: harness.embedder) as (embedding, caches):
            yield ModelServices(settings, embedding, caches)

    with serving(create_embedding_app(SearchSettings(internal_token=token), services)) as url:
        yield url


@pytest.mark.parametrize("token", [TOKEN, None])
@pytest.mark.parametrize("app", [search_app, embedding_app])
def test_app_does_what_its_document_says(harness: AppHarness, app: Any, token: str | None) -> None:
    cases, problems = 0, []
    with app(harness, token) as url:
        for event in answers_to(f"{url}/openapi.json", token):
            if isinstance(event, NonFatalError):
                problems.append(f"{event.label}: {event.info.format()}")
            if isinstance(event, ScenarioFinished):
                cases += len(event.recorder.interactions)
                problems += failures_of(event)
    print(f"{cases} requests")  # noqa: T201 - make fuzz shows it
    assert cases > 100
    assert not problems, "\n\n".join(problems)


def failures_of(event: ScenarioFinished) -> Iterator[str]:
    recorder = event.recorder
    for case_id, checks in recorder.checks.items():
        for check in checks:
            if check.failure_info is not None:
                interaction = recorder.interactions[case_id]
                answer = interaction.response.content if interaction.response else b""
                request = interaction.request
                yield f"{request.method} {request.uri} {request.body!r}\n{check.failure_info.failure}\n{answer!r}"
