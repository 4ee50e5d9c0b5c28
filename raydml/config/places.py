"""Where data lie: paths and URIs. They are written to studies, runs and messages, and so hold no credentials."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

# Names of options whose values are secrets; `sig` is that of a signed address of Azure.
_SECRET_OPTION = re.compile(r"[?&]([^=&]*(?:secret|token|password|signature|access_key|account_key)[^=&]*|sig)=", re.I)


def refused_credentials(place: str) -> str | None:
    """What is wrong with a path or URI that holds credentials, without showing them; None where it holds none.

    A user without a password, such as that of `hdfs://user@host` or `abfs://container@account`, is a name.
    """
    scheme, found, rest = place.partition("://")
    if not found:
        return None
    authority, address = re.split("[/?]", rest, maxsplit=1)[0], rest.partition("?")[0]
    # No bucket of S3 has a colon: what follows one is a secret, which ends too early at a slash that is not escaped.
    if re.search(":.*@", authority) or (scheme.lower() == "s3" and ":" in authority):
        _, at, address = address.rpartition("@")
        shown = f"{scheme}://...{at}{address if at else ''}"
    elif _SECRET_OPTION.search(place):
        shown = f"{scheme}://{address}"
    else:
        return None
    return (
        f"must hold no credentials, but got {shown}: put credentials into the environment (AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY for S3), because this is written to studies, runs and messages"
    )


def absolute(place: str) -> str:
    """A path as every process of a cluster must understand it; a URI as it is."""
    if "://" in place:
        return place
    try:
        return str(Path(place).expanduser().absolute())
    except RuntimeError:  # ~name without such a user: a folder may be called so
        return str(Path(place).absolute())


def _without_credentials(place: str) -> str:
    if (refused := refused_credentials(place)) is not None:
        raise ValueError(refused)
    return place


Place = Annotated[str, AfterValidator(_without_credentials)]
"""A path, or a URI without credentials."""
