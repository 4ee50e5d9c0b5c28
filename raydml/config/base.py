"""What every section of the configuration has in common: the base model and the one error type."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """A frozen section: unknown keys, silent conversions, NaN and infinity are errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        # Sections are named after what they hold ("model"), not after pydantic's own attributes.
        protected_namespaces=(),
    )


class ConfigError(ValueError):
    """Bad input of a user. Its text is one readable line: where, the value, the law, the remedy."""
