"""Divides a document into passages: what is found by a search, cited, and embedded as one text.

**Lectures and sections** come from the headings. The highest level makes lectures if it occurs more than once and its
parts are no mere paragraphs; otherwise the whole file is one lecture, and a single heading above all text is its title.
The next level makes the sections. Headings below that stay in the text, and a passage rather begins with one.

**Sections that are too small** for a passage are put together with their neighbours, such as slides with a few words: a
text of a few words matches too much or nothing. A citation stays right: the title names the titles of all of them.

**Passages** have 200 to 500 tokens. Their borders are chosen among the ends of sentences: rather where a heading or a
paragraph begins, and so that no small rest remains. A table or a listing is kept together, with the sentence that
introduces it. What is larger than a passage is cut where it hurts least: a table between rows, each part with the
header; code at blank lines, or between lines; a sentence between clauses. There is no overlap.

Memory holds the document and a few passages, and time grows with the length of the text, whatever is in it: sentences
are cut and counted while passages are made.
"""

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, groupby, islice, pairwise, takewhile
from typing import Final, Self

from documents.document import Block, Document, Kind
from documents.sentences import sentences
from models.text import cut_at_word, is_blank

CountTokens = Callable[[Sequence[str]], list[int]]
"""Returns the tokens of each text as it is embedded: with the document prompt and the special tokens."""

MOST_TOKENS: Final = 500
LEAST_TOKENS: Final = 200
LEAST_SHARE: Final = 0.8
"""Of what the model reads: the least tokens of a passage if the model reads less than 250."""
CHARACTERS_PER_TOKEN: Final = 16
"""So many count as one token at least. Some tokenizers read a word of any length as one unknown token, and skip all
white space; but a passage is for people, too."""
LONGEST_TITLE: Final = 200
"""Characters. A longer heading is text, such as a paragraph in large letters."""
LONGEST_TITLES: Final = 120
"""Characters of the title of several sections; if it is longer, it names only the first and the last."""

_BATCH = 256
"""Texts that are counted at a time."""
_BYTES_PER_TOKEN = 4
"""Roughly, in English and in Chinese. It only tells chapters from paragraphs."""
_LOOK_AHEAD = 2
"""Passages that are read before a border is chosen."""
_PARAGRAPH_WORTH = 0.5
"""The beginning of a paragraph is as good a border as one in the paragraph before that is nearer to the ideal size by
this share of it."""
_TOO_SMALL = -10.0
"""Score of a border that makes a passage too small. Then the passage takes as much as it can."""

_CLAUSE = re.compile(r"""(?<![.!?;:…—])[.!?;:…—]+["'”’»)\]]*\s+|[；：。！？…—]+["'”’」』）】》]*\s*""")
_COMMA = re.compile(r""",["'”’]*\s+|[，、]["'”’」』）】》]*\s*""")
_BLANK_LINES = re.compile(r"\n\s*\n")
_LINE = re.compile(r"\n")
_SPACE = re.compile(r"\s*")
_SHORTEST_PIECE = 20
"""Characters. Shorter sentences, lines and clauses are not counted and placed one by one, which would take long."""
_LONGEST_GAP = 80
"""Characters of white space in a line that are kept."""
_NUMBERED = (
    r"(?i:table|tab\.|listing|code|algorithm|figure|fig\.|program|exhibit|表格?|图表?|代码清单|代码|算法|清单|程序)"
    r"\s*[\dA-Z一二三四五六七八九十][\w.–-]*"
)
_CAPTION = re.compile(_NUMBERED)
_CAPTION_BELOW = re.compile(rf"{_NUMBERED}\s*(?:[:.：|—]|\s[^\sa-z])")
"""A line like `Table 3: Costs`; but `Table 4 shows the costs` introduces what follows."""
_ENDED = re.compile(r"""[.!?;。！？；…]["'”’»)\]）】』」》〉*_]*\Z""")
_CONTINUED = re.compile(r"[a-zß-öø-ÿ]+[\s,]|\$\$|\\\[|\\begin")
"""The beginning of the rest of a sentence, or of a formula within one."""
_TAIL = 8
_PARAGRAPH = 150
"""Characters. A longer piece of a transcript is a paragraph, a shorter one a caption."""
_WIDE = re.compile("[\u2e80-\ua4cf\uf900-\ufaff\ufe30-\uffef\U00020000-\U0003ffff]")


