"""Counts the tokens that a text will have when it is embedded, without loading the model.

With a local model its own tokenizer counts, by the library `tokenizers` alone (no torch, no transformers). A foreign
embedding server does not tell its tokenizer: if the model's directory is not here, tokens are estimated.
"""

import logging
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from embedding.errors import ModelUnavailableError
from embedding.model_files.model_directory import ModelDirectory, read_model_directory
from embedding.model_files.prompts import document_prompt
from embedding.model_settings import EmbeddingSettings
from models.text import without_surrogates

if TYPE_CHECKING:
    from tokenizers import Tokenizer

logger = logging.getLogger(__name__)

TOKENIZER_FILE: Final = "tokenizer.json"

_MARGIN = 1.1
_SPECIAL_TOKENS = 2
_LETTERS_PER_TOKEN = 4.5
_CAPITALS_PER_TOKEN = 1.5
_PART = re.compile(
    r"(?P<word>[A-Z]?[a-z]+)|(?P<capitals>[A-Z]+)|(?P<space>\s+)|(?P<ascii>[!-~])"
    r"|(?P<letters>[^\W\d_]+|[\u2e80-\u303f\uff00-\uffef]+)|(?P<symbol>.)",
    re.DOTALL,
)


class TokenCounter:
    """Counts with the tokenizer of a model directory; thread-safe."""

    def __init__(self, tokenizer: "Tokenizer", directory: ModelDirectory, settings: EmbeddingSettings) -> None:
        self.max_tokens = min(settings.embedding_max_tokens, directory.max_tokens)
        """What is longer is truncated when it is embedded."""
        self._tokenizer = tokenizer
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._prompt = directory.document_prompt(settings)
        self._lower_case = directory.lower_case

    def __call__(self, texts: Sequence[str]) -> list[int]:
        """The tokens of each text with the document prompt and the special tokens, as `LocalEmbedder` counts them."""
        prompted = (self._prompt + text for text in texts)
        clean = [without_surrogates(text.lower() if self._lower_case else text) for text in prompted]
        return [len(encoding) for encoding in self._tokenizer.encode_batch_fast(clean)]


class TokenEstimate:
    """An upper estimate for a model of which nothing is known.

    A word is a token for every 4.5 letters begun, capitals for every 1.5. Each digit, punctuation mark, line break and
    letter of another script (a Chinese character, a Cyrillic letter) is a token; another symbol is one for each byte. A
    tenth is added, and two special tokens. By the tokenizers of Qwen and BERT, English texts of courses have 0.6 to 0.9
    of that, and Chinese ones 0.5 to 0.95; lists of names reach all of it. Rare scripts and rare Chinese characters may
    exceed it with a byte-level tokenizer; then the end of a passage is truncated when it is embedded.
    """

    def __init__(self, settings: EmbeddingSettings) -> None:
        self.max_tokens = settings.embedding_max_tokens
        """What is longer is truncated when it is embedded, if the server does not truncate it before."""
        self._prompt = document_prompt(None, settings)

    def __call__(self, texts: Sequence[str]) -> list[int]:
        """The estimated tokens of each text with the document prompt and special tokens."""
        return [_SPECIAL_TOKENS + math.ceil(_MARGIN * _parts(self._prompt + text)) for text in texts]


def token_counter(settings: EmbeddingSettings) -> TokenCounter | TokenEstimate:
    """What counts the tokens of documents for the configured model.

    The tokenizer of EMBEDDING_MODEL_PATH counts for an EMBEDDING_SERVICE_URL, too, if the directory is there.
    """
    from tokenizers import Tokenizer

    try:
        directory = read_model_directory(settings.embedding_model_path)
        tokenizer = Tokenizer.from_file(str(directory.path / TOKENIZER_FILE))
    except ModelUnavailableError as error:
        reason = error.reason
    except Exception as error:  # noqa: BLE001 - the library raises no other class
        reason = f"its {TOKENIZER_FILE} cannot be read ({error})"
    else:
        return TokenCounter(tokenizer, directory, settings)
    level = logging.DEBUG if settings.embedding_service_url else logging.WARNING
    logger.log(level, "Tokens are estimated: %s has no usable tokenizer: %s", settings.embedding_model_path, reason)
    return TokenEstimate(settings)


def _parts(text: str) -> int:
    tokens = 0
    for match in _PART.finditer(text):
        part = match[0]
        match match.lastgroup:
            case "word":
                tokens += math.ceil(len(part) / _LETTERS_PER_TOKEN)
            case "capitals":
                tokens += math.ceil(len(part) / _CAPITALS_PER_TOKEN)
            case "space":
                tokens += part.count("\n") + (len(part) > 1)
            case "ascii":
                tokens += 1
            case "letters":
                tokens += len(part)
            case _:
                tokens += len(part.encode(errors="replace"))
    return tokens
