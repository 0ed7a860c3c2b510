"""Analyses text into the terms of the keyword search. Chunks and queries go through the same analyser.

Everything that means something is a term: words, names of code, values with units, operators, and words of grammar,
because `not`, `for` and `with` are taught too. What differs is how much a term weighs:

* in a chunk, a part of a name or of a Chinese word weighs less than a word of its own;
* in a query, words of grammar and words that only ask weigh little (`retrieval.analysis.query`).
"""

from retrieval.analysis.normalization import normalize
from retrieval.analysis.token import Token
from retrieval.analysis.words import tokens

__all__ = ["ANALYSIS_VERSION", "Token", "analyse", "terms"]

ANALYSIS_VERSION = 2
"""To be incremented whenever the analyser yields other terms. An index of another version is rebuilt."""


def analyse(text: str) -> list[Token]:
    """The tokens of a text, in the order of the words."""
    normalized, origins = normalize(text)
    if origins is None:
        return list(tokens(normalized))
    return [
        token._replace(start=origins[token.start][0], end=origins[token.end - 1][1]) for token in tokens(normalized)
    ]


def terms(text: str) -> list[str]:
    """The terms of a text, with repetitions."""
    return [token.term for token in tokens(normalize(text)[0])]
