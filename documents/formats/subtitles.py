"""Subtitles (WebVTT, SubRip) and transcripts of speech recognition (JSON): what is said, with its time.

Own code rather than a library: pysubs2 takes a last line that is a number for the number of the next cue, a WebVTT
comment for text, and two digits for the hours.
"""

import html
import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from documents.document import Block, Document, Kind, Report, UnreadableFileError
from documents.formats.content import is_wide, language_code, paragraph, text_block, with_content
from documents.formats.encodings import read_text
from documents.formats.json_files import parse_json
from documents.sentences import sentences
from models.text import is_blank

SHORTEST: Final = 30.0
"""Seconds that a block lasts at least, where more is said."""
LONGEST: Final = 60.0
"""Seconds that a block lasts at most, unless there is no pause."""

_TIME = r"(?:\d{1,6}:)?\d{1,2}:\d{1,2}(?:[.,]\d{1,6})?"
_TIMING = re.compile(rf"\s*({_TIME})\s*-{{1,3}}>\s*({_TIME})(?:\s.*)?")
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,200}>|<[\d:.]{3,20}>|\{\\[^{}]{0,200}\}")
_SPEAKER = re.compile(r"\s*(?:>>+|[-–—](?=\s*\S))\s*")
_SOUND = re.compile(r"\s*(?:\[\s*[^\W\d_][\w .,!?…'’-]{1,40}\]|\([A-Z][A-Z ]{1,40}\)|【[^【】]{1,20}】|[♪♫])\s*")
"""Who speaks, or what else is heard."""
_HAS_WORDS = re.compile(r"\w")
_CHAPTER = re.compile(
    r"(?:chapter|section|part|kapitel|chapitre|章节?|小节)\b[\s\d.:：-]*(\S.*)|(第.{1,5}[章节讲].*)", re.IGNORECASE
)
_HEADER = re.compile(r"(kind|language|title)\s*[:=]\s*(.+)", re.IGNORECASE)
_ADJACENT = 1.0
"""Seconds between captions of which the second may repeat the first."""
_SURE_REPETITION = 12
"""Characters. Less may be said twice."""
_LONGEST_REPETITION = 200


@dataclass(frozen=True, slots=True)
class _Cue:
    """What is said from a time to a time, in seconds; the times are None where the file has none."""

    start: float | None
    end: float | None
    lines: Sequence[str]
    chapter: str | None = None
    """The title of the chapter that begins with it."""


@dataclass(frozen=True, slots=True)
class _Recording:
    cues: list[_Cue]
    title: str | None = None
    language: str | None = None
    is_repeating: bool = True
    """Whether a cue may repeat the one before: not if the cues are words."""


def read(path: Path, report: Report) -> Document:
    """Read subtitles or a transcript.

    Raises:
        UnreadableFileError: It is none, or contains no text.
    """
    text = read_text(path)
    recording = _from_json(parse_json(text)) if text.lstrip()[:1] in ("{", "[") else _from_cues(text)
    if recording is None:
        raise UnreadableFileError(
            "The file is no transcript: it has no list of texts with their times. Upload subtitles (.vtt, .srt) or the "
            "JSON file of Whisper with its segments."
        )
    report(0.3)
    return with_content(Document("transcript", recording.title, recording.language, list(_blocks(recording))))


# Subtitles


def _from_cues(text: str) -> _Recording | None:
    lines = text.split("\n")
    title = language = chapter = None
    position = 0
    is_vtt = lines[0].lstrip().startswith("WEBVTT")
    if is_vtt:
        title = lines[0].lstrip()[6:].strip(" \t-–:") or None
        position = 1
        while position < len(lines) and lines[position].strip() and not _TIMING.fullmatch(lines[position]):
            if found := _HEADER.fullmatch(lines[position].strip()):
                language = found[2] if found[1].lower() == "language" else language
                title = found[2].strip() if found[1].lower() == "title" else title
            position += 1
    cues: list[_Cue] = []
    current: list[str] | None = None
    """The lines of the cue that is being read; None in a comment or style."""
    for number in range(position, len(lines)):
        line = lines[number]
        after_blank = number == position or not lines[number - 1].strip()
        if found := _TIMING.fullmatch(line):
            # The line before is its number or name, if it stands in a paragraph of its own.
            if current and number > position and lines[number - 1].strip():
                if lines[number - 1].strip().isdecimal() or (number < position + 2 or not lines[number - 2].strip()):
                    name = current.pop()
                    chapter = _chapter(name) or chapter
            elif current is None and number > position:
                chapter = _chapter(lines[number - 1]) or chapter
            current = []
            cues.append(_Cue(_seconds(found[1]), _seconds(found[2]), current, chapter))
            chapter = None
        elif is_vtt and after_blank and re.match(r"(NOTE|STYLE|REGION)\b", line):
            if line.startswith("NOTE"):
                note = line[4:].strip() or (lines[number + 1].strip() if number + 1 < len(lines) else "")
                if (header := _HEADER.fullmatch(note)) and header[1].lower() == "title":
                    title = header[2].strip()
                chapter = _chapter(note) or chapter
            current = None
        elif current is not None and line.strip():
            current.append(line)
    return _Recording(cues, title, language_code(language)) if cues else None


