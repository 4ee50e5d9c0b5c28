"""What a reader gets: one HTML file that needs nothing else, tables that compile, names that nothing obeys."""

from __future__ import annotations

import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from pydantic import JsonValue
from rich.console import Console
from rich.markdown import Markdown

from raydml.report import blocks_of, rendering, report, title_of
from raydml.report.blocks import Block, Heading, Paragraph, Picture, Table, duration, metric, plus_minus, shown, table
from raydml.report.contents import Contents
from tests.report_cases import run_search, search_of

ENDINGS = ("html", "json", "md", "tex")
HOSTILE = (
    "</td><script>alert(1)</script><img src=x onerror=alert(2)> | a `b` *c* _d_ [e](http://f.g) $h$ "
    "\\input{/etc/passwd} {{ 7 * 7 }} %i #j &k; ~l ^m -- ,, `` '' \"n\" \N{GREEK SMALL LETTER ALPHA} \x1b[31m +- o\n# p"
)


@pytest.fixture(scope="module")
def pages(searched: Path, repeated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report([searched, repeated], out=tmp_path_factory.mktemp("pages")).directory


@pytest.fixture(scope="module")
def hostile(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search whose trials failed for a reason that tries everything."""
    folder = tmp_path_factory.mktemp("<b>&hostile")
    return report([run_search(search_of(cache, num_trials=2), folder, failures={0: HOSTILE})]).directory


def read(folder: Path, ending: str) -> str:
    return (folder / f"report.{ending}").read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Elements, attributes and visible words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_html_is_one_file_without_script_and_network(pages: Path) -> None:
    page = Elements(read(pages, "html"))
    assert page.tags.keys().isdisjoint({"script", "iframe", "object", "embed", "link", "img", "image", "base", "form"})
    assert page.tags["svg"] == 6, "curves, recall, history, parallel; means and curves of trainings"
    assert page.tags["table"] >= 8
    for _, name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("href", "src", "xlink:href"):
            assert value.startswith("#")
    assert ("meta", "content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in page.attributes
    assert "@import" not in read(pages, "html")
    assert not re.search(r"url\((?!#)", read(pages, "html"))


def test_pictures_are_well_formed_and_keep_apart(pages: Path) -> None:
    drawn = re.findall(r"<svg.*?</svg>", read(pages, "html"), flags=re.DOTALL)
    names: list[str] = []
    for picture in drawn:
        own = [element.get("id") for element in ET.fromstring(picture).iter() if element.get("id")]
        used = re.findall(r'(?:url\(#|href="#)([^)"]+)', picture)
        assert set(used) <= set(own), "what a picture refers to is in it"
        names += [str(name) for name in own]
        assert "currentColor" in picture, "words are as light or dark as those of the page"
        assert "#010203" not in picture
    assert len(set(names)) == len(names)


def test_tables_scroll_and_both_schemes_are_styled(pages: Path) -> None:
    text = read(pages, "html")
    assert text.count("<table>") == text.count('<div class="scroll" tabindex="0">')
    assert "color-scheme: light dark" in text
    assert "prefers-color-scheme: dark" in text


def test_the_same_report_is_the_same_to_the_byte(searched: Path, repeated: Path, pages: Path, tmp_path: Path) -> None:
    again = report([searched, repeated], out=tmp_path).directory
    assert all((again / f"report.{e}").read_bytes() == (pages / f"report.{e}").read_bytes() for e in ENDINGS)


def test_every_page_can_be_made_from_the_json(pages: Path) -> None:
    contents = Contents.model_validate_json(read(pages, "json"))
    blocks = blocks_of(contents)
    assert rendering.html(blocks, title=title_of(contents)) == read(pages, "html")
    assert rendering.markdown(blocks) == read(pages, "md")
    assert rendering.latex(blocks) == read(pages, "tex")


def test_hostile_words_are_words_in_html(hostile: Path) -> None:
    page = Elements(read(hostile, "html"))
    assert page.tags["script"] == page.tags["img"] == page.tags["b"] == 0
    assert any("</td><script>alert(1)</script>" in words and "{{ 7 * 7 }}" in words for words in page.words)


def test_hostile_words_are_words_in_markdown(hostile: Path) -> None:
    [line] = [line for line in read(hostile, "md").splitlines() if "alert" in line]
    assert len(re.findall(r"(?<!\\)\|", line)) == 3, "two cells"
    assert not re.search(r"(?<!\\)[<>`*_\[\]$]", line)
    console = Console(width=2000, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    console.print(Markdown(read(hostile, "md")))
    shown_text = console.export_text()
    assert "<script>alert(1)</script><img src=x onerror=alert(2)> | a `b` *c* _d_ [e](http://f.g)" in shown_text


def structure(text: str, latex: str) -> None:
    """Braces and environments close, and every row of a table has as many cells as its columns."""
    plain = re.sub(r"\\[\\{}&%$#_]", "", latex)
    assert plain.count("{") == plain.count("}"), text
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", latex):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    for found in re.finditer(
        r"\\begin\{longtable\}\[l\]\{@\{\}(.*?)@\{\}\}\n(.*?)\\end\{longtable\}", latex, re.DOTALL
    ):
        columns = len(re.sub(r"p\{.*?\}", "p", found[1]))
        rows = [line for line in found[2].splitlines() if line.endswith(r" \\")]
        assert rows
        for row in rows:
            assert len(re.findall(r"(?<!\\)&", row)) == columns - 1, row


def test_latex_tables_are_whole(pages: Path, hostile: Path, tmp_path: Path) -> None:
    for folder in (pages, hostile):
        text = read(folder, "tex")
        structure(folder.name, text)
        assert text.isascii()
        assert text.count(r"\toprule") == text.count(r"\bottomrule") >= 2
        if shutil.which("pdflatex"):
            (tmp_path / "report.tex").write_text(text, encoding="utf-8")
            command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
            assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0


def test_hostile_words_are_words_in_latex(hostile: Path) -> None:
    [line] = [line for line in read(hostile, "tex").splitlines() if "alert" in line]
    assert r"\input" not in line
    assert r"\textbackslash{}input\{/etc/passwd\}" in line
    assert "-{}- ,{}, `{}` '{}'" in line


def test_settings_and_numbers_as_they_are_shown() -> None:
    values: list[JsonValue] = [True, None, 3, 0.0123456, "x", [1, 0.5], {"a": 1, "b": None}, {}]
    assert [shown(value) for value in values] == (
        ["true", "none", "3", "0.01235", "x", "[1, 0.5]", "a: 1, b: none", "none"]
    )
    assert (metric(None), metric(0.12345), plus_minus(0.5, None), plus_minus(0.5, 0.01)) == (
        ("-", "0.1235", "0.5000", "0.5000 +- 0.0100")
    )
    assert [duration(seconds) for seconds in (0.04, 59.96, 61, 3599.7, 7500)] == (
        ["0.0 s", "1 min 00 s", "1 min 01 s", "1 h 00 min", "2 h 05 min"]
    )


def test_nothing_at_the_beginning_of_a_paragraph_is_obeyed_in_markdown() -> None:
    words = ["1. x", "- x", "# x", "> x", "+ x", "=== x", "1) x", "    x"]
    page = rendering.markdown([Paragraph(word) for word in words])
    assert page.split("\n\n") == [r"1\. x", r"\- x", r"\# x", r"\> x", r"\+ x", r"\=== x", r"1\) x", "x\n"]


def test_a_page_of_every_kind_of_block() -> None:
    blocks: list[Block] = [
        Heading("a & b", 1),
        Paragraph("take care", warning=True),
        table("c", ("name", "x"), [("y", "0.5 +- 0.1")]),
        table("no names", ("", ""), [("y", "z" * 61)], words=(0, 1)),
        Picture('<svg xmlns="http://www.w3.org/2000/svg"></svg>', "drawn"),
    ]
    page = rendering.html(blocks, title="<t>")
    assert "<title>&lt;t&gt;</title>" in page
    assert "<h1>a &amp; b</h1>" in page
    assert '<p class="note">take care</p>' in page
    assert '<td class="word">y</td>' in page
    assert "<td>0.5 \N{PLUS-MINUS SIGN} 0.1</td>" in page
    assert page.count("<thead>") == 1
    assert 'class="word long"' in page
    assert "> take care" in rendering.markdown(blocks)
    assert "| y | 0.5 \N{PLUS-MINUS SIGN} 0.1 |" in rendering.markdown(blocks)
    assert r"y & 0.5 $\pm$ 0.1 \\" in rendering.latex(blocks)
    assert "p{12cm}" in rendering.latex(blocks)
    assert "svg" not in rendering.markdown(blocks) + rendering.latex(blocks)
    structure("blocks", rendering.latex(blocks))


def test_a_row_with_a_cell_too_few_is_a_mistake() -> None:
    with pytest.raises(AssertionError):
        table("c", ("a", "b"), [("x",)])
    assert isinstance(table("c", ("a",), []), Table)
