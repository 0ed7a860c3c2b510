"""Routes that report the statistics of the caches, clear the caches and reset the statistics."""

import math
from typing import Annotated

from fastapi import APIRouter, Security
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from search_api.http.auth import token_header
from search_api.http.dependencies import AppServices
from search_api.http.error_responses import GUARDED_RESPONSES
from search_api.services import Services

router = APIRouter(tags=["caches"], dependencies=[Security(token_header)], responses=GUARDED_RESPONSES)


def _null_if_infinite(seconds: float) -> float | None:
    """JSON has no infinity."""
    return None if math.isinf(seconds) else seconds


class CacheState(BaseModel):
    """Statistics of a cache: counts since the start or the last `DELETE /caches/stats`, and its present contents."""

    model_config = ConfigDict(from_attributes=True)

    hits: int
    misses: int
    hit_rate: float = Field(description="Hits divided by lookups, 0.0 to 1.0; 0.0 before the first lookup.")
    evictions: int = Field(description="Values removed to make room for others.")
    expirations: int = Field(description="Values removed because they reached ttl_seconds.")
    loads: int
    load_failures: int
    load_seconds: float = Field(description="Total duration of all successful loads, in seconds.")
    entries: int
    max_entries: int
    ttl_seconds: Annotated[float | None, BeforeValidator(_null_if_infinite)] = Field(
        description="How long a value is kept after its load; null: no limit."
    )


class CacheStates(BaseModel):
    """All caches by name."""

    caches: dict[str, CacheState]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "caches": {
                        "courses": {
                            "hits": 85,
                            "misses": 15,
                            "hit_rate": 0.85,
                            "evictions": 2,
                            "expirations": 1,
                            "loads": 15,
                            "load_failures": 0,
                            "load_seconds": 1.9,
                            "entries": 12,
                            "max_entries": 50,
                            "ttl_seconds": 1800.0,
                        }
                    }
                }
            ]
        }
    )


@router.get("/caches", summary="Cache statistics")
def get_cache_stats(services: AppServices) -> CacheStates:
    """Contents and hit rate of each cache."""
    return _states(services)


@router.delete("/caches", summary="Clear the caches")
def clear_cache(services: AppServices) -> CacheStates:
    """Remove all values.

    Requests in progress keep the values they use; later requests load courses and queries again. A loaded model stays
    in memory. Counts stay.
    """
    for cache in services.caches.values():
        cache.clear_cache()
    return _states(services)


@router.delete("/caches/stats", summary="Reset cache statistics")
def clear_cache_stats(services: AppServices) -> CacheStates:
    """Set the counts of all caches to zero. Values stay."""
    for cache in services.caches.values():
        cache.clear_cache_stats()
    return _states(services)


def _states(services: Services) -> CacheStates:
    caches = services.caches.items()
    return CacheStates(caches={name: CacheState.model_validate(cache.get_cache_stats()) for name, cache in caches})
