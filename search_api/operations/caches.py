"""The app's caches over HTTP: what they hold and how well they do, and forgetting it all."""

import math
from typing import Annotated

from fastapi import APIRouter, Security
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from search_api.http.auth import token_header
from search_api.http.dependencies import AppServices
from search_api.http.error_responses import GUARDED
from search_api.services import Services

router = APIRouter(tags=["caches"], dependencies=[Security(token_header)], responses=GUARDED)


def _null_for_ever(seconds: float) -> float | None:
    """JSON knows no infinity."""
    return None if math.isinf(seconds) else seconds


class CacheState(BaseModel):
    """A cache: counts since the start or the latest `DELETE /caches/stats`, and what it holds now."""

    model_config = ConfigDict(from_attributes=True)

    hits: int
    misses: int
    hit_rate: float = Field(description="Hits over look-ups, 0.0 to 1.0.")
    evictions: int = Field(description="Values that made way for others.")
    expirations: int = Field(description="Values that became too old.")
    loads: int
    load_failures: int
    load_seconds: float = Field(description="What all loads together took.")
    too_large: int = Field(description="Values that were larger than the whole cache, and not kept.")
    entries: int
    bytes: int = Field(description="What the values add up to; 0 where nobody measures it.")
    max_entries: int
    max_bytes: int | None = Field(description="null: without limit.")
    ttl_seconds: Annotated[float | None, BeforeValidator(_null_for_ever)] = Field(description="null: for ever.")


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
                            "too_large": 0,
                            "entries": 12,
                            "bytes": 31457280,
                            "max_entries": 50,
                            "max_bytes": 1073741824,
                            "ttl_seconds": 1800.0,
                        }
                    }
                }
            ]
        }
    )


@router.get("/caches", summary="The caches")
def get_cache_stats(services: AppServices) -> CacheStates:
    """What each cache holds, how often it was asked, and how often it knew the answer."""
    return _states(services)


@router.delete("/caches", summary="Empty the caches")
def clear_cache(services: AppServices) -> CacheStates:
    """Forget all values; what is in use goes on being used, and the next to ask loads anew. Counts stay."""
    for cache in services.caches.values():
        cache.clear_cache()
    return _states(services)


@router.delete("/caches/stats", summary="Count from zero")
def clear_cache_stats(services: AppServices) -> CacheStates:
    """Set the counts of all caches to zero; values stay."""
    for cache in services.caches.values():
        cache.clear_cache_stats()
    return _states(services)


def _states(services: Services) -> CacheStates:
    caches = services.caches.items()
    return CacheStates(caches={name: CacheState.model_validate(cache.get_cache_stats()) for name, cache in caches})
