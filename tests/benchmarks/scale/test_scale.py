"""Growth laws, report, and a short run of the whole benchmark of many courses."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from benchmarks.scale import main as benchmark
from benchmarks.scale.embedding_server import DIMENSIONS, vectors_of
from benchmarks.scale.laws import fit
from benchmarks.scale.product import running_product
from benchmarks.scale.report import NAMES, as_markdown

SIZES = (100, 250, 500, 1000, 2000)


@pytest.mark.parametrize(
    ("law", "values"),
    [
        ("constant", [20, 20.5, 19.8, 20.1, 20]),
        ("linear", [110 + 3.7 * size for size in SIZES]),
        ("power", [0.02 * size**1.5 for size in SIZES]),
    ],
)
def test_law_of_exact_figures_is_found(law: str, values: list[float]) -> None:
    found = fit(SIZES, values)
    assert found is not None
    assert found.name == law
    assert found.at(1500) == pytest.approx(np.interp(1500, SIZES, values), rel=0.1)


def test_two_measurements_have_no_law() -> None:
    assert fit([1, 2], [1, 2]) is None
    assert fit([1, 2, 3], [0, 1, 2]) is None


def test_texts_with_common_words_are_near_each_other() -> None:
    near, text, far = vectors_of(["copper layer", "copper layer board", "silicon wafer"])
    assert near.shape == (DIMENSIONS,)
    assert near @ text > 0.7
    assert abs(far @ text) < 0.2


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_short_run_measures_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real product with a few courses; every figure is there, saved, printed and plotted."""
    out = tmp_path / "figures.json"
    monkeypatch.setattr("benchmarks.scale.courses.CHUNKS", (50, 60))
    arguments = ["--sizes", "3", "--sample", "1", "--large", "300", "--year", "0"]
    monkeypatch.delitem(sys.modules, "orchestration.definitions", raising=False)  # it has the settings of another test
    monkeypatch.setattr(sys, "argv", ["scale", *arguments, "--out", str(out), "--plots", str(tmp_path)])
    with running_product(None) as product:  # once for both parts: starting it takes longest
        monkeypatch.setattr(benchmark, "running_product", lambda _: nullcontext(product))
        benchmark.main()
    figures = json.loads(out.read_text())
    assert figures["errors"] == {}
    assert [row["courses"] for row in figures["sizes"]] == [3]
    for row in figures["sizes"]:
        assert row.keys() >= NAMES.keys()
    assert figures["large"]["chunks"] == 300
    assert figures["large"]["run_peak_mb"] > 0
    assert "all sizes were measured" in capsys.readouterr().out
    assert "| chunks | " in as_markdown(figures)
    assert len(list(tmp_path.glob("scale-*.svg"))) == 5
