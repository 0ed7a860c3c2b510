import importlib
import subprocess
import sys
import zipfile
from pathlib import Path

import docx
import pytest
from pptx import Presentation

from documents.detection import FORMATS, SUPPORTED, detect
from documents.document import UnreadableFileError
from tests.documents.formats.reading import written

SRT = "1\n00:00:01,000 --> 00:00:02,000\nHello.\n"
VTT = "WEBVTT\n\n00:01.000 --> 00:02.000\nHello.\n"
WHISPER = '{"text": "x", "segments": [{"start": 0, "end": 1, "text": "x"}]}'
NOTEBOOK = '{"cells": [], "nbformat": 4}'
PAGE = "<!-- saved -->\n<!DOCTYPE html><html><p>x</html>"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.pdf", b"%PDF-1.7\n", "pdf"),
        ("a.PDF", b"\n\njunk\n%PDF-1.4\n", "pdf"),
        ("a.md", b"# Title", "markdown"),
        ("a.markdown", b"<div align=center>\n\n# Title", "markdown"),
        ("a.md", PAGE.encode(), "markdown"),
        ("a.html", b"<p>no doctype", "html"),
        ("a.HTM", PAGE.encode("utf-16"), "html"),
        ("a.txt", b"text", "text"),
        ("a.rst", b"Title\n=====\n", "text"),
        ("README", b"text", "text"),
        ("a.txt", "文字".encode("gbk"), "text"),
        ("a.vtt", VTT.encode("utf-8-sig"), "transcript"),
        ("a.srt", SRT.encode("utf-16"), "transcript"),
        ("a.srt", b"\n\n0:00:01.5 --> 0:00:02.5\nNo numbers.", "transcript"),
        ("a.json", WHISPER.encode(), "transcript"),
        ("a.ipynb", NOTEBOOK.encode(), "notebook"),
        # The name says something else.
        ("a.docx", b"%PDF-1.7\n", "pdf"),
        ("a.txt", VTT.encode(), "transcript"),
        ("a.vtt", SRT.encode(), "transcript"),
        ("a.srt", VTT.encode(), "transcript"),
        ("a.txt", PAGE.encode(), "html"),
        ("a.json", NOTEBOOK.encode(), "notebook"),
        ("a", WHISPER.encode(), "transcript"),
    ],
)
def test_the_content_counts_more_than_the_name(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    assert detect(written(tmp_path, "stored", content), name) == expected


def test_office_files_are_known_by_their_parts(tmp_path: Path) -> None:
    docx.Document().save(str(tmp_path / "a"))
    Presentation().save(str(tmp_path / "b"))
    assert detect(tmp_path / "a", "a.docx") == detect(tmp_path / "a", "a.pdf") == "document"
    assert detect(tmp_path / "b", "b.pptx") == detect(tmp_path / "b", "b.txt") == "slides"


def compound_file(entry: str) -> bytes:
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(4000) + entry.encode("utf-16-le") + bytes(4000)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "empty"),
        ("a.txt", b" \n", "empty"),
        ("a.docx", compound_file("EncryptedPackage"), "protected by a password"),
        ("a.doc", compound_file("WordDocument"), r"save it as \.docx"),
        ("a.ppt", compound_file("PowerPoint Document"), r"save it as \.pptx"),
        ("a.xls", compound_file("Workbook"), "old format of Office"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "an image"),
        ("a.txt", b"\xff\xd8\xff\xe0" + bytes(99), "an image"),
        ("a.mp4", bytes(4) + b"ftypisom" + bytes(99), r"a video\. Upload its subtitles"),
        ("a.mkv", b"\x1aE\xdf\xa3" + bytes(99), "a video"),
        ("a.mp3", b"ID3\x04" + bytes(99), r"a sound recording\. Upload its subtitles"),
        ("a.wav", b"RIFF1234WAVEfmt ", "a sound recording"),
        ("a.exe", b"MZ\x90\0" + bytes(99), "a program"),
        ("a.pdf", b"\x7fELF" + bytes(99), "a program"),
        ("a.gz", b"\x1f\x8b\x08", "an archive"),
        ("a.rtf", rb"{\rtf1 text}", r"save it as \.docx"),
        ("a.docx", b"PK\x03\x04 cut off", "damaged or cut off"),
        ("a.pptx", b"Just text.", r"named \.pptx, but its content is none"),
        ("a.pdf", PAGE[:4].encode(), r"named \.pdf"),
        ("a.srt", b"Just text.", "no subtitles"),
        ("a.ipynb", b"Just text.", "no Jupyter notebook"),
        ("a.json", b'{"a": 1}', "neither a transcript"),
        ("a.json", b"[" * 100_000, "nested too deep"),
        ("a.ipynb", NOTEBOOK[:-9].encode(), "no valid JSON"),
        ("a.json", b"5", "no subtitles"),
        ("a.csv", b"a,b\n1,2\n", r"named \.csv are not supported. Supported are"),
        ("a.txt", bytes(range(256)) * 9, "no text that can be read"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(UnreadableFileError, match=message) as caught:
        detect(written(tmp_path, "stored", content), name)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("xl/workbook.xml", "a spreadsheet"),
        ("META-INF/container.xml", "EPUB"),
        ("notes/a.txt", "Unpack it"),
    ],
)
def test_other_archives_are_named(tmp_path: Path, part: str, message: str) -> None:
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        archive.writestr(part, "x")
    with pytest.raises(UnreadableFileError, match=message):
        detect(tmp_path / "a", "a.docx")


def test_formats_have_readers_and_are_described() -> None:
    for name, known in FORMATS.items():
        if name != "pdf":
            assert callable(importlib.import_module(known.module).read)
        assert any(extension in SUPPORTED or extension[1:].upper() in SUPPORTED for extension in known.extensions)
    extensions = [extension for known in FORMATS.values() for extension in known.extensions]
    assert len(extensions) == len(set(extensions))


def test_no_parser_is_loaded_before_it_is_needed() -> None:
    """The process that reads a file starts fast."""
    modules = ", ".join(known.module for name, known in FORMATS.items() if name != "pdf")
    code = f"""import sys, documents.detection, {modules}
print([name for name in ("lxml", "pptx", "docx", "markdown_it", "selectolax", "yaml", "charset_normalizer")
       if name in sys.modules])"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