def _chapter(name: str) -> str | None:
    found = _CHAPTER.fullmatch(name.strip())
    return (found[1] or found[2]) if found else None


def _seconds(time: str) -> float:
    *larger, seconds = time.replace(",", ".").split(":")
    minutes = 0
    for part in larger:
        minutes = 60 * minutes + int(part)
    return 60 * minutes + float(seconds)


# Speech recognition


def is_transcript(content: Any) -> bool:
    """Whether parsed JSON is a transcript."""
    return _from_json(content) is not None


def _from_json(content: Any) -> _Recording | None:
    if isinstance(content, list):
        content = {"segments": content}
    if not isinstance(content, dict):
        return None
    result = content.get("result")
    language = content.get("language") or (result.get("language") if isinstance(result, dict) else None)
    language = language_code(language) if isinstance(language, str) else None
    for key in ("segments", "transcription", "chunks", "words", "word_segments"):
        cues = [cue for item in _list(content.get(key)) if (cue := _segment(item))]
        if cues:
            items = _list(content[key])
            return _Recording(cues, None, language, is_repeating=not ("word" in items[0] or key.startswith("word")))
    text = content.get("text")
    if isinstance(text, str) and not is_blank(text) and (language or "segments" in content):
        return _Recording([_Cue(None, None, [text])], None, language)
    return None


