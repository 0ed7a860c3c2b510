"""The page in Chromium: no state has a violation, the keyboard is enough, and it speaks Chinese."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, Keys

from models import resources
from models.database import transaction
from models.resources import NewChunk
from search_api.app import create_app
from search_api.app_settings import SearchSettings
from tests.search_api.app_harness import AppHarness
from tests.search_api.page.conftest import CHINESE, CHINESE_TEXT, COURSE, TEXTS
from tests.search_api.page.opened_page import AXE, NARROW, WIDE, Page
from tests.support.browser import CHROMIUM, DRIVER, MISSING
from tests.support.courses import change_course, read_course
from tests.support.servers.asgi import serving

pytestmark = [
    pytest.mark.browser,
    pytest.mark.integration,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING),
]
needs_axe = pytest.mark.skipif(not AXE.exists(), reason="axe-core is missing: make node_modules/axe-core/axe.min.js")


def check(page: Page) -> None:
    """In both themes and two widths, axe-core finds nothing, and nothing is wider than the window."""
    for width, theme in ((WIDE, "light"), (NARROW, "dark")):
        page.look(width=width, theme=theme)
        assert page.violations() == [], (width, theme)
        assert overflow(page) == 0, (width, theme)
    page.look()


def overflow(page: Page) -> int:
    """By how many pixels the page is wider than the window."""
    script = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    return int(page.browser.execute_script(script))


def _courses(page: Page) -> None:
    page.open()
    page.wait_for("courses-count", "courses")
    page.look(width=NARROW)
    page["show-courses"].click()


def _results(page: Page) -> None:
    page.open("sugar violin", course=COURSE, weight="40", lecture_id="l0")
    page.wait_for("summary", "results")
    page.one("#facets input")
    page.one(".context").click()
    page.one(".neighbour")
    page.one(".why").click()


def _nothing_relevant(page: Page) -> None:
    page.open("violin sonata", course=[COURSE, "nobody"], method="keyword")
    page.wait_for("verdict", "Nothing relevant")
    page.wait_for("notes", "nobody")


def _error(page: Page) -> None:
    page.open("sugar", course="nobody")
    page.wait_for("error", "nobody")


def _confirmation(page: Page) -> None:
    page.open(course=COURSE)
    page.wait_for("status", "Ready")
    page["embed"].click()


def _new_course(page: Page) -> None:
    page.open()
    page.wait_for("courses-count", "courses")
    page["new-course"].click()
    page["create-id"].send_keys("...", Keys.ENTER)
    page.wait_for("create-error", "course_id")


@needs_axe
@pytest.mark.parametrize("show", [_courses, _results, _nothing_relevant, _error, _confirmation, _new_course])
def test_no_violation(page: Page, show: Callable[[Page], None]) -> None:
    show(page)
    check(page)


@pytest.mark.parametrize("show", [_courses, _results, _new_course])
def test_text_of_double_size_fits_a_phone(page: Page, show: Callable[[Page], None]) -> None:
    show(page)
    page.look(width=NARROW)
    page.browser.execute_script("document.documentElement.style.fontSize = '200%'")
    assert overflow(page) == 0
    page.look()


@pytest.fixture
def own_page(browser: Chrome, harness: AppHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """The page of an app of the test's own, which asks for a token."""
    monkeypatch.setenv("UPLOAD_DIR", str(tmp_path / "uploads"))
    settings = SearchSettings(internal_token="secret", dagster_url="http://dagster.example")
    with serving(create_app(settings, harness.services)) as url:
        page = Page(browser, url)
        page.look()
        yield page
        browser.get("about:blank")


