"""Runs the two compared systems, the plain script and the product, and splits their time into phases."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from rich.console import Console

from benchmarks.pipeline_cost.dagster_ui import DagsterUI, EmbeddedCourse, Run
from benchmarks.pipeline_cost.stage_one import StageOne
from cli.commands.up import RunningProduct

# -P: do not put the directory of the script on the import path, so that its modules cannot hide the product's packages.
PLAIN_SCRIPT = (sys.executable, "-P", Path(__file__).with_name("plain_script.py"))
TIMEOUT_SECONDS = 7200.0

progress = Console(stderr=True, highlight=False)


class CourseFailedError(Exception):
    """The product could not embed a course of the benchmark."""


@dataclass(frozen=True)
class Timing:
    """Seconds per phase, until the last of the courses was done."""

    courses: int
    texts: int
    """Embedded texts."""
    tokens: int
    """Tokens of the embedded texts."""
    runs: int
    detection: float
    """Until a run is launched: the sensor and Dagster's backfill daemon poll at intervals."""
    startup: float
    """Runs in the queue, processes starting and ending."""
    setup: float
    """In the processes, besides the work: imports, loading the model, the state of the courses."""
    work: float
    """Reading, embedding and writing."""

    @classmethod
    def from_events(cls, triggered: float, embedded: Sequence[EmbeddedCourse], runs: Sequence[Run]) -> Self:
        """Split the time since `triggered` (seconds since the epoch) into phases."""
        launched = min(run.created for run in runs)
        done = max(course.timestamp for course in embedded)
        in_processes = sum(min(run.ended, done) - run.started for run in runs)
        work = sum(course.seconds for course in embedded)
        return cls(
            courses=len(embedded),
            texts=sum(course.texts for course in embedded),
            tokens=sum(course.tokens for course in embedded),
            runs=len(runs),
            detection=launched - triggered,
            startup=done - launched - in_processes,
            setup=in_processes - work,
            work=work,
        )

    @property
    def launched_to_done(self) -> float:
        """From the launch of the first run until the last course is done."""
        return self.startup + self.setup + self.work

    @property
    def total(self) -> float:
        """From the trigger until the last course is done."""
        return self.detection + self.launched_to_done

    def figures(self) -> dict[str, float]:
        """All phases and sums, rounded, for JSON."""
        sums = {"launched_to_done": self.launched_to_done, "total": self.total}
        return {name: round(value, 3) for name, value in (asdict(self) | sums).items()}


class Systems:
    """The plain script and the product, with the same catalogue and Chroma server.

    Args:
        product: The running product.
        directory: Directory of its catalogue.
    """

    def __init__(self, product: RunningProduct, directory: Path) -> None:
        self.stage_one = StageOne(directory / "catalogue.db")
        self.ui = DagsterUI(product.dagster_url)
        self._supervisor = product.supervisor
        self._plain_result = directory / "plain.json"

    def run_plain_script(self, course_ids: Sequence[str]) -> Timing:
        """Embed the courses with the plain script."""
        progress.print(f"plain script: {_course_range(course_ids)}")
        started = time.time()
        self._supervisor.run("plain", [*PLAIN_SCRIPT, self._plain_result, *course_ids])
        result = json.loads(self._plain_result.read_text(encoding="utf-8"))
        return Timing(
            courses=len(course_ids),
            texts=result["texts"],
            tokens=result["tokens"],
            runs=0,
            detection=0.0,
            startup=0.0,
            setup=result["loaded"] - started,
            work=result["done"] - result["loaded"],
        )

    def run_product(self, course_ids: Sequence[str], trigger: Callable[[], None]) -> Timing:
        """Call `trigger`, and wait until the product has embedded the courses and all runs have ended."""
        progress.print(f"product: {_course_range(course_ids)}")
        before = {course.id: course.generation for course in self.stage_one.courses() if course.id in course_ids}
        triggered = time.time()
        trigger()
        self._wait_until(lambda: self._are_done(before))
        self._wait_until(self.ui.is_idle)
        embedded = self.ui.embedded_courses(course_ids, since=triggered)
        return Timing.from_events(triggered, embedded, self.ui.runs({course.run_id for course in embedded}))

    def _are_done(self, before: Mapping[str, int]) -> bool:
        """Whether all courses are done with a newer generation than before."""
        courses = [course for course in self.stage_one.courses() if course.id in before]
        for course in courses:
            if course.status == "failed":
                raise CourseFailedError(f"Course {course.id} failed: {course.error}")
        return all(course.status == "done" and course.generation > before[course.id] for course in courses)

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        self._supervisor.wait_until(condition, TIMEOUT_SECONDS, "the courses are not embedded")


def _course_range(course_ids: Sequence[str]) -> str:
    return course_ids[0] if len(course_ids) == 1 else f"{course_ids[0]} … {course_ids[-1]}"
