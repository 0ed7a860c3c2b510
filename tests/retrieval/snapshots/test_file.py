"""Files of arrays: what is written is mapped without a copy, and anything else is rejected."""

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from retrieval.snapshots import file as file_module
from retrieval.snapshots.file import (
    FileFormatError,
    Strings,
    Vocabulary,
    file_digest,
    map_arrays,
    strings_as_arrays,
    vocabulary_as_arrays,
    write_arrays,
)

any_array = st.sampled_from([np.float32, np.int64, np.int32, np.int8, np.uint8]).flatmap(
    lambda dtype: arrays(dtype, array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5))
)
texts = st.text(st.characters(exclude_categories=["Cs"]))
reuse_of_directory = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def file_with_header(path: Path, header: object, data: bytes = b"") -> Path:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
    return path


@reuse_of_directory
@given(st.dictionaries(texts, any_array, min_size=1, max_size=5))
def test_written_arrays_are_mapped_and_can_be_read_by_the_library(
    tmp_path: Path, written: dict[str, NDArray[Any]]
) -> None:
    path = tmp_path / "a.safetensors"
    digest = write_arrays(path, written)
    assert digest == file_digest(path)
    mapped = map_arrays(path)
    assert mapped.keys() == written.keys()
    with safe_open(path, "numpy") as library:
        for name, array in written.items():
            for other in (mapped[name], library.get_tensor(name)):
                assert (other.dtype, other.shape) == (array.dtype, array.shape)
                np.testing.assert_array_equal(other, array)


def test_equal_arrays_give_equal_files(tmp_path: Path) -> None:
    """So a snapshot that is built again has the same digest."""
    parts = {name: np.arange(5, dtype=np.int64) for name in "abcdefgh"}
    digests = {write_arrays(tmp_path / str(number), parts) for number in range(20)}
    assert digests == {write_arrays(tmp_path / "b", dict(reversed(parts.items())))}


def test_mapped_arrays_cannot_be_written_to_and_are_not_copies(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_arrays(path, {"a": np.arange(10, dtype=np.float32), "b": np.arange(6, dtype=np.int8).reshape(2, 3)})
    mapped = map_arrays(path)
    with pytest.raises(ValueError, match="read-only"):
        mapped["a"][0] = 1
    for array in mapped.values():
        assert not array.flags.owndata
    content = bytearray(path.read_bytes())
    content[content.rindex(np.float32(9).tobytes())] = 0xFF  # as shared memory, the map shows what is in the file
    with path.open("r+b") as file:
        file.write(content)
    assert mapped["a"][9] != 9


def test_mapped_file_takes_no_memory_until_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    write_arrays(path, {"a": np.ones(20_000_000, dtype=np.float32)})
    script = f"""
import pathlib
from retrieval.snapshots.file import map_arrays

def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])

before = resident()
arrays = map_arrays(pathlib.Path({str(path)!r}))
assert resident() - before < 20_000, resident() - before
assert arrays["a"][-1] == 1
"""
    if sys.platform == "linux":
        subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[3])


