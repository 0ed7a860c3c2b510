"""Near-duplicates: edited texts are grouped, and passages that only look alike never are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval.near_duplicates import LEAST_SHINGLES, LEAST_SIMILARITY, SaidTexts, overlaps

ENGLISH = (
    "A solder mask is a thin layer of polymer that is applied to the copper traces of a printed circuit board for "
    "protection against oxidation, and to prevent bridges from forming between pads that lie close to each other. "
    "Once applied, openings must be made in the mask wherever components are soldered, which is done by a process "
    "called photolithography. The mask is traditionally green, but it is also available in many other colours. It "
    "comes as a liquid that is sprayed or printed on the board, or as a dry film that is laminated onto it in vacuum. "
    "Both are exposed through a pattern, developed, and then cured with heat, after which the board is cleaned again."
)
CHINESE = (
    "在数字电路中，悬空的输入引脚会受到干扰，读出的电平是不确定的。为了使引脚在没有信号时保持确定的状态，通常在引脚与电源之间连接一个电阻，"
    "这样没有其他器件驱动它的时候，引脚读出高电平。按键闭合时引脚接地，电流流过电阻，读出的结果随之改变。电阻的阻值决定了电流的大小，"
    "阻值太小会浪费电能，阻值太大则容易受到噪声的影响，而且引脚的寄生电容充电变慢。许多单片机的内部已经集成了这样的电阻，可以用软件打开。"
)
CODE = """def merge(left, right):
    result, i, j = [], 0, 0
    while i < len(left) and j < len(right):
        if left[i] <= right[j]:
            result.append(left[i])
            i += 1
        else:
            result.append(right[j])
            j += 1
    result.extend(left[i:])
    result.extend(right[j:])
    return result

def sort(values):
    if len(values) < 2:
        return values
    middle = len(values) // 2
    return merge(sort(values[:middle]), sort(values[middle:]))
