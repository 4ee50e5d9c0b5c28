"""Blocks as Markdown, LaTeX or one HTML file. Whatever a name holds is shown, and never obeyed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from raydml.report.blocks import Block, Heading, Paragraph, Photograph, Picture, Table

_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedblright{}",
    # Behind the end of a row an opening bracket would begin an option.
    "[": "{[}",
    "]": "{]}",
}
_TEX_HEAD = r"""\documentclass{article}
\usepackage[landscape, margin=1.5cm]{geometry}
\usepackage{booktabs}
\usepackage{longtable}
\setlength{\parindent}{0pt}
\setlength{\parskip}{4pt}
\setlength{\tabcolsep}{4pt}
\setlength{\LTpre}{2pt}
\begin{document}
\small
"""
_TEX_END = "\n\\end{document}\n"
# Characters of a cell that is broken into lines, and how wide it is then.
_LONG = 60
_TEX_COLUMN = "12cm"
_TEX_LEVELS = ("section", "subsection", "subsubsection")


def html(blocks: Sequence[Block], *, title: str) -> str:
    """One file that needs no other, no script and no network."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    parts = [{"kind": type(block).__name__, "block": block, "svg": _drawn(block)} for block in blocks]
    return environment.get_template("page.html").render(title=title, parts=parts)


def _drawn(block: Block) -> Markup | None:
    # Text in it is outlines of glyphs: no word of a user is left in it to be obeyed.
    return Markup(block.svg) if isinstance(block, Picture) else None  # noqa: S704


def markdown(blocks: Sequence[Block]) -> str:
    """Headings, words and tables; pictures are left to the HTML file."""
    return "\n\n".join(filter(None, map(_markdown, blocks))) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_in_markdown(text)}"
        case Paragraph(text, warning):
            return f"> {_line(text)}" if warning else _line(text)
        case Table():
            return _markdown_table(block)
        case Picture() | Photograph():
            return ""


def _markdown_table(block: Table) -> str:
    rules = " | ".join(":--" if column in block.words else "--:" for column in range(len(block.header)))
    head, *rows = (f"| {' | '.join(_in_markdown(cell) for cell in line)} |" for line in (block.header, *block.rows))
    return "\n".join([f"**{_in_markdown(block.caption)}**", "", head, f"| {rules} |", *rows])


def _in_markdown(text: str) -> str:
    """Every character that could begin markup within a line, escaped; a line stays a line."""
    plain = _one_line(text).replace(" +- ", " \u00b1 ")
    return re.sub(r"([\\`*_{}\[\]<>|~&$]|:(?=//)|(?<=www)\.)", r"\\\1", plain)


def _line(text: str) -> str:
    """A paragraph; nothing at its beginning makes it a list or a heading."""
    return re.sub(r"^(\d*)([-+=#.)])", r"\1\\\2", _in_markdown(text))


def latex(blocks: Sequence[Block]) -> str:
    """A document that compiles by itself, its tables to be taken over elsewhere; pictures are left to the HTML file."""
    return _TEX_HEAD + "\n".join(filter(None, map(_latex, blocks))) + _TEX_END


def _latex(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"\\{_TEX_LEVELS[level - 1]}*{{{_in_latex(text)}}}"
        case Paragraph(text, warning):
            return f"{{\\bfseries Note.}} {_in_latex(text)}\n" if warning else f"{_in_latex(text)}\n"
        case Table():
            return _latex_table(block)
        case Picture() | Photograph():
            return ""


def _latex_table(block: Table) -> str:
    head, *rows = (" & ".join(map(_in_latex, line)) + r" \\" for line in (block.header, *block.rows))
    return "\n".join(
        [
            rf"{{\itshape {_in_latex(block.caption)}}}\par\nopagebreak",
            rf"\begin{{longtable}}[l]{{@{{}}{''.join(_latex_columns(block))}@{{}}}}",
            r"\toprule",
            *([head, r"\midrule"] if any(block.header) else []),
            r"\endhead",
            *rows,
            r"\bottomrule",
            r"\end{longtable}",
        ]
    )


def _latex_columns(block: Table) -> Iterator[str]:
    """Numbers to the right, words to the left; what would not fit a page is broken into lines."""
    for column in range(len(block.header)):
        longest = max((len(row[column]) for row in block.rows), default=0)
        words = rf"p{{{_TEX_COLUMN}}}" if longest > _LONG else "l"
        yield words if column in block.words else "r"


def _in_latex(text: str) -> str:
    plain = _one_line(text).replace(" +- ", "\0")
    escaped = "".join(_TEX.get(character, character) for character in plain)
    # Two hyphens, commas or quotation marks would become one character.
    escaped = re.sub(r"([-,'`?!])(?=[-,'`])", r"\1{}", escaped)
    # The fonts of a plain document have no other characters.
    return re.sub(r"[^\x20-\x7e\0]", "?", escaped).replace("\0", r" $\pm$ ")


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() or c.isspace() else "?" for c in text).split())