@dataclass(frozen=True)
class Passage:
    """A piece of a document."""

    text: str
    """Paragraphs have a blank line between them. The titles of its lecture and section are not in it."""
    lecture: int
    """The number of its lecture in the document, from 1 on."""
    lecture_title: str
    section: int
    """The number of its section in the lecture, from 1 on."""
    section_title: str | None
    """None before the first heading of a lecture."""
    order_in_section: int
    """From 0 on."""
    headings: tuple[str, ...] = ()
    """The headings below that of the section under which the whole passage stands, from the general to the specific."""
    page: int | None = None
    page_end: int | None = None
    """The last page, if it is another one."""
    start: float | None = None
    """Seconds from the beginning of the recording."""
    end: float | None = None


def divide(document: Document, *, title: str, count_tokens: CountTokens, max_tokens: int) -> Iterator[Passage]:
    """Divide a document into passages, in its order.

    Args:
        document: The document. Blank blocks are left out.
        title: The title of a lecture if the document has none, such as the name of the file.
        count_tokens: Counts the tokens of texts.
        max_tokens: The longest text that the model reads. No passage is longer.

    Raises:
        ValueError: `max_tokens` leaves no room for a text.
    """
    sizes = _Sizes(count_tokens, max_tokens)
    blocks = [_cleaned(block) for block in document.blocks if not is_blank(block.text)]
    for lecture, (lecture_title, level, content) in enumerate(_lectures(blocks, document.title or title), 1):
        sections = (_Section.read(heading, units, sizes) for heading, units in _sections(content, level))
        for section, (section_title, all_units) in enumerate(_merged(sections, sizes), 1):
            for order, units in enumerate(_chosen(all_units, sizes)):
                yield Passage(
                    _text(units),
                    lecture,
                    lecture_title,
                    section,
                    section_title,
                    order,
                    _headings(units),
                    *_place(units),
                )


class _Sizes:
    """Counts tokens without those that every text has, and tells how many a passage may have."""

    def __init__(self, count_tokens: CountTokens, max_tokens: int) -> None:
        self._count_tokens = count_tokens
        self._overhead, spaced, broken = count_tokens(["", "a a", "a\n\na"])
        self.line_break = max(0, broken - spaced)
        most = min(MOST_TOKENS, max_tokens)
        self.most = most - self._overhead
        self.least = int(min(LEAST_TOKENS, LEAST_SHARE * most)) - self._overhead
        self.ideal = (self.most + self.least) / 2
        if self.most < 1:
            raise ValueError(f"{max_tokens} tokens leave none for a text: the model's prompt takes {self._overhead}")

    def of(self, texts: Sequence[str]) -> list[int]:
        """The size of each text. What is far too long is not tokenized."""
        longest = CHARACTERS_PER_TOKEN * self.most
        short = [text for text in texts if len(text) <= longest]
        counts = iter(self._count_tokens(short) if short else ())
        return [
            max(1, next(counts) - self._overhead, -(-len(text) // CHARACTERS_PER_TOKEN))
            if len(text) <= longest
            else len(text)
            for text in texts
        ]

    def with_separator(self, unit: "_Unit") -> int:
        """The tokens that a unit adds to those before it."""
        return unit.tokens + (self.line_break if "\n" in unit.separator else 0)


@dataclass(frozen=True, slots=True)
class _Unit:
    """What is never cut: a sentence, a table, a listing; or a piece of one that is larger than a passage."""

    kind: Kind
    text: str
    separator: str = "\n\n"
    """What stands before it, unless it begins a passage."""
    border: float = 1.0
    """How well a passage begins with it: a heading 2, a paragraph 1, a sentence 0, a part of a sentence -1."""
    glued: bool = False
    """Whether it belongs to the unit before (see `_belongs_to`)."""
    lead: str = ""
    """What stands before it if it begins a passage: the header of its table."""
    lead_tokens: int = 0
    detail: int = 0
    """How often it was cut."""
    is_title: bool = False
    """Whether it is the heading of its section."""
    headings: tuple[str, ...] = ()
    page: int | None = None
    page_end: int | None = None
    start: float | None = None
    end: float | None = None
    tokens: int = 0


# From blocks to lectures and sections


def _cleaned(block: Block) -> Block:
    text = block.text.strip("\n") if block.kind is Kind.CODE else block.text.strip()
    if block.kind is Kind.HEADING:
        text = " ".join(text.split())
        if len(text) > LONGEST_TITLE:
            return replace(block, kind=Kind.TEXT, text=text, level=0)
    return replace(block, text=text)


def _lectures(blocks: list[Block], title: str) -> Iterator[tuple[str, int, list[Block]]]:
    """The lectures: title, level of the headings of sections (0: there are none), and content."""
    levels = sorted({block.level for block in blocks if block.kind is Kind.HEADING})
    if not levels:
        yield title, 0, blocks
        return
    starts = [at for at, block in enumerate(blocks) if block.kind is Kind.HEADING and block.level == levels[0]]
    sections = levels[1] if len(levels) > 1 else 0
    has_preface = _is_long(blocks[: starts[0]], 1)
    if len(starts) > 1 and _is_long(blocks, len(starts)):
        if has_preface:
            yield title, sections, blocks[: starts[0]]
        for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(blocks)], strict=True)):
            preface = [] if number or has_preface else blocks[:start]
            content = preface + blocks[start + 1 : end]
            yield blocks[start].text, sections, content or [replace(blocks[start], kind=Kind.TEXT)]
    elif len(starts) == 1 and not has_preface and len(blocks) > 1:
        yield blocks[starts[0]].text, sections, blocks[: starts[0]] + blocks[starts[0] + 1 :]
    else:
        yield title, levels[0], blocks


