"""The runbook has an entry for every error code, and every line that is logged as a warning or an error.

Those of the alerts are checked by `tests/deploy/test_monitoring.py`.
"""

import re

from search_api.http.errors import ERRORS
from tests.docs.logged import logged_messages
from tests.docs.pages import Page

RUNBOOK = Page("docs/runbook.md")
ENTRIES = dict(re.findall(r"^### (\w+)\n(.+?)(?=^##|\Z)", RUNBOOK.text, re.MULTILINE | re.DOTALL))
LOG_LINES = RUNBOOK.text.partition("## Log lines")[2].partition("\n## ")[0]
FIRST_CELLS = re.findall(r"^\| (.+?) \| ", LOG_LINES, re.MULTILINE)


def test_every_error_has_an_entry() -> None:
    codes = {name for name in ENTRIES if name.islower()}
    assert codes == set(ERRORS)
    for code in codes:
        assert "**Meaning.**" in ENTRIES[code], code
        assert "**What to do.**" in ENTRIES[code], code


def test_every_warning_that_is_logged_has_an_entry() -> None:
    """By its text, or, if all of that is filled in, by the module that logs it."""
    code = re.findall(r"(`+) ?(.+?) ?\1(?!`)", "\n".join(FIRST_CELLS))
    documented = {text for _, text in code} - {"…: …"}  # the module after it counts
    logged = {entry.message if re.search(r"\w", entry.message) else entry.module for entry in logged_messages()}
    assert len(logged) > 30
    assert logged - documented == set(), "describe these lines in docs/runbook.md"
    assert documented - logged == set(), "nothing logs these"