@needs_axe
def test_no_violation_of_token_form_welcome_and_files(own_page: Page, harness: AppHarness) -> None:
    page = own_page
    page.open()
    page.wait_for("token-form", "Internal token")
    page["token"].send_keys("wrong", Keys.ENTER)
    page.wait_for("token-error", "The token is wrong")
    check(page)
    page["token"].clear()
    page["token"].send_keys("secret", Keys.ENTER)
    page.wait_for("welcome", "There is no course yet")
    check(page)

    now = datetime.now(UTC)
    with transaction(harness.engine) as session:
        resources.create_course(session, "c")
        for name in ("waiting.pdf", "running.md", "broken.pptx", "done.md"):
            resource = resources.put_resource(session, "c", name, size=5_000_000, sha256=name, now=now)
            claimed = resources.claim(session, resource.resource_id, "run", now) if name != "waiting.pdf" else None
            if name == "running.md" and claimed:
                assert resources.progress(session, claimed, 0.4, now)
            elif name == "broken.pptx" and claimed:
                assert resources.fail(session, claimed, "The file is encrypted: remove the password.", now)
            elif claimed:
                chunk = NewChunk("A via.", 1, 1, "en", {})
                assert resources.succeed(session, claimed, [chunk], source_type="markdown", now=now)
    change_course(harness.engine, "c", embedding_status="running", embedding_progress=0.5)
    page.browser.get(f"{page.url}/?course=c&view=files")
    page.until(lambda: "Being embedded 50%" in page["files"].text)
    page.one("#dagster[href]")
    page.browser.execute_script("document.getElementById('file-input').focus()")
    check(page)


def test_keyboard_alone_is_enough(own_page: Page, harness: AppHarness) -> None:
    """From the beginning of the page: open a course, ask, open the neighbours, copy a citation, embed again."""
    page = own_page
    harness.add_searchable_course("c", *TEXTS[:2], metadata=[{"order_in_section": n, "page": n + 1} for n in range(2)])
    page.open()
    page.wait_for("token-form", "Internal token")
    page.press("secret", Keys.ENTER)
    page.wait_for("courses-count", "1 course")
    page.browser.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite"]})
    page.browser.refresh()
    page.wait_for("courses-count", "1 course")
    page.press(Keys.TAB)
    assert page.focused.text == "Skip to the content"
    page.press(Keys.ENTER)
    assert page.focused == page["main"]
    page.browser.execute_script("document.getElementById('skip').focus()")
    page.tab_to(lambda element: element.text.startswith("c\n"))
    page.press(Keys.ENTER)
    page.wait_for("scope", "c")
    assert page.focused == page["scope"], "what is read next is the course"
    page.tab_to(lambda element: element == page["query"])
    page.press("sugar", Keys.ENTER)
    page.wait_for("summary", "2 results")
    page.tab_to(lambda element: element.accessible_name.startswith("Copy citation"))
    page.press(Keys.ENTER)
    page.wait_for("announcement", "Copied")
    copied = "navigator.clipboard.readText().then(arguments[arguments.length - 1])"
    assert page.browser.execute_async_script(copied) == "p. 1"
    page.tab_to(lambda element: element.accessible_name.startswith("Before and after"))
    page.press(Keys.SPACE)
    page.wait_for("announcement", "0 passages before and 1 after are shown.")
    assert page.focused.get_attribute("aria-expanded") == "true"

    page.browser.execute_script("document.getElementById('scope').focus()")
    page.tab_to(lambda element: element == page["embed"])
    page.press(Keys.ENTER)
    page.wait_for("confirm", "Embed c again?")
    assert page.focused.text == "Cancel"
    page.press(Keys.TAB, Keys.ENTER)
    page.wait_for("status", "Waiting to be embedded")
    assert read_course(harness.engine, "c").embedding_status == "pending"


def test_interface_is_chinese_in_a_chinese_browser(page: Page) -> None:
    page.speak("fr-FR,zh-CN,en")
    try:
        page.open("光合作用", course=CHINESE)
        page.wait_for("summary", "1 条结果")
        root = page.one("html")
        assert root.get_attribute("lang") == "zh-Hans"
        page.wait_for("status", "可以检索")
        assert page.texts() == [CHINESE_TEXT]
        assert page.one("#results .text").get_attribute("lang") == "zh"
        assert [mark.text for mark in page.all("#results mark")] == ["光合作用"]
        page["embed"].click()
        page.wait_for("confirm", "重新向量化")
        page.press(Keys.ESCAPE)
        names = """
            const done = arguments[arguments.length - 1];
            Promise.all([import("/static/texts_en.js"), import("/static/texts_zh.js")]).then(
                ([{ english }, { chinese }]) => done([Object.keys(english), Object.keys(chinese)]));
        """
        english, chinese = map(set, page.browser.execute_async_script(names))
        assert {name for name in english ^ chinese if not name.startswith("error.")} == set()
        if AXE.exists():
            check(page)
    finally:
        page.speak("en-US,en")
