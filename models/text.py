"""Text for databases, JSON and people.

JSON and URLs can put an unpaired surrogate (half of a character outside the basic plane) into a string; it cannot be
encoded as UTF-8.
"""

import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxstring = 100


def is_unicode(text: str) -> bool:
    """Whether the text can be encoded: it has no unpaired surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def without_surrogates(text: str) -> str:
    """The text with U+FFFD for every unpaired surrogate; a pair becomes the character it encodes."""
    return text if is_unicode(text) else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def quoted(text: str) -> str:
    """Text from a caller for a message: in quotes, escaped, and shortened in the middle if it is long."""
    return _SHORT.repr(text)


def counted(number: int, noun: str, plural: str = "") -> str:
    """The number with the noun: `1 course`, `2 courses`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def one_line(text: str) -> str:
    """The text with all white space, line breaks included, as single spaces."""
    return " ".join(text.split())
