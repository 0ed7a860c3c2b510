"""Helpers for text in databases, JSON and messages.

A string from JSON or a URL may contain an unpaired surrogate (half of a UTF-16 pair), which cannot be encoded as UTF-8.
"""

import re
import reprlib
import unicodedata
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter

_SHORT = reprlib.Repr()
_SHORT.maxstring = 100

SHORTEST_EXCERPT = 8
"""Shorter runs of characters, such as common words, may be in a message and in a text by chance."""
_INVISIBLE = ("Zs", "Zl", "Zp", "Cc", "Cf", "Mn", "Mc", "Me")
"""Unicode categories of white space, control and format characters (such as zero-width spaces), and combining marks."""
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]+")
"""Control characters, which begin the commands of a terminal, and those that reverse the direction of a text."""
_FILLERS = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and symbols without a glyph: Hangul fillers and the blank Braille pattern."""


def is_blank(text: str) -> bool:
    """Whether the text shows nothing: no more than white space, invisible characters and combining marks."""
    return all(unicodedata.category(character) in _INVISIBLE or character in _FILLERS for character in text)


def is_unicode(text: str) -> bool:
    """Whether the text can be encoded as UTF-8: it contains no unpaired surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def without_surrogates(text: str) -> str:
    """The text with U+FFFD for every unpaired surrogate, and with the encoded character for every pair."""
    return text if is_unicode(text) else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def storable(text: str) -> str:
    """The text without what databases refuse: NUL characters and unpaired surrogates."""
    return without_surrogates(text.replace("\0", ""))


def quoted(text: str) -> str:
    """Format untrusted text for a message: in quotes, escaped, and shortened in the middle if it is long."""
    return _SHORT.repr(text)


def without_excerpts(message: str, texts: Iterable[str]) -> str:
    """The message of a server with `…` for what it quotes of these texts, which do not belong in logs.

    A quotation is a run of at least `SHORTEST_EXCERPT` characters that one of the texts contains, or a whole text that
    is shorter, as many questions in Chinese are.
    """
    texts = list(texts)
    contents = "\0".join(texts)
    is_quoted = [False] * len(message)
    for start in range(len(message) - SHORTEST_EXCERPT + 1):
        if message[start : start + SHORTEST_EXCERPT] in contents:
            is_quoted[start : start + SHORTEST_EXCERPT] = [True] * SHORTEST_EXCERPT
    for text in {text.strip() for text in texts if 1 < len(text.strip()) < SHORTEST_EXCERPT}:
        for found in re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", message):
            is_quoted[found.start() : found.end()] = [True] * len(text)
    runs = groupby(zip(message, is_quoted, strict=True), key=itemgetter(1))
    return "".join("…" if quoted_run else "".join(character for character, _ in run) for quoted_run, run in runs)


def without_blank_start(text: str) -> str:
    """The text from its first character that shows something; empty if there is none (see `is_blank`)."""
    return text[next((index for index, character in enumerate(text) if not is_blank(character)), len(text)) :]


def cut_at_word(text: str, limit: int) -> str:
    """The beginning of a text, at most `limit` characters (code points), without white space at its end.

    The cut is between two words, unless a single word fills the second half. Each Chinese character counts as a word.
    A character is never separated from its combining marks or joiners.
    """
    if len(text) <= limit:
        return text
    for is_within, least in ((_is_within_word, limit // 2), (_is_within_character, 0)):
        for end in range(limit, least, -1):
            if not is_within(text[end - 1], text[end]):
                return text[:end].rstrip()
    return text[:limit]


def _is_within_character(before: str, after: str) -> bool:
    """Whether the second code point belongs to the same character as the first: a mark, a joiner or an emoji's tone."""
    return before == "\u200d" or unicodedata.category(after) in ("Mn", "Mc", "Me", "Cf", "Sk")


def _is_within_word(before: str, after: str) -> bool:
    return _is_within_character(before, after) or (_continues_word(before) and _continues_word(after))


def _continues_word(character: str) -> bool:
    """Whether the character is a letter, a digit or a mark, but no ideograph or kana: these need no neighbours."""
    if unicodedata.category(character) == "Lo" and unicodedata.east_asian_width(character) == "W":
        return "\uac00" <= character <= "\ud7a3"  # Korean has spaces between its words
    return character.isalnum() or (is_blank(character) and not character.isspace())


def counted(number: int, noun: str, plural: str = "") -> str:
    """The number and the noun in singular or plural: `1 course`, `2 courses`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def one_line(text: str) -> str:
    """The text with each run of white space, including line breaks, as one space.

    Control characters count as white space: a terminal obeys them, and shows what follows them in another order.
    """
    return " ".join(_CONTROLS.sub(" ", text).split())
