"""The search page, opened in Chromium."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.search_api.app_harness import LIMIT_SECONDS

AXE = Path(__file__).parents[3] / "node_modules/axe-core/axe.min.js"
RULES: Final = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
WIDE, NARROW = 1280, 360


class Page:
    """The page of the app at a URL. Elements are found by their id, `page["query"]`, or by a selector."""

    def __init__(self, browser: Chrome, url: str) -> None:
        self.browser = browser
        self.url = url

    def open(self, question: str = "", **parameters: str | Sequence[str]) -> None:
        """Open the page in a new document, with these parameters in its URL."""
        self.browser.get("about:blank")
        fragment = f"#q={quote(question)}" if question else ""
        self.browser.get(f"{self.url}/?{urlencode(parameters, doseq=True)}{fragment}")

    def look(self, *, width: int = WIDE, theme: str = "light") -> None:
        """Change the width of the window in pixels, and the theme that the user prefers."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        theme_feature = {"name": "prefers-color-scheme", "value": theme}
        motion = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [theme_feature, motion]})

    def speak(self, languages: str) -> None:
        """Change the languages of the browser, like `zh-CN,zh`."""
        agent = self.browser.execute_script("return navigator.userAgent")
        command = {"userAgent": agent, "acceptLanguage": languages}
        self.browser.execute_cdp_cmd("Network.setUserAgentOverride", command)

    def __getitem__(self, element_id: str) -> WebElement:
        return self.browser.find_element(By.ID, element_id)

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        """The element, as soon as there is one."""
        self.until(lambda: bool(self.all(selector)), f"there is no {selector}")
        return self.all(selector)[0]

    def texts(self, selector: str = "#results .text") -> list[str]:
        """The texts of the elements, also of those that are not visible."""
        script = "return [...document.querySelectorAll(arguments[0])].map((element) => element.textContent.trim())"
        return list(self.browser.execute_script(script, selector))

    @property
    def focused(self) -> WebElement:
        return self.browser.switch_to.active_element

    def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        ActionChains(self.browser).send_keys(*keys).perform()

    def tab_to(self, matches: Callable[[WebElement], bool], *, most: int = 60) -> None:
        """Press Tab until the focused element matches."""
        for _ in range(most):
            self.press(Keys.TAB)
            if matches(self.focused):
                return
        raise AssertionError("the keyboard does not reach the element")

    def until(self, condition: Callable[[], bool], message: str = "") -> None:
        WebDriverWait(self.browser, LIMIT_SECONDS, 0.05).until(lambda _: condition(), message)

    def wait_for(self, element_id: str, text: str) -> None:
        """Wait until the element is visible and shows the text."""
        self.until(
            lambda: text in self[element_id].text, f"#{element_id} shows {self[element_id].text!r}, not {text!r}"
        )

    def log(self) -> list[str]:
        """New messages in the browser's log: failed scripts, missing files, and what the policy of the page blocked.

        Without errors that the API answered.
        """
        messages = [str(entry["message"]) for entry in self.browser.get_log("browser")]  # type: ignore[no-untyped-call]
        return [message for message in messages if "/static/" in message or "Failed to load resource" not in message]

    def violations(self) -> list[Any]:
        """What axe-core finds in the page as it is now: rule, elements and what to do."""
        if not self.browser.execute_script("return Boolean(window.axe)"):
            # Not by a <script> element, which the policy of the page forbids.
            self.browser.execute_script(AXE.read_text(encoding="utf-8"))
        script = """
            const done = arguments[arguments.length - 1];
            axe.run(document, { runOnly: arguments[0], resultTypes: ["violations"] }).then(
                ({ violations }) => done(violations.map(({ id, nodes }) =>
                    [id, nodes.map((node) => [node.html.slice(0, 300), node.failureSummary])])),
                (error) => done([String(error)]),
            );
        """
        return list(self.browser.execute_async_script(script, list(RULES)))
