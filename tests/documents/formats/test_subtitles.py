import json
import re
from pathlib import Path
from typing import Any

import pytest

from documents.document import Document, UnreadableFileError
from documents.formats import subtitles
from tests.documents.formats.reading import ignore_progress, outline, written


def read(tmp_path: Path, content: str) -> Document:
    return subtitles.read(written(tmp_path, "talk", content), ignore_progress)


def read_json(tmp_path: Path, content: Any) -> Document:
    return read(tmp_path, json.dumps(content))


def times(document: Document) -> list[tuple[float | None, float | None]]:
    return [(block.start, block.end) for block in document.blocks]


def srt(*cues: tuple[float, float, str]) -> str:
    def time(seconds: float) -> str:
        minutes, milliseconds = divmod(round(1000 * seconds), 60_000)
        return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02},{milliseconds % 1000:03}"

    return "\n\n".join(
        f"{number}\n{time(start)} --> {time(end)}\n{text}" for number, (start, end, text) in enumerate(cues, 1)
    )


def test_tags_speakers_positions_and_sounds_are_removed(tmp_path: Path) -> None:
    document = read(
        tmp_path,
        """WEBVTT - Lecture 3
Kind: captions
Language: en-US

STYLE
::cue { color: red }

NOTE
A comment.

intro
00:00.500 --> 00:00:02.000 align:start position:0%
<v Dr. Smith>The <i>impedance</i> &lt; 50&nbsp;Ω<00:00:01.000><c.red> is</c>

2
00:02.000 --> 00:04.000
- right. [Applause]
>> Then
1984

3
00:04.000 --> 00:05.000
{\\an8}[Music]
we went on.
""",
    )
    assert outline(document) == ["The impedance < 50 Ω is right. [Applause] Then 1984 we went on."]
    assert times(document) == [(0.5, 5.0)]
    assert (document.source_type, document.title, document.language) == ("transcript", "Lecture 3", "en")


def test_rolling_captions_say_everything_once(tmp_path: Path) -> None:
    cues = """WEBVTT

00:00:00.000 --> 00:00:02.000

hello<00:00:01.000><c> everyone</c>

00:00:02.000 --> 00:00:02.010
hello everyone

00:00:02.010 --> 00:00:04.000
hello everyone
so

00:00:04.000 --> 00:00:04.010
so

00:00:04.010 --> 00:00:06.000
so
welcome back
"""
    assert outline(read(tmp_path, cues)) == ["hello everyone so welcome back"]


def test_captions_that_grow_say_everything_once(tmp_path: Path) -> None:
    document = read(
        tmp_path, srt((0, 1, "we"), (1, 2, "we begin"), (2, 3, "we begin with vias"), (3, 4, "电路"), (4, 5, "电路板"))
    )
    assert outline(document) == ["we begin with vias 电路板"]


def test_what_is_said_twice_after_a_pause_stays(tmp_path: Path) -> None:
    assert outline(read(tmp_path, srt((0, 1, "Stop."), (5, 6, "Stop."), (6, 7, "Stopping now.")))) == [
        "Stop. Stop. Stopping now."
    ]


def test_blocks_are_whole_sentences_of_half_a_minute(tmp_path: Path) -> None:
    cues = [(5 * n, 5 * n + 5, f"Sentence {n} begins here and") for n in range(40)]
    cues = [
        (start, end, text if n % 2 == 0 else f"ends after ten seconds. And {n}")
        for n, (start, end, text) in enumerate(cues)
    ]
    document = read(tmp_path, srt(*cues))
    for block in document.blocks:
        assert block.start is not None
        assert block.end is not None
        assert block.end - block.start <= subtitles.LONGEST
        assert block is document.blocks[-1] or (block.text.endswith(".") and block.end - block.start >= 25)
    assert " ".join(block.text for block in document.blocks) == " ".join(text for _, _, text in cues)


def test_speech_without_punctuation_is_cut_at_pauses(tmp_path: Path) -> None:
    cues = [(2 * n, 2 * n + 2 - (1 if n % 20 == 19 else 0), f"word {n} goes on") for n in range(100)]
    document = read(tmp_path, srt(*cues))
    assert times(document) == [(0, 39), (40, 79), (80, 119), (120, 159), (160, 199)]


