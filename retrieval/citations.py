"""Citations: where a passage is, for people and for links, read from the metadata that stage one wrote.

Systems name the same thing differently, so each part of a citation has several names (`ALIASES`, documented in
`docs/citations.md`). A value that makes no sense never fails a search: that part is unknown. Nothing is guessed:
whether a system counts its pages from 0 or from 1, for example, cannot be seen in a single chunk.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from string import Formatter
from typing import Any, Final, NamedTuple, Self
from urllib.parse import SplitResult, quote, urlsplit

ALIASES: Final[Mapping[str, Sequence[str]]] = {
    "course_title": ("course_title", "course_name", "course.title", "course.name"),
    "lecture_title": (
        "lecture_title",
        "lecture_name",
        "lecture.title",
        "lecture.name",
        "video_title",
        "document_title",
        "resource_title",
        "title",
    ),
    "section_title": (
        "section_title",
        "section_name",
        "section.title",
        "section.name",
        "chapter_title",
        "heading",
        "headings",
        "heading_path",
    ),
    "page": (
        "page_label",
        "page_number",
        "page_no",
        "page_num",
        "page_start",
        "start_page",
        "page",
        "loc.page_number",
        "page_range",
        "page_numbers",
        "pages",
    ),
    "page_end": ("page_end", "end_page", "last_page"),
    "start": (
        "start_seconds",
        "start_sec",
        "start_secs",
        "start_s",
        "start_ms",
        "start_millis",
        "start_milliseconds",
        "start_time_ms",
        "start_time",
        "start_timestamp",
        "start",
        "timestamps.from",
        "timestamp.start",
        "timestamp_seconds",
        "timestamp_ms",
        "timestamp",
        "timestamps",
        "time_range",
    ),
    "end": (
        "end_seconds",
        "end_sec",
        "end_secs",
        "end_s",
        "end_ms",
        "end_millis",
        "end_milliseconds",
        "end_time_ms",
        "end_time",
        "end_timestamp",
        "end",
        "timestamps.to",
        "timestamp.end",
    ),
    "url": (
        "source_url",
        "video_url",
        "pdf_url",
        "document_url",
        "page_url",
        "url",
        "link",
        "source.url",
        "source",
    ),
}
"""The names of each part, most specific first. A dot leads into an object; each name may also be in camelCase."""

MAX_PAGE = 1_000_000
MAX_SECONDS = 360_000
"""100 hours. A later time is not a position in a recording but a date, or in another unit."""

_RECORDING = re.compile(r"\.(?:aac|avi|flac|m4[av]|mkv|mov|mp[34]|mpe?g|og[agv]|opus|wav|webm)", re.IGNORECASE)
"""The ends of the names of audio and video files."""
_SITES = {
    "youtube.com": "t={}s",
    "youtu.be": "t={}s",
    "youtube-nocookie.com": "t={}s",
    "bilibili.com": "t={}",
}
"""Sites that play from a time in the query of the URL."""

_PAGE = re.compile(r"\d{1,7}(?:\.0+)?", re.ASCII)
_PAGE_SEPARATOR = re.compile(r"[-–—,]")
_CLOCK = re.compile(r"(?:(?:(\d{1,3}):)?(\d{1,4}):)?(\d{1,12}(?:[.,]\d{1,12})?)", re.ASCII)
_TIME_SEPARATOR = re.compile(r"-->|[-–—]")
_OWN_POSITION = re.compile(r"(?:^|&)(?:t|start|page)=")
_UNSAFE = re.compile(r"[\x00-\x20\x7f-\x9f\"<>\\^`{|}]")
_PLAIN = re.compile(r"[\w~-][\w.~-]*", re.ASCII)
_PLACEHOLDER = re.compile(r"[^\W\d]\w*(?:\.\w+)*")
_SERVER = re.compile(r"https?://[^\s/?#@]+[/?#]", re.IGNORECASE)

_KANA = re.compile(r"[\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f]+")
_HANGUL = re.compile(r"[\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3]+")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")
_OTHER_WORD = re.compile(r"[^\W\d_\u1100-\u11ff\u3041-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3]+")
_SAMPLE = 200
"""Characters of a text that tell its script."""
_KANA_SHARE = 0.1
"""Japanese text has at least this share of kana; a kana in Chinese text is decoration or a name."""


class LinkTemplate:
    """A URL with placeholders in braces, such as `https://school.example/courses/{course_id}/lectures/{lecture_id}`.

    A placeholder is a field of the citation or of the chunk's metadata (`lecture.slug` for a nested one). Its value is
    percent-encoded.
    """

    def __init__(self, parts: Sequence[tuple[str, str | None]]) -> None:
        self._parts = parts

    @classmethod
    def parse(cls, template: str) -> Self:
        """The template.

        Raises:
            ValueError: It is no URL, or a placeholder is not a name. The message says what to do.
        """
        try:
            parsed = list(Formatter().parse(template))
        except ValueError as error:
            raise ValueError("a brace has no partner; a placeholder is a name in braces, like {lecture_id}") from error
        parts = [(literal, name) for literal, name, _, _ in parsed]
        names = [name for _, name in parts if name is not None]
        is_plain = all(not form and not conversion for _, _, form, conversion in parsed)
        if not names or not is_plain or not all(_PLACEHOLDER.fullmatch(name) for name in names):
            raise ValueError("it needs placeholders that are names in braces, like {lecture_id}")
        if not _SERVER.match(parts[0][0]) or _url(parts[0][0]) is None:
            raise ValueError("it must start with http:// or https:// and the name of a server, without placeholders")
        if any(_UNSAFE.search(literal) for literal, _ in parts):
            raise ValueError("it contains a character that a URL cannot contain; percent-encode it")
        return cls(parts)

    def link(self, citation: Mapping[str, Any], metadata: Mapping[str, Any]) -> str | None:
        """The link; None if a value is missing."""
        link = ""
        for literal, name in self._parts:
            link += literal
            if name is None:
                continue
            value = citation.get(name)
            text = _url_text(_at(metadata, name) if value is None else value)
            if text is None:
                return None
            link += text
        return link


def citation(metadata: Mapping[str, Any], course_id: str, template: LinkTemplate | None) -> dict[str, Any]:
    """Where a chunk is: the fields of `search_api.search.schemas.Citation`; those that are unknown are None.

    Args:
        metadata: The chunk's metadata.
        course_id: The course of the chunk.
        template: Makes the link, instead of the URL in the metadata.
    """
    parts = _parts(metadata)
    page, page_end = _pages(parts)
    start, end = _times(parts)
    source_type = _id(metadata.get("source_type"))
    cited: dict[str, Any] = {
        "course_id": course_id,
        "course_title": _title(parts.get("course_title")),
        "lecture_id": _id(metadata.get("lecture_id")),
        "lecture_title": _title(parts.get("lecture_title")),
        "section_id": _id(metadata.get("section_id")),
        "section_title": _title(parts.get("section_title")),
        "source_type": source_type,
        "page": page,
        "page_end": page_end,
        "start": start,
        "end": end,
        "start_time": _clock(start),
        "end_time": _clock(end),
    }
    link = _own_url(parts.get("url")) if template is None else template.link(cited, metadata)
    cited["link"] = None if link is None else _at_position(link, source_type, page, start)
    cited["label"] = _label(cited)
    return cited


def language(metadata: Mapping[str, Any], text: str) -> str | None:
    """The language of a chunk: that of its row, otherwise by script `zh`, `ja` or `ko`; None if unknown.

    Other scripts serve many languages.
    """
    own = metadata.get("language")
    if isinstance(own, str) and (own := own.strip()):
        return own
    sample = text[:_SAMPLE]
    if sample.isascii():
        return None
    kana, hangul, han = (sum(map(len, script.findall(sample))) for script in (_KANA, _HANGUL, _HAN))
    if kana + hangul + han <= len(_OTHER_WORD.findall(sample)):
        return None
    if hangul > kana + han:
        return "ko"
    return "ja" if kana >= _KANA_SHARE * (kana + han) else "zh"


class _Alias(NamedTuple):
    """What a name in the metadata means."""

    part: str
    rank: int
    """The names of a part with a lower rank take precedence."""
    unit: int
    """Of a time: units in a second."""


class _Value(NamedTuple):
    """The value of a part."""

    value: Any
    rank: int
    unit: int


def _spellings() -> Iterator[tuple[str, _Alias]]:
    for part, names in ALIASES.items():
        for rank, name in enumerate(names):
            alias = _Alias(part, rank, 1000 if name.endswith(("_ms", "_millis", "_milliseconds")) else 1)
            yield name, alias
            yield re.sub(r"_(\w)", lambda match: match[1].upper(), name), alias


_MEANINGS = dict(_spellings())
_OBJECTS = frozenset(name.partition(".")[0] for name in _MEANINGS if "." in name)


def _parts(metadata: Mapping[str, Any]) -> dict[str, _Value]:
    """The value of each part: of several names, the first of the table that has a value, whatever that value is.

    Another name may mean something else, so it is no substitute for a value that makes no sense.
    """
    found: dict[str, _Value] = {}
    for name, value in metadata.items():
        alias = _MEANINGS.get(name)
        if type(value) is not dict:
            if alias is not None:
                _note(found, alias, value)
        elif name in _OBJECTS:
            for inner, nested in value.items():
                alias = _MEANINGS.get(f"{name}.{inner}")
                if alias is not None:
                    _note(found, alias, nested)
    return found


def _note(found: dict[str, _Value], alias: _Alias, value: Any) -> None:
    part, rank, unit = alias
    if value is None or value == [] or (type(value) is str and not value.strip()):
        return
    if part not in found or rank < found[part].rank:
        found[part] = _Value(value, rank, unit)


def _title(found: _Value | None) -> str | None:
    """A title on one line; of a list of headings, the last one."""
    if found is None:
        return None
    value = found.value
    if type(value) is str:
        return " ".join(value.split())
    for title in reversed(value) if type(value) is list else ():
        if type(title) is str and (words := title.split()):
            return " ".join(words)
    return None


def _id(value: Any) -> str | None:
    return value if type(value) is str else str(value) if type(value) is int and abs(value) < 2**63 else None


def _pages(parts: Mapping[str, _Value]) -> tuple[int | None, int | None]:
    """The first page, and the last one of a range."""
    first = _page_range(parts["page"].value) if "page" in parts else ()
    if not first:
        return None, None
    last = _page_range(parts["page_end"].value) if "page_end" in parts else ()
    page, page_end = first[0], (last or first)[-1]
    return page, page_end if page_end > page else None


def _page_range(value: Any) -> Sequence[int]:
    """The pages of a value in ascending order; none if one of them makes no sense."""
    if type(value) is str:
        value = _PAGE_SEPARATOR.split(value)
    pages = [_page(page) for page in (value if type(value) is list else [value])]
    known = [page for page in pages if page is not None]
    return sorted(known) if len(known) == len(pages) else ()


def _page(value: Any) -> int | None:
    if type(value) is str and _PAGE.fullmatch(value := value.strip()):
        value = float(value)
    if type(value) not in (int, float) or not 1 <= value <= MAX_PAGE or value != int(value):
        return None
    return int(value)


def _times(parts: Mapping[str, _Value]) -> tuple[float | None, float | None]:
    """Start and end, in seconds."""
    start, end_of_range = _time_range(parts.get("start"))
    end, _ = _time_range(parts["end"]) if "end" in parts else (end_of_range, None)
    return start, None if end is None or (start is not None and end < start) else end


def _time_range(found: _Value | None) -> tuple[float | None, float | None]:
    if found is None:
        return None, None
    value, unit = found.value, found.unit
    if type(value) is str:
        value = _TIME_SEPARATOR.split(value)
        if len(value) == 1:
            return _seconds(value[0], unit), None
    if type(value) is not list:
        return _seconds(value, unit), None
    start = _seconds(value[0], unit) if len(value) == 2 else None
    return start, None if start is None else _seconds(value[1], unit)


def _seconds(value: Any, unit: int) -> float | None:
    """A number of units, or text like `845`, `14:05` and `00:14:05,5`, in seconds."""
    if type(value) is str:
        match = _CLOCK.fullmatch(value.strip())
        if match is None:
            return None
        hours, minutes, number = match.groups()
        value = float(number.replace(",", "."))
        if minutes is not None:
            if value >= 60 or (hours is not None and int(minutes) >= 60):
                return None
            value, unit = int(hours or 0) * 3600 + int(minutes) * 60 + value, 1
    if type(value) not in (int, float) or not 0 <= value <= MAX_SECONDS * unit:
        return None
    return float(value / unit)


def _clock(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    minutes, whole = divmod(int(seconds), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{whole:02}"


def _label(cited: Mapping[str, Any]) -> str | None:
    """One line for people: `Heaps > Building a heap, p. 12`."""
    lecture, section = cited["lecture_title"], cited["section_title"]
    if lecture and section and lecture.casefold() != section.casefold():
        title = f"{lecture} > {section}"
    else:
        title = section or lecture or cited["course_title"]
    page, page_end = cited["page"], cited["page_end"]
    pages = None if page is None else f"p. {page}" if page_end is None else f"pp. {page}–{page_end}"
    return ", ".join(part for part in (title, pages, cited["start_time"]) if part) or None


def _own_url(found: _Value | None) -> str | None:
    """The URL of a row, if it leads to a web server; characters that no URL contains are percent-encoded."""
    if found is None or type(found.value) is not str:
        return None
    url = _UNSAFE.sub(lambda match: quote(match[0]), found.value.strip())
    return None if _url(url) is None else url


def _url(url: str) -> SplitResult | None:
    """The parts of a URL with http or https; None if it is another one, or invalid."""
    try:
        parts = urlsplit(url)
        return parts if parts.scheme in ("http", "https") and parts.hostname else None
    except ValueError:
        return None


def _at_position(url: str, source_type: str | None, page: int | None, start: float | None) -> str:
    """The URL with `#page=`, `#t=` or the time of a site, if the kind of source has one and the URL has none."""
    parts = _url(url) if page is not None or start is not None else None
    if parts is None or parts.fragment or _OWN_POSITION.search(parts.query):
        return url
    url, host, kind = url.rstrip("#"), f".{parts.hostname}", (source_type or "").casefold()
    for site, time in _SITES.items():
        if host.endswith(f".{site}"):
            separator = "&" if parts.query else "?"
            return url if start is None else url.rstrip("?&") + separator + time.format(int(start))
    extension = "." + parts.path.rpartition(".")[2].casefold()
    is_pdf, is_recording = extension == ".pdf", bool(_RECORDING.fullmatch(extension))
    if not is_pdf and not is_recording:
        is_pdf, is_recording = "pdf" in kind, "video" in kind or "audio" in kind
    if is_pdf:
        return url if page is None else f"{url}#page={page}"
    return f"{url}#t={int(start)}" if is_recording and start is not None else url


def _at(metadata: Any, name: str) -> Any:
    """The value of a name, which may be `lecture.slug` for a nested one."""
    for key in name.split("."):
        metadata = metadata.get(key) if isinstance(metadata, Mapping) else None
    return metadata


def _url_text(value: Any) -> str | None:
    """The value as part of a URL; None if there is none. A part of dots only would lead to another directory."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) not in (str, int, float):
        return None
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    text = text.strip()
    return quote(text, safe="", errors="replace") if text.strip(".") else None
