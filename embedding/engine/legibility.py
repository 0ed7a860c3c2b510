"""Estimates from the tokenizer how much of a text an embedding model can read.

A model's vocabulary reflects its training data. Text in an unknown language or script becomes unknown tokens, or is
split into single letters or bytes, and its vector is noise. A single Chinese character is a normal token; but if the
vocabulary lacks the commonest Chinese characters, those it has do not count as readable either.
"""

import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

COMMON_CHINESE_CHARACTERS = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里"
)
"""Fifty of the most frequent characters in Chinese texts."""
MIN_KNOWN_SHARE = 0.9
"""A model reads Chinese if it knows at least this share of `COMMON_CHINESE_CHARACTERS`."""


class LegibilityScorer:
    """Scores texts with the tokenizer of a model; thread-safe.

    Args:
        tokenizer: The model's tokenizer with its truncation set.
        unknown: The id of its unknown token, if it has one.
        lower_case: Whether texts are lower-cased before tokenization.
    """

    def __init__(self, tokenizer: "Tokenizer", unknown: int | None, *, lower_case: bool) -> None:
        self._tokenizer = tokenizer
        self._unknown = unknown
        self._lower_case = lower_case
        self._reads_chinese = True
        self._reads_chinese = self.score(COMMON_CHINESE_CHARACTERS) >= MIN_KNOWN_SHARE

    def score(self, text: str) -> float:
        """Return the share of the text's letters that the model can read, 0.0 to 1.0; 1.0 without letters.

        Letters that truncation removes do not count.
        """
        text = text.lower() if self._lower_case else text
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        text = text[: max((end for _, end in encoding.offsets), default=0)] if encoding.overflowing else text
        letters = sum(map(str.isalpha, text))
        if not letters:
            return 1.0
        tokens_per_span = Counter(encoding.offsets)  # several byte tokens of one character have the same span
        readable = sum(
            sum(map(str.isalpha, text[start:end]))
            for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
            if token != self._unknown and tokens_per_span[start, end] == 1 and self._is_readable(text, start, end)
        )
        return min(1.0, readable / letters)

    def _is_readable(self, text: str, start: int, end: int) -> bool:
        """Whether the token is more than a single letter of a word. Wide characters are readable if Chinese is."""
        if unicodedata.east_asian_width(text[start]) in "WF":
            return self._reads_chinese
        if end - start != 1 or not text[start].isalpha():
            return True
        return not (text[start - 1 : start].isalpha() or text[end : end + 1].isalpha())
