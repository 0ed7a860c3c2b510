"""The page in Chromium: courses, searches, results."""

from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from search_api.app import create_app
from search_api.app_settings import SearchSettings
from tests.search_api.app_harness import AppHarness
from tests.search_api.page.conftest import ATTACK, CHINESE, CHINESE_TEXT, COURSE, MANY, TEXTS
from tests.search_api.page.opened_page import Page
from tests.search_api.search.test_serving import publish
from tests.support.browser import CHROMIUM, DRIVER, MISSING
from tests.support.courses import change_course, read_course
from tests.support.servers.asgi import serving

pytestmark = [
    pytest.mark.browser,
    pytest.mark.integration,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING),
]


@pytest.fixture
def own_page(browser: Chrome, harness: AppHarness) -> Iterator[Page]:
    """The page of an app of the test's own, whose courses it may change."""
    with serving(create_app(SearchSettings(), harness.services)) as url:
        page = Page(browser, url)
        page.look()
        yield page
        browser.get("about:blank")


def test_choose_a_course_ask_filter_and_go_back(page: Page) -> None:
    page.open()
    page.wait_for("scope", "All courses")
    assert [notice.text for notice in page.all(".note, .error, .verdict, #summary") if notice.is_displayed()] == []
    page.browser.find_element(By.LINK_TEXT, f"{COURSE}\nReady to search").click()
    page.wait_for("status", "Ready to search")
    page["query"].send_keys("Photosynthesis, sugar", Keys.ENTER)
    page.wait_for("summary", "5 results")
    assert page.texts("#results h3")[0] == "Energy › Part 1"
    assert page.texts("#results .place")[0] == "p. 1PDF"
    assert page.browser.title == f"Photosynthesis, sugar – {COURSE} – Course search"
    unfiltered = page.browser.current_url

    page.one("#options summary").click()
    page.one("#facets input[name=source_type][value=video]").click()
    page.wait_for("filters", "Source: video")
    page.until(lambda: page.texts() == [TEXTS[2]])
    assert page.texts("#facets legend") == ["Lecture", "Section", "Source"]
    assert page.texts("#facets fieldset:first-child label") == [ATTACK, "Energy"], "titles, which may be untrusted"
    page.one("#filters button").click()
    page.wait_for("summary", "5 results")
    assert page.browser.current_url == unfiltered
    page.browser.back()
    page.wait_for("filters", "Source: video")
    page.until(lambda: page.texts() == [TEXTS[2]])
    page.browser.forward()
    page.wait_for("summary", "5 results")


def test_question_is_only_in_the_part_of_the_url_that_no_server_gets(page: Page) -> None:
    """The logs of the app, and of proxies before it, show URLs. A link may have it in the query as well."""
    page.open(course=COURSE, q="light & sugar", top_k="1", method="keyword")
    page.wait_for("summary", "1 result ")
    address = f"{page.url}/?{urlencode({'course': COURSE, 'method': 'keyword', 'top_k': 1})}#q=light+%26+sugar"
    assert page.browser.current_url == address
    page.browser.get("about:blank")
    page.browser.get(address)
    page.wait_for("summary", "1 result ")
    assert page["query"].get_attribute("value") == "light & sugar"
    page["query"].send_keys("s", Keys.ENTER)
    page.until(lambda: page.browser.current_url == f"{address}s")


