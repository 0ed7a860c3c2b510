"""The two ways through a benchmark's courses, and where each of them spends its time."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.pipeline_cost.dagster_ui import DagsterUi, Embedded, Run
from benchmarks.pipeline_cost.stage_one import StageOne
from cli.commands.up import Running

# -P: or `embedding.py` beside the script would stand for the package of that name.
PLAIN_SCRIPT = (sys.executable, "-P", Path(__file__).with_name("plain_script.py"))
PATIENCE_SECONDS = 7200.0

progress = Console(stderr=True, highlight=False)


class CourseFailedError(Exception):
    """The product could not embed a course of the benchmark."""


@dataclass(frozen=True)
class Timing:
    """Where the time went, in seconds, until the last of some courses was done."""

    courses: int
    texts: int
    """How many were embedded."""
    tokens: int
    """Of them."""
    runs: int
    noticing: float
    """Until the product had launched a run: the sensor and Dagster's backfill daemon look at intervals."""
    starting: float
    """Runs in the queue, processes on their way up and down."""
    preparing: float
    """In the processes, beside the work: libraries, the model, the courses' state."""
    work: float
    """Reading, embedding and writing."""

    @property
    def launched_to_done(self) -> float:
        """What a run takes."""
        return self.starting + self.preparing + self.work

    @property
    def total(self) -> float:
        """What somebody who waits sees."""
        return self.noticing + self.launched_to_done

    def figures(self) -> dict[str, float]:
        """Everything, for JSON."""
        sums = {"launched_to_done": self.launched_to_done, "total": self.total}
        return {name: round(value, 3) for name, value in (asdict(self) | sums).items()}


class Ways:
    """Both ways through the same courses.

    Args:
        product: Ours, up and ready.
        directory: Where it keeps its state.
    """

    def __init__(self, product: Running, directory: Path) -> None:
        self.stage_one = StageOne(directory / "catalogue.db")
        self.ui = DagsterUi(product.dagster_url)
        self._supervisor = product.supervisor
        self._plain_result = directory / "plain.json"

    def plain(self, course_ids: Sequence[str]) -> Timing:
        """Run the plain script, from its command line on."""
        progress.print(f"plain script: {_some(course_ids)}")
        began = time.time()
        self._supervisor.run("plain", [*PLAIN_SCRIPT, self._plain_result, *course_ids])
        result = json.loads(self._plain_result.read_text(encoding="utf-8"))
        return Timing(
            courses=len(course_ids),
            texts=result["texts"],
            tokens=result["tokens"],
            runs=0,
            noticing=0.0,
            starting=0.0,
            preparing=result["loaded"] - began,
            work=result["done"] - result["loaded"],
        )

    def ours(self, course_ids: Sequence[str], trigger: Callable[[], None]) -> Timing:
        """Let the product embed the courses; returns when its runs have ended, so that nothing overlaps."""
        progress.print(f"ours: {_some(course_ids)}")
        before = {course.id: course.generation for course in self.stage_one.courses() if course.id in course_ids}
        began = time.time()
        trigger()
        self._wait(lambda: self._are_done(before))
        self._wait(self.ui.is_idle)
        embedded = self.ui.embedded(course_ids, since=began)
        return _timing(began, embedded, self.ui.runs({course.run_id for course in embedded}))

    def _are_done(self, before: Mapping[str, int]) -> bool:
        """Whether all of the courses have a newer generation than before."""
        courses = [course for course in self.stage_one.courses() if course.id in before]
        for course in courses:
            if course.status == "failed":
                raise CourseFailedError(f"Course {course.id} failed: {course.error}")
        return all(course.status == "done" and course.generation > before[course.id] for course in courses)

    def _wait(self, condition: Callable[[], bool]) -> None:
        self._supervisor.wait_until(condition, PATIENCE_SECONDS, "the courses are not embedded")


def _timing(began: float, embedded: Sequence[Embedded], runs: Sequence[Run]) -> Timing:
    launched = min(run.created for run in runs)
    done = max(course.when for course in embedded)
    in_processes = sum(min(run.ended, done) - run.started for run in runs)
    work = sum(course.seconds for course in embedded)
    return Timing(
        courses=len(embedded),
        texts=sum(course.texts for course in embedded),
        tokens=sum(course.tokens for course in embedded),
        runs=len(runs),
        noticing=launched - began,
        starting=done - launched - in_processes,
        preparing=in_processes - work,
        work=work,
    )


def _some(course_ids: Sequence[str]) -> str:
    return course_ids[0] if len(course_ids) == 1 else f"{course_ids[0]} … {course_ids[-1]}"
