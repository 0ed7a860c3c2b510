"""Brings a text to the form in which words are compared, and remembers where each character stood.

Full-width letters, ligatures and the like become plain ones (Unicode NFKC), traditional Chinese becomes simplified,
and characters that nobody sees are removed. So are the spaces of `印 刷 电 路 板`, and line breaks within a Chinese
sentence.
"""

import unicodedata
from functools import cache

import regex

CJK = r"\u3005\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Chinese characters and Japanese kana, as ranges of a character class."""
_WRAPPED = 12
"""A line with this number of characters before its break was broken for want of room."""

Origins = list[tuple[int, int]]
"""Start and end of each normalized character in the original text."""

_INVISIBLE = regex.compile(r"[\p{Cf}\u034f\ufe00-\ufe0f]")
_NOT_PLAIN = regex.compile(rf"[\p{{Cf}}\u034f\ufe00-\ufe0f]|[{CJK}][ \n\r]")
_SOFT_HYPHEN_AT_LINE_END = regex.compile(r"[ \t]*\r?\n")
_SPACED = regex.compile(rf"(?<![{CJK}])[{CJK}](?: [{CJK}])+(?![{CJK}])")
_LINE_BREAK = regex.compile(rf"(?<=[^\n]{{{_WRAPPED - 1}}}[{CJK}])\r?\n(?=[{CJK}])")
_FOLDED_MARKS = regex.compile(
    r"[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u065f\u0670\u0640]"
)
_FOLDED_LETTERS = str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ł": "l", "ı": "i", "ð": "d", "þ": "th", "ħ": "h"}
)


def normalize(text: str) -> tuple[str, Origins | None]:
    """The normalized text, and where its characters come from; None if each stands where it stood.

    A letter and the combining marks after it are normalized together.
    """
    if text.isascii():
        return text, None
    text = text.translate(_characters())
    origins: Origins | None = None
    if not _NOT_PLAIN.search(text) and unicodedata.is_normalized("NFKC", text):
        return text, None
    if _INVISIBLE.search(text) or not unicodedata.is_normalized("NFKC", text):
        text, origins = _normalize_clusters(text)
    return _join_chinese(text, origins)


def fold(word: str) -> str:
    """A lower-case word without accents and pointing: `café` → `cafe`, `straße` → `strasse`.

    Marks that are vowels of their own, as in Hindi and Thai, stay.
    """
    if word.isascii():
        return word
    plain = _FOLDED_MARKS.sub("", unicodedata.normalize("NFD", word.translate(_FOLDED_LETTERS)))
    return unicodedata.normalize("NFC", plain) or word


def _normalize_clusters(text: str) -> tuple[str, Origins]:
    pieces: list[str] = []
    origins: Origins = []
    start = 0
    while start < len(text):
        end = start + 1
        if _INVISIBLE.match(text, start):
            piece = "-" if text[start] == "\xad" and _SOFT_HYPHEN_AT_LINE_END.match(text, end) else ""
        else:
            while end < len(text) and unicodedata.combining(text[end]):
                end += 1
            piece = unicodedata.normalize("NFKC", text[start:end])
        pieces.append(piece)
        origins.extend([(start, end)] * len(piece))
        start = end
    return "".join(pieces), origins


def _join_chinese(text: str, origins: Origins | None) -> tuple[str, Origins | None]:
    dropped = [at for match in _SPACED.finditer(text) for at in range(match.start() + 1, match.end(), 2)]
    dropped += [at for match in _LINE_BREAK.finditer(text) for at in range(*match.span())]
    if not dropped:
        return text, origins
    gone = set(dropped)
    origins = origins or [(at, at + 1) for at in range(len(text))]
    return (
        "".join(character for at, character in enumerate(text) if at not in gone),
        [origin for at, origin in enumerate(origins) if at not in gone],
    )


class _Characters(dict[int, int]):
    """For each code point the one that replaces it. Filled while texts are normalized."""

    def __init__(self) -> None:
        import opencc  # imported only for text beyond ASCII

        chinese = [chr(point) for first, last in _HAN for point in range(first, last + 1)]
        simplified = opencc.OpenCC("t2s").convert("\n".join(chinese)).split("\n")
        self._simplified = {a: b for a, b in zip(chinese, simplified, strict=True) if a != b and len(b) == 1}
        super().__init__({ord(a): ord(b) for a, b in self._simplified.items()})
        self.update({ord(a): ord(b) for a, b in zip("’‐‑∕", "'--/", strict=True)})

    def __missing__(self, point: int) -> int:
        character = unicodedata.normalize("NFKC", chr(point))
        character = self._simplified.get(character, character)
        self[point] = ord(character) if len(character) == 1 else point
        return self[point]


_HAN = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0x20000, 0x2FA1F))


@cache
def _characters() -> _Characters:
    return _Characters()
