"""Ranks by counting: for each positive of a query, how many negatives are at least as similar. No list of neighbours.

Counts are sums over any partition of the gallery. Each part gives the similarities of the positives it holds
(`positives_of`); all parts together give the thresholds (`merged`); each part counts its negatives at or above them
(`count_negatives`); and the counts of the parts add up (`added`). One set that is its own gallery is counted at half
the price (`count_within`).
"""

from __future__ import annotations

from raydml.counting.positives import positives_of
from raydml.counting.sides import Negatives, Positives, Side, added, merged, sorted_by_class
from raydml.counting.sweep import count_negatives, count_within

__all__ = [
    "Negatives",
    "Positives",
    "Side",
    "added",
    "count_negatives",
    "count_within",
    "merged",
    "positives_of",
    "sorted_by_class",
]
