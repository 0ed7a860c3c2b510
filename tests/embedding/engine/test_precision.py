"""The number format follows the hardware, as the system describes it."""

from pathlib import Path

import pytest

from embedding.engine.precision import cpu_precision, gpu_precision, has_bfloat16


@pytest.mark.parametrize(
    ("description", "has_it"),
    [
        ("processor : 0\nflags\t\t: fpu sse avx512f avx512_bf16 amx_tile\n", True),
        ("flags : fpu amx_bf16\n", True),
        ("flags : fpu avx2 avx512f\nbugs : bf16\n", False),
        ("Features\t: fp asimd bf16 sve\n", True),
        ("Features\t: fp asimd\n", False),
        ("", False),
    ],
)
def test_bfloat16_is_in_the_hardware_when_the_system_says_so(tmp_path: Path, description: str, has_it: bool) -> None:
    (tmp_path / "cpuinfo").write_text(description, encoding="utf-8")
    assert has_bfloat16(tmp_path / "cpuinfo") is has_it


def test_a_system_that_says_nothing_has_none(tmp_path: Path) -> None:
    assert not has_bfloat16(tmp_path / "missing")


def test_a_setting_wins_over_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedding.engine.precision.has_bfloat16", lambda: True)
    assert [gpu_precision("auto"), gpu_precision("float32")] == ["float16", "float32"]
    assert cpu_precision("auto", packed=True) == "bfloat16"
    assert cpu_precision("auto", packed=False) == "float32"
    assert cpu_precision("float32", packed=True) == "float32"
