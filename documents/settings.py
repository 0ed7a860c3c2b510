"""Settings of uploaded files: where they are kept, and what reading one may take."""

from pathlib import Path

from pydantic import Field

from models.settings import Settings


class DocumentSettings(Settings):
    """Uploaded files, and the limits for the process that reads one."""

    upload_dir: Path = Field(
        Path("./data/uploads"),
        description="Directory of the uploaded files. The search app, the pipeline and its workers share it.",
    )
    upload_max_bytes: int = Field(
        200 * 1024 * 1024,
        ge=1,
        description="Maximum size of an uploaded file, in bytes; the app allows one per request.",
    )
    import_dir: Path | None = Field(
        None,
        description="Directory of files on the server that POST /resources may take by their path, instead of an "
        "upload. By default, no path is allowed.",
    )
    document_timeout_seconds: float = Field(
        300.0, gt=0, description="A file that is not read within this time, in seconds, fails."
    )
    document_max_memory_mb: int = Field(
        2048, ge=256, description="A file fails if reading it takes more memory than this, in megabytes."
    )
    document_max_characters: int = Field(
        20_000_000, ge=1, description="A file with more text than this, in characters, fails."
    )
