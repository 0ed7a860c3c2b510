"""Which number format a model computes in.

Half the bits are half the memory to read and, where the hardware multiplies them, several times the speed. A format
changes vectors by its rounding alone: those of one text stay within a cosine of 0.9998 of each other, far nearer than
any two passages. So it is no part of the model's signature, no more than the device is: a course embedded on a GPU
can be searched by a machine that has none.
"""

from pathlib import Path
from typing import Literal

Precision = Literal["float32", "bfloat16", "float16"]

_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # the last one is ARM's


def gpu_precision(setting: Precision | Literal["auto"]) -> Precision:
    """What EMBEDDING_DTYPE means on a GPU: float16 has the finer steps, and all of them are fast."""
    return "float16" if setting == "auto" else setting


def cpu_precision(setting: Precision | Literal["auto"], *, packed: bool) -> Precision:
    """What EMBEDDING_DTYPE means on a CPU: bfloat16 where it is in the hardware; emulated it is ten times slower.

    `packed`: the model reads packs (`embedding.engine.packing`). Padding, which the others need, would show in
    bfloat16.
    """
    if setting != "auto":
        return setting
    return "bfloat16" if packed and has_bfloat16() else "float32"


def has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies bfloat16 itself; no, where the system does not say."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return False
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return not _CPU_FLAGS.isdisjoint(flags.split())
