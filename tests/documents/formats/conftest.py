from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from documents.document import Document
from documents.formats.pdf import read
from tests.support.pdf_files import HEIGHT, WIDTH, Text, pdf


@pytest.fixture
def read_pages(tmp_path: Path) -> Callable[[Sequence[Sequence[Text]]], Document]:
    """Reads a PDF of these pages."""

    def read_these(pages: Sequence[Sequence[Text]], size: tuple[int, int] = (WIDTH, HEIGHT)) -> Document:
        path = tmp_path / "pages.pdf"
        path.write_bytes(pdf(pages, size=size))
        return read(path, lambda share: None)

    return read_these