"""


def _groups(texts: list[str]) -> NDArray[np.int32]:
    return overlaps(texts).groups


def are_near(one: str, other: str) -> bool:
    groups = _groups(["another text", one, other])
    assert groups.tolist() == _groups(["another text", other, one]).tolist(), "the relation is symmetric"
    assert groups[:2].tolist() == [0, 1]
    return bool(groups[2] == 1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ENGLISH, ENGLISH.replace("traditionally green", "usually green")),
        (ENGLISH, ENGLISH.upper()),
        (ENGLISH, ENGLISH.replace("solder mask", "**solder mask**").replace(". ", ".\n\n- ")),
        (ENGLISH, f"{ENGLISH} This was shown in the video of week 3."),
        (ENGLISH, ENGLISH.replace("Once applied", "When it is dry")),
        (CHINESE, CHINESE.replace("通常在", "一般在")),
        (CHINESE, f"{CHINESE}下面看一个例子。"),
        (CHINESE, CHINESE.replace("，", ",")),
        (CODE, CODE.replace("    ", "\t")),
        (CODE, f'"""Sorting, as shown in the lecture."""\n{CODE}'),
        (ENGLISH[:210], ENGLISH[:210].replace(",", "")),
    ],
)
def test_slightly_edited_texts_are_near_duplicates(one: str, other: str) -> None:
    assert are_near(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Exercise 3", "Exercise 4"),
        ("上拉电阻", "下拉电阻"),
        (f"Exercise 3\n{ENGLISH}", f"Exercise 4\n{ENGLISH}"),
        (f"{ENGLISH} It is 25 µm thick.", f"{ENGLISH} It is 35 µm thick."),
        (f"{ENGLISH} Ask Alice about it.", f"{ENGLISH} Ask Bob about it."),
        (ENGLISH.replace("mask", "paste"), ENGLISH),
        (ENGLISH[:200], ENGLISH[:200].replace("copper", "silver")),
        (CHINESE.replace("电阻", "上拉电阻"), CHINESE.replace("电阻", "下拉电阻")),
        (CHINESE[50:130].replace("高", "低"), CHINESE[50:130]),
        (CHINESE[:60] + "上" + CHINESE[60:80], CHINESE[:60] + "下" + CHINESE[60:80]),
        (CODE, CODE.replace("<=", ">=")),
        (CODE, CODE.replace("+= 1", "-= 1")),
        (CODE, CODE.replace("< 2", "< 3")),
        ("\n".join(f"| R{row} | {row * 10} kΩ |" for row in range(60)),) * 2,
        (ENGLISH[: len(ENGLISH) // 2], ENGLISH),
        (ENGLISH[: len(ENGLISH) * 2 // 3], ENGLISH[len(ENGLISH) // 3 :]),
        ("", " "),
        ("the the the " * 100, "a a a " * 100),
    ],
)
def test_passages_that_only_look_alike_are_not_near_duplicates(one: str, other: str) -> None:
    if one == other:  # a table with one other value
        other = other.replace("| 170 kΩ", "| 220 kΩ")
    assert not are_near(one, other)


def test_groups_do_not_chain() -> None:
    """Of texts that change little by little, those far apart are in different groups."""
    words = [f"word{letter}{other}" for letter in "abcdefghijkl" for other in "abcdefghijklmnopqrstuvwxyz"]
    texts = [" ".join(words[start : start + 200]) for start in range(0, 112, 8)]
    groups = _groups(texts).tolist()
    assert len(set(groups)) > 2
    for row, group in enumerate(groups):
        assert group <= row
        assert groups[group] == group
        assert row - group <= 4, "the group's first text shares most of the text"


def windows(text: str, size: int, step: int) -> list[str]:
    words = text.split()
    return [" ".join(words[start : start + size]) for start in range(0, len(words) - size + 1, step)]


def test_a_text_is_repeated_if_all_of_it_is_in_others() -> None:
    texts = [*windows(ENGLISH, 40, 20), "another text", CHINESE, CHINESE[20:90], CODE]
    inner = len(texts) - 6
    assert overlaps(texts).repeated.tolist() == [0, *[1] * inner, 0, 0, 0, 1, 0]
    assert overlaps([CODE, CHINESE[20:90], CHINESE, CHINESE[20:90]]).repeated.tolist() == [0, 1, 0, 1]


def test_said_texts_contain_what_they_say_together() -> None:
    said = SaidTexts()
    first, second, third = windows(ENGLISH, 40, 20)[:3]
    said.add(first)
    assert not said.contain(second)
    said.add(third)
    assert said.contain(second)
    assert said.contain(second.upper())
    assert not said.contain(second.replace("a ", "one ", 1))
    assert not said.contain("solder mask")


def test_equal_texts_are_in_one_group() -> None:
    assert _groups(["a", "b", "a", ENGLISH, "b", ENGLISH]).tolist() == [0, 1, 0, 3, 1, 3]
    assert _groups([]).tolist() == []


def test_copies_of_an_edited_text_join_its_group() -> None:
    edited = ENGLISH.replace("traditionally green", "usually green")
    assert _groups([ENGLISH, edited, "x", edited, ENGLISH]).tolist() == [0, 0, 2, 0, 0]


def test_many_similar_texts_that_differ_in_a_number_stay_apart() -> None:
    texts = [f"{ENGLISH} The board has {number} layers." for number in range(100)]
    assert _groups(texts).tolist() == list(range(100))


@given(st.lists(st.lists(st.sampled_from("abcde"), max_size=60), max_size=8), st.integers(0, 2**32))
def test_groups_contain_only_similar_texts(sentences: list[list[str]], seed: int) -> None:
    """The first text of each group begins it, and shares most of its shingles with each other one."""
    rng = np.random.default_rng(seed)
    base = " ".join(rng.choice(["copper", "mask", "drill", "hole", "zinc", "board", "film"], 120))
    texts = [" ".join([*base.split()[: rng.integers(60, 120)], *sentence]) for sentence in sentences]
    groups = _groups(texts).tolist()
    assert groups == _groups(texts).tolist()
    for row, group in enumerate(groups):
        assert group <= row
        assert groups[group] == group
        ours, first = (_shingles(texts[other]) for other in (row, group))
        assert texts[row] == texts[group] or len(ours & first) >= LEAST_SIMILARITY * len(ours | first)
        assert texts[row] == texts[group] or min(len(ours), len(first)) >= LEAST_SHINGLES


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}