def test_result_shows_marks_source_neighbours_and_its_scores(page: Page) -> None:
    page.open("sugar carbon violin", course=COURSE, weight="70")
    page.wait_for("summary", "results")
    first = page.one("#results li")
    assert [mark.text for mark in first.find_elements(By.TAG_NAME, "mark")] == ["carbon", "sugar"]
    assert first.find_element(By.CSS_SELECTOR, ".text").get_attribute("lang") == "en"
    link = first.find_element(By.CSS_SELECTOR, ".source")
    assert link.get_attribute("href") == "https://school.example/plants.pdf#page=1"
    assert link.get_attribute("rel") == "noopener noreferrer"
    assert "Never used here: violin" in page["answer"].text

    context = first.find_element(By.CSS_SELECTOR, ".context")
    context.click()
    page.until(lambda: page.texts("#results li:first-child .after .neighbour [lang]") == [TEXTS[1]])
    assert page.texts("#results li:first-child .before") == ["The section begins here."]
    context.click()
    assert page.texts("#results li:first-child .neighbours") == ["", ""]

    first.find_element(By.CSS_SELECTOR, ".why").click()
    rows = [row.text.replace("\n", " ") for row in first.find_elements(By.CSS_SELECTOR, ".explanation tr")]
    assert [row.split()[0] for row in rows] == ["Meaning", "Words", "Combined", "Relevance"]
    assert "1.000 cosine similarity, weight 0.70" in rows[0]
    bar = first.find_element(By.CSS_SELECTOR, ".explanation tr:nth-child(2) .second").get_attribute("width")
    assert float(rows[1].split()[1]) == pytest.approx(float(str(bar).rstrip("%")) / 100, abs=0.001)


def test_texts_are_never_markup(page: Page) -> None:
    """Chunks, titles, ids of courses and errors are written by others."""
    page.open(ATTACK, course=COURSE, top_k="7")
    page.wait_for("summary", "results")
    assert TEXTS[1] in page.texts()
    assert f"{ATTACK} › Part 1" in page.texts("#results h3")
    page.one(".context").click()
    page.one(".why").click()
    assert page.texts(".name")[0] == ATTACK
    page.open("", course=ATTACK)
    page.wait_for("embedding-error", ATTACK)
    assert page["scope"].text == ATTACK
    assert page.all("main img, main script, #courses img") == []
    assert "attacked" not in page.browser.title.replace(ATTACK, "")


def test_nothing_relevant_is_said_plainly(page: Page) -> None:
    page.open("violin sonata", course=COURSE, method="keyword")
    page.wait_for("verdict", "Nothing relevant in this course")
    assert "Never used here: violin, sonata" in page["verdict"].text
    assert page.texts() == []
    page.open("sugar", course=COURSE, section_id="none")
    page.wait_for("verdict", "Remove a filter")
    page.one("#filters button").click()
    page.wait_for("summary", "results")
    assert not page["verdict"].is_displayed()


def test_several_courses_and_all(page: Page) -> None:
    page.open("糖 sugar", course=[COURSE, "nobody"])
    page.wait_for("scope", "2 courses")
    page.wait_for("notes", "nobody was not searched: there is no such course")
    page.one("#chosen-courses li:nth-child(2) button").click()
    page.wait_for("scope", COURSE)
    page.until(lambda: not page["chosen-courses"].is_displayed())

    assert page.texts("#course-list .name")[:3] == [ATTACK, COURSE, "z00000"], "by id"
    page["course-search"].send_keys(CHINESE)
    page.wait_for("courses-count", "1 course")
    page.one("#course-list input").click()
    page.wait_for("scope", "2 courses")
    page.until(lambda: CHINESE_TEXT in page.texts())
    assert any(place.startswith(CHINESE) for place in page.texts("#results .place"))
    page["all-courses"].click()
    page.wait_for("scope", "All courses")
    page.until(lambda: CHINESE_TEXT in page.texts())


def test_next_page_continues_the_list_and_gets_the_focus(page: Page) -> None:
    page.open("sugar", course=COURSE, top_k="2")
    page.wait_for("summary", "2 results")
    shown = page.texts()
    page["more-results"].click()
    page.wait_for("summary", "4 results")
    assert page.texts()[:2] == shown
    assert len(set(page.texts())) == 4
    assert page.focused == page.all("#results h3")[2]


def test_ten_thousand_courses_are_listed_by_pages_and_found_by_search(page: Page) -> None:
    page.open()
    page.wait_for("courses-count", f"{MANY + 3:,} courses")
    assert len(page.all("#course-list li")) == 50
    page["more-courses"].click()
    page.until(lambda: len(page.all("#course-list li")) == 100)
    assert page.focused.text == page.all("#course-list a")[50].text
    page["course-search"].send_keys("Z0999")
    page.wait_for("courses-count", "10 courses")
    assert page.texts("#course-list .name") == [f"z0999{digit}" for digit in range(10)]
    page.one("#course-status option[value=done]").click()
    page.wait_for("courses-count", "No course matches")
    page["course-search"].clear()
    page["course-search"].send_keys(Keys.ENTER)
    page.wait_for("courses-count", "2 courses")
    assert not page["more-courses"].is_displayed()