def test_deleted_or_replaced_file_is_readable_as_long_as_it_is_mapped(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    write_arrays(path, {"a": np.arange(100_000, dtype=np.int32)})
    write_arrays(other, {"a": np.zeros(3, dtype=np.int32)})
    first = map_arrays(path)
    other.replace(path)
    second = map_arrays(path)
    path.unlink()
    np.testing.assert_array_equal(first["a"], np.arange(100_000))
    np.testing.assert_array_equal(second["a"], np.zeros(3))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_dropped_maps_leave_no_open_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_arrays(path, {"a": np.arange(5, dtype=np.int32)})
    (tmp_path / "broken").write_bytes(path.read_bytes()[:-1])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        mapped = map_arrays(path)
        del mapped
        with pytest.raises(FileFormatError):
            map_arrays(tmp_path / "broken")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_file_has_the_permissions_of_its_directory(tmp_path: Path) -> None:
    """The pipeline and the app may run as different users."""
    for mode in (0o755, 0o750, 0o700):
        tmp_path.chmod(mode)
        write_arrays(tmp_path / "a", {"a": np.zeros(1, dtype=np.int8)})
        assert (tmp_path / "a").stat().st_mode & 0o777 == mode & 0o666


@pytest.mark.parametrize("error", [SafetensorError("No space left on device"), OSError("No space left on device")])
def test_error_while_writing_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def save_file(*_: object) -> None:
        raise error

    monkeypatch.setattr(file_module, "save_file", save_file)
    with pytest.raises(OSError, match="No space"):
        write_arrays(tmp_path / "a", {})


def test_missing_directory_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_arrays(tmp_path / "missing" / "a", {})


def test_missing_file_and_directory_are_rejected(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path, tmp_path / "missing" / "a"):
        with pytest.raises(FileFormatError, match="cannot be read"):
            map_arrays(path)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("file") / "a"
    parts: dict[str, NDArray[Any]] = {"a": np.ones((2, 3), dtype=np.float32), "b": np.arange(5, dtype=np.int8)}
    write_arrays(path, parts | strings_as_arrays("texts", ["copper", "", "课"]))
    return path.read_bytes()


def test_file_of_any_other_length_is_rejected(tmp_path: Path, written: bytes) -> None:
    path = tmp_path / "a"
    for content in [written[:length] for length in range(len(written))] + [written + b"\0", written * 2]:
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match="cannot be read"):
            map_arrays(path)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04", bytes(1000), b"\xff" * 1000, b"{" * 10_000])
def test_garbage_is_rejected(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(FileFormatError, match="cannot be read"):
        map_arrays(tmp_path / "a")


def entry(shape: object, offsets: Sequence[object], dtype: object = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 500_000,
        b'{"a":' * 100_000,
        b" " * 2_000_000,
        [],
        "text",
        1,
        {"a": None},
        {"a": {}},
        {"a": entry([8], [0, 8], "F64")},
        {"a": entry([4], [0, 8], "BF16")},
        {"a": entry([1], [0, 8], "F64")},
        {"a": entry([8], [0, 8], None)},
        {"a": entry([7], [0, 8])},
        {"a": entry([9], [0, 9])},
        {"a": entry([-8], [8, 0])},
        {"a": entry([-1, -8], [0, 8])},
        {"a": entry([8], [-8, 0])},
        {"a": entry([8.0], [0, 8])},
        {"a": entry("8", [0, 8])},
        {"a": entry([8], [0])},
        {"a": entry([10**30], [0, 10**30])},
        {"a": entry([2**63, 2], [0, 0])},
        {"a": entry([1] * 100 + [8], [0, 8])},
        {"a": entry([8], [0, 8]), "b": entry([8], [0, 8])},
        {"a": entry([4], [0, 4]), "b": entry([6], [2, 8])},
        {"a": entry([4], [4, 8])},
        {"__metadata__": [1], "a": entry([8], [0, 8])},
        {"__metadata__": {"key": 1}, "a": entry([8], [0, 8])},
    ],
    ids=lambda header: str(header)[:60],
)
def test_header_that_lies_is_rejected(tmp_path: Path, header: object) -> None:
    path = file_with_header(tmp_path / "a", header, b"12345678")
    with pytest.raises(FileFormatError, match="cannot be read"):
        map_arrays(path)


@settings(reuse_of_directory, max_examples=500)
@given(st.integers(0, 2**32), st.integers(1, 3))
def test_changed_header_is_rejected_or_describes_the_same_bytes(
    tmp_path: Path, written: bytes, seed: int, changes: int
) -> None:
    """Never a crash, or an array beyond the end of the file. What is not noticed here changes the digest."""
    rng, content = random.Random(seed), bytearray(written)
    end = 8 + int.from_bytes(written[:8], "little")
    for _ in range(changes):
        content[rng.randrange(end)] = rng.choice(b'0123456789[]{},":FIU \0\xff')
    path = tmp_path / "a"
    path.write_bytes(content)
    try:
        mapped = map_arrays(path)
    except FileFormatError:
        return
    assert 8 + int.from_bytes(content[:8], "little") + sum(array.nbytes for array in mapped.values()) == len(content)


@given(st.lists(texts))
@example([])
@example([""])
@example(["", "a", "", "课程 😀", "\0"])
def test_strings_are_those_given(given_texts: list[str]) -> None:
    strings = Strings(strings_as_arrays("s", given_texts), "s")
    assert list(strings) == given_texts
    assert len(strings) == len(given_texts)
    assert strings[1:] == given_texts[1:]
    assert strings[::-2] == given_texts[::-2]
    assert list(reversed(strings)) == given_texts[::-1]
    for number in range(-len(given_texts), len(given_texts)):
        assert strings[number] == given_texts[number]
    for number in (len(given_texts), -len(given_texts) - 1):
        with pytest.raises(IndexError):
            strings[number]


@given(st.lists(texts), st.lists(st.text()))
def test_vocabulary_finds_its_texts_and_no_others(given_texts: list[str], others: list[str]) -> None:
    """Also a text with an unpaired surrogate, which a query may contain."""
    ordered, as_arrays = vocabulary_as_arrays("v", given_texts)
    vocabulary = Vocabulary(as_arrays, "v")
    assert list(vocabulary) == ordered
    assert set(ordered) == set(given_texts)
    assert len(ordered) == len(set(given_texts))
    sought = [*given_texts, *others, "\ud800"]
    found = vocabulary.find(sought)
    assert [number is not None for number in found] == [text in set(given_texts) for text in sought]
    assert all(number is None or vocabulary[number] == text for number, text in zip(found, sought, strict=True))
    assert vocabulary.find([]) == []
