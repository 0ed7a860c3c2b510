"""Where the sentences of a text end, in English, Chinese and a mix of both.

When in doubt there is no end: two sentences in one piece harm nobody, half a sentence does. So nothing ends within
brackets, quotation marks, code or formulas that are closed soon, and not after an abbreviation that may go on.

Packages that do this were tried. `sentencex` is the best of them, but its time grows with the square of the length of
a paragraph (90 s for 900 kB), and it ends sentences after `Eq.`, `vol.`, `approx.` and the number of a list's item.
"""

import re
from collections.abc import Iterator
from typing import Final

_SPAN = 300
"""Longest stretch of brackets or quotation marks that is kept in one piece. It bounds the time, too: a bracket that is
never closed is searched for no longer than this."""
_CLOSERS = r"""["'”’»)\]）】』」》〉*_]"""
_STOP = r"[.!?。！？｡．।؟۔…]"
_TOKEN = re.compile(
    rf"""
      (?P<code> (?P<ticks>`{{1,2}})(?!`) [^\n]{{1,{_SPAN}}}? (?<!`)(?P=ticks)(?!`) )
    | (?P<formula> \$(?=\S) [^$\n]{{1,{_SPAN}}} (?<=\S)\$(?!\d) | \\\( .{{1,{_SPAN}}}? \\\) )
    | (?P<span>
          \( (?:[^()\n]|\([^()\n]{{0,100}}\)){{0,{_SPAN}}} \)
        | （ [^（）\n]{{0,{_SPAN}}} ）
        | \[ [^\[\]\n]{{0,{_SPAN}}} \]
        | “ [^“”\n]{{0,{_SPAN}}} ”
        | 「 [^「」\n]{{0,{_SPAN}}} 」
        | (?<![\w"])"(?=\S) [^"\n]{{0,{_SPAN}}} "
      ) {_STOP}* {_CLOSERS}*
    | (?P<stops> {_STOP}+ ) {_CLOSERS}*
    """,
    re.VERBOSE,
)
_WIDE_STOP = re.compile(r"[。！？｡।؟۔]")
_ENDS_WITH_STOP = re.compile(rf"{_STOP}{_CLOSERS}*\Z")
_TAIL = 6
"""Characters at the end of a match in which a stop is looked for."""
_WIDE_LETTER = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7a3\U00020000-\U0003ffff“「『《（]")
_LAST_WORD = re.compile(r"(?<![^\W_])(?:[^\W\d_]\.)*[^\W_]+\Z")
_MARKER = re.compile(r"[\s*\-•(]*(?:\d{1,3}(?:\.\d{1,3})*|[A-Za-z]|[ivxIVX]{1,5}|[一二三四五六七八九十]{1,3})\Z")
"""The number or letter of an item, before its full stop."""
_NUMBER = re.compile(r"[(\[]?(?:[A-Z]?\d|[ivxlIVXL]+\b|[A-Z]\b)")
_NEXT_WORD = re.compile(r"[\"'“‘(\[*_]*([^\W\d_]+(?:['’][a-z]+)?)")
_SPACE = re.compile(r"\s*")
_MAX_WORD = 24
_SAMPLE = 5000
"""Characters that tell whether a text has capitals. Automatic transcripts may have none."""


def _set_of(words: str) -> frozenset[str]:
    return frozenset(words.split())


_NEVER_LAST: Final = _set_of("""
    dr mr mrs ms mx prof st messrs fig figs eq eqs eqn eqns sect chap thm lem cor e.g i.e eg ie vs cf viz resp
    approx ca vol vols pp gen gov sen rep capt lt col sgt cpl rev hon pres supt dept univ assoc ext tel incl excl
    esp orig transl ed eds bzw vgl z.b u.a
""")
"""Abbreviations that something must follow."""
_BEFORE_NUMBER: Final = _set_of("""
    no nos p sec tab app def prop ex ch alg art para ref refs max min avg ver op
""")
"""Those that are abbreviations only before a number; otherwise they are words, or may end a sentence."""
_PERHAPS_LAST: Final = _set_of("""
    etc al inc ltd co corp bros jr sr a.m p.m ph.d m.sc b.sc m.a b.a m.d u.s u.k u.n e.u jan feb mar apr jun jul
    aug sep sept oct nov dec mt ft ave blvd rd
""")
"""Those that may end a sentence: they do if the next word usually begins one."""
_STARTERS: Final = _set_of("""
    the a an this that these those it he she we you they there here his her its our their my your in on at for if
    when while where since as although though because however but and so then thus hence therefore moreover
    furthermore finally first second next now also to with from by after before during let note see what which who
    why how is are do does can may each every all some many most both one two no not
""")


def sentences(text: str) -> Iterator[str]:
    """Cut a text into its sentences. Together they are the text: white space belongs to the sentence before it.

    A line break is white space; what stands in lines of its own (headings, code, tables) is not for this function.
    """
    start = 0
    for end in _ends(text):
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _ends(text: str) -> Iterator[int]:
    start = 0
    has_capitals = not text[:_SAMPLE].islower()
    for match in _TOKEN.finditer(text):
        if match["stops"] or _ENDS_WITH_STOP.search(match[0], len(match[0]) - _TAIL):
            following = _skip_space(text, match.end())
            if following < len(text) and _is_end(text, start, match, following, has_capitals=has_capitals):
                yield following
                start = following


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _is_end(text: str, start: int, match: re.Match[str], following: int, *, has_capitals: bool) -> bool:
    """Whether a sentence that begins at `start` ends with this match; the next one would begin at `following`."""
    after = text[following]
    if _WIDE_STOP.search(match[0], len(match[0]) - _TAIL):
        return match["stops"] is not None or match[0][0] not in "(（["
    if following == match.end():
        # Without a space only Chinese goes on: `它是O(n).其次`, but not `1.引言` or `main.py`.
        is_number = text[match.start() - 1 : match.start()].isdigit()
        return not is_number and "…" not in match[0] and bool(_WIDE_LETTER.match(after))
    if after.islower() and (has_capitals or ".." in match[0] or "…" in match[0]):
        return False
    return match["stops"] != "." or _may_end_with(text[start : match.start()][-_MAX_WORD:], text, following)


def _may_end_with(before: str, text: str, following: int) -> bool:
    """Whether a sentence may end with these characters and a full stop, if the next one begins at `following`."""
    if _MARKER.fullmatch(before):
        return False
    word = _LAST_WORD.search(before)
    lower = word[0].lower() if word else ""
    if lower in _NEVER_LAST:
        return False
    if lower in _BEFORE_NUMBER:
        return not _NUMBER.match(text, following)
    if lower in _PERHAPS_LAST or "." in lower or (len(lower) == 1 and before[-1].isupper()):
        starter = _NEXT_WORD.match(text, following)
        return bool(starter and starter[1].lower() in _STARTERS)
    return True