def _is_long(blocks: list[Block], parts: int) -> bool:
    """Whether this number of parts would have the tokens of a passage on average."""
    return sum(len(block.text.encode(errors="replace")) for block in blocks) >= parts * LEAST_TOKENS * _BYTES_PER_TOKEN


def _sections(blocks: list[Block], level: int) -> Iterator[tuple[str | None, Iterator[_Unit]]]:
    """Title and units of each section. The first unit is its heading if it has one."""
    starts = [at for at, block in enumerate(blocks) if block.kind is Kind.HEADING and block.level <= level]
    titled = set(starts)
    for start, end in zip([0, *starts], [*starts, len(blocks)], strict=True):
        if start < end:
            yield blocks[start].text if start in titled else None, _units(blocks[start:end], level)


def _units(blocks: list[Block], level: int) -> Iterator[_Unit]:
    path: list[Block] = []
    before: Block | None = None
    for is_spoken, group in groupby(blocks, lambda block: block.kind is Kind.TEXT and block.start is not None):
        if is_spoken:
            cues = list(group)
            glued = before is not None and _belongs_to(before, cues[0])
            yield from _spoken(cues, tuple(block.text for block in path), glued)
            before = cues[-1]
            continue
        for block in group:
            glued = before is not None and _belongs_to(before, block)
            is_title = block.kind is Kind.HEADING and block.level <= level
            if block.kind is Kind.HEADING and not is_title:
                path = [*(above for above in path if above.level < block.level), block]
            unit = _Unit(
                block.kind,
                block.text,
                border=2.0 if block.kind is Kind.HEADING else 1.0,
                glued=glued,
                is_title=is_title,
                headings=tuple(above.text for above in path),
                page=block.page,
                page_end=block.page_end,
                start=block.start,
                end=block.end,
            )
            if block.kind is Kind.TEXT:
                yield from _parts(unit, _together(sentences(block.text)), 0.0)
            else:
                yield unit
            before = None if is_title else block


def _together(texts: Iterable[str]) -> Iterator[str]:
    """The texts, short ones together with the next."""
    short = ""
    for text in texts:
        short += text
        if len(short) >= _SHORTEST_PIECE:
            yield short
            short = ""
    yield short


def _belongs_to(before: Block, block: Block) -> bool:
    """Whether the block before introduces a block, has it as its caption, or begins its sentence."""
    if before.kind is Kind.HEADING:
        return block.kind is not Kind.HEADING or block.level > before.level
    if block.kind is Kind.HEADING:
        return False
    is_shown = block.kind in (Kind.TABLE, Kind.CODE)
    if before.kind is not Kind.TEXT:
        return not is_shown and bool(_CAPTION_BELOW.match(block.text))
    end = before.text[-_TAIL:]
    if end.endswith((":", "：")):
        return True
    is_ended = bool(_ENDED.search(end))
    if is_shown:
        return (not is_ended and len(before.text) <= LONGEST_TITLE) or bool(_CAPTION.match(before.text))
    return not is_ended and (end.endswith((",", "，", "、")) or bool(_CONTINUED.match(block.text)))


