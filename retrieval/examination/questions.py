"""Makes questions from the chunks of a course, with the chunks that answer them.

The questions depend only on the chunks: which chunks are asked about is decided by the hashes of their ids, and which
of their sentences by the hashes of the sentences. So an unchanged chunk yields the same questions in every generation,
and a few changed chunks hardly change the selection. At most `MAX_CHUNKS` texts are read, whatever the size of the
course.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from hashlib import blake2b
from heapq import nsmallest
from itertools import islice
from typing import Any, Final, NamedTuple

from embedding.interface import Embedder
from embedding.vectors import Vectors
from retrieval.analysis.normalization import CJK
from retrieval.filters import parse_filter
from retrieval.search import Query
from retrieval.snapshots.snapshot import CourseSnapshot


class Kind(StrEnum):
    """How a question was made."""

    SENTENCE = "sentence"
    """A sentence of a chunk with about half of its words left out."""
    TYPO = "typo"
    """The same, with one typo."""
    DEFINITION = "definition"
    """"What is X?", where a chunk says "X is a …"."""
    TITLE = "title"
    """The title of a section or lecture."""


QUOTAS: Final = {Kind.TITLE: 7, Kind.DEFINITION: 7, Kind.TYPO: 12, Kind.SENTENCE: 24}
"""Number of questions of each kind; sentences also take the place of titles and definitions that a course lacks."""
MAX_QUESTIONS: Final = sum(QUOTAS.values())
MAX_CHUNKS: Final = 150
"""Chunks that questions are made from."""
MAX_TEXT: Final = 1_000
"""Characters of a chunk that questions are made from: its beginning, because the model truncates a long text."""
ROUNDS: Final = 3
"""Questions of one kind that a chunk may yield, so that a course of a few chunks is examined, too."""
EMBEDDED_AT_ONCE: Final = 8
"""Questions that are embedded at a time. A small server accepts no more texts in one request than that."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|[。！？；\n\r]+")
_RUN = re.compile(rf"[{CJK}]+|[^\W_{CJK}](?:[^\W{CJK}]|[\u0300-\u036f\u0900-\u0e7f'’])*")
_SHORTEST, _ENOUGH, _LONGEST = 6, 20, 40
"""Words of what a question is made from: at least, when no further sentence is added, and at most."""
_MIN_CONTENT_WORDS = 3
_PROSE = 0.85
"""Letters and spaces of a sentence, divided by all of its characters."""
_MAX_TITLE = 200
_DEFINITION_EN = re.compile(
    r"(?:The |An? )?(?P<term>[A-Z]?[\w+#./'’-]*(?: [\w+#./'’-]+){0,3}) (?:is|are) (?:an?|the) ", re.ASCII
)
_MARKUP = " \t*_`#>/-"
_NO_TERM_EN = re.compile(
    r"(?:so|then|but|and|or|if|because|now|also|thus|hence|however|moreover|it|this|that|these|those|there|here|he|she|we|"
    r"you|they|what|which|who|how|why|where|when|one|another|example|next|first|second|last|goal|idea|problem|answer|"
    r"question|reason|result)s?\b|.* (?:of|that|which|it|this)\b",
    re.IGNORECASE,
)
_DEFINITION_ZH = re.compile(rf"(?P<term>[{CJK}A-Za-z0-9+#-]{{2,16}}?)(?:是一[种个类项门组]|是指|指的是)")
_NO_TERM_ZH = re.compile("通常|一般|第一|[这那它他她我你其此该]|如果|因为|所以|但是|就是|也是|都是|什么|可以|需要")


class Question(NamedTuple):
    """A question to a course."""

    kind: Kind
    text: str
    row: int
    """The chunk it was made from."""
    chunk_id: str
    rows: frozenset[int]
    """The chunks that answer it by what is known without reading the course: that chunk, its copies, its section."""
    words: tuple[str, ...]
    """A chunk that contains all of these answers it as well. Case-folded; empty if no words can tell."""
    title: tuple[str, str] | None = None
    """A chunk with this metadata, a field and its value, answers it as well."""

    @property
    def key(self) -> str:
        """Identifies the question in the next generation, without its text."""
        return _digest(self.kind, self.chunk_id, self.text)

    def is_answered_by(self, snapshot: CourseSnapshot, row: int) -> bool:
        """Whether a chunk answers the question: it is one of `rows`, or contains what was asked."""
        if row in self.rows:
            return True
        if self.title and snapshot.metadata(row).get(self.title[0]) == self.title[1]:
            return True
        if not self.words:
            return False
        text = snapshot.texts[row].casefold()
        return all(word in text for word in self.words)


