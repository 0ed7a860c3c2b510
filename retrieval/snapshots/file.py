"""Writes arrays to a safetensors file, and maps such a file into memory without a copy.

safetensors writes the file and checks its header. Its NumPy reader copies the arrays, so they are mapped here.
Processes that map the same file share its pages. A mapped file may be deleted: its space is freed with the last
mapping.
"""

import hashlib
import math
import mmap
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

Arrays = Mapping[str, NDArray[Any]]

_DTYPES = {"F32": np.float32, "I64": np.int64, "I32": np.int32, "I8": np.int8, "U8": np.uint8}


class FileFormatError(Exception):
    """The file is missing, truncated or not a safetensors file."""


def write_arrays(path: Path, arrays: Arrays) -> str:
    """Write a file and flush it to the disk. Equal arrays give equal files.

    Returns:
        SHA-256 of the file, in hex.

    Raises:
        OSError: The file cannot be written.
    """
    try:
        save_file(dict(arrays), path)
    except Exception as error:  # safetensors raises its own class for a full disk
        raise OSError(str(error)) from error
    path.chmod(path.parent.stat().st_mode & 0o666)  # safetensors makes it private, but other users may search it
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return file_digest(path)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def map_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Map a file: its arrays, by name, which cannot be written to.

    Only the header and the size of the file are checked. `file_digest` reveals damaged content.

    Raises:
        FileFormatError: The file is missing, truncated or not a safetensors file.
    """
    try:
        with safe_open(path, "numpy") as checked:  # raises an error if header and size do not fit
            layout = [(name, checked.get_slice(name)) for name in checked.offset_keys()]
            shapes = [(name, _DTYPES[part.get_dtype()], part.get_shape()) for name, part in layout]
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        start = 8 + int.from_bytes(mapped[:8], "little")
        arrays: dict[str, NDArray[Any]] = {}
        for name, dtype, shape in shapes:
            count = math.prod(shape)
            flat = np.frombuffer(mapped, dtype, count, start) if count else np.empty(0, dtype)
            arrays[name] = flat.reshape(shape)
            start += flat.nbytes
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise FileFormatError(f"{path} cannot be read: {error}") from error
    return arrays


class Strings(Sequence[str]):
    """Texts in arrays. Only those that are accessed are decoded.

    Args:
        arrays: Contains what `strings_as_arrays` returned.
        name: The name given there.
    """

    def __init__(self, arrays: Arrays, name: str) -> None:
        self._data, self._starts = arrays[f"{name}.data"].data, arrays[f"{name}.starts"].data

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[str]: ...
    def __getitem__(self, number: int | slice) -> str | Sequence[str]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        number = range(len(self))[number]
        return str(self._data[self._starts[number] : self._starts[number + 1]], "utf-8")


class Vocabulary(Strings):
    """Distinct texts whose numbers can be looked up; they are sorted by their hashes."""

    def __init__(self, arrays: Arrays, name: str) -> None:
        super().__init__(arrays, name)
        self.hashes: NDArray[np.uint64] = arrays[f"{name}.hashes"].view(np.uint64)
        """The hash of each text, ascending."""

    def find(self, texts: Iterable[str]) -> list[int | None]:
        """The number of each text; None for a text that is not among them."""
        encoded, hashes = _encoded(tuple(texts))
        data, starts, count = self._data, self._starts, len(self)
        return [
            number if number < count and data[starts[number] : starts[number + 1]] == text else None
            for number, text in zip(self.hashes.searchsorted(hashes).tolist(), encoded, strict=True)
        ]


@lru_cache(64)  # a search of several courses looks up the same words in each
def _encoded(texts: tuple[str, ...]) -> tuple[list[bytes], NDArray[np.uint64]]:
    """The texts in UTF-8, and their hashes."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    return encoded, np.array([_hash(text) for text in encoded], dtype=np.uint64)


def strings_as_arrays(name: str, texts: Iterable[str]) -> dict[str, NDArray[Any]]:
    """The arrays of `Strings`, by name: all texts in UTF-8, one after the other, and where each starts."""
    encoded = [text.encode() for text in texts]
    starts = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(text) for text in encoded], out=starts[1:])
    return {f"{name}.data": np.frombuffer(b"".join(encoded), np.uint8), f"{name}.starts": starts}


def vocabulary_as_arrays(name: str, texts: Iterable[str]) -> tuple[list[str], dict[str, NDArray[Any]]]:
    """The distinct texts in the order of their numbers, and the arrays of `Vocabulary`, by name."""
    hashes = {text: _hash(text.encode()) for text in texts}
    ordered = sorted(hashes, key=lambda text: (hashes[text], text))
    sorted_hashes = np.array([hashes[text] for text in ordered], dtype=np.uint64)
    return ordered, strings_as_arrays(name, ordered) | {f"{name}.hashes": sorted_hashes.view(np.int64)}


def _hash(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def text_hash(text: str) -> int:
    """The hash of a text in `Vocabulary.hashes`."""
    return int(_encoded((text,))[1][0])
