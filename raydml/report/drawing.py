"""Figures as SVG inside a page: no window system, no clock, colours that are readable on white and on black."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#2f81d6", "#e0802b", "#2aa876", "#c95bb5", "#d14b4b", "#8a7fe0", "#9a8b2f", "#4fa3b5")
FAINT = "#8a8f98"
# Stands for the colour of the page's text, which is not known here.
_INK = "#010203"

_SETTINGS: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.alpha": 0.25,
    "grid.color": FAINT,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.facecolor": "none",
    "svg.fonttype": "path",
    "svg.hashsalt": "raydml",
    "text.color": _INK,
    # What a user calls something is no formula.
    "text.parse_math": False,
    "text.usetex": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


@contextmanager
def style() -> Iterator[None]:
    """The settings under which every figure is drawn, whatever the user's own are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def panels(count: int = 1, *, width: float = 8.4, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side. To be called within `style`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    return figure, list(axes)


def svg(figure: Figure, name: str) -> str:
    """The figure as an element of a page; `name` keeps its identifiers apart from those of other figures."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for useless in (r"<!--.*?-->", r"<metadata>.*?</metadata>", r"<style.*?</style>"):
        text = re.sub(useless, "", text, flags=re.DOTALL)
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", text)
    # As high as the width makes it, which the page may narrow.
    text = re.sub(r'^(<svg [^>]*?) height="[^"]*"', r"\1", text, count=1)
    return re.sub(r"\n\s*", "\n", text).replace(_INK, "currentColor").strip()
