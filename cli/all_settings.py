"""The settings classes of the product. Each is defined next to the code that it configures."""

from cli.launcher_settings import LauncherSettings
from documents.settings import DocumentSettings
from embedding.model_settings import EmbeddingSettings
from embedding.vector_store.server import VectorStoreSettings
from maintenance.backup import BackupSettings
from models.database import CatalogueSettings
from models.log_settings import LogSettings
from models.settings import Settings
from orchestration.examination_settings import ExaminationSettings
from orchestration.housekeeping.settings import HousekeepingSettings
from orchestration.search_link import SearchLinkSettings
from orchestration.worker_settings import CelerySettings, WorkerSettings
from retrieval.reranker import RerankerSettings
from retrieval.snapshots.store import SnapshotSettings
from search_api.app_settings import SearchSettings

ALL_SETTINGS: tuple[type[Settings], ...] = (
    CatalogueSettings,
    EmbeddingSettings,
    VectorStoreSettings,
    SnapshotSettings,
    RerankerSettings,
    DocumentSettings,
    SearchLinkSettings,
    WorkerSettings,
    CelerySettings,
    ExaminationSettings,
    BackupSettings,
    HousekeepingSettings,
    SearchSettings,
    LauncherSettings,
    LogSettings,
)