class EmbeddedQuestion(NamedTuple):
    """A question with its vector under the model of the course."""

    question: Question
    vector: Vectors
    """Unit vector (dimensions,)."""
    legibility: float
    """Share of its letters that the model can read, 0.0 to 1.0."""

    @property
    def query(self) -> Query:
        """The question as a query of a search."""
        return Query(self.question.text, self.vector, self.legibility)


def make_questions(snapshot: CourseSnapshot) -> list[Question]:
    """Up to `MAX_QUESTIONS` questions to the course; none if no chunk has words."""
    distinct = snapshot.distinct(None)
    rows = range(len(snapshot)) if distinct is None else distinct.tolist()
    candidates = [
        _Candidate(snapshot, row)
        for _, row in nsmallest(MAX_CHUNKS, ((_digest(snapshot.chunk_ids[row]), row) for row in rows))
    ]
    titles = _each_once(question for candidate in candidates for question in candidate.titles())
    definitions = _each_once(question for candidate in candidates for question in candidate.definitions())
    questions = [*islice(titles, QUOTAS[Kind.TITLE]), *islice(definitions, QUOTAS[Kind.DEFINITION])]
    for kind in (Kind.TYPO, Kind.SENTENCE):
        count = QUOTAS[kind] if kind is Kind.TYPO else MAX_QUESTIONS - len(questions)
        made = (candidate.gapped(kind, number) for number in range(ROUNDS) for candidate in candidates)
        questions += islice(_each_once(question for question in made if question), count)
    return questions


def embed_questions(
    questions: Sequence[Question], embedder: Embedder, on_batch: Callable[[], object] = lambda: None
) -> list[EmbeddedQuestion]:
    """Embed questions as queries.

    Args:
        questions: The questions.
        embedder: The model of the course.
        on_batch: Called after each few questions.

    Raises:
        EmbeddingError: The model failed.
    """
    vectors = embed_in_batches([question.text for question in questions], embedder, on_batch)
    return [
        EmbeddedQuestion(question, vector, embedder.legibility(question.text))
        for question, vector in zip(questions, vectors, strict=True)
    ]


def embed_in_batches(
    texts: Sequence[str], embedder: Embedder, on_batch: Callable[[], object] = lambda: None
) -> list[Vectors]:
    """The unit vectors (dimensions,) of queries; arguments and errors as for `embed_questions`."""
    vectors: list[Vectors] = []
    for start in range(0, len(texts), EMBEDDED_AT_ONCE):
        vectors.extend(embedder.embed_queries(texts[start : start + EMBEDDED_AT_ONCE]).vectors)
        on_batch()
    return vectors


