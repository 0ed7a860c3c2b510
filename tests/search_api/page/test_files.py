"""The page in Chromium: creating a course, uploading its files, and watching them until they can be found.

The pipeline does not run; the test changes the states of the files as it does.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, Keys

from models import resources
from models.database import transaction
from models.resources import NewChunk
from models.tables import UploadedResource
from search_api.app import create_app
from search_api.app_settings import SearchSettings
from tests.search_api.app_harness import AppHarness
from tests.search_api.page.opened_page import Page
from tests.support.browser import CHROMIUM, DRIVER, MISSING
from tests.support.courses import change_course
from tests.support.servers.asgi import serving

pytestmark = [
    pytest.mark.browser,
    pytest.mark.integration,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING),
]

MARKUP_NAME = "<img src=x onerror=alert(1)>.md"
DROP = """
    const [name, text] = arguments;
    const files = new DataTransfer();
    files.items.add(new File([text], name));
    for (const type of ["dragover", "drop"]) {
        const event = new DragEvent(type, { bubbles: true, cancelable: true, dataTransfer: files });
        document.getElementById("drop").dispatchEvent(event);
    }
"""


@pytest.fixture
def page(browser: Chrome, harness: AppHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """The page of an app without courses."""
    monkeypatch.setenv("UPLOAD_DIR", str(tmp_path / "uploads"))
    monkeypatch.setenv("UPLOAD_MAX_BYTES", "100")
    with serving(create_app(SearchSettings(dagster_url="http://dagster.example"), harness.services)) as url:
        page = Page(browser, url)
        page.look()
        page.log()
        yield page
        log = page.log()
        browser.get("about:blank")
        assert log == []


def read(harness: AppHarness, name: str, *, error: str = "") -> None:
    """Read a file of the course, as a run does, or fail with this error."""
    now = datetime.now(UTC)
    with transaction(harness.engine) as session:
        (known,) = (file for file in files(harness) if file.name == name)
        claimed = resources.claim(session, known.resource_id, "run", now)
        assert claimed
        if error:
            assert resources.fail(session, claimed, error, now)
        else:
            chunk = NewChunk("A via.", 1, 1, "en", {})
            assert resources.succeed(session, claimed, [chunk], source_type="markdown", now=now)


def files(harness: AppHarness) -> list[UploadedResource]:
    with transaction(harness.engine) as session:
        return resources.resources_of(session, "my course")


def row_of(page: Page, name: str) -> str:
    return next((row.text for row in page.all("#files li") if name in row.text), "")


def test_create_a_course_and_watch_its_files_become_searchable(page: Page, harness: AppHarness, tmp_path: Path) -> None:
    page.open()
    page.wait_for("welcome", "There is no course yet")
    page.one("#welcome button").click()
    page["create-id"].send_keys("...", Keys.ENTER)
    page.wait_for("create-error", "course_id")
    page["create-id"].clear()
    page["create-id"].send_keys("my course", Keys.ENTER)
    page.wait_for("scope", "my course")
    page.wait_for("files-empty", "No files yet")
    page.wait_for("status", "Not embedded yet")
    assert "my course" in page.texts("#course-list .name")
    assert "http://dagster.example/assets/" in str(page.one("#dagster[href]").get_attribute("href"))

    for name in ("broken.pdf", "notes.md"):
        (tmp_path / name).write_text(f"# {name}", encoding="utf-8")
    page["file-input"].send_keys(f"{tmp_path}/broken.pdf\n{tmp_path}/notes.md")
    page.until(lambda: len(files(harness)) == 2)
    page.browser.execute_script(DROP, MARKUP_NAME, "# Markup")
    page.until(lambda: page.texts("#files .name") == ["broken.pdf", "notes.md", MARKUP_NAME])
    page.until(lambda: page.texts("#uploads li") == [])
    assert "Waiting to be read" in row_of(page, MARKUP_NAME)
    assert page.all("#files img") == []

    read(harness, "broken.pdf", error="The file is <b>encrypted</b>.")
    read(harness, "notes.md")
    page.until(lambda: "The file is <b>encrypted</b>." in row_of(page, "broken.pdf"))
    page.until(lambda: "Read; waiting to be embedded" in row_of(page, "notes.md"))
    change_course(harness.engine, "my course", embedding_status="running", embedding_progress=0.5)
    page.until(lambda: "Being embedded 50%" in row_of(page, "notes.md"))
    change_course(
        harness.engine, "my course", embedding_status="done", embedding_progress=1.0, embedding_due_since=None
    )
    page.until(lambda: "Searchable" in row_of(page, "notes.md"))
    assert "1 passage" in row_of(page, "notes.md")


def test_file_is_replaced_and_deleted_only_after_a_question(page: Page, harness: AppHarness, tmp_path: Path) -> None:
    with transaction(harness.engine) as session:
        resources.create_course(session, "my course")
        resources.put_resource(session, "my course", "a.md", size=1, sha256="0" * 64, now=datetime.now(UTC))
    read(harness, "a.md")
    change_course(harness.engine, "my course", embedding_status="done", embedding_due_since=None)
    page.open(course="my course", view="files")
    page.until(lambda: "Searchable" in page["files"].text)

    (tmp_path / "b.md").write_text("# Other", encoding="utf-8")
    page["files"].find_element("css selector", "input[type=file]").send_keys(f"{tmp_path}/b.md")
    page.wait_for("confirm", "Replace a.md?")
    page["confirm-action"].click()
    page.until(lambda: "Waiting to be read" in row_of(page, "a.md"))
    assert files(harness)[0].size == len("# Other")
    assert page.texts("#files .name") == ["a.md"]
    read(harness, "a.md")
    page.until(
        lambda: "Read; waiting to be embedded" in row_of(page, "a.md"), "the course is `done` with the old content"
    )
    page.open(course="my course", view="files")
    page.wait_for("status", "Ready to search")
    page.until(lambda: "Read; waiting to be embedded" in row_of(page, "a.md"), "also in a new document")

    (tmp_path / "a.md").write_text("# Same name", encoding="utf-8")
    page["file-input"].send_keys(f"{tmp_path}/a.md")
    page.wait_for("confirm", "Replace a.md?")
    page.press(Keys.ESCAPE)
    delete = page.one('#files [aria-label="Delete a.md"]')
    delete.click()
    page.wait_for("confirm", "Delete a.md?")
    page.press(Keys.ENTER)  # on the button that cancels
    page.until(lambda: not page["confirm"].is_displayed())
    assert len(files(harness)) == 1
    delete.click()
    page["confirm-action"].click()
    page.wait_for("files-empty", "No files yet")
    assert files(harness) == []


def test_upload_that_is_refused_says_why_and_the_others_go_on(page: Page, harness: AppHarness) -> None:
    with transaction(harness.engine) as session:
        resources.create_course(session, "my course")
    page.open(course="my course", view="files")
    page.wait_for("files-empty", "No files yet")
    page.browser.execute_script(DROP, "large.md", "x" * 101)
    page.browser.execute_script(DROP, "good.md", "# B")
    page.until(lambda: page.texts("#files .name") == ["good.md"])
    assert page.texts("#uploads .state") == ["Not uploaded"]
    assert "100" in page.texts("#uploads .error")[0]
    page.one("#uploads button:last-child").click()
    assert page.texts("#uploads li") == []
    assert page.focused == page["file-input"], "the keyboard does not go back to the beginning of the page"
