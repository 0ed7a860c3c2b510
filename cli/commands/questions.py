"""`course-search questions`: what students asked about a course, and what it does not answer."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import numpy as np
import typer

from cli.courses import Json, fail, not_found_error, open_catalogue, print_error, print_table
from embedding.errors import EmbeddingError
from embedding.model_files.demo_model import model_in_use
from embedding.model_settings import EmbeddingSettings
from embedding.service.remote_embedder import RemoteEmbedder
from embedding.vectors import Vectors
from maintenance.progress import progress
from maintenance.questions import AskedQuestion, QuestionReport, question_report
from models.courses import get_course
from models.database import transaction
from models.questions import anything_recorded
from models.text import counted, one_line
from orchestration.search_link import SearchLinkSettings
from search_api.app_settings import SearchSettings

SHOWN = 20
"""Lines of each table. JSON has all."""
MAX_TEXT = 100
BATCH = 8
"""Questions per request: few, because the model also serves the searches."""
OFF = "QUERY_LOG is off: set QUERY_LOG=true and restart the search app to record what is asked."


def questions(
    course_id: Annotated[str, typer.Argument(metavar="COURSE", help="Id of a course.", show_default=False)],
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="Of how many days, until now.")] = 30,
    as_json: Json = False,
) -> None:
    """Show what students asked about a course, and what it does not answer: a list of its gaps.

    A gap is a question that found nothing relevant, or whose answer was not helpful. Questions that ask the same are
    one gap: compared by meaning while the search app at SEARCH_URL runs, or the service at EMBEDDING_SERVICE_URL, and
    by their words otherwise. Questions are recorded while QUERY_LOG is on, without who asked.
    """
    with open_catalogue() as engine:
        with transaction(engine) as session:
            if get_course(session, course_id) is None:
                fail(not_found_error(course_id).message)
            is_recorded = anything_recorded(session)
        since = datetime.now(UTC) - timedelta(days=days)
        try:
            report, grouped_by = question_report(engine, course_id, since, _embed), "meaning"
        except EmbeddingError as error:
            report, grouped_by = question_report(engine, course_id, since, None), "words"
            print_error(f"Compared by words only, because there is no embedding model at hand: {error}")
    if as_json:
        typer.echo(json.dumps(_as_json(report, days, grouped_by), indent=2, ensure_ascii=False))
    elif report.most_asked or report.gaps:
        _print(report, days, grouped_by)
    if not report.most_asked and not report.gaps:
        if is_recorded or SearchSettings().query_log:
            print_error(f"Nothing was asked about {course_id} in the last {counted(days, 'day')}.")
        if not SearchSettings().query_log:
            print_error(OFF)


def _embed(texts: Sequence[str]) -> Vectors:
    """Embed questions with the model of the running search app, or of the embedding service."""
    settings = model_in_use(EmbeddingSettings())
    if not settings.embedding_service_url:
        settings = settings.model_copy(
            update={
                "embedding_service_url": SearchLinkSettings().search_url,
                "embedding_service_token": SearchSettings().internal_token,
            }
        )
    embedder, parts = RemoteEmbedder(settings), []
    with progress("Comparing questions", len(texts)) as advance:
        for start in range(0, len(texts), BATCH):
            batch = texts[start : start + BATCH]
            parts.append(embedder.embed_queries(batch).vectors)
            advance(len(batch))
    return np.concatenate(parts)


def _print(report: QuestionReport, days: int, grouped_by: str) -> None:
    counts = report.counts
    typer.echo(
        f"{counts.course_id}, last {counted(days, 'day')}: {counted(counts.asked, 'question')}, "
        f"{counts.found_nothing} found nothing relevant; feedback: {counts.helpful} helpful, "
        f"{counts.not_helpful} not helpful\n"
    )
    typer.echo("Asked most")
    print_table(
        ("asked", "found nothing", "question"),
        [
            ((str(asked.asked), str(asked.found_nothing), _short(asked.question)), "")
            for asked in report.most_asked[:SHOWN]
        ],
    )
    if report.gaps:
        typer.echo(f"\nNot answered, grouped by {grouped_by}")
        rows = []
        for gap in report.gaps[:SHOWN]:
            unknown = dict.fromkeys(term for question in gap.questions for term in question.unknown_terms)
            spellings = [_short(question.question) for question in gap.questions[:3]]
            more = f" (and {len(gap.questions) - 3} more)" if len(gap.questions) > 3 else ""
            rows.append(((str(gap.asked), ", ".join(unknown)[:MAX_TEXT], " | ".join(spellings) + more), ""))
        print_table(("asked", "unknown words", "questions"), rows)
        left_out = len(report.gaps) - SHOWN
        if left_out > 0 or report.ungrouped:
            typer.echo(f"… and {max(left_out, 0)} more groups, and {report.ungrouped} rarer questions: see --json")
    if report.passages:
        typer.echo("\nPassages with feedback")
        print_table(
            ("helpful", "not helpful", "chunk", "text"),
            [
                ((str(good), str(bad), chunk_id, "(no longer there)" if text is None else _short(text)), "")
                for chunk_id, good, bad, text in report.passages[:SHOWN]
            ],
        )
    if not report.is_complete:
        typer.echo("\nRare questions are left out, because there are very many different ones: choose fewer --days")


def _short(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 1] + "…"


def _as_json(report: QuestionReport, days: int, grouped_by: str) -> dict[str, Any]:
    def questions_as_json(asked: Sequence[AskedQuestion]) -> list[dict[str, Any]]:
        return [question._asdict() for question in asked]

    return {
        **report.counts._asdict(),
        "days": days,
        "most_asked": questions_as_json(report.most_asked),
        "grouped_by": grouped_by,
        "gaps": [{"asked": gap.asked, "questions": questions_as_json(gap.questions)} for gap in report.gaps],
        "ungrouped": report.ungrouped,
        "passages": [passage._asdict() for passage in report.passages],
        "is_complete": report.is_complete,
    }
