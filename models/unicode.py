"""Halves of surrogate pairs: JSON and URLs can smuggle them into a string, and nothing can encode them."""


def is_unicode(text: str) -> bool:
    """Whether the text can be encoded: it holds no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def without_surrogates(text: str) -> str:
    """The text with U+FFFD for every lone half; two halves in a row become the character they spell."""
    return text if is_unicode(text) else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
