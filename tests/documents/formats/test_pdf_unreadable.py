"""Files that cannot be read: each message tells why, and what to do."""

from pathlib import Path

import pytest

from documents.document import UnreadableFileError
from documents.formats import pdf as pdf_format
from documents.formats import pdf_page
from documents.formats.pdf import read
from tests.documents.formats.pdf_texts import all_text, prose
from tests.support.pdf_files import Text, paragraph, pdf

FILES = Path(__file__).parent / "files"


def _reason(path: Path) -> str:
    with pytest.raises(UnreadableFileError) as caught:
        read(path, lambda share: None)
    assert str(path) not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "unreadable.pdf"


def test_a_password_is_needed() -> None:
    assert "password" in _reason(FILES / "needs-password.pdf")


def test_a_file_that_only_its_owner_may_change_is_read() -> None:
    assert "only with its password" in all_text(read(FILES / "owner-password-only.pdf", lambda share: None))


def test_a_scan_needs_ocr(path: Path) -> None:
    path.write_bytes(pdf([[], [], []], pictures=[1, 2, 3]))

    assert "ocrmypdf" in _reason(path)


def test_most_pages_are_scanned(path: Path) -> None:
    stamp = Text(50, 780, "Scanned with a phone")
    path.write_bytes(
        pdf([[*paragraph(50, 100, prose(0, 9), 450), stamp], [stamp], [stamp], [stamp]], pictures=[2, 3, 4])
    )

    assert "3 of its 4 pages" in _reason(path)


def test_a_few_scanned_pages_do_not_keep_the_others_from_being_read(tmp_path: Path) -> None:
    path = tmp_path / "mixed.pdf"
    path.write_bytes(
        pdf([paragraph(50, 100, prose(0, 9), 450), [], paragraph(50, 100, prose(9, 9), 450)], pictures=[2])
    )

    document = read(path, lambda share: None)

    assert [block.page for block in document.blocks] == [1, 3]


def test_glyphs_of_no_known_letter(path: Path) -> None:
    path.write_bytes(
        pdf([[Text(50, 100 + 12 * line, "glyphs without their letters", font="unknown") for line in range(20)]])
    )

    assert "which letters" in _reason(path)


def test_pages_that_show_nothing(path: Path) -> None:
    path.write_bytes(pdf([[], []]))

    assert "empty" in _reason(path)


def test_an_empty_file(path: Path) -> None:
    path.write_bytes(b"")

    assert "empty" in _reason(path)


def test_another_format_with_the_wrong_name(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + b"zip" * 500)

    assert "not a PDF" in _reason(path)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_file_that_is_cut_off(path: Path, share: float) -> None:
    whole = pdf([paragraph(50, 100, prose(0, 30), 450)])
    path.write_bytes(whole[: int(share * len(whole))])

    assert "cut off" in _reason(path)


def test_a_damaged_file(path: Path) -> None:
    path.write_bytes(b"%PDF-1.7\n" + b"garbage" * 1000 + b"\nstartxref\n12\n%%EOF\n")

    assert "damaged" in _reason(path)


def test_a_file_without_pages(path: Path) -> None:
    path.write_bytes(pdf([]))

    assert _reason(path)


def test_a_missing_file(path: Path) -> None:
    assert _reason(path)


def test_too_many_pages(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf_format, "MAX_PAGES", 3)
    path.write_bytes(pdf([[], [], [], []]))

    assert "4 pages" in _reason(path)


def test_too_many_characters_on_a_page(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf_page, "MAX_CHARACTERS", 1000)
    path.write_bytes(pdf([paragraph(50, 100, prose(0, 30), 450)]))

    assert "characters" in _reason(path)


def test_every_byte_may_be_wrong(path: Path) -> None:
    whole = pdf([[Text(50, 60, "A Title", 20), *paragraph(50, 100, prose(0, 5), 450)]], outline=[(1, "A Title", 1, 60)])
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + b"\xff\x00<<" + whole[place + 4 :])
        try:
            read(path, lambda share: None)
        except UnreadableFileError as error:
            assert str(error)  # noqa: PT017


def test_progress_is_reported_by_page(tmp_path: Path) -> None:
    path = tmp_path / "long.pdf"
    path.write_bytes(pdf([paragraph(50, 100, prose(9 * number, 9), 450) for number in range(4)]))
    shares: list[float] = []

    read(path, shares.append)

    assert shares == [0.25, 0.5, 0.75, 1.0]
