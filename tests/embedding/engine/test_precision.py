"""The number format depends on the setting and on the CPU features that the operating system reports."""

from pathlib import Path

import pytest

from embedding.engine.precision import cpu_precision, gpu_precision, has_bfloat16


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu sse avx512f avx512_bf16 amx_tile\n", True),
        ("flags : fpu amx_bf16\n", True),
        ("flags : fpu avx2 avx512f\nbugs : bf16\n", False),
        ("Features\t: fp asimd bf16 sve\n", True),
        ("Features\t: fp asimd\n", False),
        ("", False),
    ],
)
def test_bfloat16_support_is_read_from_cpuinfo(tmp_path: Path, cpuinfo: str, expected: bool) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo, encoding="utf-8")
    assert has_bfloat16(tmp_path / "cpuinfo") is expected


def test_bfloat16_is_not_supported_without_cpuinfo(tmp_path: Path) -> None:
    assert not has_bfloat16(tmp_path / "missing")


def test_precision_setting_overrides_the_hardware_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedding.engine.precision.has_bfloat16", lambda: True)
    assert [gpu_precision("auto"), gpu_precision("float32")] == ["float16", "float32"]
    assert cpu_precision("auto", packed=True) == "bfloat16"
    assert cpu_precision("auto", packed=False) == "float32"
    assert cpu_precision("float32", packed=True) == "float32"