def test_chinese_clauses_without_punctuation_keep_a_space(tmp_path: Path) -> None:
    assert outline(read(tmp_path, srt((0, 1, "大家好"), (1, 2, "今天讲\n电路板")))) == ["大家好 今天讲电路板"]
    assert outline(read(tmp_path, srt((0, 1, "大家好，今天"), (1, 2, "讲电路板。")))) == ["大家好，今天讲电路板。"]


def test_odd_times(tmp_path: Path) -> None:
    document = read(tmp_path, srt((363600, 363603, "After a hundred hours."), (2, 1, "Backwards."), (1, 1, "First.")))
    assert outline(document) == ["First. Backwards.", "After a hundred hours."]
    assert times(document) == [(1.0, 2.0), (363600.0, 363603.0)]


def test_cues_without_blank_lines_and_with_numbers_as_text(tmp_path: Path) -> None:
    document = read(
        tmp_path,
        "1\n00:00:01,0 --> 00:00:02,0\nOne.\n2\n00:00:02,0 --> 00:00:03,0\nTwo\n\nmore\n42\n\n"
        "3\n00:00:04,0 --> 00:00:05,0\nThree.",
    )
    assert outline(document) == ["One. Two more 42 Three."]


def test_chapters_are_headings(tmp_path: Path) -> None:
    document = read(
        tmp_path,
        """WEBVTT

NOTE Title: Boards

NOTE Chapter 1: Layers

00:01.000 --> 00:02.000
A board has layers.

Chapter 2 - Vias
00:02.000 --> 00:03.000
A via connects them.
""",
    )
    assert outline(document) == ["# Layers", "A board has layers.", "# Vias", "A via connects them."]
    assert document.title == "Boards"


WORDS = [{"word": "你", "start": 0.0, "end": 0.5}, {"word": "你好", "start": 0.5, "end": 1}, {"word": "PCB"}]


@pytest.mark.parametrize(
    ("content", "text", "time", "language"),
    [
        ({"segments": [{"start": 0, "end": 2.5, "text": " Hello."}], "language": "en"}, "Hello.", (0.0, 2.5), "en"),
        ([{"start": "1.5", "end": 2, "text": "A."}, {"start": 2, "end": 3, "text": "B."}], "A. B.", (1.5, 3.0), None),
        (
            {"result": {"language": "zh"}, "transcription": [{"offsets": {"from": 500, "to": 2000}, "text": "你好。"}]},
            "你好。",
            (0.5, 2.0),
            "zh",
        ),
        ({"chunks": [{"timestamp": [1.0, None], "text": " Open end."}]}, "Open end.", (1.0, 1.0), None),
        ({"task": "transcribe", "language": "english", "words": WORDS}, "你你好 PCB", (0.0, 1.0), "en"),
        ({"segments": [{"start": 1, "end": 3, "words": WORDS}]}, "你你好 PCB", (1.0, 3.0), None),
        ([{"text": "By duration.", "start": 2.0, "duration": 3.5}], "By duration.", (2.0, 5.5), None),
        ({"language": "de", "text": "Only text. More."}, "Only text. More.", (None, None), "de"),
        (
            {"segments": [{"start": 5, "end": 1, "text": "Odd."}, {"start": float("nan"), "end": -3, "text": "End."}]},
            "Odd. End.",
            (5.0, 5.0),
            None,
        ),
    ],
)  # fmt: skip
def test_transcripts_of_speech_recognition(
    tmp_path: Path, content: Any, text: str, time: tuple[float | None, float | None], language: str | None
) -> None:
    document = read_json(tmp_path, content)
    assert re.sub(r"(?<=你) (?=你)", "", " ".join(outline(document))) == text
    assert times(document) == [time]
    assert document.language == language


@pytest.mark.parametrize(
    "content", [{"a": 1}, [], [1, 2], {"segments": "no"}, {"segments": [{"start": 0}]}, [{"text": "x"}], 5]
)
def test_other_json_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(UnreadableFileError, match=r"transcript|no text"):
        read_json(tmp_path, content)


@pytest.mark.parametrize(
    "content", ["Just text.", "WEBVTT\n\nno cue", "[" * 100_000, '{"segments": [', '{"a": "\\ud800"}']
)
def test_what_is_no_transcript_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(UnreadableFileError):
        read(tmp_path, content)
