"""Cosine similarities of a query to all chunks: approximate ones with an error bound, and exact ones of a few chunks.

A product takes the time of reading the vectors from memory. So each vector is also stored with 8 bits per component
(codes), and a large course is scored with these. For the vector v with scale s and codes c, the residual is v - s·c,
and likewise for the query. By the Cauchy-Schwarz inequality, the error of a row is at most the length of its residual,
plus the length of s·c times that of the query's residual. A search needs exact values only of those rows that this
bound cannot exclude.
"""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numkong
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from embedding.vectors import Vectors
from retrieval.fusion import standard_deviation
from retrieval.snapshots.file import Arrays

CODES_FROM = 500_000
"""From this number of vector elements (chunks × dimensions) on, the 8-bit codes are used; below, they save no time."""
MIN_SPREAD = 0.01
"""Below this standard deviation of the cosines, the error of the codes would distort statistics over the course."""
MAX_SHARED_PASS = 16
_LARGEST_CODE = 127
_BLOCK = 4096
"""Vectors that are encoded, or read in float64, at a time, to bound the memory."""
_ROUNDING = np.float32(1e-5)
"""Bound of the rounding errors of a product in float32."""


@contextmanager
def one_thread_per_product() -> Iterator[None]:
    """Limit NumPy to one thread per matrix product, for an app that runs searches concurrently.

    By default, OpenBLAS spreads each product over all cores, and concurrent products wait for one another. Measured
    with eight clients and 5,000 chunks: 830 searches per second with the limit, 44 without.
    """
    with ThreadpoolController().select(internal_api="openblas").limit(limits=1):
        yield


