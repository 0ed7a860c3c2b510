import codecs
from pathlib import Path

import pytest

from documents.document import UnreadableFileError
from documents.formats.encodings import decode, read_text
from tests.documents.formats.reading import written

CHINESE = "印刷电路板（PCB）是电子元件的支撑体，制造时需要阻抗匹配。\n第二行 20℃。\n"
FRENCH = "L'élève a été reçu à l'école où il étudiait – « déjà ».\n"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gb18030", "gbk"]
)
def test_chinese(encoding: str) -> None:
    assert decode(CHINESE.encode(encoding)) == CHINESE


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8", "utf-16-le", "utf-16"])
def test_french(encoding: str) -> None:
    assert decode(FRENCH.encode(encoding)) == FRENCH


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("第一章 绪论", "gbk"),
        ("温度20℃", "gb18030"),
        ("café", "latin-1"),
        ("Übung 3: Größe", "latin-1"),
        ("x = é", "cp1252"),
    ],
)
def test_a_few_characters_are_enough(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)) == text


@pytest.mark.parametrize(
    ("text", "encoding"), [("電路板的製造需要阻抗匹配，", "big5"), ("基板の製造には整合が必要です。", "euc-jp")]
)
def test_other_encodings_of_longer_texts(text: str, encoding: str) -> None:
    assert decode((text * 9).encode(encoding)) == text * 9


def test_a_broken_character_does_not_change_the_encoding() -> None:
    assert decode((CHINESE * 20).encode() + b"\xe5\x8d" + CHINESE.encode()) == CHINESE * 20 + "\ufffd" + CHINESE


def test_nothing_unencodable_or_invisible_remains(tmp_path: Path) -> None:
    content = "a\u200bb\u202ec\x00d\x07e\r\nf\rg\u00a0h\u2028i" + "x" * 300
    text = read_text(written(tmp_path, "a.txt", content))
    assert text == "abcde\nf\ng h\ni" + "x" * 300
    surrogates = codecs.BOM_UTF16_LE + "ab".encode("utf-16-le") + b"\x3d\xd8" + "c".encode("utf-16-le")
    read_text(written(tmp_path, "b.txt", surrogates)).encode()


@pytest.mark.parametrize("content", [bytes(range(256)) * 40, b"\x00" * 500, b"\x7fELF\x01\x02\x03\x04" * 99])
def test_binary_content_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UnreadableFileError, match="no text that can be read"):
        read_text(written(tmp_path, "a.txt", content))


@pytest.mark.parametrize("content", ["", " \n\t\u3000\n", "\ufeff"])
def test_a_file_without_text_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(UnreadableFileError, match="is empty"):
        read_text(written(tmp_path, "a.txt", content))
