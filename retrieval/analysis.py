"""Analyses text into the terms of the keyword search. Chunks and queries go through the same analyser.

Chinese has no spaces, so a dictionary segments it (jieba's search mode); long words also yield their parts (`复杂度` →
`复杂`, `复杂度`). All other text is split into words of letters and digits, lower-cased and stemmed with the English
Snowball stemmer (`sorted` → `sort`). Names in code yield the whole name and its parts: `node.js` → `node.js`, `node`,
`js`; `hashMap` → `hashmap`, `hash`, `map`; `c++` → `c++`, `c`. Stop words are removed.
"""

import re
import threading
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import Stemmer

ANALYSIS_VERSION = 1
"""To be incremented whenever the analyser yields other terms. An index of another version is rebuilt."""

_CJK = "\u3005\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_LETTER = rf"[^\W_{_CJK}]"
_TOKEN = re.compile(
    rf"(?P<cjk>[{_CJK}]+)"
    rf"|(?P<word>{_LETTER}+(?:['’]{_LETTER}+)*)(?P<rest>(?:(?:::|[._\-])+{_LETTER}+)*(?:\+\+|#)?)"
)
_PART = re.compile(rf"{_LETTER}+(?:['’]{_LETTER}+)*")
_CAMEL_CASE_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

_STOP_WORDS = frozenset(
    word
    for line in Path(__file__).with_name("stop_words.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
    for word in line.split()
)
_stemmer = Stemmer.Stemmer("english", 0)
_stemmer_lock = threading.Lock()


class Token(NamedTuple):
    """A term, with its start and end in the text in code points."""

    term: str
    start: int
    end: int


def analyse(text: str) -> list[Token]:
    """The tokens of a text, in the order of the words."""
    normalized, origins = _normalize(text)
    tokens = _tokens(normalized)
    if origins is None:
        return list(tokens)
    return [Token(term, origins[start][0], origins[end - 1][1]) for term, start, end in tokens]


def terms(text: str) -> list[str]:
    """The terms of a text, with repetitions."""
    return [term for term, _, _ in _tokens(_normalize(text)[0])]


def _normalize(text: str) -> tuple[str, list[tuple[int, int]] | None]:
    """Normalize text to Unicode NFKC, which replaces full-width letters and ligatures by plain letters.

    A letter and the combining marks after it are normalized together.

    Returns:
        The normalized text, and the start and end of each of its characters in the original text; None instead of the
        positions if the text did not change.
    """
    if text.isascii() or unicodedata.is_normalized("NFKC", text):
        return text, None
    pieces: list[str] = []
    origins: list[tuple[int, int]] = []
    start = 0
    while start < len(text):
        end = start + 1
        while end < len(text) and unicodedata.combining(text[end]):
            end += 1
        piece = unicodedata.normalize("NFKC", text[start:end])
        pieces.append(piece)
        origins.extend([(start, end)] * len(piece))
        start = end
    return "".join(pieces), origins


def _tokens(text: str) -> Iterator[Token]:
    for match in _TOKEN.finditer(text):
        start, end = match.span()
        if match["cjk"]:
            import rjieba  # imported only for Chinese text: loading the dictionary takes 0.2 s

            for word, first, last in rjieba.tokenize(match[0], "search", False):
                if word not in _STOP_WORDS:
                    yield Token(word, start + first, start + last)
        elif match["rest"]:
            yield Token(match[0].lower(), start, end)
            for part in _PART.finditer(text, start, end):
                yield from _word(part[0], part.start())
        else:
            yield from _word(match[0], start)


def _word(word: str, start: int) -> Iterator[Token]:
    lower = word.lower()
    if lower in _STOP_WORDS:
        return
    yield Token(_stem(lower), start, start + len(word))
    if not (word.islower() or word.isupper()) and len(parts := _CAMEL_CASE_BOUNDARY.split(word)) > 1:
        for part in parts:
            yield Token(_stem(part.lower()), start, start + len(part))
            start += len(part)


@lru_cache(maxsize=100_000)
def _stem(word: str) -> str:
    with _stemmer_lock:
        stem: str = _stemmer.stemWord(word.replace("’", "'"))
    return stem
