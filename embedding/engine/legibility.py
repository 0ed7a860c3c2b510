"""How much of a text a model can read, as its vocabulary tells.

A vocabulary is made of what the model was trained on. What it has not seen is an unknown token, or falls apart into
letters or bytes, and the vector of such a text is noise. A Chinese character may well stand alone; but a model that
does not know the commonest of them reads none: those it knows are there by accident.
"""

import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

COMMON_CHARACTERS = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里"
)
"""The fifty that make up a third of any Chinese text."""
MOST = 0.9
"""The share of them that a model of Chinese knows at the least."""


class Legibility:
    """Safe to share between threads.

    Args:
        tokenizer: Of the model, as it is set up for texts.
        unknown: Its token for what it does not know, if it has one.
        lower_case: Whether texts are put into lower case first.
    """

    def __init__(self, tokenizer: "Tokenizer", unknown: int | None, *, lower_case: bool) -> None:
        self._tokenizer = tokenizer
        self._unknown = unknown
        self._lower_case = lower_case
        self._reads_wide = True
        self._reads_wide = self.of(COMMON_CHARACTERS) >= MOST

    def of(self, text: str) -> float:
        """The share of the text's letters that the model can read, 0.0 to 1.0; 1.0 where there are none.

        Of a text that is cut, what is left of it.
        """
        text = text.lower() if self._lower_case else text
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        text = text[: max((end for _, end in encoding.offsets), default=0)] if encoding.overflowing else text
        letters = sum(map(str.isalpha, text))
        if not letters:
            return 1.0
        times = Counter(encoding.offsets)
        read = sum(
            sum(map(str.isalpha, text[start:end]))
            for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
            if token != self._unknown and times[start, end] == 1 and self._means_something(text, start, end)
        )
        return min(1.0, read / letters)

    def _means_something(self, text: str, start: int, end: int) -> bool:
        """Whether it is no letter torn out of a word, and of a script the model knows."""
        if unicodedata.east_asian_width(text[start]) in "WF":
            return self._reads_wide
        if end - start != 1 or not text[start].isalpha():
            return True
        return not (text[start - 1 : start].isalpha() or text[end : end + 1].isalpha())
