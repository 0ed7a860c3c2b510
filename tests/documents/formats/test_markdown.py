from pathlib import Path

from documents.document import Document
from documents.formats import markdown
from tests.documents.formats.reading import ignore_progress, outline, written


def read(tmp_path: Path, text: str) -> Document:
    return markdown.read(written(tmp_path, "notes.md", text), ignore_progress)


def test_structure_of_a_text(tmp_path: Path) -> None:
    document = read(
        tmp_path,
        """# Traces {#sec:traces .unnumbered}

A [link](https://example.org/a_b) and `code_x`, ![a plot of the
impedance](plot.png), ![](empty.png) ~~old~~ **new**.

## Steps

1. Measure.
2. Compare:
   - with *care*

   and again
- [ ] Done

| Part | Value |
|------|-------|
| R1 \\| R2 | **10** |

```python
def f():
    return 1

print(f())
```

    indented
        code

> A quotation.

Setext
======
""",
    )
    assert outline(document) == [
        "# Traces",
        "A link and code_x, a plot of the impedance, old new.",
        "## Steps",
        "1. Measure.",
        "2. Compare:",
        "- with care",
        "and again",
        "- [ ] Done",
        "table: Part | Value\nR1 | R2 | 10",
        "code: def f():\n    return 1\n\nprint(f())",
        "code: indented\n    code",
        "A quotation.",
        "# Setext",
    ]
    assert (document.source_type, document.title, document.language) == ("markdown", "Traces", None)


def test_front_matter_names_title_and_language(tmp_path: Path) -> None:
    document = read(
        tmp_path, '---\ntitle: "第一讲: 绪论"\nlang: zh-Hans\ndate: 2024-13-45\ntags: [a]\n---\n# A\n\n正文。\n'
    )
    assert (document.title, document.language) == ("第一讲: 绪论", "zh")
    assert outline(document) == ["# A", "正文。"]
    assert read(tmp_path, '+++\ntitle = "TOML"\n+++\nText\n').title == "TOML"


def test_what_is_no_front_matter_stays(tmp_path: Path) -> None:
    assert outline(read(tmp_path, "---\nA text between two rules.\n---\n\nMore.\n")) == [
        "## A text between two rules.",
        "More.",
    ]
    assert "&a" in outline(read(tmp_path, f"---\na: {'[' * 4000}&a\n---\n\nMore.\n"))[0]


def test_formulas_stay_as_they_are(tmp_path: Path) -> None:
    document = read(
        tmp_path,
        r"""Let $a_1 * b_2 * c$ and \(x_i * y_i\) cost $5 or $6. And \$7 * 2 * 3.

$$
\begin{aligned} a &= b \\
- c &= d_1 * e_1 *
\end{aligned}
$$

After $$x^2$$ it.
""",
    )
    assert outline(document) == [
        r"Let $a_1 * b_2 * c$ and \(x_i * y_i\) cost $5 or $6. And $7 * 2 * 3.",
        r"$$ \begin{aligned} a &= b \\ - c &= d_1 * e_1 * \end{aligned} $$",
        "After $$x^2$$ it.",
    ]


def test_html_in_it_is_read_as_html(tmp_path: Path) -> None:
    document = read(
        tmp_path,
        """Line<br>break, 10<sup>3</sup> Hz<!-- gone -->, <b>bold</b>.

<!-- a comment

of two paragraphs -->

<details><summary>Answer</summary>

Hidden *text*.

</details>

<table><tr><td>a</td><td>b</td></tr></table>

<script>
evil()
</script>
""",
    )
    assert outline(document) == ["Line break, 10^3 Hz, bold.", "Answer", "Hidden text.", "table: a | b"]


def test_lines_of_chinese_are_joined_without_a_space(tmp_path: Path) -> None:
    assert outline(read(tmp_path, "电路板的\n制造需要 FR4\n和铜。\nThen\nEnglish.\n")) == [
        "电路板的制造需要 FR4 和铜。 Then English."
    ]
