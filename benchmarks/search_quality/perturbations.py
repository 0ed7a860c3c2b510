"""Perturbations: the same question, written as people also write it. They are deterministic.

A perturbation that does not apply to a text returns it unchanged: there are no traditional characters in English.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from random import Random
from typing import Any

MIN_TYPO_LETTERS = 4
"""Shorter words get no typo: it would often make another word of them."""
_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_LONG_WORD = re.compile(rf"[^\W\d_{_CJK}]{{{MIN_TYPO_LETTERS},}}")
_ASCII = re.compile(r"[!-~]")

Perturbation = Callable[[str, Random], str]


class PerturbationError(Exception):
    """A perturbation cannot be computed; the message says what to install."""


def perturbed(name: str, text: str, query_id: str) -> str:
    """The text with a perturbation; always the same for the same query.

    Raises:
        PerturbationError: A package is missing.
    """
    return PERTURBATIONS[name](text, Random(f"{name} {query_id}"))  # noqa: S311 - not for security


def _typo(text: str, random: Random) -> str:
    """One typo in one word: two letters swapped, one left out, doubled or replaced, but not the first letter."""
    words = [*_LONG_WORD.finditer(text)]
    if not words:
        return text
    word = random.choice(words)
    letters, at = word.group(), random.randrange(1, len(word.group()))
    before, letter, after = letters[:at], letters[at], letters[at + 1 :]
    swapped = f"{before[:-1]}{letter}{before[-1]}{after}" if at > 1 else f"{before}{after[:1]}{letter}{after[1:]}"
    other = random.choice([other for other in "abcdefghijklmnopqrstuvwxyz" if other != letter.lower()])
    typos = [swapped, before + after, before + letter + letter + after, before + other + after]
    typo = random.choice([typo for typo in typos if typo != letters])
    return text[: word.start()] + typo + text[word.end() :]


def _other_case(text: str, random: Random) -> str:
    cases = [case for case in (text.upper(), text.lower()) if case != text]
    return random.choice(cases) if cases else text


def _traditional(text: str, _: Random) -> str:
    traditional: str = _to_traditional().convert(text)
    return traditional


def _full_width(text: str, _: Random) -> str:
    """Letters, digits and signs as input methods for Chinese write them; blanks stay."""
    return _ASCII.sub(lambda sign: chr(ord(sign.group()) + 0xFEE0), text)


def _other_order(text: str, random: Random) -> str:
    pieces, places = _words(text)
    shuffled = random.sample(places, len(places))
    return "".join(pieces[dict(zip(places, shuffled, strict=True)).get(at, at)] for at in range(len(pieces)))


def _dropped_word(text: str, random: Random) -> str:
    pieces, places = _words(text)
    if len(places) < 2:
        return text
    dropped = random.choice(places)
    return " ".join("".join(piece for at, piece in enumerate(pieces) if at != dropped).split())


def _words(text: str) -> tuple[list[str], list[int]]:
    """The pieces of a text, which make the text, and which of them are words."""
    import rjieba

    pieces = [
        part
        for piece in re.split(r"(\s+)", text)
        for part in (rjieba.cut(piece) if re.search(f"[{_CJK}]", piece) else [piece])
    ]
    return pieces, [at for at, piece in enumerate(pieces) if re.search(r"\w", piece)]


@cache
def _to_traditional() -> Any:
    try:
        opencc = import_module("opencc")
    except ImportError as error:
        raise PerturbationError(
            "the package opencc, which converts simplified Chinese to traditional, is not installed; "
            "install it: pip install opencc"
        ) from error
    return opencc.OpenCC("s2t")


PERTURBATIONS: Mapping[str, Perturbation] = {
    "typos": _typo,
    "case": _other_case,
    "traditional": _traditional,
    "fullwidth": _full_width,
    "order": _other_order,
    "dropped": _dropped_word,
}
"""Name → perturbation of a text."""
