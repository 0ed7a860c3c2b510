"""Knows the words of English, so that a word which is none may be taken for a typo."""

from functools import cache
from importlib.resources import files

from rapidfuzz import process
from rapidfuzz.distance import OSA

from retrieval.analysis.words import stem

_DICTIONARY = "frequency_dictionary_en_82_765.txt"
"""A file of the package symspellpy: a word and its frequency in each line."""


def is_english(word: str) -> bool:
    """Whether this is an English word, in lower case. Loading the dictionary takes 50 ms once."""
    return word in _words().get(word[:1], ())


def spelling(typed: str, term: str) -> str:
    """The English word with this stem that resembles a misspelt word most; the stem itself if there is none."""
    of_letter = _words().get(term[:1], frozenset())
    near = process.extract(typed, of_letter, scorer=OSA.distance, score_cutoff=len(typed) // 2, limit=None)
    return min(((distance, word) for word, distance, _ in near if stem(word) == term), default=(0, term))[1]


@cache
def _words() -> dict[str, frozenset[str]]:
    """The words by first letter."""
    lines = (files("symspellpy") / _DICTIONARY).read_text(encoding="utf-8-sig").splitlines()
    words = [line.split(" ", 1)[0] for line in lines]
    return {letter: frozenset(word for word in words if word[:1] == letter) for letter in {word[:1] for word in words}}
