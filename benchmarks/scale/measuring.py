"""What is measured at one size, and of one very large course."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import dagster as dg
import numpy as np
import psutil

from benchmarks.scale.product import MEGABYTE, PeakMemory, ScaleProduct
from embedding.vector_store.collection_names import collection_name
from orchestration.course_status.sensor import course_status_sensor
from orchestration.deleted_courses.sensor import deleted_course_sensor
from orchestration.launching.sensor import stage_one_sensor
from orchestration.resources import CatalogueResource, GpuResource, SnapshotResource, VectorStoreResource

SEARCHED = 20
"""Courses that are searched at each size: each once cold, then repeatedly."""
WARM_SEARCHES = 200
REPEATED = 5
"""How often a page, a tick and a call of Chroma are measured; the median counts."""
SENSORS = (stage_one_sensor, course_status_sensor, deleted_course_sensor)

Figures = dict[str, float]


def measure(product: ScaleProduct, sample: Sequence[str], searched: Sequence[str]) -> Figures:
    """Measure the product at its present size.

    Args:
        product: The product.
        sample: Courses that are written, but not embedded: a run embeds them.
        searched: Published courses that no search has opened.
    """
    timing = product.run(sample)
    figures: Figures = {
        "courses": len(product.courses.chunks),
        "chunks": sum(product.courses.chunks.values()),
        "run_s_per_course": timing.launched_to_done / timing.courses,
        "work_s_per_course": timing.work / timing.courses,
    }
    figures |= _searches(product, searched)
    figures |= {
        "courses_page_ms": _median_ms(lambda: product.search.get("/courses").raise_for_status()),
        "metrics_page_ms": _median_ms(lambda: product.search.get("/metrics").raise_for_status()),
        **_ticks(product),
        **_chroma_calls(product, searched[0]),
        **product.usage(),
        "available_mb": psutil.virtual_memory().available / MEGABYTE,
    }
    return figures


def measure_large_course(product: ScaleProduct, chunks: int) -> Figures:
    """Embed and search a course of many chunks."""
    course_id = "large"
    started = time.perf_counter()
    product.courses.write(course_id, chunks)
    written = time.perf_counter() - started
    with PeakMemory(product) as memory:
        timing = product.run([course_id])
        figures: Figures = {
            "chunks": chunks,
            "written_s": written,
            "run_s": timing.launched_to_done,
            "index_s": timing.work,
            "snapshot_and_examination_s": timing.launched_to_done - timing.work - timing.startup,
        }
        bodies: Mapping[str, dict[str, Any]] = {
            "hybrid": {},
            "filtered": {"filters": {"source_type": "pdf"}},
            "one_lecture": {"filters": {"lecture_id": "lecture 1"}},
            "facets": {"facets": ["lecture_id", "source_type"]},
            "grouped": {"group_by": "lecture"},
            "diverse": {"diversity": 0.5},
            "keyword": {"method": "keyword"},
            "vector": {"method": "vector"},
        }
        figures["cold_ms"] = _ms(lambda: _search(product, course_id, {}))
        questions = [" ".join(text.split()[:6]) for text in product.courses.texts(30)]
        for name, body in bodies.items():
            times = [_ms(partial(_search, product, course_id, {**body, "query": query})) for query in questions]
            figures |= {f"{name}_p50_ms": statistics.median(times), f"{name}_max_ms": max(times)}
        figures["unchanged_run_s"] = product.run([course_id]).launched_to_done
    figures |= {f"{name}_peak_mb": peak for name, peak in memory.peaks.items()}
    return figures | product.usage()


def _searches(product: ScaleProduct, course_ids: Sequence[str]) -> Figures:
    cold = [_ms(partial(_search, product, course_id, {})) for course_id in course_ids]
    warm = [
        _ms(partial(_search, product, course_id, {}))
        for _ in range(max(1, WARM_SEARCHES // len(course_ids)))
        for course_id in course_ids
    ]
    return {
        "cold_p50_ms": statistics.median(cold),
        "cold_p99_ms": float(np.percentile(cold, 99)),
        "warm_p50_ms": statistics.median(warm),
        "warm_p99_ms": float(np.percentile(warm, 99)),
    }


def _search(product: ScaleProduct, course_id: str, body: Mapping[str, Any]) -> None:
    request = {"query": product.courses.questions[course_id], **body}
    answer = product.search.post(f"/courses/{course_id}/search", json=request)
    answer.raise_for_status()
    if not answer.json()["results"] and "filters" not in body:
        raise RuntimeError(f"Nothing was found in course {course_id}")


def _ticks(product: ScaleProduct) -> Figures:
    """Milliseconds of a tick of each sensor that finds nothing to do, evaluated like the daemon does."""
    figures: Figures = {}
    resources = {
        "catalogue": CatalogueResource(),
        "vector_store": VectorStoreResource(),
        "snapshots": SnapshotResource(),
        "gpu": GpuResource(),
    }
    for sensor in SENSORS:
        needed = {name: resources[name] for name in sensor.required_resource_keys}
        cursor: str | None = None
        times = []
        for _ in range(REPEATED):
            with dg.build_sensor_context(instance=product.instance, cursor=cursor, resources=needed) as context:
                times.append(_ms(partial(sensor, context)))
                # without the rest that `stage_one_sensor` takes after a long tick
                cursor = context.cursor if sensor is not stage_one_sensor else None
        figures[f"{sensor.name}_ms"] = statistics.median(times)
    return figures


def _chroma_calls(product: ScaleProduct, course_id: str) -> Figures:
    client = product.store.connect()
    collection = client.get_collection(collection_name(course_id), embedding_function=None)
    ids = [f"{course_id}-{number}" for number in range(50)]
    return {
        "chroma_get_ms": _median_ms(lambda: collection.get(ids=ids, include=["metadatas"])),
        "chroma_page_ms": _median_ms(
            lambda: collection.get(limit=50, include=["documents", "metadatas", "embeddings"])
        ),
        "chroma_where_ms": _median_ms(lambda: collection.get(where={"lecture_id": "lecture 0"}, include=["metadatas"])),
    }


def _median_ms(call: Callable[[], object]) -> float:
    return statistics.median(_ms(call) for _ in range(REPEATED))


def _ms(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000