def test_page_polls_until_the_course_can_be_searched(own_page: Page, harness: AppHarness) -> None:
    harness.add_searchable_course("c", "copper")
    change_course(harness.engine, "c", embedding_status="running", embedding_progress=0.4)
    own_page.open("copper", course="c")
    own_page.wait_for("error", "This course cannot be searched yet")
    own_page.wait_for("status", "Being embedded")
    own_page.wait_for("percent", "40%")
    assert own_page.texts("#course-list .state") == ["Being embedded 40%"]
    assert not own_page["embed"].is_enabled()
    change_course(harness.engine, "c", embedding_status="done", embedding_progress=1.0)
    own_page.wait_for("summary", "1 result ")
    assert own_page["error"].text == ""
    assert own_page.texts("#course-list .state") == ["Ready to search"]

    publish(harness, "copper")
    change_course(harness.engine, "c", embedding_status="pending")
    own_page.open("copper", course="c")
    own_page.wait_for("notes", "from its last published version")
    change_course(harness.engine, "c", embedding_status="done")
    own_page.until(lambda: own_page["notes"].text == "", "the question is asked again")


def test_text_that_is_only_the_beginning_says_so(own_page: Page, harness: AppHarness) -> None:
    texts = ["copper " + "and tin " * 5_000, "zinc " * 5_000]
    metadata = [{"lecture_id": "1", "section_id": "1", "order_in_section": number} for number in range(2)]
    harness.add_searchable_course("c", *texts, metadata=metadata)
    own_page.open("copper", course="c")
    own_page.wait_for("summary", "result")
    assert "the beginning of a longer text" in own_page.one("#results li .place").text
    own_page.one("#results li .context").click()
    own_page.until(
        lambda: own_page.texts("#results li:first-child .after .place") == ["the beginning of a longer text"]
    )


def test_embed_again_asks_first(own_page: Page, harness: AppHarness) -> None:
    harness.add_course("c", "failed", embedding_error="The GPU is <b>gone</b>")
    own_page.open(course="c")
    own_page.wait_for("embedding-error", "The GPU is <b>gone</b>")
    own_page["embed"].click()
    own_page.wait_for("confirm", "Only new and changed passages are embedded")
    own_page.press(Keys.ESCAPE)
    own_page.until(lambda: not own_page["confirm"].is_displayed())
    assert read_course(harness.engine, "c").embedding_status == "failed"
    assert own_page.focused == own_page["embed"]
    own_page["embed"].click()
    own_page["confirm-action"].click()
    own_page.wait_for("status", "Waiting to be embedded")
    assert read_course(harness.engine, "c").embedding_status == "pending"


def test_link_to_an_unknown_course_shows_an_error(page: Page) -> None:
    page.open("sugar", course="nobody")
    page.wait_for("error", "There is no course 'nobody'")
    page.one("#course-list li:nth-child(2) a").click()
    page.wait_for("summary", "results")
    assert page["error"].text == ""


def test_token_is_asked_for_and_sent_also_under_a_path_prefix(browser: Chrome, harness: AppHarness) -> None:
    """As behind a proxy that serves the app under `/search`."""
    harness.add_searchable_course("c", "A text.")
    app = create_app(SearchSettings(internal_token="secret"), harness.services)
    with serving(app, root_path="/search") as url:
        page = Page(browser, f"{url}/search")
        page.log()
        page.open("text", course="c")
        page.wait_for("token-form", "Internal token")
        assert page["token-error"].text == ""
        page["token"].send_keys("wrong", Keys.ENTER)
        page.wait_for("token-error", "The token is wrong")
        page["token"].clear()
        page["token"].send_keys("secret", Keys.ENTER)
        page.wait_for("summary", "1 result ")
        assert page.texts() == ["A text."]
        assert not page["token-view"].is_displayed()
        page.one(".top nav a").click()
        page.one(".opblock")
        assert page.one(".servers select").get_attribute("value") == "/search"
        assert page.log() == []
        browser.get("about:blank")
