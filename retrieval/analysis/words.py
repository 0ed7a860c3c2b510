"""Splits text into words, names of code, values and symbols.

The term of a word is its stem (English Snowball stemmer: `sorted` → `sort`) without accents. A name that is written in
several parts yields the parts joined, so that all spellings of it agree, and the parts themselves: `Wi-Fi` → `wifi`,
`wi`, `fi`; `node.js` → `nodejs`, `node`, `js`; `hashMap` → `hashmap`, `hash`, `map`. A part weighs as much as its share
of the letters. A word that is broken by a hyphen at the end of a line is such a name.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import regex
import Stemmer
from regex import Match

from retrieval.analysis.chinese import chinese_tokens, fragments
from retrieval.analysis.normalization import CJK, fold
from retrieval.analysis.symbols import SYMBOL, symbol_term
from retrieval.analysis.token import Token
from retrieval.analysis.units import VALUE, number_term, value_term

EXACT = 0.7
"""Weight of the exact spelling of a word with accents, beside the one without."""
FOLDED = 0.8
"""Weight of the spelling without accents of a word that has some."""

_LETTER = rf"[\p{{L}}\p{{M}}\p{{N}}--[{CJK}]]"
_WORD = rf"[\p{{L}}\p{{N}}--[{CJK}]]{_LETTER}*+(?:'{_LETTER}+)*"
_BROKEN = r"-[ \t]*\r?\n[ \t]*"
_SEPARATOR = rf"(?:{_BROKEN}|::|__|[._\-])"
_TOKEN = regex.compile(
    r"(?![\s,;()])(?:(?P<plain>[A-Za-z]++(?=[\s,;)]|\.?(?:\s|\Z)))"  # most words, and faster than what follows
    rf"|(?P<chinese>[{CJK}]+)"
    rf"|(?P<value>{VALUE})"
    r"|(?P<numeral>(?<![\w.,])\d+(?:[.,]\d+)+(?!\w))"
    r"|(?P<short>(?<![\w/&.])[A-Za-z]{1,3}(?:[/&][A-Za-z]{1,3})+(?![\w/&]))"
    rf"|(?P<dot>(?<![\p{{L}}\p{{N}}_./\\)\]])\.(?=\p{{L}}))?(?P<core>{_WORD}(?P<rest>{_SEPARATOR}{_WORD})*)"
    rf"(?P<sign>\+\+(?!\+)|\#(?!\#)|(?<=(?<![\p{{L}}\p{{N}}_*+.)\]])[A-Za-z])[+*](?!{_LETTER}|[+*(]))?"
    rf"|(?P<symbol>{SYMBOL}))",
    regex.VERSION1,
)
_SIMPLE_WORD = regex.compile(_WORD, regex.VERSION1)
_JOINT = regex.compile(r"(?<!\p{N})[^\p{L}\p{M}\p{N}']+|[^\p{L}\p{M}\p{N}']+(?!\p{N})", regex.VERSION1)
_CAMEL_CASE_BOUNDARY = regex.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", regex.VERSION1)
_SEVERAL_WORDS = regex.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1100-\u11ff\uac00-\ud7af]")
"""Scripts that write several words, or a word and its particles, together."""

_stemmer = Stemmer.Stemmer("english", 0)
_stemmer_lock = threading.Lock()


def _list(name: str) -> frozenset[str]:
    lines = Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


FUNCTION_WORDS = _list("function_words.txt")
ASKING_WORDS = _list("asking_words.txt")
TAUGHT_WORDS = _list("taught_words.txt")


def tokens(text: str) -> Iterator[Token]:
    """The tokens of a normalized text."""
    position = 0
    for match in _TOKEN.finditer(text):
        found: Iterable[Token]
        if match["plain"]:
            found = _word(match[0], match.start(), position)
        elif match["core"]:
            named = match["rest"] or match["dot"] or match["sign"]
            found = _name(match, position) if named else _word(match[0], match.start(), position)
        elif match["chinese"]:
            found = chinese_tokens(match[0], match.start(), position)
        elif match["value"]:
            found = _value(match, position)
        elif match["short"]:
            found = _short(match, position)
        elif match["numeral"]:
            found = [Token(number_term(match[0]), match.start(), match.end(), 1.0, position)]
        else:
            found = [Token(symbol_term(match[0]), match.start(), match.end(), 1.0, position)]
        for token in found:
            yield token
            if token.position >= position:
                position = token.position + 1


def _word(word: str, start: int, position: int) -> Iterator[Token]:
    lower, end = word.lower(), start + len(word)
    if lower.isascii():
        yield Token(stem(lower), start, end, 1.0, position)
    else:
        exact = _stem(lower)
        term = stem(lower)
        yield Token(term, start, end, 1.0 if term == exact else FOLDED, position)
        if term != exact:
            yield Token(exact, start, end, EXACT, -1, False)
        if _SEVERAL_WORDS.search(lower):
            yield from fragments(lower, start)
    if not (word.islower() or word.isupper()) and len(parts := _CAMEL_CASE_BOUNDARY.split(word)) > 1:
        yield from _parts(parts, word, start, position)


def _name(match: Match[str], position: int) -> Iterator[Token]:
    """The parts joined, and the parts."""
    core, start = match["core"], match.start("core")
    term = (match["dot"] or "") + _joined(core) + (match["sign"] or "")
    yield Token(term if match["dot"] or match["sign"] else stem(term), match.start(), match.end(), 1.0, position)
    words = list(_SIMPLE_WORD.finditer(core))
    parts = [part for word in words for part in camel_case(word[0])]
    yield from _parts(parts, match[0], match.start(), position)
    for word in words if len(words) > 1 else []:
        if camel_case(word[0]) != [word[0]]:
            weight = len(word[0]) / len(core)
            yield Token(stem(word[0].lower()), start + word.start(), start + word.end(), weight, -1, False)


def _short(match: Match[str], position: int) -> Iterator[Token]:
    """Abbreviations such as `I/O` and `TCP/IP`, which are words of their own."""
    yield Token(_joined(match[0]), match.start(), match.end(), 1.0, position)
    yield from _parts(regex.split("[/&]", match[0]), match[0], match.start(), position)


def _value(match: Match[str], position: int) -> Iterator[Token]:
    number, unit = match["number"], match["unit"]
    yield Token(value_term(number, unit), match.start(), match.end(), 1.0, position)
    letters = len(number + unit)
    yield Token(number_term(number), match.start("number"), match.end("number"), len(number) / letters, position, False)
    yield Token(value_term("", unit), match.start("unit"), match.end("unit"), len(unit) / letters, position + 1, False)


def _parts(parts: Sequence[str], whole: str, start: int, position: int) -> Iterator[Token]:
    """The parts of a name, without those that are mere words of grammar. They have the positions of words."""
    at, letters = 0, sum(not (character in "-_:/&" or character.isspace()) for character in whole)
    for number, part in enumerate(parts):
        at = whole.index(part, at)
        if not is_function_word(part.lower()):
            first, end = start + at, start + at + len(part)
            yield Token(stem(part.lower()), first, end, len(part) / letters, position + number, False)
        at += len(part)


def is_function_word(word: str) -> bool:
    """Whether a lower-case word is one of grammar."""
    return word in FUNCTION_WORDS or ("'" in word and word.partition("'")[0] in FUNCTION_WORDS)


@lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """The stem of a lower-case word, without accents."""
    return _stem(fold(word))


def _stem(word: str) -> str:
    with _stemmer_lock:
        found: str = _stemmer.stemWord(word)
    return found


def camel_case(word: str) -> list[str]:
    """The parts of a name such as `hashMap`; the whole word if there is no boundary in it."""
    return [word] if word.islower() or word.isupper() else _CAMEL_CASE_BOUNDARY.split(word)


def _joined(name: str) -> str:
    """A name in lower case without what separates its parts, except between two numbers."""
    return str(_JOINT.sub("", name.lower())).replace("_", "-")
