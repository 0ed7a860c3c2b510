from pathlib import Path

from documents.document import Document
from documents.formats import text
from tests.documents.formats.reading import ignore_progress, outline, written


def read(tmp_path: Path, content: str | bytes) -> Document:
    return text.read(written(tmp_path, "notes.txt", content), ignore_progress)


def test_paragraphs_and_items(tmp_path: Path) -> None:
    document = read(
        tmp_path,
        "One line\nand another.\r\n\r\n- item\n  goes on\n- next\n1) first\n\n\n"
        "   印刷电路板\n   的制造\f\n3.5 volts.\n",
    )
    assert outline(document) == [
        "One line and another.",
        "- item goes on",
        "- next",
        "1) first",
        "印刷电路板的制造",
        "3.5 volts.",
    ]
    assert (document.source_type, document.title) == ("text", None)


def test_restructured_text(tmp_path: Path) -> None:
    document = read(
        tmp_path,
        """=========
  Course
=========

第一章
------

See :ref:`the end <end>`, ``x`` and `a page <https://example.org>`_. Like this::

    def f():
        return 1

.. index::
   single: nothing

.. code-block:: python
   :caption: Code

   y = 2

.. note:: A note.

=====  =====
Part   Value
=====  =====
R1     ``1``
       more
R2     2
=====  =====

+---+------+
| a | b    |
+===+======+
| 1 | two  |
|   | rows |
+---+------+

Deeper
~~~~~~

-----

Last
----
""",
    )
    assert outline(document) == [
        "# Course",
        "## 第一章",
        "See the end, `x` and a page. Like this:",
        "code: def f():\n    return 1",
        "code: y = 2",
        "table: Part | Value\nR1 | `1` more\nR2 | 2",
        "table: a | b\n1 | two rows",
        "### Deeper",
        "## Last",
    ]


def test_asciidoc(tmp_path: Path) -> None:
    document = read(
        tmp_path,
        """= Course
:lang: en

== First

[source,python]
----
x = 1
----

Term::
  Meaning

|===
|a |b
|1 |2
|===
""",
    )
    assert outline(document) == ["# Course", "## First", "code: x = 1", "Term:: Meaning", "table: a | b\n1 | 2"]


def test_lines_that_number_the_parts_are_headings(tmp_path: Path) -> None:
    document = read(
        tmp_path,
        "第一章 绪论\n\n1.1 背景\n\n电路板。\n\n第 2 章\n\nChapter 3 Vias\n\n1.5 times as much.\n\n2.1.3 Drill\n",
    )
    assert outline(document) == [
        "# 第一章 绪论",
        "## 1.1 背景",
        "电路板。",
        "# 第 2 章",
        "# Chapter 3 Vias",
        "1.5 times as much.",
        "### 2.1.3 Drill",
    ]
