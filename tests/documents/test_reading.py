"""Whatever a parser does, the caller gets a document or a reason, and no process remains."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from documents.document import Block, Document, Kind, UnreadableFileError
from documents.reading import Limits, read_document

READER = "tests.documents.misbehaving_reader"
LIMITS = Limits(timeout_seconds=60)


def read(tmp_path: Path, behaviour: str, limits: Limits = LIMITS, **options: object) -> Document:
    file = tmp_path / "file.pdf"
    file.write_text(behaviour)
    return read_document(file, "file.pdf", limits=limits, reader=READER, **options)  # type: ignore[arg-type]


def test_document_arrives_as_the_reader_made_it_without_what_databases_refuse(tmp_path: Path) -> None:
    shares: list[float] = []

    document = read(tmp_path, "text", on_progress=shares.append)

    assert document == Document(
        "pdf",
        title="Title",
        language="zh",
        blocks=[
            Block(Kind.HEADING, "一", level=1, page=1),
            Block(Kind.TEXT, "a\nb\ufffd", page=1, page_end=2),
            Block(Kind.TEXT, "said", start=1.5, end=2.0),
        ],
    )
    assert 0.5 in shares


def test_format_is_detected_in_the_process(tmp_path: Path) -> None:
    file = tmp_path / "d3b07384"  # uploads are kept under other names than their owners gave them
    file.write_text("# Heaps\n\nA heap is a tree.\n")

    document = read_document(file, "heaps.md", limits=LIMITS)

    assert document.source_type == "markdown"
    assert [(block.kind, block.text) for block in document.blocks] == [
        (Kind.HEADING, "Heaps"),
        (Kind.TEXT, "A heap is a tree."),
    ]
    file.write_bytes(bytes(range(256)) * 8)
    with pytest.raises(UnreadableFileError):
        read_document(file, "heaps.exe", limits=LIMITS)


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("refuse", "It is encrypted. Remove the password."),
        ("bug", r"It cannot be read \(ValueError\). The file is probably damaged. Open it"),
        ("recursion", "nested too deeply"),
        ("segfault", "ended with signal SIGSEGV. The file is probably damaged"),
        ("exit", "ended with exit code 3"),
        ("noise", "ended with exit code 1"),
        ("write", r"It cannot be read \(OSError\)"),
    ],
)
def test_failure_of_a_reader_has_a_clear_message_without_the_text_of_the_file(
    tmp_path: Path, behaviour: str, message: str
) -> None:
    with pytest.raises(UnreadableFileError, match=message) as raised:
        read(tmp_path, behaviour)
    assert "secret" not in str(raised.value)


def test_missing_file_is_no_fault_of_its_content(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_document(tmp_path / "gone.pdf", "gone.pdf", limits=LIMITS)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
def test_memory_is_limited(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match=r"more than 512 MB of memory.*DOCUMENT_MAX_MEMORY_MB"):
        read(tmp_path, "memory", Limits(timeout_seconds=60, max_memory_mb=512))


@pytest.mark.parametrize("behaviour", ["output 100001", "output 3000000", "blocks 2000"])
def test_text_is_limited_and_so_is_the_number_of_blocks(tmp_path: Path, behaviour: str) -> None:
    with pytest.raises(UnreadableFileError, match=r"more than 100,000 characters of text.*DOCUMENT_MAX_CHARACTERS"):
        read(tmp_path, behaviour, Limits(timeout_seconds=60, max_characters=100_000))


def test_time_is_limited_and_no_process_of_the_reader_remains(tmp_path: Path) -> None:
    limits = Limits(timeout_seconds=1.5)
    with pytest.raises(UnreadableFileError, match=r"longer than 1.5 seconds.*DOCUMENT_TIMEOUT_SECONDS"):
        read(tmp_path, "spin", limits)


def test_caller_cancels_by_an_exception_and_the_descendants_are_killed_too(tmp_path: Path) -> None:
    others = set(psutil.Process().children(recursive=True))  # servers of other tests
    family: list[psutil.Process] = []

    def cancel(share: float) -> None:
        if not share:  # the reader is starting
            return
        family.extend(set(psutil.Process().children(recursive=True)) - others)
        raise KeyboardInterrupt(share)

    with pytest.raises(KeyboardInterrupt, match=r"0\.25"):
        read(tmp_path, "sleep", on_progress=cancel)

    assert len(family) >= 2
    wait_until_dead(family)


def test_reader_has_no_secrets_and_imports_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERNAL_TOKEN", "sesame")
    monkeypatch.chdir(tmp_path)

    *names, directory, numbers, session = (block.text for block in read(tmp_path, "surroundings").blocks)

    assert set(names) <= {"PATH", "LANG", "PYTHONPATH", "PYTHONUTF8", "MALLOC_ARENA_MAX", "LC_CTYPE"}
    assert (directory, session) == ("/", "a session of its own")
    assert numbers == "[0, 0, 64]"


def test_reader_dies_with_its_caller(tmp_path: Path) -> None:
    (tmp_path / "file.pdf").write_text("sleep")
    code = f"""
from pathlib import Path
from documents.reading import Limits, read_document
read_document(Path({str(tmp_path / "file.pdf")!r}), "file.pdf", limits=Limits(), reader={READER!r})
"""
    root = Path(__file__).parents[2]
    caller = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(root)}, cwd=tmp_path)
    try:
        family: list[psutil.Process] = []
        while len(family) < 2:
            assert caller.poll() is None
            time.sleep(0.02)
            family = psutil.Process(caller.pid).children(recursive=True)
    finally:
        caller.kill()
        caller.wait()

    reader, child = family
    child.kill()  # what a parser starts lives on if the caller is killed; no parser starts anything
    if sys.platform == "linux":
        wait_until_dead([reader])


def wait_until_dead(family: list[psutil.Process]) -> None:
    for process in family:
        with suppress(psutil.NoSuchProcess):
            while process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.02)