def _spoken(cues: list[Block], headings: tuple[str, ...], glued: bool) -> Iterator[_Unit]:
    """What was said: a sentence may go on in the next cue. Each unit is a part of a sentence in one cue."""
    texts = [cues[0].text]
    for before, cue in pairwise(cues):
        joined = _WIDE.match(before.text[-1]) and _WIDE.match(cue.text[0])
        texts.append(cue.text if joined else f" {cue.text}")
    text = "".join(texts)
    cue_starts = [0, *accumulate(map(len, texts[:-1]))]
    sentence_start = 0
    for sentence in sentences(text):
        sentence_end = sentence_start + len(sentence)
        first, last = bisect_right(cue_starts, sentence_start), bisect_right(cue_starts, sentence_end - 1)
        cuts = [sentence_start, *cue_starts[first:last], sentence_end]
        for number, (start, end) in enumerate(pairwise(cuts)):
            if not (part := text[start:end].strip()):
                continue
            at = bisect_right(cue_starts, start) - 1
            cue = cues[at]
            begins_cue = not text[cue_starts[at] : start].strip()
            is_paragraph = start == 0 or (number == 0 and begins_cue and len(cues[at - 1].text) >= _PARAGRAPH)
            is_spaced = start > 0 and (text[start].isspace() or text[start - 1].isspace())
            yield _Unit(
                Kind.TEXT,
                part,
                separator="\n\n" if is_paragraph else " " * is_spaced,
                border=1.0 if is_paragraph else -1.0 if number else 0.0,
                glued=glued if start == 0 else number > 0,
                headings=headings,
                page=cue.page,
                page_end=cue.page_end,
                start=cue.start,
                end=cue.end,
            )
        sentence_start = sentence_end


# Units that fit into a passage


def _sized(units: Iterable[_Unit], sizes: _Sizes) -> Iterator[_Unit]:
    """The units with their tokens; those that are too large in pieces."""
    units = iter(units)
    while batch := list(islice(units, _BATCH)):
        for unit, tokens in zip(batch, sizes.of([unit.text for unit in batch]), strict=True):
            if tokens <= sizes.most or len(unit.text.strip()) == 1:
                fits = unit.lead_tokens + tokens + sizes.line_break <= sizes.most
                yield replace(unit, tokens=tokens, lead_tokens=unit.lead_tokens * fits, lead=unit.lead * fits)
            else:
                yield from _sized(_finer(unit, sizes), sizes)


def _finer(unit: _Unit, sizes: _Sizes) -> Iterator[_Unit]:
    """The pieces of a unit that is too large."""
    below = replace(unit, detail=unit.detail + 1)
    if unit.kind is Kind.TABLE and "\n" in unit.text:
        if unit.detail:  # a row for each line: each is smaller than the unit, however short the others are
            return _parts(below, unit.text.splitlines(keepends=True), 0.5)
        header, _, content = unit.text.partition("\n")
        header_tokens = sizes.of([header])[0]
        lead = (header, header_tokens) if 2 * header_tokens <= sizes.most else ("", 0)
        rows = _parts(below, chain([f"{header}\n"], _pieces(content, _LINE)), 0.5)
        return (
            replace(row, lead=lead[0], lead_tokens=lead[1], glued=number == 1) if number else row
            for number, row in enumerate(rows)
        )
    if unit.kind is Kind.CODE and unit.detail == 0:
        return _parts(below, _pieces(unit.text, _BLANK_LINES), 0.5)
    if unit.kind is Kind.CODE and unit.detail == 1:
        return _parts(below, _pieces(unit.text, _LINE), 0.0)
    if unit.kind is not Kind.CODE and unit.detail < 2:
        return _parts(replace(below, lead="", lead_tokens=0), _pieces(unit.text, (_CLAUSE, _COMMA)[unit.detail]), -1.0)
    return _parts(replace(below, lead="", lead_tokens=0), _cut(unit.text, sizes.most >> (unit.detail - 2)), -1.0)


def _pieces(text: str, separator: re.Pattern[str]) -> Iterator[str]:
    start = 0
    for match in separator.finditer(text):
        if match.end() - start >= _SHORTEST_PIECE:
            yield text[start : match.end()]
            start = match.end()
    yield text[start:]


