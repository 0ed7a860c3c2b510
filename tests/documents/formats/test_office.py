"""Office files that are meant to do harm, or that are broken."""

import re
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docx
import pytest
from pptx import Presentation

from documents.document import Document, UnreadableFileError
from documents.formats import office, slides, word
from tests.documents.formats.packages import rewritten
from tests.documents.formats.reading import ignore_progress, outline

MAIN = {"docx": "word/document.xml", "pptx": "ppt/slides/slide1.xml"}


@pytest.fixture(params=["docx", "pptx"])
def office_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"a.{request.param}"
    if request.param == "docx":
        document = docx.Document()
        document.add_heading("Secret", 1)
        document.save(str(path))
    else:
        presentation = Presentation()
        presentation.slides.add_slide(presentation.slide_layouts[5]).shapes.title.text = "Secret"
        presentation.save(str(path))
    return path


def read(path: Path) -> Document:
    return word.read(path, ignore_progress) if path.suffix == ".docx" else slides.read(path, ignore_progress)


def main(path: Path) -> str:
    return MAIN[path.suffix[1:]]


def entity(declaration: str) -> Callable[[bytes], bytes]:
    """Declares entities and uses `&e;` in place of the text."""

    def change(content: bytes) -> bytes:
        start = re.sub(rb"^<\?xml[^>]*\?>\s*", b"", content).replace(b"Secret", b"&e;")
        return f"<?xml version='1.0' encoding='UTF-8'?><!DOCTYPE x [{declaration}]>".encode() + start

    return change


ENTITIES = {
    "external": '<!ENTITY e SYSTEM "file:///etc/hostname">',
    "expansion": '<!ENTITY a "aaaaaaaaaa">'
    + "".join(
        f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in zip("abcdfghij", "bcdfghije", strict=True)
    ),
}


@pytest.mark.parametrize("attack", ENTITIES)
def test_entities_are_refused(office_file: Path, attack: str) -> None:
    attacked = rewritten(office_file, {main(office_file): entity(ENTITIES[attack])})
    with pytest.raises(UnreadableFileError, match="document type definition"):
        read(attacked)
    utf_16 = rewritten(
        office_file,
        {
            main(office_file): lambda content: (
                entity(ENTITIES[attack])(content).decode().replace("UTF-8", "UTF-16").encode("utf-16")
            )
        },
    )
    with pytest.raises(UnreadableFileError, match="document type definition"):
        read(utf_16)


@pytest.mark.parametrize("attack", ENTITIES)
def test_the_libraries_expand_no_entities_either(
    office_file: Path, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second line of defence, for a document type that is hidden in an unusual encoding."""
    monkeypatch.setattr(office, "_has_doctype", lambda content: False)
    attacked = rewritten(office_file, {main(office_file): entity(ENTITIES[attack])})
    with pytest.raises(UnreadableFileError):
        read(attacked)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(office_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(office, "RATIO_FROM", 1_000_000)
    bomb = rewritten(office_file, {}, {"customXml/item9.xml": b"<a>" + b" " * 20_000_000})
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(UnreadableFileError, match="unpacks to"):
        read(bomb)


def test_large_pictures_are_not_unpacked(office_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(office, "MOST_XML", 5_000_000)
    picture = rewritten(office_file, {}, {"media/picture.bmp": b"\0" * (office.MOST_XML + 1)})
    assert outline(read(picture))[0].endswith("Secret")


def test_too_many_parts_are_refused(office_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(office, "MOST_PARTS", 50)
    parts = rewritten(office_file, {}, {f"customXml/{number}.txt": b"" for number in range(50)})
    with pytest.raises(UnreadableFileError, match="parts, more than any usual document"):
        read(parts)


def test_a_part_that_lies_about_its_size_is_not_unpacked_further(office_file: Path) -> None:
    changed = rewritten(office_file, {}, {"customXml/item9.xml": b"<a>" + b" " * 1_000_000})
    content = bytearray(changed.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    assert content[entry + 24 : entry + 28] == (1_000_003).to_bytes(4, "little")
    content[entry + 24 : entry + 28] = (100).to_bytes(4, "little")
    changed.write_bytes(content)
    with pytest.raises(UnreadableFileError, match="damaged"):
        read(changed)


def test_nothing_outside_the_file_is_fetched(office_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it connected"))
    relations = re.sub(r"([^/]+)$", r"_rels/\1.rels", main(office_file))
    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    external = (
        f'<Relationship Id="rId97" Type="{kind}/image" Target="http://192.0.2.1/a.png" TargetMode="External"/>'
        f'<Relationship Id="rId98" Type="{kind}/attachedTemplate" Target="file:///etc/hostname" TargetMode="External"/>'
        f'<Relationship Id="rId99" Type="{kind}/image" Target="NULL"/></Relationships>'
    )
    changed = rewritten(
        office_file, {relations: lambda content: content.replace(b"</Relationships>", external.encode())}
    )
    assert outline(read(changed))[0].endswith("Secret")


def test_encrypted_parts_are_named(office_file: Path) -> None:
    content = bytearray(office_file.read_bytes())
    for found in re.finditer(b"PK\x01\x02", bytes(content)):
        content[found.start() + 8] |= 1
    office_file.write_bytes(content)
    with pytest.raises(UnreadableFileError, match="protected by a password"):
        read(office_file)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_files_that_are_cut_off(office_file: Path, share: float) -> None:
    content = office_file.read_bytes()
    office_file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UnreadableFileError, match="damaged or cut off"):
        read(office_file)


@pytest.mark.parametrize("content", [b"", b"<", b"<a/>", b"\0\0", b"<a>" * 10_000])
def test_broken_parts(office_file: Path, content: bytes) -> None:
    for part in (main(office_file), "[Content_Types].xml", "_rels/.rels"):
        with pytest.raises(UnreadableFileError):
            read(rewritten(office_file, {part: lambda _: content}))


def test_an_empty_document_says_so(tmp_path: Path) -> None:
    docx.Document().save(str(tmp_path / "a.docx"))
    with pytest.raises(UnreadableFileError, match="contains no text"):
        read(tmp_path / "a.docx")


def test_one_office_file_is_not_read_as_the_other(office_file: Path) -> None:
    other: Any = slides if office_file.suffix == ".docx" else word
    with pytest.raises(UnreadableFileError):
        other.read(office_file, ignore_progress)
