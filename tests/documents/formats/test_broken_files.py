import importlib
import random
from collections.abc import Iterator
from pathlib import Path

import docx
import pytest
from pptx import Presentation

from documents.detection import FORMATS, detect
from documents.document import Kind, UnreadableFileError
from tests.documents.formats.reading import ignore_progress

TEXTS = {
    "a.md": """---\ntitle: T\n---\n# A $x_1$\n\n- item\n\n| a | b |\n|---|---|\n| 1 | 2 |\n
$$\ny\n$$\n\n<p>html</p>\n\n```\ncode\n```\n""",
    "a.html": """<html lang=zh><title>T</title><h1>A</h1><ol start=2><li>x<sup>2</sup></ol>
<table><tr><td>1<td>2</table><pre>c</pre>""",
    "a.rst": """Title\n=====\n\nText::\n\n  code\n\n====  ====\na     b\n====  ====\n1     2\n====  ====\n
.. note:: Text.\n""",
    "a.vtt": """WEBVTT\n\nNOTE Chapter 1: A\n\n00:01.000 --> 00:02.000\n<v X>Hello <i>you</i>.\n
00:02.000 --> 00:04.000\n电路板。\n""",
    "a.srt": "1\n00:00:01,000 --> 00:00:02,000\nHello.\n\n2\n00:00:02,000 --> 00:00:03,000\nHello. Again.\n",
    "a.json": """{"language": "en", "segments": [
{"start": 0.5, "end": 2, "text": "Hello.", "words": [{"word": "x", "start": 0}]}]}""",
    "a.ipynb": """{"nbformat": 4, "cells": [{"cell_type": "code", "source": ["x"],
"outputs": [{"output_type": "stream", "text": "1"}]}]}""",
}
INSERTED = (b"<", b"\0", b"\xff\xfe", b'"', b"[", b"-1", b"1e400", b"\\ud800", b"$$", b"`", b"\n\n", b"-->", b"===")


def broken(content: bytes, chance: random.Random) -> bytes:
    content = content[: chance.randrange(len(content))] if chance.random() < 0.2 else content
    for _ in range(chance.choice((1, 3, 9))):
        position = chance.randrange(len(content) + 1)
        end = position + chance.choice((0, 1, 30))
        content = content[:position] + chance.choice((*INSERTED, b"", content[position:end] * 20)) + content[end:]
    return content


def office_files(directory: Path) -> Iterator[Path]:
    document = docx.Document()
    document.add_heading("A", 1)
    document.save(str(directory / "a.docx"))
    presentation = Presentation()
    presentation.slides.add_slide(presentation.slide_layouts[5]).shapes.title.text = "A"
    presentation.save(str(directory / "a.pptx"))
    yield from (directory / "a.docx", directory / "a.pptx")


def read(path: Path, name: str) -> None:
    try:
        module = importlib.import_module(FORMATS[detect(path, name)].module)
        document = module.read(path, ignore_progress)
    except UnreadableFileError:
        return
    assert document.blocks
    for block in document.blocks:
        assert block.text.rstrip() == block.text != ""
        assert block.kind in (Kind.CODE, Kind.TABLE) or len(block.text.splitlines()) == 1
        block.text.encode()
        assert block.start is None or (block.end is not None and 0 <= block.start <= block.end)


@pytest.mark.parametrize("name", TEXTS)
def test_broken_texts_are_read_or_refused(tmp_path: Path, name: str) -> None:
    """Nothing but `UnreadableFileError` ever escapes, and no block is blank, unencodable or ends before it begins."""
    chance = random.Random(7)
    for number in range(60):
        path = tmp_path / str(number)
        path.write_bytes(broken(TEXTS[name].encode(), chance))
        read(path, name)


def test_broken_office_files_are_read_or_refused(tmp_path: Path) -> None:
    chance = random.Random(7)
    for original in office_files(tmp_path):
        for number in range(20):
            path = tmp_path / str(number)
            path.write_bytes(broken(original.read_bytes(), chance))
            read(path, original.name)