def _cut(text: str, limit: int) -> Iterator[str]:
    """Pieces of at most `limit` characters after their white space, cut between words where that is possible."""
    start, limit = 0, max(1, limit)
    while start < len(text):
        space = _SPACE.match(text, start)
        visible = space.end() if space else start
        end = visible + max(1, len(cut_at_word(text[visible : visible + limit + 1], limit)))
        yield text[start:visible][-_LONGEST_GAP:] + text[visible:end]
        start = end


def _parts(unit: _Unit, pieces: Iterable[str], border: float) -> Iterator[_Unit]:
    """A unit for each piece of another one, with the white space between them; indentation of code is kept."""
    is_code, is_first, gap = unit.kind is Kind.CODE, True, ""
    for piece in pieces:
        text = piece.lstrip("\n" if is_code else None)
        gap = (gap + piece[: len(piece) - len(text)])[:_LONGEST_GAP]
        text = text.rstrip()
        if not text:
            continue
        if is_first:
            yield replace(unit, text=text)
        else:
            lines = 0 if unit.kind is Kind.TEXT else min(2, gap.count("\n"))
            separator = "\n" * lines or (gap if is_code else " " * bool(gap))
            yield replace(unit, text=text, separator=separator, border=border, glued=False)
        is_first, gap = False, piece[len(piece.rstrip()) :][:_LONGEST_GAP]


def _glued(units: Iterable[_Unit], sizes: _Sizes) -> Iterator[_Unit]:
    """The units; those that belong together are one if it is not larger than a passage."""
    run: deque[_Unit] = deque()
    tokens = 0
    for unit in units:
        if not unit.glued and run:
            yield from _united(run)
            run.clear()
            tokens = 0
        tokens += sizes.with_separator(unit)
        while run and tokens + run[0].lead_tokens > sizes.most:
            tokens -= sizes.with_separator(run[0])
            yield run.popleft()
        run.append(unit)
    if run:
        yield from _united(run)


def _united(run: Sequence[_Unit]) -> Iterator[_Unit]:
    """The units as one, unless they are the rest of a sentence that is too large."""
    if len(run) == 1 or run[0].border < 0:
        yield from run
        return
    page, page_end, start, end = _place(run)
    yield replace(
        run[0],
        kind=run[-1].kind,
        text=_joined(run),
        headings=run[-1].headings,
        page=page,
        page_end=page_end,
        start=start,
        end=end,
        tokens=sum(unit.tokens for unit in run),
    )


# Sections that are large enough


@dataclass(frozen=True)
class _Section:
    heading: list[_Unit]
    """Empty if it has none."""
    title: str | None
    units: list[_Unit]
    """All of its content, or as much as is too large for a passage."""
    rest: Iterator[_Unit]
    is_whole: bool
    """Whether there is no rest."""
    tokens: int
    """Of heading and units."""

    @classmethod
    def read(cls, title: str | None, units: Iterator[_Unit], sizes: _Sizes) -> Self:
        """Read a section until it is known whether it is larger than a passage."""
        stream = _glued(_sized(units, sizes), sizes)
        read: list[_Unit] = []
        tokens = 0
        for unit in stream:
            read.append(unit)
            tokens += sizes.with_separator(unit)
            if tokens > sizes.most:
                break
        heading = [unit for unit in read if unit.is_title]
        return cls(heading, title, read[len(heading) :], stream, tokens <= sizes.most, tokens)


def _merged(sections: Iterable[_Section], sizes: _Sizes) -> Iterator[tuple[str | None, Iterator[_Unit]]]:
    """Title and content of each section. One that is too small is put together with the next, else with the one before.

    Only whole sections that are one passage together are put together.
    """
    before: list[_Section] = []
    for group in chain(_joined_to_next(sections, sizes), [[]]):
        if before and group and _tokens(group) < sizes.least and _tokens(before) + _tokens(group) <= sizes.most:
            before += group
            continue
        if len(before) == 1:
            yield before[0].title, chain(before[0].units or before[0].heading, before[0].rest)
        elif before:
            units = chain.from_iterable(chain(section.heading, section.units) for section in before)
            yield _title_of(before), (replace(unit, headings=()) for unit in units)
        before = group


