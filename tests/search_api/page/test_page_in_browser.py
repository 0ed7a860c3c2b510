"""The search page in Chromium, with a real catalogue, Chroma server and model."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait
from sqlalchemy import Engine

from embedding.embedder import LocalEmbedder
from embedding.model_settings import EmbeddingSettings
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.indexing import index_course
from models import chunks
from models.database import transaction
from search_api.app import create_app
from search_api.app_settings import SearchSettings
from tests.search_api.app_harness import LIMIT_SECONDS, AppHarness
from tests.support.browser import CHROMIUM, DRIVER, MISSING, chromium
from tests.support.courses import change_course, empty_catalogue, read_course, write_course
from tests.support.servers.asgi import serving
from tests.support.tiny_models import make_tiny_qwen3

pytestmark = [
    pytest.mark.browser,
    pytest.mark.integration,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING),
]

TEXT_WITH_MARKUP = (
    "<img src=x onerror=\"document.title='attacked'\"><script>document.title='attacked'</script> **bold** &amp; # head"
)
TEXTS = (
    "Photosynthesis turns light, water and carbon dioxide into sugar.",
    "植物的光合作用把光变成糖。",
    TEXT_WITH_MARKUP,
)


class Page:
    """The page, opened in the browser."""

    def __init__(self, browser: Chrome, url: str) -> None:
        self.browser = browser
        self.url = url

    def open(self, **parameters: str) -> None:
        self.browser.get(f"{self.url}/?{urlencode(parameters)}")

    def __getitem__(self, element_id: str) -> WebElement:
        return self.browser.find_element(By.ID, element_id)

    def texts(self) -> list[str]:
        return [element.text for element in self.browser.find_elements(By.CSS_SELECTOR, "#results .text")]

    def log(self) -> list[object]:
        """New messages in the browser's log: failed scripts, missing files, and files blocked by the policy."""
        return list(self.browser.get_log("browser"))  # type: ignore[no-untyped-call]

    def wait_for(self, element_id: str, text: str) -> None:
        WebDriverWait(self.browser, LIMIT_SECONDS).until(
            lambda _: text in self[element_id].text, f"#{element_id} shows {self[element_id].text!r}, not {text!r}"
        )

    def choose_course(self, course_id: str) -> None:
        WebDriverWait(self.browser, LIMIT_SECONDS).until(lambda _: len(Select(self["course"]).options) > 1)
        Select(self["course"]).select_by_value(course_id)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_qwen3(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def embedder(model_path: Path) -> LocalEmbedder:
    return LocalEmbedder.load(EmbeddingSettings(embedding_model_path=model_path, embedding_device="cpu"))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return empty_catalogue(tmp_path_factory.mktemp("catalogue") / "catalogue.db")


@pytest.fixture(scope="module")
def url(engine: Engine, chroma_url: str, model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DATABASE_URL", str(engine.url))
        environment.setenv("CHROMA_URL", chroma_url)
        environment.setenv("EMBEDDING_MODEL_PATH", str(model_path))
        environment.setenv("EMBEDDING_DEVICE", "cpu")
        environment.setenv("SNAPSHOT_DIR", str(tmp_path_factory.mktemp("snapshots")))
        with serving(create_app()) as url:
            yield url


@pytest.fixture
def page(browser: Chrome, url: str) -> Iterator[Page]:
    page = Page(browser, url)
    page.log()  # removes the messages of other tests
    yield page
    browser.get("about:blank")  # ends the polling of the page, which would keep the server running


@pytest.fixture
def course_id(engine: Engine, vector_store: VectorStore, embedder: LocalEmbedder) -> str:
    """A searchable course whose id has to be escaped in a URL."""
    course_id = f"a/b & c?{uuid4()}"
    write_course(engine, course_id, {f"{course_id}{number}": text for number, text in enumerate(TEXTS)})
    with transaction(engine) as session:
        index_course(course_id, chunks.chunk_pages(session, course_id), vector_store, embedder, lambda _: None)
    change_course(engine, course_id, embedding_status="done", embedding_progress=1.0)
    return course_id


def test_choose_a_course_and_search_it(page: Page, course_id: str) -> None:
    page.open()
    page.choose_course(course_id)
    page.wait_for("status", "Ready to search")
    assert not any(page[empty].is_displayed() for empty in ("error", "embedding-error", "summary"))
    page["query"].send_keys("What does photosynthesis turn light into?", Keys.ENTER)
    page.wait_for("summary", "3 results")
    assert page.texts()[0] == TEXTS[0]
    assert "Lecture › Section" in page["results"].text
    search_url = page.browser.current_url

    page.browser.find_element(By.CSS_SELECTOR, "#options summary").click()
    page["section"].send_keys("another", Keys.ENTER)
    page.wait_for("summary", "Nothing found")
    page.browser.back()
    page.wait_for("summary", "3 results")
    assert page.browser.current_url == search_url
    assert page.log() == []


def test_page_and_documentation_work_under_a_path_prefix(browser: Chrome, harness: AppHarness) -> None:
    """As behind a proxy that serves the app under `/search`."""
    harness.add_searchable_course("a/b", "copper")
    app = create_app(SearchSettings(internal_token="secret"), harness.services)
    with serving(app, root_path="/search") as url:
        page = Page(browser, f"{url}/search")
        page.log()
        page.open()
        WebDriverWait(browser, LIMIT_SECONDS).until(lambda _: page["token"].is_displayed())
        page.log()  # the request without a token
        page["token"].send_keys("secret", Keys.ENTER)
        page.choose_course("a/b")
        page["query"].send_keys("copper", Keys.ENTER)
        page.wait_for("summary", "1 result ")
        browser.find_element(By.CSS_SELECTOR, "nav a").click()
        WebDriverWait(browser, LIMIT_SECONDS).until(lambda _: browser.find_elements(By.CSS_SELECTOR, ".opblock"))
        assert browser.find_element(By.CSS_SELECTOR, ".servers select").get_attribute("value") == "/search"
        assert page.log() == []
        browser.get("about:blank")


def test_link_opens_a_course_and_searches_it(page: Page, course_id: str) -> None:
    page.open(course=course_id, q="光合作用", top_k="1")
    page.wait_for("summary", "1 result ")
    assert page.texts() == [TEXTS[1]]
    assert page["query"].get_attribute("value") == "光合作用"
    assert course_id in page.browser.title


def test_question_is_only_in_the_part_of_the_url_that_no_server_gets(page: Page, course_id: str) -> None:
    """The logs of the app, and of proxies before it, show URLs."""
    page.open(course=course_id, q="light & sugar", top_k="1")
    page.wait_for("summary", "1 result ")
    address = f"{page.url}/?{urlencode({'course': course_id, 'top_k': 1})}#q=light+%26+sugar"
    assert page.browser.current_url == address
    page.browser.get("about:blank")
    page.browser.get(address)
    page.wait_for("summary", "1 result ")
    assert page["query"].get_attribute("value") == "light & sugar"
    page["query"].send_keys("s", Keys.ENTER)
    WebDriverWait(page.browser, LIMIT_SECONDS).until(lambda browser: browser.current_url == f"{address}s")


def test_matching_words_are_highlighted(page: Page, course_id: str) -> None:
    page.open(course=course_id, q="光合作用 SUGARS", method="keyword")
    page.wait_for("summary", "2 results")
    marks = [mark.text for mark in page.browser.find_elements(By.CSS_SELECTOR, "#results mark")]
    assert sorted(marks) == ["sugar", "光合作用"]
    assert sorted(page.texts()) == sorted(TEXTS[:2])


def test_markup_in_a_course_text_is_shown_as_text(page: Page, course_id: str) -> None:
    page.open(course=course_id, q=TEXT_WITH_MARKUP)
    page.wait_for("summary", "3 results")
    assert page.texts()[0] == TEXT_WITH_MARKUP
    assert page.browser.find_elements(By.CSS_SELECTOR, "#results img, #results script") == []
    assert page.browser.title.endswith("Course search")


def test_page_polls_until_the_course_can_be_searched(page: Page, engine: Engine, course_id: str) -> None:
    change_course(engine, course_id, embedding_status="running", embedding_progress=0.4)
    page.open(course=course_id, q="sugar")
    page.wait_for("error", "running")
    page.wait_for("status", "Being embedded")
    assert page["percent"].text == "40 %"
    assert page["progress"].get_attribute("value") == "0.4"
    assert not page["embed"].is_enabled()
    change_course(engine, course_id, embedding_status="done", embedding_progress=1.0)
    page.wait_for("summary", "3 results")
    assert page["error"].text == ""


def test_failed_course_shows_its_error_and_can_be_embedded_again(page: Page, engine: Engine, course_id: str) -> None:
    change_course(engine, course_id, embedding_status="failed", embedding_error="The GPU is <b>gone</b>")
    page.open(course=course_id)
    page.wait_for("embedding-error", "The GPU is <b>gone</b>")
    page["embed"].click()
    page.wait_for("status", "Waiting to be embedded")
    assert read_course(engine, course_id).embedding_status == "pending"


def test_link_to_an_unknown_course_shows_an_error(page: Page, course_id: str) -> None:
    page.open(course="nobody", q="x")
    page.wait_for("error", "There is no course 'nobody'")
    page.choose_course(course_id)
    page.wait_for("summary", "3 results")
    assert page["error"].text == ""


def test_empty_catalogue_shows_how_to_load_a_course(browser: Chrome, harness: AppHarness) -> None:
    with serving(create_app(SearchSettings(), harness.services)) as url:
        page = Page(browser, url)
        page.open()
        page.wait_for("error", "course-search load")
        browser.get("about:blank")


def test_page_asks_for_the_token_and_sends_it(browser: Chrome, harness: AppHarness) -> None:
    harness.add_searchable_course("c", "A text.")
    with serving(create_app(SearchSettings(internal_token="s3cret-token"), harness.services)) as url:
        page = Page(browser, url)
        page.open(course="c", q="x")
        page.wait_for("token-form", "Internal token")
        assert page["error"].text == ""
        page["token"].send_keys("wrong", Keys.ENTER)
        page.wait_for("error", "X-Internal-Token")
        page["token"].clear()
        page["token"].send_keys("s3cret-token", Keys.ENTER)
        page.wait_for("summary", "1 result ")
        assert page.texts() == ["A text."]
        assert not page["token-form"].is_displayed()
