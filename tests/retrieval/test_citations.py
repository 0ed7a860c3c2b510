"""Citations: what is read from the metadata of stage one, and that nothing in it fails a search."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from retrieval.citations import ALIASES, LinkTemplate, citation, language

DOCUMENT = Path(__file__).parents[2] / "docs" / "citations.md"


def cite(template: str | None = None, **metadata: Any) -> dict[str, Any]:
    return citation(metadata, "c", LinkTemplate.parse(template) if template else None)


def pages(**metadata: Any) -> tuple[Any, Any]:
    cited = cite(**metadata)
    return cited["page"], cited["page_end"]


def times(**metadata: Any) -> tuple[Any, Any]:
    cited = cite(**metadata)
    return cited["start"], cited["end"]


def link(url: Any, **metadata: Any) -> Any:
    return cite(url=url, **metadata)["link"]


def test_documented_names_are_those_that_are_read() -> None:
    table = re.findall(r"^\| (\S+) \| (`.+`) \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    documented = {part.strip("`").lower(): tuple(re.findall("`([^`]+)`", names)) for part, names in table}
    assert {part: names for part, names in documented.items() if part in ALIASES} == ALIASES


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, names in ALIASES.items() for name in names])
def test_every_name_is_read_also_nested_and_in_camel_case(part: str, name: str) -> None:
    is_ms = "_ms" in name or "_milli" in name
    written, read = {
        "page": (7, 7),
        "page_end": (9, 9),
        "start": (5000 if is_ms else 5, 5.0),
        "end": (5000 if is_ms else 5, 5.0),
        "url": ("https://a.example/b", "https://a.example/b"),
    }.get(part, ("A title", "A title"))
    camel = re.sub(r"_(\w)", lambda match: match[1].upper(), name)
    for spelling in (name, camel):
        outer, _, inner = spelling.partition(".")
        metadata = {outer: {inner: written} if inner else written} | ({"page": 3} if part == "page_end" else {})
        assert citation(metadata, "c", None)["link" if part == "url" else part] == read, spelling


def test_first_name_with_a_value_counts_even_if_the_value_makes_no_sense() -> None:
    """Another name may mean something else: LangChain counts `page` from 0, but not `page_label`."""
    assert pages(page=3, page_label="4") == (4, None)
    assert pages(page=3, page_label="iv") == (None, None)
    assert pages(page=3, page_label=" ", page_number=None) == (3, None)
    assert times(timestamp="2024-05-01T10:00:00Z", start_sec=12) == (12.0, None)
    assert cite(section_title="", heading_path=["Trees", "Heaps", ""])["section_title"] == "Heaps"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, (3, None)),
        (3.0, (3, None)),
        ("3", (3, None)),
        (" 03 ", (3, None)),
        ("3.0", (3, None)),
        ([3, 4], (3, 4)),
        (["4", 3, 3], (3, 4)),
        ([3, 3], (3, None)),
        ("3-5", (3, 5)),
        ("3 – 5", (3, 5)),
        ("3, 4", (3, 4)),
        (["3", "cover"], (None, None)),
        *((value, (None, None)) for value in ("cover", "-3", "3-", "1-2-x", "३", "9" * 5000, True, -1, 0, 2.5, [[3]])),
        *((value, (None, None)) for value in (math.nan, math.inf, 10**400, {}, {"page": 3}, [], [None], "\ud800")),
    ],
    ids=repr,
)
def test_pages(value: Any, expected: tuple[Any, Any]) -> None:
    assert pages(page=value) == expected


def test_end_of_pages() -> None:
    assert pages(page=3, page_end="5") == (3, 5)
    assert pages(page_start=3, endPage=3) == (3, None)
    assert pages(page=3, page_end=2) == (3, None)
    assert pages(page=3, page_end="back cover") == (3, None)
    assert pages(page="cover", page_end=2) == (None, None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, (0.0, None)),
        (845, (845.0, None)),
        (84.5, (84.5, None)),
        (" 84.5 ", (84.5, None)),
        ("14:05", (845.0, None)),
        ("75:30", (4530.0, None)),
        ("00:14:05", (845.0, None)),
        ("1:00:00.25", (3600.25, None)),
        ("00:14:05,500", (845.5, None)),
        ([12.0, 15.5], (12.0, 15.5)),
        ([12.0, None], (12.0, None)),
        ("00:14:05,000 --> 00:14:09,500", (845.0, 849.5)),
        ("14:05-14:09", (845.0, 849.0)),
        ([15.5, 12.0], (15.5, None)),
        *((value, (None, None)) for value in ("intro", "", "-5", "14:60", "1:60:00", "1:2:3:4", "12s", "2024-05-01")),
        *(
            (value, (None, None))
            for value in (True, -0.1, math.nan, math.inf, -math.inf, 10**400, 1_714_557_600, "1e3")
        ),
        *((value, (None, None)) for value in ([], [1], [1, 2, 3], [[1], {}], {}, {"x": 1}, "9" * 5000)),
    ],
    ids=repr,
)
def test_times(value: Any, expected: tuple[Any, Any]) -> None:
    assert times(timestamp=value) == expected


def test_start_and_end() -> None:
    assert times(start=12, end="00:00:15") == (12.0, 15.0)
    assert times(start=12, end=12) == (12.0, 12.0)
    assert times(start=12, end=11) == (12.0, None)
    assert times(start="intro", end=11) == (None, 11.0)
    assert times(start_ms="12500", end_ms=15000) == (12.5, 15.0)
    assert times(timestamps={"from": "00:00:12,500", "to": "00:00:15,000"}, offsets={"from": 12500}) == (12.5, 15.0)
    cited = cite(start=3599.9, end=360_000)
    assert (cited["start_time"], cited["end_time"]) == ("00:59:59", "100:00:00")


def test_titles_and_ids() -> None:
    cited = cite(lecture_id=7, section_id=" a/b ", lecture_title=" Heaps\n and trees ", section_title=["A", 3])
    assert (cited["lecture_id"], cited["section_id"]) == ("7", " a/b ")
    assert (cited["lecture_title"], cited["section_title"], cited["course_title"]) == ("Heaps and trees", "A", None)
    senseless = cite(lecture_id=True, section_id=[1], source_type={}, lecture_title=5, section_title={"a": 1})
    assert [value for name, value in senseless.items() if name != "course_id" and value is not None] == []


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"lecture_title": "Heaps", "section_title": "Building a heap", "page": 12}, "Heaps > Building a heap, p. 12"),
        ({"lecture_title": "Heaps", "start": 845}, "Heaps, 00:14:05"),
        ({"lecture_title": "Preface", "section_title": "PREFACE", "pages": "3-5"}, "PREFACE, pp. 3–5"),
        ({"course_name": "Algorithms", "page": 2, "start": 3}, "Algorithms, p. 2, 00:00:03"),
        ({"page": 2}, "p. 2"),
        ({"lecture_id": "7"}, None),
    ],
)
def test_label(metadata: Any, expected: str | None) -> None:
    assert citation(metadata, "c", None)["label"] == expected


class TestOwnLink:
    """The URL of a row leads to the place, and never elsewhere than to a web server."""

    @pytest.mark.parametrize(
        ("url", "metadata", "expected"),
        [
            ("https://a.example/x", {"page": 3, "start": 5}, ""),
            ("https://a.example/x.pdf", {"page": 3, "start": 5}, "#page=3"),
            ("https://a.example/x.PDF?v=1#", {"page": 3}, "#page=3"),
            ("https://a.example/x.pdf#page=9", {"page": 3}, ""),
            ("https://a.example/x?page=9", {"page": 3, "source_type": "pdf"}, ""),
            ("https://a.example/x", {"page": 3, "source_type": "application/pdf"}, "#page=3"),
            ("https://a.example/x.pdf", {"page": 3, "start": 5, "source_type": "video"}, "#page=3"),
            ("https://a.example/x.mp4", {"start": 84.9}, "#t=84"),
            ("https://a.example/x.mp4", {"page": 3}, ""),
            ("https://a.example/x", {"start": 84, "source_type": "Lecture-Video"}, "#t=84"),
            ("https://a.example/x#t=9", {"start": 84, "source_type": "video"}, ""),
            ("https://www.youtube.com/watch?v=a", {"start": 84.9}, "&t=84s"),
            ("https://www.youtube.com/watch?v=a&t=9s", {"start": 84.9}, ""),
            ("https://youtu.be/a", {"start": 84, "source_type": "pdf"}, "?t=84s"),
            ("https://notyoutu.be/a", {"start": 84}, ""),
            ("https://www.bilibili.com/video/a/?p=2", {"start": 84}, "&t=84"),
            ("https://a.example:99999/x.pdf", {"page": 3}, "#page=3"),
        ],
    )
    def test_position(self, url: str, metadata: Any, expected: str) -> None:
        assert link(url, **metadata) == url.rstrip("#") + expected

    @pytest.mark.parametrize(
        "url",
        [
            "javascript:alert(1)",
            " javascript:alert(1)",
            "java\nscript:alert(1)",
            "data:text/html,x",
            "file:///etc/passwd",
            "//a.example/x",
            "docs/x.pdf",
            "https:",
            "https:///x",
            "http://[::1",
            "ftp://a.example/x",
            "",
            7,
            True,
            ["https://a.example"],
            {"url": 1},
        ],
    )
    def test_other_values_give_no_link(self, url: Any) -> None:
        assert link(url, page=3, start=5, source_type="pdf") is None

    def test_characters_that_would_end_an_attribute_are_encoded(self) -> None:
        assert link(' https://a.example/my file".pdf', page=3) == "https://a.example/my%20file%22.pdf#page=3"
        assert link("HTTPS://a.example/课") == "HTTPS://a.example/课"


class TestTemplate:
    """CITATION_URL_TEMPLATE makes the links instead."""

    def test_values_are_encoded_and_cannot_change_the_path(self) -> None:
        template = "https://a.example/{course_id}/{lecture_id}/{lecture.slug}?q={n}"
        for lecture_id, encoded in (("7", "7"), ("a/../b?c", "a%2F..%2Fb%3Fc"), ("第 1", "%E7%AC%AC%201")):
            made = cite(template, lecture_id=lecture_id, lecture={"slug": "s-1.x"}, n=2.0)["link"]
            assert made == f"https://a.example/c/{encoded}/s-1.x?q=2"
        missing: Any
        for missing in (None, "", " ", "..", ".", True, [1], {}):
            assert cite("https://a.example/{x}/y", x=missing, url="https://b.example")["link"] is None

    def test_position_is_added_unless_the_template_has_one(self) -> None:
        place: dict[str, Any] = {"lecture_id": "7", "source_type": "video", "start": 84.5}
        assert cite("https://a.example/{lecture_id}", **place)["link"] == "https://a.example/7#t=84"
        assert cite("https://a.example/{lecture_id}?t={start}", **place)["link"] == "https://a.example/7?t=84.5"
        assert cite("https://a.example/#/{lecture_id}", **place)["link"] == "https://a.example/#/7"
        assert (
            cite("https://a.example/{lecture_id}#{start_time}", **place)["link"] == "https://a.example/7#00%3A01%3A24"
        )

    @pytest.mark.parametrize(
        "template",
        [
            "https://a.example/",
            "https://a.example/{}",
            "https://a.example/{0}",
            "https://a.example/{lecture_id",
            "https://a.example/lecture_id}",
            "https://a.example/{lecture_id!r}",
            "https://a.example/{lecture_id:>5}",
            "https://a.example/{a[b]}",
            "https://a.example/my file/{lecture_id}",
            "https://{course_id}/x",
            "https://{course_id}.a.example/x",
            "https://a.example{lecture_id}",
            "https://u@{host}/",
            "/courses/{course_id}",
            "javascript:{course_id}",
            "",
        ],
    )
    def test_others_are_refused(self, template: str) -> None:
        with pytest.raises(ValueError, match=r"^(a brace|it )"):
            LinkTemplate.parse(template)


@pytest.mark.parametrize(
    ("text", "own", "expected"),
    [
        ("Copper is plated.", " en ", "en"),
        ("信号在走线上遇到阻抗突变就会反射", "zh-CN", "zh-CN"),
        ("信号在走线上遇到阻抗突变就会反射", None, "zh"),
        ("用 TCP/IP 协议编写 socket 程序", "", "zh"),
        ("銅の箔は重さで指定されます。", None, "ja"),
        ("動的計画法アルゴリズム", 5, "ja"),
        ("优の良品是一个品牌，生产各种零食和饮料", None, "zh"),
        ("구리 호일은 무게로 지정됩니다", None, "ko"),
        ("Copper is plated.", None, None),
        ("The word 铜 means copper in Chinese.", None, None),
        ("Медь", None, None),
        ("", None, None),
    ],
)
def test_language(text: str, own: Any, expected: str | None) -> None:
    assert language({"language": own}, text) == expected


def test_citations_of_the_samples_are_json_and_complete() -> None:
    """The samples are what stage one writes: every chunk has titles, and a page or a time."""
    for path in (DOCUMENT.parents[1] / "data" / "samples").glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            cited = citation(row | row["metadata"], row["course_id"], None)
            assert cited["lecture_title"]
            assert cited["section_title"]
            assert (cited["page"] is None) == (row["source_type"] == "video") == (cited["end"] is not None)
            assert json.loads(json.dumps(cited, allow_nan=False)) == cited
