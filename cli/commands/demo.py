"""`course-search demo`: embed the sample courses and ask them questions, in a separate directory.

Two courses are Ready-to-Embed rows, as stage one writes them. The third one is a PDF and the subtitles of a lecture.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn

from cli.commands.up import COMMAND, ROOT, RunningProduct, run_product
from cli.dagster_home import CannotStartError
from cli.launcher_settings import PRODUCT_LOCK, LauncherSettings
from cli.processes import ProcessFailedError
from embedding.vector_store.directory_lock import DirectoryInUseError, lock_directory
from search_api.app_settings import SearchSettings

DIRECTORY = Path("data/demo")
SAMPLES = ROOT / "data" / "samples"
COURSE_OF_FILES = "lab-en"
"""The course that is made of the files in the directory of the same name."""
EMBEDDING_SECONDS = 600.0
RESULTS_PER_QUESTION = 2
MAX_SHOWN_CHARACTERS = 220

console = Console(highlight=False)


class DemoFailedError(Exception):
    """A course was not embedded, or a question got no answer."""


def demo() -> None:
    """Load two sample courses, add a third one from a PDF and a subtitle file, ask a few questions, stop everything.

    Uses the directory data/demo, which is emptied first. Other courses are not touched.
    """
    settings = LauncherSettings(dagster_home=DIRECTORY / "dagster", dagster_postgres_url=None)
    demo_settings = {
        "DATABASE_URL": f"sqlite:///{DIRECTORY.absolute()}/catalogue.db",
        "CHROMA_DB_DIR": str(DIRECTORY.absolute() / "chroma"),
        "SNAPSHOT_DIR": str(DIRECTORY.absolute() / "snapshots"),
        "UPLOAD_DIR": str(DIRECTORY.absolute() / "uploads"),
    }
    try:
        _clear_directory()
        with run_product(settings, {**os.environ, **demo_settings}, chroma_url=None, any_port=True) as product:
            _load_samples(product)
            _wait_until_embedded(product)
            _ask_questions(product)
    except KeyboardInterrupt as error:
        console.print("Stopped.")
        raise typer.Exit(130) from error
    except (CannotStartError, DemoFailedError, DirectoryInUseError, ProcessFailedError) as error:
        console.print(str(error), style="bold red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    console.print(
        "[bold green]The demo succeeded; everything is stopped.[/] `course-search up` starts the product for your "
        "own courses."
    )


def _clear_directory() -> None:
    """Empty the demo's directory, except for the lock file.

    Raises:
        DirectoryInUseError: a demo is running.
    """
    lock = lock_directory(DIRECTORY / "dagster", PRODUCT_LOCK)
    for path in [*DIRECTORY.iterdir(), *(DIRECTORY / "dagster").iterdir()]:
        if path.is_file() and path.name != PRODUCT_LOCK:
            path.unlink()
        elif path.is_dir() and path.name != "dagster":
            shutil.rmtree(path)
    os.close(lock)


def _load_samples(product: RunningProduct) -> None:
    files = sorted(SAMPLES.glob("*.jsonl"))
    console.print(f"Loading {', '.join(file.name for file in files)}")
    product.supervisor.run("load", [*COMMAND, "load", *files])
    files = sorted((SAMPLES / COURSE_OF_FILES).iterdir())
    console.print(f"Adding {', '.join(file.name for file in files)} to the course {COURSE_OF_FILES}")
    product.supervisor.run("add", [*COMMAND, "add", COURSE_OF_FILES, *files])


def _wait_until_embedded(product: RunningProduct) -> None:
    console.print("Waiting until the pipeline has read the files and embedded the courses …")
    with Progress(
        TextColumn("  {task.description:<10}"), BarColumn(), TextColumn("{task.fields[status]}"), console=console
    ) as progress:
        tasks: dict[str, Any] = {}

        def all_done() -> bool:
            for resource in _request(product, "GET", f"/courses/{COURSE_OF_FILES}/resources")["resources"]:
                if resource["status"] == "failed":
                    raise DemoFailedError(f"{resource['name']}: {resource['error']}")
            courses = _request(product, "GET", "/courses")["courses"]
            for course in courses:
                course_id, status = course["course_id"], course["embedding_status"]
                if course_id not in tasks:
                    tasks[course_id] = progress.add_task(course_id, total=1.0, status="")
                progress.update(tasks[course_id], completed=course["embedding_progress"], status=status)
                if status == "failed":
                    raise DemoFailedError(f"Course {course_id} failed: {course['embedding_error']}")
            return bool(courses) and all(course["embedding_status"] == "done" for course in courses)

        product.supervisor.wait_until(
            all_done, EMBEDDING_SECONDS, f"The courses were not embedded within {EMBEDDING_SECONDS:.0f} s"
        )


def _ask_questions(product: RunningProduct) -> None:
    questions: Sequence[Mapping[str, str]] = json.loads((SAMPLES / "questions.json").read_text(encoding="utf-8"))
    for question in questions:
        path, body = (
            f"/courses/{question['course_id']}/search",
            {"query": question["query"], "top_k": RESULTS_PER_QUESTION},
        )
        answer = _request(product, "POST", path, body)
        if not answer["results"]:
            raise DemoFailedError(f"No answer to {question['query']!r}")
        console.print(f"\n[bold]{escape(question['query'])}[/] [dim]({question['course_id']})[/]")
        for result in answer["results"]:
            console.print(f"  [green]{result['score']:.3f}[/]  [cyan]{escape(result['citation']['label'])}[/]")
            console.print(Padding(escape(_shorten(result["text"])), (0, 0, 0, 9)))


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[: MAX_SHOWN_CHARACTERS - 1] + "…"


def _request(product: RunningProduct, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    url = product.search_url + path
    try:
        response = httpx.request(method, url, json=body, headers=_headers(), timeout=60, trust_env=False)
    except httpx.HTTPError as error:
        product.supervisor.check_alive()
        raise DemoFailedError(f"{url} does not answer: {error}") from error
    if response.is_error:
        raise DemoFailedError(f"{url} answered {response.status_code}: {response.text}")
    return response.json()


def _headers() -> dict[str, str]:
    token = SearchSettings().internal_token
    return {"X-Internal-Token": token.get_secret_value()} if token else {}