def _joined_to_next(sections: Iterable[_Section], sizes: _Sizes) -> Iterator[list[_Section]]:
    group: list[_Section] = []
    for section in sections:
        if group and _tokens(group) < sizes.least and _tokens(group) + section.tokens <= sizes.most:
            group.append(section)
        else:
            if group:
                yield group
            group = [section]
    if group:
        yield group


def _tokens(sections: list[_Section]) -> int:
    return sum(section.tokens for section in sections)


def _title_of(sections: list[_Section]) -> str | None:
    titles = list(dict.fromkeys(section.title for section in sections if section.title))
    together = " · ".join(titles)
    if len(together) > LONGEST_TITLES and len(titles) > 2:
        return f"{titles[0]} … {titles[-1]}"
    return together or None


# Passages


def _chosen(units: Iterable[_Unit], sizes: _Sizes) -> Iterator[list[_Unit]]:
    """The units of each passage of a section."""
    units = iter(units)
    window: deque[_Unit] = deque()
    tokens, is_end = 0, False
    while True:
        while not is_end and tokens <= _LOOK_AHEAD * sizes.most:
            if unit := next(units, None):
                window.append(unit)
                tokens += sizes.with_separator(unit)
            else:
                is_end = True
        if not window:
            return
        chosen = list(islice(window, _border(window, tokens if is_end else None, sizes)))
        # The tokens of a text are not quite the sum of those of its parts.
        while (too_large := sizes.of([_text(chosen)])[0] > sizes.most) and len(chosen) > 1:
            chosen.pop()
        for unit in chosen:
            window.popleft()
            tokens -= sizes.with_separator(unit)
        if too_large and len(chosen[0].text.strip()) > 1:
            pieces = list(_smaller(chosen[0], sizes))
            window.extendleft(reversed(pieces))
            tokens += sum(map(sizes.with_separator, pieces))
        elif not all(is_blank(unit.text) for unit in chosen):
            yield chosen


def _smaller(unit: _Unit, sizes: _Sizes) -> Iterator[_Unit]:
    if unit.lead:
        yield replace(unit, lead="", lead_tokens=0)
    else:
        yield from _sized(_finer(unit, sizes), sizes)


def _border(window: Sequence[_Unit], left: int | None, sizes: _Sizes) -> int:
    """How many units of the window the next passage has.

    Args:
        window: The units that follow, as many as are left or more than fit into a passage.
        left: The tokens that are left in the section if it ends in the window.
        sizes: How many tokens a passage may have.
    """
    ideal = sizes.ideal
    if left is not None:
        passages = max(1, round(left / ideal))
        ideal = left / (passages if left <= passages * sizes.most else passages + 1)
    best, best_score = 1, -float("inf")
    tokens = window[0].lead_tokens
    for number, unit in enumerate(window, 1):
        tokens += sizes.with_separator(unit) if number > 1 else unit.tokens
        if tokens > sizes.most:
            break
        if number == len(window):
            return number
        if tokens < sizes.least:
            score = _TOO_SMALL + tokens / sizes.most
        else:
            score = window[number].border * _PARAGRAPH_WORTH - abs(tokens - ideal) / ideal
            if left is not None and left - tokens < sizes.least:
                score -= 1
        if score >= best_score:
            best, best_score = number, score
    return best


def _headings(units: Sequence[_Unit]) -> tuple[str, ...]:
    """The headings under which all of the units stand."""
    paths = [unit.headings for unit in units if unit.kind is not Kind.HEADING] or [unit.headings for unit in units]
    common = takewhile(lambda titles: len(set(titles)) == 1, zip(*paths, strict=False))
    return tuple(titles[0] for titles in common)


def _text(units: Sequence[_Unit]) -> str:
    lead = units[0].lead
    return f"{lead}\n{_joined(units)}" if lead else _joined(units)


def _joined(units: Sequence[_Unit]) -> str:
    following = (part for unit in islice(units, 1, None) for part in (unit.separator, unit.text))
    return units[0].text + "".join(following)


def _place(units: Sequence[_Unit]) -> tuple[int | None, int | None, float | None, float | None]:
    """Page, last page (None if it is the same), start and end of what units cover."""
    pages = [page for unit in units for page in (unit.page, unit.page_end) if page is not None]
    starts = [unit.start for unit in units if unit.start is not None]
    ends = [unit.end for unit in units if unit.end is not None]
    page, page_end = (min(pages), max(pages)) if pages else (None, None)
    return page, page_end if page_end != page else None, min(starts, default=None), max(ends, default=None)
