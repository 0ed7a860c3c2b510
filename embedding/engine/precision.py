"""Chooses the number format in which a model computes.

A 16-bit format halves the memory traffic, and is several times faster if the hardware multiplies it natively. It
changes vectors only by rounding: the vectors of one text in different formats have a cosine of at least 0.9998, far
more than two different passages. So the format, like the device, is not part of the model signature: a machine without
a GPU can search a course that was embedded on one.
"""

from pathlib import Path
from typing import Literal

Precision = Literal["float32", "bfloat16", "float16"]

_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86, x86, ARM


def gpu_precision(setting: Precision | Literal["auto"]) -> Precision:
    """Resolve EMBEDDING_DTYPE for a GPU. Both 16-bit formats are fast on GPUs, and float16 rounds less."""
    return "float16" if setting == "auto" else setting


def cpu_precision(setting: Precision | Literal["auto"], *, packed: bool) -> Precision:
    """Resolve EMBEDDING_DTYPE for a CPU.

    `auto` is bfloat16 only if the CPU supports it (emulation is ten times slower) and the model computes packed
    batches: padding changes vectors visibly in bfloat16.
    """
    if setting != "auto":
        return setting
    return "bfloat16" if packed and has_bfloat16() else "float32"


def has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU multiplies bfloat16 natively; false if the operating system does not report it."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return False
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return not _CPU_FLAGS.isdisjoint(flags.split())
