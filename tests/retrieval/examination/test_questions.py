"""Questions made from a course: of every kind, few, and the same in the next generation."""

import pytest

from retrieval.examination.questions import (
    EMBEDDED_AT_ONCE,
    MAX_CHUNKS,
    MAX_QUESTIONS,
    Kind,
    Question,
    embed_questions,
    make_questions,
)
from retrieval.snapshots.file import Strings
from tests.support.snapshots import make_snapshot
from tests.support.word_courses import WordEmbedder, prose

ENGLISH = "A capacitor is a component that stores energy in an electric field. It blocks direct current after a while."
CHINESE = "电容器是一种储存电场能量的元件。它在充电之后阻挡直流电流，但是允许交流电流通过。"


def questions_of(*texts: str) -> list[Question]:
    return make_questions(make_snapshot({f"chunk-{number:05}": text for number, text in enumerate(texts)}))


def of_kind(kind: Kind, questions: list[Question]) -> list[str]:
    return [question.text for question in questions if question.kind is kind]


@pytest.mark.parametrize(
    ("text", "question"), [(ENGLISH, "What is capacitor?"), (CHINESE, "什么是电容器？")], ids=["en", "zh"]
)
def test_a_definition_is_asked_for(text: str, question: str) -> None:
    assert of_kind(Kind.DEFINITION, questions_of(text)) == [question]


@pytest.mark.parametrize("text", ["This is a way to measure it.", "So it is the rest.", "那是一种元件。"])
def test_no_definition_without_a_term(text: str) -> None:
    assert of_kind(Kind.DEFINITION, questions_of(text)) == []


@pytest.mark.parametrize(
    ("text", "separator"),
    [(prose(1), " "), (CHINESE, ""), ("Диод пропускает электрический ток только в одном направлении цепи.", " ")],
    ids=["en", "zh", "ru"],
)
def test_a_sentence_loses_about_half_of_its_words(text: str, separator: str) -> None:
    sentences = of_kind(Kind.SENTENCE, questions_of(text))
    assert sentences
    for sentence in sentences:
        assert len(sentence) < 0.8 * len(text)
        if separator:
            assert set(sentence.split(separator)) <= set(text.replace(".", "").split(separator))


def test_a_typo_is_in_one_word() -> None:
    [asked, *_] = [question for question in questions_of(prose(1)) if question.kind is Kind.TYPO]
    wrong = [word for word in asked.text.split() if word.casefold() not in asked.words]
    assert len(wrong) == 1
    [right] = [word for word in asked.words if word not in asked.text.casefold().split()]
    assert sorted(wrong[0].casefold()) == sorted(right)


def test_a_title_is_answered_by_its_section_and_by_sections_of_the_same_title() -> None:
    sections = {"a": "1", "b": "1", "c": "2"}
    snapshot = make_snapshot(
        {chunk_id: prose(number) for number, chunk_id in enumerate("abcd")},
        metadata={
            chunk_id: {"lecture_id": "l", "section_id": section, "section_title": "Summary"}
            for chunk_id, section in sections.items()
        },
    )
    [title] = [question for question in make_questions(snapshot) if question.kind is Kind.TITLE]
    assert [title.is_answered_by(snapshot, row) for row in range(4)] == [True, True, True, False]


def test_what_is_said_in_another_chunk_is_an_answer_too() -> None:
    """As in overlapping windows of a transcript."""
    snapshot = make_snapshot({"a": ENGLISH, "b": f"And so: {ENGLISH}", "c": prose(1)})
    for question in make_questions(snapshot):
        if question.row != 2:
            assert [question.is_answered_by(snapshot, row) for row in range(3)] == [True, True, False]


def test_an_unchanged_chunk_yields_the_same_questions() -> None:
    """Otherwise generations could not be compared."""
    texts = [prose(number) for number in range(300)]
    before = {question.key for question in questions_of(*texts)}
    assert before == {question.key for question in questions_of(*texts)}
    changed = [prose(1000 + number) if number % 30 == 0 else text for number, text in enumerate(texts)]
    assert len(before & {question.key for question in questions_of(*changed)}) >= 0.8 * len(before)


def test_few_questions_and_few_texts_are_read_in_a_large_course(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = make_snapshot({f"{number:05}": prose(number) for number in range(3 * MAX_CHUNKS)})
    read: set[int] = set()
    texts = snapshot.texts

    def look(strings: Strings, row: int) -> str:
        if strings is texts:
            read.add(row)
        return get(strings, row)

    get = Strings.__getitem__
    monkeypatch.setattr(Strings, "__getitem__", look)
    assert len(make_questions(snapshot)) == MAX_QUESTIONS
    assert len(read) <= MAX_CHUNKS


@pytest.mark.parametrize(
    "texts",
    [
        [],
        [""],
        ["  \n "] * 3,
        ["!!! ??? ..."],
        ["a"],
        ["铜"],
        ["def f(x):\n    return x[0] + 1"],
        ["\ufffd \x00 \u200b"],
        ["word " * 100_000],
        ["没有标点" * 50_000],
    ],
    ids=["no chunk", "empty", "blank", "signs", "letter", "character", "code", "odd", "long", "long Chinese"],
)
def test_odd_courses(texts: list[str]) -> None:
    for question in questions_of(*texts):
        assert question.text.strip()
        assert len(question.text) < 1000


def test_a_text_of_code_is_asked_by_its_first_words() -> None:
    assert of_kind(Kind.SENTENCE, questions_of("x = foo(bar)\ny = baz[1]"))


def test_questions_are_embedded_in_small_batches_with_their_vectors() -> None:
    questions = questions_of(*(prose(number) for number in range(20)))
    batches: list[None] = []
    embedder = WordEmbedder()
    embedded = embed_questions(questions, embedder, lambda: batches.append(None))
    assert len(batches) == -(-len(questions) // EMBEDDED_AT_ONCE)
    assert [each.question for each in embedded] == questions
    last = embedder.embed_queries([questions[-1].text]).vectors[0]
    assert embedded[-1].vector.tolist() == last.tolist()