def _list(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _segment(item: dict[str, Any]) -> _Cue | None:
    """A cue of Whisper, faster-whisper and WhisperX (seconds), whisper.cpp (milliseconds), transformers (a pair)."""
    text = item.get("text", item.get("word"))
    if text is None:
        text = " ".join(str(word.get("word", "")) for word in _list(item.get("words")))
    start, end = item.get("start"), item.get("end")
    offsets, pair = item.get("offsets"), item.get("timestamp")
    if isinstance(offsets, dict):
        start, end = (_number(offsets.get(key), 1000) for key in ("from", "to"))
    elif isinstance(pair, list) and len(pair) == 2:
        start, end = pair
    start, end = _number(start), _number(end)
    if end is None and start is not None and (duration := _number(item.get("duration"))) is not None:
        end = start + duration
    # Without any time it may be a list of anything; words of which only a few have none (numbers) belong in between.
    if not isinstance(text, str) or not (item.keys() & {"start", "offsets", "timestamp", "word"}):
        return None
    return _Cue(start, end, text.split("\n"))


def _number(value: Any, divisor: int = 1) -> float | None:
    if isinstance(value, str) and re.fullmatch(rf"{_TIME}|\d{{1,9}}(\.\d{{1,9}})?", value):
        return _seconds(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9 or math.isnan(value):
        return None
    return max(0.0, value / divisor)


# Cues → blocks


def _blocks(recording: _Recording) -> Iterator[Block]:
    timed = _with_times(recording.cues)
    cues = sorted(timed, key=lambda cue: cue.start or 0.0)
    cues = [replace(cue, lines=[_plain(line) for line in cue.lines]) for cue in cues]
    length = _length(cues)
    if recording.is_repeating:
        cues = list(_without_repetitions(cues))
    has_punctuation = sum(any("。" in line or "，" in line for line in cue.lines) for cue in cues) > len(cues) / 10
    # Those that roll or grow break where a line is full, and words stand alone.
    are_clauses = recording.is_repeating and not has_punctuation and _length(cues) > 0.8 * length
    begins = [0, *(number for number, cue in enumerate(cues) if cue.chapter and number), len(cues)]
    for first, end in pairwise(begins):
        chapter = cues[first:end]
        if chapter and chapter[0].chapter:
            yield from text_block(chapter[0].chapter, Kind.HEADING, level=1)
        yield from _Speech(chapter, are_clauses=are_clauses).blocks()


def _length(cues: Iterable[_Cue]) -> int:
    return sum(len(line) for cue in cues for line in cue.lines)


def _with_times(cues: Iterable[_Cue]) -> Iterator[_Cue]:
    """A cue without times is said when the one before ends; none ends before it begins."""
    last: float | None = None
    for cue in cues:
        start = last if cue.start is None else cue.start
        end = start if cue.end is None or (start is not None and cue.end < start) else cue.end
        last = end
        yield replace(cue, start=start, end=end)


def _plain(line: str) -> str:
    text = html.unescape(_TAG.sub("", line))
    while found := _SPEAKER.match(text) or _SOUND.match(text):
        text = text[found.end() :]
    return paragraph(text) if _HAS_WORDS.search(text) else ""


def _without_repetitions(cues: Iterable[_Cue]) -> Iterator[_Cue]:
    """Captions that roll repeat the line before, and live captions grow: what is new of each cue stays."""
    before: list[str] = []
    before_end = -math.inf
    for cue in cues:
        lines = [line for line in cue.lines if line]
        if not lines:
            if cue.chapter:
                yield replace(cue, lines=[])
            continue
        new = lines
        if cue.start is not None and cue.start <= before_end + _ADJACENT:
            new = lines[_common_lines(before, lines) :]
            if len(new) == len(lines):
                text, said = _joined(lines)[0], _joined(before)[0]
                new = [text[_common_characters(said, text) :].lstrip()]
        before, before_end = lines, max(before_end, cue.end or 0.0)
        if any(new) or cue.chapter:
            yield replace(cue, lines=new)


def _common_lines(before: Sequence[str], lines: Sequence[str]) -> int:
    """How many lines at the end of one cue the next begins with."""
    for number in range(min(len(before), len(lines)), 0, -1):
        if list(before[-number:]) == list(lines[:number]):
            return number
    return 0


def _common_characters(before: str, text: str) -> int:
    for number in range(min(len(before), len(text), _LONGEST_REPETITION), 0, -1):
        if text.startswith(before[-number:]):
            is_whole = number == len(before) or number == len(text)
            is_word_end = number == len(text) or not (text[number - 1].isalnum() and text[number].isalnum())
            is_word_start = number == len(before) or not (before[-number].isalnum() and before[-number - 1].isalnum())
            is_between_words = is_word_end and is_word_start
            if (is_whole and (is_between_words or is_wide(text[number - 1]))) or (
                number >= _SURE_REPETITION and is_between_words
            ):
                return number
    return 0


def _joined(texts: Iterable[str], *, are_clauses: bool = False) -> tuple[str, list[int]]:
    """The texts as one, and where each of them begins.

    Between Chinese characters there is no space, unless the texts are clauses without punctuation.
    """
    pieces: list[str] = []
    starts: list[int] = []
    length = 0
    for text in texts:
        if pieces and text:
            is_close = is_wide(pieces[-1][-1]) and is_wide(text[0])
            if not is_close or (are_clauses and pieces[-1][-1].isalnum()):
                pieces.append(" ")
                length += 1
        starts.append(length)
        if text:
            pieces.append(text)
            length += len(text)
    return "".join(pieces), starts


class _Speech:
    """What is said in one chapter, in which a position in the text has a time."""

    def __init__(self, cues: Sequence[_Cue], *, are_clauses: bool) -> None:
        texts = [_joined(line for line in cue.lines if line)[0] for cue in cues]
        self._cues = [cue for cue, text in zip(cues, texts, strict=True) if text]
        self._text, self._starts = _joined((text for text in texts if text), are_clauses=are_clauses)

    def blocks(self) -> Iterator[Block]:
        """Whole sentences of together 30 to 60 seconds; where none ends for so long, what is said between pauses."""
        first: int | None = None
        last = 0
        for begin, end in self._sentences():
            if first is not None and not self._fits(first, last, end):
                yield self._block(first, last)
                first = None
            first = begin if first is None else first
            last = end
        if first is not None:
            yield self._block(first, last)

    def _fits(self, first: int, last: int, end: int) -> bool:
        """Whether a sentence that ends there belongs to the block of those before it."""
        start, stop, new_stop = self._time(first), self._time(last, is_end=True), self._time(end, is_end=True)
        if start is None or stop is None or new_stop is None:
            return True
        return stop - start < SHORTEST and new_stop - start <= LONGEST

    def _block(self, begin: int, end: int) -> Block:
        text = paragraph(self._text[begin:end])
        return Block(Kind.TEXT, text, start=self._time(begin), end=self._time(end, is_end=True))

    def _sentences(self) -> Iterator[tuple[int, int]]:
        """Begin and end of each sentence, and of the parts of those that take longer than a block."""
        begin = 0
        for sentence in sentences(self._text):
            end = begin + len(sentence)
            while (cut := self._cut(begin, end)) is not None:
                yield begin, cut
                begin = cut
            if not is_blank(self._text[begin:end]):
                yield begin, end
            begin = end

    def _cut(self, begin: int, end: int) -> int | None:
        """Where to cut a sentence that is too long: at its longest pause between 30 and 60 seconds."""
        start, stop = self._time(begin), self._time(end, is_end=True)
        if start is None or stop is None or stop - start <= LONGEST:
            return None
        pauses: list[tuple[float, int]] = []
        early = None
        number = bisect_right(self._starts, begin)
        while number < len(self._starts) and self._starts[number] < end:
            before, after = self._cues[number - 1].end or 0.0, self._cues[number].start or 0.0
            if after - start > LONGEST and (pauses or early):
                break
            if after - start < SHORTEST:
                early = self._starts[number]
            else:
                pauses.append((max(0.0, after - before), self._starts[number]))
            number += 1
        return max(pauses)[1] if pauses else early

    def _time(self, position: int, *, is_end: bool = False) -> float | None:
        """The second at which a character is said: cues are read evenly."""
        while is_end and position and self._text[position - 1] == " ":
            position -= 1
        number = max(0, bisect_right(self._starts, position - 1 if is_end else position) - 1)
        cue = self._cues[number]
        if cue.start is None or cue.end is None:
            return None
        length = (self._starts[number + 1] if number + 1 < len(self._starts) else len(self._text) + 1) - 1
        length -= self._starts[number]
        share = (position - self._starts[number]) / max(1, length)
        return round(cue.start + min(1.0, max(0.0, share)) * (cue.end - cue.start), 3)
