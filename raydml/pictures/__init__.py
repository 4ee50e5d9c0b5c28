"""Nearest neighbours as pictures: which queries are worth a look, what is nearest to them, and how that is drawn."""

from __future__ import annotations
