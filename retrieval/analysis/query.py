"""Analyses a query: what each of its words weighs, and which of them belong together.

Words of grammar weigh little, and so do words that only ask (`difference`, `区别`). They count fully if the query has
no other words, and where they are meant: in quotation marks, in capitals (`AND gate`), and written together with
Chinese (`CAN总线`). Otherwise the order of the words makes them count (`for loop`, see `QueryAnalysis.pairs`).
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import NamedTuple

import regex

from retrieval.analysis import analyse
from retrieval.analysis.chinese import PAIR
from retrieval.analysis.normalization import CJK
from retrieval.analysis.token import Token
from retrieval.analysis.words import ASKING_WORDS, TAUGHT_WORDS, is_function_word, stem

FUNCTION_WORD = 0.1
"""Weight of a word of grammar."""
ASKING_WORD = 0.3
"""Weight of a word that only asks."""
FUNCTION_PAIR = 0.25
"""Weight of a pair of terms one of which is such a word."""
FRAGMENTS = 0.25
"""Factor of the weight of a pair of characters: it finds what the words miss, but says less than they do."""
_QUOTED = regex.compile(r"`[^`]+`|\"[^\"]+\"|“[^”]+”|「[^」]+」|『[^』]+』|‘[^’]+’|《[^》]+》")
_CJK = regex.compile(rf"[{CJK}]")


class Pair(NamedTuple):
    """Two terms that stand near each other in the query."""

    first: str
    second: str
    distance: int
    """Place of the second relative to the first: 1 if it follows directly."""


@dataclass(frozen=True)
class QueryWord:
    """A word of the query."""

    text: str
    """As typed."""
    start: int
    end: int
    """Start and end in the query, in code points."""
    term: str
    weight: float
    """How much the word counts: 1.0, or less if it says little."""
    is_content: bool
    """Whether this is more than a word of grammar or one that asks, or the query has only such words."""
    parts: tuple[Token, ...]
    """The other tokens of the word: its parts, and the exact spelling of a word with accents."""
    places: tuple[tuple[str, int], ...]
    """The terms that stand in the order of the words, and their positions."""

    @property
    def is_single(self) -> bool:
        """Whether this is a single Chinese character."""
        return len(self.term) == 1 and _CJK.match(self.term) is not None


@dataclass(frozen=True)
class QueryAnalysis:
    """The words of a query."""

    words: tuple[QueryWord, ...]
    loose: tuple[Token, ...]
    """Pairs of Chinese characters that belong to two words."""
    is_vague: bool
    """Whether there are only words of grammar, and words that ask."""

    @cached_property
    def weights(self) -> dict[str, float]:
        """The weight of each term. A term counts as often as it occurs."""
        weights: dict[str, float] = {}
        for word in self.words:
            weights[word.term] = weights.get(word.term, 0.0) + word.weight
            for part in word.parts:
                weights[part.term] = weights.get(part.term, 0.0) + word.weight * part.weight
        for pair in self.loose:
            weights[pair.term] = weights.get(pair.term, 0.0) + pair.weight
        return weights

    @cached_property
    def joined(self) -> "dict[str, tuple[QueryWord, QueryWord]]":
        """The terms of two neighbouring words that are written as one: `wi fi` as `wifi`."""
        joined: dict[str, tuple[QueryWord, QueryWord]] = {}
        for first, second in pairwise(self.words):
            text = (first.text + second.text).lower()
            if (
                second.start == first.end + 1
                and (first.is_content or second.is_content)
                and text.isascii()
                and text.isalnum()
                and not is_function_word(text)
            ):
                joined[stem(text)] = (first, second)
        return joined

    @cached_property
    def sought(self) -> tuple[str, ...]:
        """The terms that are looked up in a course."""
        return (*self.weights, *self.joined)

    @cached_property
    def units(self) -> "list[list[QueryWord]]":
        """The words that say something; several Chinese characters that are no words of the dictionary are together."""
        units: list[list[QueryWord]] = []
        for word in self.words:
            if word.is_content:
                before = units[-1][-1] if units else None
                if before and before.is_single and word.is_single and before.end == word.start:
                    units[-1].append(word)
                else:
                    units.append([word])
        return units

    @cached_property
    def marked_pairs(self) -> list[Pair]:
        """The pairs with a word that is not highlighted by itself: `for loop`, `前缀和`."""
        content = {word.term for word in self.words if word.is_content}
        return [
            pair
            for pair, weight in self.pairs.items()
            if pair.distance == 1 and weight < 1 and (pair.first in content or pair.second in content)
        ]

    @cached_property
    def pairs(self) -> dict[Pair, float]:
        """The terms that stand near each other, with the weight of the pair.

        Each word that says something is paired with the last one before it. A word of grammar that may be part of a
        term, such as `for`, is paired with those next to it.
        """
        pairs: dict[Pair, float] = {}
        last: tuple[str, int, bool] | None = None
        content: tuple[str, int, bool] | None = None
        for word in self.words:
            for term, position in word.places:
                for other in (last, content if content is not last else None):
                    if not other or other[0] == term:
                        continue
                    both = other[2] and word.is_content
                    taught = (other[2] or word.is_content) and (other[0] in TAUGHT_WORDS or term in TAUGHT_WORDS)
                    if both or (taught and position == other[1] + 1):
                        weight = 1.0 if both else FUNCTION_PAIR
                        pairs[Pair(other[0], term, position - other[1])] = weight
                last = (term, position, word.is_content)
                if word.is_content:
                    content = last
        return pairs


@lru_cache(maxsize=1024)
def analyse_query(text: str) -> QueryAnalysis:
    """Analyse a query. Recent queries are remembered."""
    tokens = analyse(text)
    wholes = [token for token in tokens if token.is_word]
    quoted = [match.span() for match in _QUOTED.finditer(text)]
    weights = [_weight(text, token, quoted) for token in wholes]
    all_count = all(weight < 1 for weight in weights)
    parts: list[list[Token]] = [[] for _ in wholes]
    loose: list[Token] = []
    at = 0
    for token in sorted((token for token in tokens if not token.is_word), key=lambda token: token.start):
        while at + 1 < len(wholes) and wholes[at].end <= token.start:
            at += 1
        if token.weight <= PAIR:
            token = token._replace(weight=token.weight * FRAGMENTS)  # noqa: PLW2901
        is_inside = bool(wholes) and wholes[at].start <= token.start and token.end <= wholes[at].end
        (parts[at] if is_inside else loose).append(token)
    return QueryAnalysis(
        tuple(
            _query_word(text, token, 1.0 if all_count else weight, all_count, inside)
            for token, weight, inside in zip(wholes, weights, parts, strict=True)
        ),
        tuple(loose),
        all_count,
    )


def _query_word(text: str, token: Token, weight: float, all_count: bool, inside: list[Token]) -> QueryWord:
    placed = tuple((part.term, part.position) for part in inside if part.position >= 0)
    return QueryWord(
        text=text[token.start : token.end],
        start=token.start,
        end=token.end,
        term=token.term,
        weight=weight,
        is_content=all_count or weight == 1,
        parts=tuple(part for part in inside if part.term != token.term),
        places=placed if len(placed) > 1 else ((token.term, token.position),),
    )


def _weight(text: str, token: Token, quoted: list[tuple[int, int]]) -> float:
    typed = text[token.start : token.end]
    word = typed.lower().replace("’", "'")
    is_function = is_function_word(token.term) or is_function_word(word)
    if not (is_function or word in ASKING_WORDS or token.term in ASKING_WORDS):
        return 1.0
    is_meant = any(start < token.start and token.end < end for start, end in quoted)
    if typed.isascii():
        around = text[max(token.start - 1, 0) : token.start] + text[token.end : token.end + 1]
        is_meant = is_meant or (len(typed) > 1 and typed.isupper() and not text.isupper())
        is_meant = is_meant or _CJK.search(around) is not None
    return 1.0 if is_meant else FUNCTION_WORD if is_function else ASKING_WORD
