"""One browser and one app for all tests of the page."""

from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome
from sqlalchemy import insert, update
from sqlmodel import col

from models.database import transaction
from models.tables import Course, EmbeddingStatus
from retrieval.relevance import Calibration
from search_api.app import create_app
from search_api.app_settings import SearchSettings
from tests.search_api.app_harness import AppHarness
from tests.search_api.page.opened_page import Page
from tests.support.browser import chromium
from tests.support.servers.asgi import serving

COURSE = "a/b & c?"
"""Has to be escaped in URLs."""
CHINESE = "植物学"
ATTACK = "<img src=x onerror=\"document.title='attacked'\">"
"""Would do something if it was taken for markup. It is a title, a course and a file."""
TEXTS = (
    "Photosynthesis turns light, water and carbon dioxide into sugar.",
    f"{ATTACK}<script>document.title='attacked'</script> **bold** &amp; # head sugar",
    "Chlorophyll absorbs light.",
    "Roots take up water.",
    "Leaves are green.",
    "Stems carry sugar.",
    "Seeds store sugar.",
)
CHINESE_TEXT = "植物的光合作用把光变成糖。"
MANY = 10_000


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> AppHarness:
    """Two courses that can be searched, and ten thousand that cannot. The cosine of text n is 1 - n / 10."""
    harness = AppHarness(tmp_path_factory.mktemp("app"))
    metadata = [
        {
            "lecture_id": f"l{number // 4}",
            "lecture_title": ATTACK if number // 4 else "Energy",
            "section_id": f"l{number // 4}-s{number // 2 % 2}",
            "section_title": f"Part {number // 2 % 2 + 1}",
            "order_in_section": number % 2,
            "source_type": "video" if number == 2 else "pdf",
            "language": "en",
            "page": number + 1,
            "source_url": "https://school.example/plants.pdf",
        }
        for number in range(len(TEXTS))
    ]
    harness.add_searchable_course(COURSE, *TEXTS, metadata=metadata)
    harness.add_searchable_course(CHINESE, CHINESE_TEXT, metadata=[{"lecture_id": "1", "language": "zh"}])
    harness.add_course(ATTACK, EmbeddingStatus.FAILED, embedding_error=ATTACK)
    with transaction(harness.engine) as session:
        calibration = Calibration(noise=0.2, cjk_noise=0.2, signal=1.0, cjk_share=0.5)
        text = calibration.as_text(harness.embedder.signature)
        searchable = col(Course.id).in_([COURSE, CHINESE])
        session.execute(update(Course).where(searchable).values(embedding_calibration=text))
        rows = [{"id": f"z{number:05}", "embedding_status": EmbeddingStatus.FAILED} for number in range(MANY)]
        session.execute(insert(Course), rows)
    return harness


@pytest.fixture(scope="session")
def shared_url(shared: AppHarness, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("UPLOAD_DIR", str(tmp_path_factory.mktemp("uploads")))
        with serving(create_app(SearchSettings(), shared.services)) as url:
            yield url


@pytest.fixture
def page(browser: Chrome, shared_url: str) -> Iterator[Page]:
    """The page of the shared app, in English, light and wide. At the end its log must be empty."""
    page = Page(browser, shared_url)
    page.look()
    page.log()  # removes the messages of other tests
    yield page
    log = page.log()
    browser.get("about:blank")  # ends the polling of the page, which would keep the server running
    assert log == []
