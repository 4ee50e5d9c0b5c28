"""Tables of a report's HTML page, as a reader sees them."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path


class Tables(HTMLParser):
    """Rows of every table by its caption, the header first; and the words of paragraphs."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.paragraphs: list[str] = []
        self._rows: list[list[str]] = []
        self._open = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._rows = []
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
        if tag == "p":
            self.paragraphs.append("")
        if tag in ("td", "th", "caption", "p"):
            self._open = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self._open:
            self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "caption":
            self.tables[data] = self._rows
        elif self._open == "p":
            self.paragraphs[-1] += data
        elif self._open:
            self._rows[-1][-1] += data

    def beginning(self, caption: str) -> list[list[str]]:
        """The only table whose caption begins like this, without its header."""
        [found] = [rows for name, rows in self.tables.items() if name.startswith(caption)]
        return found[1:]
