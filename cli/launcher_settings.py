"""Settings of `course-search up`: addresses and ports, and the storage of Dagster's state."""

from pathlib import Path

from pydantic import Field

from models.settings import Settings

PRODUCT_LOCK = ".up.lock"
"""Lock file in DAGSTER_HOME that `up` holds while it runs."""


class LauncherSettings(Settings):
    """Settings of `up`. If a port is not set, `up` uses the usual port if it is free, and otherwise any free port."""

    search_host: str = Field("127.0.0.1", description="Address the search app listens on.")
    search_port: int | None = Field(
        None, ge=1, le=65535, description="Port of the search app; 8000, or any free port if 8000 is in use."
    )
    search_workers: int = Field(
        1,
        ge=1,
        description="Number of processes of the search app. They share the port, the snapshots and an embedding "
        "service, which `course-search up` starts unless EMBEDDING_SERVICE_URL is set.",
    )
    dagster_host: str = Field("127.0.0.1", description="Address the Dagster UI listens on.")
    dagster_port: int | None = Field(
        None, ge=1, le=65535, description="Port of the Dagster UI; 3000, or any free port if 3000 is in use."
    )
    chroma_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port of the Chroma server that `up` starts on loopback; 8001, or any free port if 8001 is in use. "
        "Not used if CHROMA_URL is set.",
    )
    dagster_home: Path = Field(
        Path("./data/dagster"), description="Directory of the Dagster instance: its state and logs."
    )
    dagster_postgres_url: str | None = Field(
        None,
        description="URL of a PostgreSQL database for Dagster's own state, instead of SQLite files in DAGSTER_HOME.",
    )
