"""Splits text without spaces into words, and into overlapping pairs of characters for words that no dictionary has.

A dictionary segments Chinese (jieba's search mode); long words also yield their parts (`复杂度` → `复杂`). Pairs of
characters find new terms and names (`冯诺依曼`), and what the dictionary splits in two (`上拉`, `前缀和`).
"""

import regex

from retrieval.analysis.token import Token

PAIR = 0.2
"""Weight of a pair of characters that is not a word of the dictionary."""
_KATAKANA = regex.compile(r"[\u30a0-\u30ff]{2,}")
_CLUSTER = regex.compile(r"\X")
_NEVER_PAIRED = frozenset("的了着吗呢吧啊呀嘛是")


def chinese_tokens(run: str, start: int, position: int) -> list[Token]:
    """The tokens of Chinese characters and kana without spaces: words and their parts, then pairs of characters.

    Args:
        run: The characters.
        start: Where they start in the text.
        position: Number of the first word.
    """
    tokens: list[Token] = []
    unknown = [True] * len(run)  # whether the pair that starts here is not a word
    words = _words(run)
    parts, whole = set[int](), len(run)
    for index in range(len(words) - 1, -1, -1):  # the parts of a word precede it
        _, first, end = words[index]
        if first >= whole:
            parts.add(index)
        else:
            whole = first
        unknown[first] = unknown[first] and end - first != 2
    for index, (word, first, end) in enumerate(words):
        is_word = index not in parts
        tokens.append(Token(word, start + first, start + end, 1.0, position if is_word else -1, is_word))
        position += is_word
    unknown[-1:] = [False]
    tokens += [
        Token(run[at : at + 2], start + at, start + at + 2, PAIR, -1, False)
        for at, is_unknown in enumerate(unknown)
        if is_unknown and run[at] not in _NEVER_PAIRED and run[at + 1] not in _NEVER_PAIRED
    ]
    return tokens


def fragments(word: str, start: int) -> list[Token]:
    """Overlapping pairs of letters of a word in a script that writes several words together, such as Thai."""
    ends = [match.end() for match in _CLUSTER.finditer(word)]
    if len(ends) < 3:
        return []
    return [
        Token(word[first:end], start + first, start + end, PAIR, -1, False)
        for first, end in zip([0, *ends], ends[1:], strict=False)
    ]


def _words(run: str) -> list[tuple[str, int, int]]:
    import rjieba  # imported only for Chinese text: loading the dictionary takes 0.2 s

    words: list[tuple[str, int, int]] = []
    if not _KATAKANA.search(run):
        words += rjieba.tokenize(run, "search", False)
        return words
    at = 0
    for match in [*_KATAKANA.finditer(run), None]:
        end = match.start() if match else len(run)
        if at < end:
            words += [
                (word, at + first, at + last) for word, first, last in rjieba.tokenize(run[at:end], "search", False)
            ]
        if match:
            words.append((match[0], *match.span()))
            at = match.end()
    return words