class _Candidate:
    """A chunk that questions are made from."""

    def __init__(self, snapshot: CourseSnapshot, row: int) -> None:
        self._snapshot, self._row = snapshot, row
        self._chunk_id = snapshot.chunk_ids[row]
        self._rows = frozenset((row, *snapshot.copies(row, None).tolist()))
        text = snapshot.texts[row][:MAX_TEXT]
        self._sentences = [part for sentence in _SENTENCE_END.split(text) if (part := sentence.strip())]
        self._gapped: list[list[str]] | None = None

    def titles(self) -> Iterator[Question]:
        metadata = self._snapshot.metadata(self._row)
        for field, same in (("section_title", ("lecture_id", "section_id")), ("lecture_title", ("lecture_id",))):
            title = metadata.get(field)
            if not isinstance(title, str) or not title.strip() or len(title) > _MAX_TITLE:
                continue
            words = tuple(word.casefold() for word in _words(title))
            if not words:
                continue
            values = {name: [str(metadata[name])] for name in same if metadata.get(name) is not None}
            rows = self._snapshot.rows(parse_filter(values)) if len(values) == len(same) else None
            answers = self._rows | frozenset(() if rows is None else rows.tolist())
            yield Question(Kind.TITLE, title.strip(), self._row, self._chunk_id, answers, words, (field, title))

    def definitions(self) -> Iterator[Question]:
        for sentence in (each.strip(_MARKUP) for each in self._sentences):
            if (match := _DEFINITION_EN.match(sentence)) and not _NO_TERM_EN.match(term := match["term"]):
                yield self._definition(f"What is {term.strip(_MARKUP)}?", match[0])
                return
            if (match := _DEFINITION_ZH.match(sentence)) and not _NO_TERM_ZH.search(term := match["term"]):
                yield self._definition(f"什么是{term}？", match[0])
                return

    def _definition(self, text: str, words: str) -> Question:
        return Question(Kind.DEFINITION, text, self._row, self._chunk_id, self._rows, (words.casefold().strip(),))

    def gapped(self, kind: Kind, number: int) -> Question | None:
        """One of its sentences with words left out; None if it has no such sentence."""
        if self._gapped is None:
            self._gapped = self._sentences_for_gaps()
        if number >= len(self._gapped):
            return None
        # Typos are made in other sentences, where there are some.
        words = self._gapped[-1 - number if kind is Kind.TYPO else number]
        kept = _kept(words)
        shown = _with_typo(kept) if kind is Kind.TYPO else kept
        if shown is None:
            return None
        needed = tuple(word.casefold() for word in kept)
        return Question(kind, _joined(shown), self._row, self._chunk_id, self._rows, needed)

    def _sentences_for_gaps(self) -> list[list[str]]:
        """The words of a few of its sentences; of a text of other kind (a table, a list, code), its first words.

        A short sentence is continued with the next one, because a few words are said in many chunks.
        """
        words_of = [_words(sentence) if _is_prose(sentence) else [] for sentence in self._sentences]
        found: list[list[str]] = []
        for start in sorted(range(len(words_of)), key=lambda at: _digest(self._sentences[at])):
            words: list[str] = []
            for more in words_of[start:]:
                if not more or len(words) >= _ENOUGH:
                    break
                words += more
            if len(words) >= _SHORTEST and sum(map(_is_content, words)) >= _MIN_CONTENT_WORDS:
                found.append(words[:_LONGEST])
                if len(found) == 2 * ROUNDS:
                    break
        if not found and (words := _words(" ".join(self._sentences))):
            found.append(words)
        return found


def _kept(words: Sequence[str]) -> list[str]:
    """About half of the words: rather those with content, and among these by their hashes."""
    if len(words) <= 2:
        return list(words)
    order = sorted(range(len(words)), key=lambda at: (not _is_content(words[at]), _digest(words[at])))
    return [words[at] for at in sorted(order[: (len(words) + 1) // 2])]


def _with_typo(words: Sequence[str]) -> list[str] | None:
    """The words, with two letters swapped in the longest; None if none is long enough."""
    at = max(range(len(words)), key=lambda place: (len(words[place]), -place))
    word = words[at]
    if len(word) < 2 or (len(word) < 5 and not _is_cjk(word)):
        return None
    place = len(word) // 2
    typo = word[: place - 1] + word[place] + word[place - 1] + word[place + 1 :]
    return None if typo == word else [*words[:at], typo, *words[at + 1 :]]


def _words(text: str) -> list[str]:
    """The words of a text in their order, at most `_LONGEST`."""
    words: list[str] = []
    for match in _RUN.finditer(text):
        if _is_cjk(match[0]):
            import rjieba  # imported only for Chinese text: loading the dictionary takes 0.2 s

            words += rjieba.cut(match[0], False)
        else:
            words.append(match[0])
        if len(words) >= _LONGEST:
            break
    return words[:_LONGEST]


def _joined(words: Iterable[str]) -> str:
    """The words as a text: with spaces, but none between Chinese words."""
    text = ""
    for word in words:
        text += word if not text or (_is_cjk(text[-1]) and _is_cjk(word)) else f" {word}"
    return text


def _is_content(word: str) -> bool:
    """Whether a word probably has a meaning of its own. Function words are short."""
    return len(word) >= (2 if _is_cjk(word) else 4) and not word.isdigit()


def _is_prose(sentence: str) -> bool:
    """Whether it is a sentence rather than code, a formula or a row of a table."""
    plain = sum(character.isalpha() or character.isspace() for character in sentence)
    return plain >= _PROSE * len(sentence)


def _is_cjk(word: str) -> bool:
    return word[0] >= "\u3000"


def _digest(*parts: Any) -> str:
    text = parts[0] if len(parts) == 1 else json.dumps(parts)
    return blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()


def _each_once(questions: Iterable[Question]) -> Iterator[Question]:
    seen: set[str] = set()
    for question in questions:
        if question.text not in seen:
            seen.add(question.text)
            yield question
