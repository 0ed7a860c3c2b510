"""Links and paths in the documentation lead somewhere."""

import re
from pathlib import PurePosixPath
from posixpath import normpath

import pytest

from tests.docs.pages import PAGES, ROOT, WRITTEN, Page

BY_PATH = {page.path: page for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_links_lead_to_files_and_headings(page: Page) -> None:
    for link in page.links:
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = normpath(PurePosixPath(page.path).parent / path) if path else page.path
        assert (ROOT / target).exists(), link
        if anchor:
            assert anchor in BY_PATH[target].anchors, link


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.path)
def test_paths_in_code_exist(page: Page) -> None:
    for code in page.code:
        if re.fullmatch(r"(?:[a-z_0-9.-]+/)+[a-z_0-9.-]+\.(?:py|yaml|yml|json|md|txt|toml|pdf|vtt|jsonl)", code):
            places = (ROOT / code, ROOT / "data" / "samples" / code, ROOT / "data" / code)
            assert any(place.exists() for place in places), code


def test_pictures_are_small() -> None:
    pictures = list((ROOT / "docs" / "images").iterdir())
    assert pictures
    assert [picture.name for picture in pictures if picture.stat().st_size > 150_000] == []
