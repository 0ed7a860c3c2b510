"""Half a sentence in a passage misleads whoever reads it; two sentences in one piece harm nobody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from documents.sentences import sentences


@pytest.mark.parametrize(
    "marked",
    [
        # English
        "Heaps are trees.| They are stored in arrays!| Are they?| Yes.",
        "See Fig. 3 and Eq. (4), cf. Knuth, vol. 2, pp. 12-14.| Then go on.",
        "Dr. Smith of the U.S. Navy met J. R. R. Tolkien, e.g. in Oxford.| They talked.",
        "As Lee et al. (2019) show, it works.| Lee et al. The end.".replace("al. The", "al.| The"),
        "It was made in the U.S.| It is big.| At 5 p.m.| The rest went home.",
        "Python 3.11 costs $3.50.| It was $6.| See main.py and https://a.example/x.html?y=1.| Done.",
        "Wait... what is that?| Wait...| What?",
        "Yahoo! is a company.| No. 5 is alive.| He said no.| That was all.",
        "1. First we wait.| 2. Then we go.| B. Or not.",
        'He said "Stop."| Then he left.| (This is a note.)| Really?',
        "It left (was it late? Very late.) and came back.| “Go. Now.” was all.",
        "Call `a.b. C` or ``x. Y`` first.| The formula $a. B$ or \\(c. D\\) is next.",
        "so it begins.| and this goes on, e.g. here.| is there more?| no... maybe.",
        # Chinese
        "今天天气很好。|他说：“我们走吧。”|然后他走了！|真的吗？！|是。",
        "是的……也许吧；不过（括号里的。）结束。|「好。」|完",
        "图1.2 表明 3.14 是近似值。|版本是 v2.0.1。|见第1.引言",
        "复杂度为O(n).|其次看图1.2。|他问:好吗?|她走了!|是",
        # Both
        "使用 Python 3.11。|It works well.| 然后运行 main.py。|Next one.",
        "See Node.js.| 下一句。|End",
        # Nothing to go by
        "so today we talk about heaps and heaps are trees",
        "",
    ],
)
def test_sentences_end_where_they_are_marked(marked: str) -> None:
    assert [sentence.strip() for sentence in sentences(marked.replace("|", ""))] == [
        part.strip() for part in marked.split("|") if part
    ]


@given(st.text(st.sampled_from("aB1.?!。？…”“\"'()（）[]「」`$\\* \n,，e"), max_size=80))
def test_sentences_together_are_the_text(text: str) -> None:
    found = list(sentences(text))

    assert "".join(found) == text
    assert all(found)


@pytest.mark.parametrize(
    "part", ["(", "(a", "((a)", '"a ', "`a", "$a", "\\(", "[a", "“a", ". ", "a. ", "。”", ".)", "*", "(.", "a.b"]
)
def test_time_is_linear_in_the_length(part: str) -> None:
    """No assertion on the time: with a quadratic search this test takes minutes and is stopped."""
    text = part * (60_000 // len(part))

    assert "".join(sentences(text)) == text
