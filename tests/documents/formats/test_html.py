from pathlib import Path

from documents.document import Document
from documents.formats import html
from tests.documents.formats.reading import ignore_progress, outline, written


def read(tmp_path: Path, text: str | bytes) -> Document:
    return html.read(written(tmp_path, "page.html", text), ignore_progress)


def test_the_article_without_what_is_around_it(tmp_path: Path) -> None:
    document = read(
        tmp_path,
        """<!DOCTYPE html><html lang="en-GB"><head><title>Vias | Course site</title><style>p {}</style></head><body>
        <header>Site</header><nav><ul><li><a href="/">Home</a></ul></nav>
        <div id="cookie-banner">We use cookies.</div><div class="sidebar">Other pages</div>
        <main>
          <header><h1>Vias<a class="headerlink" href="#vias">¶</a></h1></header>
          <p>A via <em>connects</em>
             layers.<script>track()</script> <span hidden>secret</span><span style="display: none">hidden</span></p>
          <aside>A remark.</aside>
          <noscript>Enable scripts</noscript><button>Copy</button>
        </main>
        <aside>News</aside><footer>Imprint</footer></body></html>""",
    )
    assert outline(document) == ["# Vias", "A via connects layers.", "A remark."]
    assert (document.source_type, document.title, document.language) == ("html", "Vias", "en")


def test_an_empty_main_does_not_hide_the_page(tmp_path: Path) -> None:
    assert outline(read(tmp_path, f"<main></main><div>{'All is here. ' * 9}</div>")) == [("All is here. " * 9).strip()]


def test_lists_tables_code_and_definitions(tmp_path: Path) -> None:
    document = read(
        tmp_path,
        """<h2>Parts</h2><ol start=3><li>three<ul><li>inner</ul><li><p>four</p><p>more</p></ol>
        <table><caption>Values</caption><thead><tr><th>R<th>V</thead><tr><td>R1<td>1 <br> 2</table>
        <pre><span class="linenos">1</span>def f():
    return 1<br>x = 2
</pre>
        <table class="highlighttable"><tr><td class="linenos"><pre>1</pre></td><td><pre>y = 3</pre></td></tr></table>
        <dl><dt>Term</dt><dd>Meaning</dd></dl>Loose text
        <p>10<sup>-3</sup> m, H<sub>2</sub>O, note<sup><a href="#n">[1]</a></sup>""",
    )
    assert outline(document) == [
        "## Parts",
        "3. three",
        "- inner",
        "4. four",
        "more",
        "Values",
        "table: R | V\nR1 | 1 2",
        "code: def f():\n    return 1\nx = 2",
        "code: y = 3",
        "Term",
        "Meaning",
        "Loose text",
        "10^-3 m, H2O, note[1]",
    ]


def test_formulas_and_pictures_in_words(tmp_path: Path) -> None:
    document = read(
        tmp_path,
        """<p>So <span class="katex"><span class="katex-mathml"><math><semantics><mrow><mi>x</mi></mrow>
        <annotation encoding="application/x-tex">x^2</annotation></semantics></math></span>
        <span class="katex-html" aria-hidden="true">x2</span></span> and <math alttext="y_1"><mi>y</mi></math> and
        <math><mi>z</mi><mo>+</mo><mn>1</mn></math>, <script type="math/tex">a_b</script></p>
        <img alt="A board with four layers" src=a.png><img alt="IMG_1234.png"><img alt="image"><img src=x>""",
    )
    assert outline(document) == ["So $x^2$ and $y_1$ and $z+1$, $a_b$", "A board with four layers"]


def test_menus_and_contents_are_left_out(tmp_path: Path) -> None:
    links = "".join(f'<li><a href="{target}">Part {target}</a></li>' for target in ("#a", "#b", "#c"))
    pages = links.replace("#", "/")
    document = read(
        tmp_path,
        f"""<ul>{pages}</ul><p>Next: <a rel="next" href="/n">Vias</a></p>
        <ul class=docnav><li><a accesskey=p href=x>Back</a></ul>
        <h1>Title</h1><ul>{links}</ul><p>Text.</p><ul>{pages}</ul>""",
    )
    assert outline(document) == ["# Title", "Text.", "- Part /a", "- Part /b", "- Part /c"]


def test_the_encoding_is_that_of_the_page(tmp_path: Path) -> None:
    chinese = "<meta charset=gb2312><title>绪论</title><p>印刷电路板镕接</p>".encode("gb18030")
    assert (read(tmp_path, chinese).title, outline(read(tmp_path, chinese))) == ("绪论", ["印刷电路板镕接"])
    latin = '<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-1"><p>Größe – “5 µm”'.encode("cp1252")
    assert outline(read(tmp_path, latin)) == ["Größe – “5 µm”"]
    wrong = "<meta charset=no-such><p>Größe".encode()
    assert outline(read(tmp_path, wrong)) == ["Größe"]


def test_deep_nesting_is_read(tmp_path: Path) -> None:
    for tag in ("div", "ul><li", "b", "table><tr><td", "pre", "math", "sup"):
        assert outline(read(tmp_path, f"<{tag}>" * 2_000 + "deep"))[-1].endswith("deep" if tag != "math" else "$")
