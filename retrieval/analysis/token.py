"""What the analyser yields."""

from typing import NamedTuple


class Token(NamedTuple):
    """A term at a place in the text."""

    term: str
    start: int
    """Start and end of the token in the text, in code points."""
    end: int
    weight: float = 1.0
    """How much an occurrence counts: 1.0 for a word, less for a part of a word."""
    position: int = -1
    """Number of the word in the text; -1 for a term that has no place in the order of the words."""
    is_word: bool = True
    """Whether this is a word of the text, rather than a part of one or another spelling."""
