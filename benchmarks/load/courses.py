"""Synthetic courses whose texts say of which course and edition they are, so that an answer proves its generation.

Every change of a course writes its next edition: each text and its metadata have the number of the edition. The
pipeline publishes one generation of each edition.
"""

import io
import json
import re

import numpy as np

CHINESE_EVERY = 4
"""Every fourth course is Chinese."""
PASSAGES_A_SECTION = 5
SECTIONS_A_LECTURE = 4
EDITION = re.compile(r"(?:Course|课程) (load-\d+), (?:edition|版本) (\d+)")
"""The course and the edition in a text."""

_SUBJECTS = "solder copper current signal heat voltage light pressure memory network index gradient protein market"
_NOUNS = "layer trace clock circuit sensor board plane connector budget sample record matrix filter cell price query"
_VERBS = "limits reflects covers needs follows weighs moves reaches shields measures predicts stores balances"
_ADJECTIVES = "thin wide inner short hot stable noisy flexible digital sparse linear local cheap exact rare"
_CONDITIONS = "when because while unless"
_SUBJECTS_ZH = "焊料 铜箔 电流 信号 热量 电压 光线 压力 内存 网络 索引 梯度 蛋白质 市场"
_NOUNS_ZH = "板层 走线 时钟 电路 传感器 平面 连接器 预算 样本 记录 矩阵 滤波器 细胞 价格"
_VERBS_ZH = "限制 反射 覆盖 需要 跟随 衡量 移动 达到 屏蔽 测量 预测 存储 平衡"
_ADJECTIVES_ZH = "薄的 宽的 内部的 短的 热的 稳定的 嘈杂的 柔性的 数字的 稀疏的 线性的 局部的"


def course_id(number: int) -> str:
    """The id of a course."""
    return f"load-{number:02}"


def is_chinese(number: int) -> bool:
    """Whether the course is Chinese."""
    return number % CHINESE_EVERY == CHINESE_EVERY - 1


def chunk_id(number: int, passage: int) -> str:
    """The id of a passage, the same in every edition."""
    return f"{course_id(number)}.{passage:03}"


def rows_of(number: int, edition: int, passages: int) -> io.BytesIO:
    """Ready-to-Embed rows of an edition of a course."""
    lines = []
    for passage in range(passages):
        section = passage // PASSAGES_A_SECTION
        lines.append(
            {
                "id": chunk_id(number, passage),
                "course_id": course_id(number),
                "lecture_id": f"l{section // SECTIONS_A_LECTURE + 1}",
                "section_id": f"s{section + 1}",
                "order_in_section": passage % PASSAGES_A_SECTION,
                "text": text_of(number, edition, passage),
                "language": "zh" if is_chinese(number) else "en",
                "source_type": "video" if passage % 3 == 0 else "pdf",
                "metadata": {"edition": edition, "page": passage + 1, "tags": [f"t{passage % 7}"]},
            }
        )
    return io.BytesIO("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())


def text_of(number: int, edition: int, passage: int) -> str:
    """The text of a passage: what it is about stays the same in every edition."""
    random = np.random.default_rng((number, passage))
    if is_chinese(number):
        start = f"课程 {course_id(number)}, 版本 {edition}，第 {passage} 段。"
        return start + "".join(_sentence_zh(random) for _ in range(4))
    start = f"Course {course_id(number)}, edition {edition}, passage {passage}."
    return " ".join([start, *(_sentence(random) for _ in range(4))])


def question_of(random: np.random.Generator, number: int) -> str:
    """A question about a course."""
    if is_chinese(number):
        subject, verb, adjective, noun = _words(random, _SUBJECTS_ZH, _VERBS_ZH, _ADJECTIVES_ZH, _NOUNS_ZH)
        return f"{subject}怎样{verb}{adjective}{noun}？"
    subject, verb, adjective, noun = _words(random, _SUBJECTS, _VERBS, _ADJECTIVES, _NOUNS)
    return f"How does the {subject} of a {noun} change what {verb} the {adjective} one?"


def _sentence(random: np.random.Generator) -> str:
    subject, noun, verb, adjective, other = _words(random, _SUBJECTS, _NOUNS, _VERBS, _ADJECTIVES, _NOUNS)
    condition, third, state = _words(random, _CONDITIONS, _NOUNS, _ADJECTIVES)
    return f"The {subject} of the {noun} {verb} the {adjective} {other} {condition} its {third} is {state}."


def _sentence_zh(random: np.random.Generator) -> str:
    subject, noun, verb, adjective, other = _words(
        random, _SUBJECTS_ZH, _NOUNS_ZH, _VERBS_ZH, _ADJECTIVES_ZH, _NOUNS_ZH
    )
    return f"{noun}的{subject}{verb}{adjective}{other}。"


def _words(random: np.random.Generator, *lists: str) -> list[str]:
    return [str(random.choice(words.split())) for words in lists]
