"""Expresses a query in the terms of a course.

Words that the course writes differently are replaced by what it has: `wi fi` by `wifi`, `pullup` by `pull up`, and
misspelt words by the nearest ones. Words that it does not have at all are named.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from retrieval.analysis.chinese import PAIR
from retrieval.analysis.english import is_english, spelling
from retrieval.analysis.query import Pair, QueryAnalysis, QueryWord
from retrieval.analysis.words import is_function_word, stem
from retrieval.bm25 import Bm25

CORRECTED = {1: 0.7, 2: 0.5}
"""Weight of a term that differs by this number of edits from what was typed."""
SPLIT = 0.7
"""Weight of the two words that were typed as one."""
JOINED = 0.2
"""Weight of two words that are typed apart and written as one, if the course has both of them as well."""
MOST = 3
"""Maximum number of terms that replace a misspelt one: those that most chunks contain."""
MOST_REPLACED = 20
"""Unknown words of a query for which another spelling is sought, at most; a text that was pasted may have hundreds."""
LONGEST_SPLIT = 40
"""Longer words are not taken for two words that were typed as one."""


@dataclass(frozen=True)
class Marks:
    """What is highlighted in a text."""

    terms: frozenset[str] = frozenset()
    pairs: tuple[Pair, ...] = ()
    """Terms that are highlighted where they stand in exactly this order."""
    literal: tuple[str, ...] = ()
    """Texts that are highlighted wherever they are part of a word."""


@dataclass(frozen=True)
class QueryTerms:
    """A query in the terms of a course."""

    terms: Mapping[str, float]
    """The weight of each term."""
    pairs: Mapping[Pair, float]
    """The weight of each pair of terms that stand near each other."""
    expansions: Mapping[str, tuple[str, ...]]
    """For each word that the course does not have, as typed, the terms that replace it."""
    unknown: tuple[str, ...]
    """The words that the course never uses in any form, as typed; without words of grammar."""
    known_share: float
    """Share of the words that the course has, weighted by their rarity; 0.0 to 1.0."""
    is_vague: bool
    """Whether the query has only words of grammar, and words that ask."""
    marks: Marks
    corrections: tuple[tuple[int, int, str], ...] = ()
    """Start and end of each misspelt word in the query, and the word that it is taken for."""

    def corrected(self, text: str) -> str:
        """The text of this query without its misspelt words, for the embedding model."""
        for start, end, word in sorted(self.corrections, reverse=True):
            text = text[:start] + word + text[end:]
        return text


def resolve(query: QueryAnalysis, course: Bm25, replaceable: Container[str] | None = None) -> QueryTerms:
    """Express a query in the terms of a course.

    Args:
        query: The query.
        course: The course.
        replaceable: The words, as typed, that may be replaced by others if the course does not have them; None for all.
    """
    return _Resolution(query, course, replaceable).result()


def resolve_together(query: QueryAnalysis, courses: Sequence[Bm25]) -> list[QueryTerms]:
    """Express a query in the terms of several courses. Only a word that none of them has is taken for misspelt."""
    resolved: list[QueryTerms] = []
    alike: dict[tuple[bool, ...], tuple[QueryTerms, Sequence[Sequence[QueryWord]]]] = {}
    for course in courses:
        numbers = course.vocabulary.find(query.sought)
        has = tuple(number is not None for number in numbers)
        if has not in alike:
            resolution = _Resolution(query, course, ())
            alike[has] = resolution.result(), resolution.unknown
        terms, unknown = alike[has]  # courses with the same words differ only in how rare these are
        if unknown:
            numbered = dict(zip(query.sought, numbers, strict=True))
            terms = replace(terms, known_share=_known_share(query, course, numbered, unknown))
        resolved.append(terms)
    nowhere = set(resolved[0].unknown).intersection(*(terms.unknown for terms in resolved)) if resolved else set()
    return [resolve(query, course, nowhere) for course in courses] if nowhere else resolved


class _Resolution:
    """The query while its words are looked up, one after the other."""

    def __init__(self, query: QueryAnalysis, course: Bm25, replaceable: Container[str] | None) -> None:
        self._query, self._course, self._replaceable = query, course, replaceable
        self._may_replace = MOST_REPLACED
        self._terms, self._pairs = dict(query.weights), dict(query.pairs)
        self._expansions: dict[str, tuple[str, ...]] = {}
        self._marked: set[str] = set()
        self._marked_pairs: list[Pair] = []
        self._literal: list[str] = []
        self._corrections: list[tuple[int, int, str]] = []
        self.unknown: list[list[QueryWord]] = []
        """The words that the course does not have, once there is a `result`."""
        joined = query.joined
        self._numbers = dict(zip(query.sought, course.vocabulary.find(query.sought), strict=True))
        self._known = {term for term, number in self._numbers.items() if number is not None}
        self._joined = {term: pair for term, pair in joined.items() if term in self._known and term not in self._terms}

    def result(self) -> QueryTerms:
        joined = {word for pair in self._joined.values() for word in pair}
        for term, (first, second) in self._joined.items():
            both = first.term in self._known and second.term in self._known
            self._terms[term] = (first.weight + second.weight) * (JOINED if both else 1.0)
            self._marked.add(term)
        unknown = self.unknown = [words for words in self._query.units if not self._is_known(words, joined)]
        return QueryTerms(
            self._terms,
            self._pairs,
            self._expansions,
            tuple(dict.fromkeys("".join(word.text for word in words) for words in unknown)),
            _known_share(self._query, self._course, self._numbers, unknown) if unknown else 1.0,
            self._query.is_vague,
            Marks(frozenset(self._marked), (*self._marked_pairs, *self._query.marked_pairs), tuple(self._literal)),
            tuple(self._corrections),
        )

    def _is_known(self, words: Sequence[QueryWord], joined: Container[QueryWord]) -> bool:
        """Whether the course has a word, or several Chinese characters, in any form."""
        if len(words) > 1:
            return self._find_characters(words)
        return words[0] in joined or self._find(words[0]) or self._replace(words[0])

    def _replace(self, word: QueryWord) -> bool:
        """Replace a word that the course does not have, if it has another spelling of it."""
        may = self._may_replace > 0 and (self._replaceable is None or word.text in self._replaceable)
        self._may_replace -= may
        return may and (self._split(word) or self._correct(word))

    def _find(self, word: QueryWord) -> bool:
        """Whether the course has a word, or a part of it."""
        parts = [part.term for part in word.parts if part.weight > PAIR]
        fragments = [part.term for part in word.parts if part.weight <= PAIR]
        if fragments:
            self._literal.append(word.text)
        if not (word.is_single and self._is_attached(word)):
            self._marked.add(word.term)
        self._marked.update(parts)
        if word.term in self._known or any(term in self._known for term in parts):
            return True
        return bool(fragments) and all(term in self._known for term in fragments)

    def _find_characters(self, words: Sequence[QueryWord]) -> bool:
        """Whether the course has two of several Chinese characters, which are no words of the dictionary, in a row."""
        pairs = {pair.term for pair in self._query.loose if words[0].start <= pair.start and pair.end <= words[-1].end}
        self._marked |= pairs
        self._literal.append("".join(word.text for word in words))
        return not pairs or not pairs.isdisjoint(self._known)

    def _is_attached(self, word: QueryWord) -> bool:
        return any(word.start in (pair.start, pair.end - 1) for pair in self._query.loose)

    def _split(self, word: QueryWord) -> bool:
        """Replace a word by the two that the course writes instead: `pullup` by `pull up`."""
        typed = word.text.lower()
        if not (typed.isalnum() and typed.isascii() and len(typed) <= LONGEST_SPLIT):
            return False
        pairs = [
            Pair(stem(typed[:at]), stem(typed[at:]), 1)
            for at in range(1, len(typed))
            if typed[at - 1].isdigit() != typed[at].isdigit() or 2 <= at <= len(typed) - 2
        ]
        pair = max(pairs, key=self._course.occurrences, default=None)
        if pair is None or not self._course.occurrences(pair):
            return False
        self._pairs[pair] = word.weight
        self._terms[word.term] -= word.weight
        self._marked_pairs.append(pair)
        for term in (pair.first, pair.second):
            if not is_function_word(term):
                self._terms[term] = self._terms.get(term, 0.0) + word.weight * SPLIT
        self._expansions[word.text] = (f"{pair.first} {pair.second}",)
        return True

    def _correct(self, word: QueryWord) -> bool:
        """Replace a misspelt word by the nearest terms of the course."""
        typed = word.text.lower()
        near, edits = ([], 0) if is_english(typed) else self._course.near_terms.near(word.term)
        if not near:
            return False
        numbers = dict(zip(near, self._course.vocabulary.find(near), strict=True))
        near = sorted(near, key=lambda term: self._course.idf(numbers[term]))[:MOST]
        weight = CORRECTED[edits] * word.weight
        self._terms[word.term] -= word.weight
        for term in near:
            self._terms[term] = self._terms.get(term, 0.0) + weight
        self._pairs = {
            pair._replace(
                first=near[0] if pair.first == word.term else pair.first,
                second=near[0] if pair.second == word.term else pair.second,
            ): each
            for pair, each in self._pairs.items()
        }
        self._expansions[word.text] = tuple(near)
        self._corrections.append((word.start, word.end, spelling(typed, near[0])))
        self._marked |= set(near)
        return True


def _known_share(
    query: QueryAnalysis, course: Bm25, numbers: Mapping[str, int | None], unknown: Iterable[Sequence[QueryWord]]
) -> float:
    """The share of the words that the course has, weighted by how rare they are in it."""
    missing, total = (
        sum(word.weight * course.idf(numbers[word.term]) for words in units for word in words)
        for units in (unknown, query.units)
    )
    return 1.0 - missing / total if total else 1.0
