"""All settings of the product, for tests about settings and for those that must be free of them."""

from cli.settings import LauncherSettings
from embedding.settings import EmbeddingSettings, VectorStoreSettings
from models.settings import CatalogueSettings, Settings
from orchestration.settings import PipelineSettings
from retrieval.settings import KeywordSettings, RerankerSettings
from search_api.settings import SearchSettings

SETTINGS: tuple[type[Settings], ...] = (
    CatalogueSettings,
    EmbeddingSettings,
    VectorStoreSettings,
    KeywordSettings,
    RerankerSettings,
    PipelineSettings,
    SearchSettings,
    LauncherSettings,
)
SETTING_NAMES = [name.upper() for settings in SETTINGS for name in settings.model_fields]
