"""The Chinese README is the English one in Chinese."""

from tests.docs.pages import Page

ENGLISH, CHINESE = Page("README.md"), Page("README.zh.md")


def test_they_have_the_same_sections() -> None:
    def levels(page: Page) -> list[str]:
        return [token.tag for token in page.tokens if token.type == "heading_open"]

    assert levels(CHINESE) == levels(ENGLISH)


def test_they_have_the_same_commands() -> None:
    assert list(CHINESE.commands) == list(ENGLISH.commands)


def test_they_name_the_same_commands_routes_and_paths() -> None:
    """Within the lines, in any order, because the order of words differs."""
    assert sorted(CHINESE.code) == sorted(ENGLISH.code)


def test_they_have_the_same_links_but_for_those_to_one_another() -> None:
    assert sorted(set(CHINESE.links) - {ENGLISH.path}) == sorted(set(ENGLISH.links) - {CHINESE.path})
    assert ENGLISH.path in CHINESE.links
    assert CHINESE.path in ENGLISH.links