class Cosines:
    """The unit vectors of a course. They are immutable, so threads may share them.

    Args:
        arrays: What `vectors_as_arrays` returned.
    """

    def __init__(self, arrays: Arrays) -> None:
        self._vectors: Vectors = arrays["vectors"]
        self.codes: NDArray[np.int8] = arrays["codes"]
        self._code_products = _CodeProducts(self.codes)
        self.scales: NDArray[np.float32] = arrays["scales"]
        self.residuals: NDArray[np.float32] = arrays["residuals"]

    @property
    def size(self) -> int:
        """Number of vector elements: chunks × dimensions."""
        return self._vectors.size

    def approximate(
        self, query: Vectors, rows: NDArray[np.integer[Any]] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Cosine similarity of chunks to a unit vector (dimensions,), and an upper bound of each: both (rows,).

        Those of all chunks that may be the most similar one are exact, so that statistics know the highest cosine.

        Args:
            query: The unit vector.
            rows: The chunks, at least one; None for all.
        """
        if self._vectors.size >= CODES_FROM:
            codes, scale, residual = _encode(query[None])
            cosines = _selected(self._code_products.compute(codes[0]) * (scale * self.scales), rows)
            if standard_deviation(cosines) >= MIN_SPREAD:
                bounds = cosines + _selected(self.residuals, rows) * (1 + residual) + (residual + _ROUNDING)
                nearest = cosines.argmax()
                best = np.flatnonzero(bounds >= 2 * cosines[nearest] - bounds[nearest])
                cosines[best] = self.exact(query, best if rows is None else rows[best])
                bounds[best] = cosines[best] + _ROUNDING
                return cosines, bounds
        cosines = _selected(self._vectors @ query, rows)
        return cosines, cosines + _ROUNDING

    def product(self, query: Vectors) -> NDArray[np.float32]:
        """Cosine similarity of every chunk to a unit vector, computed in float32: (chunks,), -1.0 to 1.0."""
        cosines: NDArray[np.float32] = self._vectors @ query
        return np.clip(cosines, -1, 1, out=cosines)

    def exact(self, query: Vectors, rows: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Cosine similarity of some chunks to a unit vector, computed in float64: (rows,), -1.0 to 1.0."""
        query = query.astype(np.float64)
        blocks = [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)] or [rows]
        products = [self._vectors[block].astype(np.float64) @ query for block in blocks]
        cosines: NDArray[np.float64] = np.concatenate(products)
        return cosines.clip(-1.0, 1.0)

    def among(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Cosine similarities of some chunks to one another, computed in float64: (rows, rows), -1.0 to 1.0."""
        vectors = self._vectors[rows].astype(np.float64)
        cosines: NDArray[np.float64] = vectors @ vectors.T
        return cosines.clip(-1.0, 1.0)


class StackedCosines:
    """The codes of several courses, one after the other, in memory."""

    def __init__(self, courses: Sequence[Cosines]) -> None:
        self._codes = np.concatenate([course.codes for course in courses])
        self._scales = np.concatenate([course.scales for course in courses])
        self._residuals = np.concatenate([course.residuals for course in courses])

    def upper_bounds(self, query: Vectors) -> NDArray[np.float32]:
        """An upper bound of the cosine similarity of each chunk to a unit vector (dimensions,): (chunks,)."""
        codes, scale, residual = _encode(query[None])
        products = np.asarray(numkong.cdist(codes, self._codes, metric="dot", out_dtype="float32"))[0]
        bounds: NDArray[np.float32] = products * (scale * self._scales) + self._residuals * (1 + residual) + residual
        return bounds


class _CodeProducts:
    """Multiplies queries with all codes. Concurrent queries share a pass, which reads every code only once.

    With eight clients and 50,000 chunks, a pass for eight takes 3.5 ms, and a pass for one 1.6 ms.
    """

    def __init__(self, codes: NDArray[np.int8]) -> None:
        self._codes = codes
        self._waiting: deque[_Product] = deque()
        self._pass = threading.Lock()

    def compute(self, query: NDArray[np.int8]) -> NDArray[np.float32]:
        """The products of the codes of a query (dimensions,) with those of every chunk: (chunks,)."""
        product = _Product(query)
        self._waiting.append(product)
        with self._pass:
            while product.result is None:
                self._compute([self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_SHARED_PASS))])
        return product.result

    def _compute(self, products: "list[_Product]") -> None:
        queries = np.stack([product.query for product in products])
        if len(products) == 1:
            results = np.asarray(numkong.cdist(queries, self._codes, metric="dot", out_dtype="float32"))
        else:
            results = np.asarray(numkong.dots_packed(self._codes, numkong.dots_pack(queries))).T
        for product, result in zip(products, results, strict=True):
            product.result = result.astype(np.float32, copy=False)


@dataclass
class _Product:
    query: NDArray[np.int8]
    result: NDArray[np.float32] | None = None


def _selected(values: NDArray[np.float32], rows: NDArray[np.integer[Any]] | None) -> NDArray[np.float32]:
    return values if rows is None else values[rows]


def vectors_as_arrays(vectors: Vectors) -> dict[str, NDArray[Any]]:
    """The arrays of `Cosines`.

    * `vectors` (chunks, dimensions);
    * `codes` (chunks, dimensions): the components divided by the scale of the row and rounded, -127 to 127;
    * `scales` (chunks,);
    * `residuals` (chunks,): the length of the difference between the vector and its scaled codes.
    """
    blocks = [_encode(vectors[start : start + _BLOCK]) for start in range(0, max(1, len(vectors)), _BLOCK)]
    codes, scales, residuals = map(np.concatenate, zip(*blocks, strict=True))
    return {"vectors": np.ascontiguousarray(vectors), "codes": codes, "scales": scales, "residuals": residuals}


def _encode(vectors: Vectors) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32]]:
    scales = np.maximum(np.abs(vectors).max(axis=1, initial=0) / np.float32(_LARGEST_CODE), np.float32(1e-30))
    scaled = np.rint(vectors / scales[:, None])
    scaled_back = scaled * scales[:, None]
    residuals = np.sqrt(np.square(vectors - scaled_back).sum(axis=1))
    return scaled.astype(np.int8), scales, residuals.astype(np.float32)
