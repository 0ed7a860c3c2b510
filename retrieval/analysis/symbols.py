"""Operators and mathematical symbols that a course teaches: `==`, `≤`, `∑`, `->`."""

import regex

_OPERATORS = (
    "<=>", "===", "!==", "**=", "//=", ">>>", "<<=", ">>=",
    "==", "!=", "<=", ">=", "->", "=>", "<-", "&&", "||", "**", "//", ":=", "<<", ">>", "++", "--", "+=", "-=", "*=",
    "/=", "%=", "|=", "&=", "^=", "|>", "??", "?.", "::",
)  # fmt: skip
_SAME = {"≤": "<=", "⩽": "<=", "≦": "<=", "≥": ">=", "⩾": ">=", "≧": ">=", "≠": "!=", "→": "->", "⇒": "=>", "←": "<-"}


_SINGLE = r"[+*/%&|\^~<>=!@$?]"
_NEAR = r"[+*/%&|\^~<>=!?:.\-]"
SYMBOL = (
    rf"(?<!{_NEAR})(?:{'|'.join(map(regex.escape, _OPERATORS))})(?!{_NEAR})"
    rf"|(?<=[ \t`(]){_SINGLE}(?=[ \t`)]|\Z)|\A{_SINGLE}\Z"
    r"|[\p{Sm}--[+<=>|~\u00ac\u2044]]"
)
"""Regular expression of an operator. One of a single ASCII character stands alone."""


def symbol_term(symbol: str) -> str:
    """The term of a symbol; two ways to write one, such as `≤` and `<=`, have the same."""
    return _SAME.get(symbol, symbol)
