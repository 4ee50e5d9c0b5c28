"""What a check found, by name."""

from __future__ import annotations

from raydml.data.checking import Checked
from raydml.data.findings import Finding


def found(checked: Checked, name: str) -> Finding:
    """The one finding of a name."""
    [finding] = [finding for finding in checked.findings if finding.name == name]
    return finding


def names(checked: Checked) -> list[str]:
    return [finding.name for finding in checked.findings]
