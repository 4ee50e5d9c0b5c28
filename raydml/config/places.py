"""Where data lie: paths and URIs. They are written to studies, runs and messages, and so hold no credentials."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from raydml.config.base import ConfigError

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


def require_no_credentials(words: Iterable[str]) -> None:
    """Raises ConfigError for a place among the words of a command that holds credentials, without showing them.

    Those that are values of fields are refused by their fields.
    """
    for word in words:
        if "://" in word.partition("=")[0] and (refused := refused_credentials(word)) is not None:
            raise ConfigError(f"command line: {refused}")


def absolute(place: str) -> str:
    """A path as every process of a cluster must understand it; a URI as it is."""
    if "://" in place:
        return place
    try:
        return str(Path(place).expanduser().absolute())
    except RuntimeError:  # ~name without such a user: a folder may be called so
        return str(Path(place).absolute())


STORAGE = "RAYDML_STORAGE"
"""Environment variable: the folder or URI that a relative storage lies below, on machines that set it."""

# Ray sets it for the driver of a submitted job.
_SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def resolved_storage(storage: str, environment: Mapping[str, str] = os.environ) -> str:
    """The absolute path or the URI of a storage; a relative one lies below RAYDML_STORAGE, where that is set.

    Raises ConfigError for credentials in a URI, and where a submitted job would keep its results in the folder that it
    was unpacked into, which other machines do not see and which goes with the job.
    """
    if (refused := refused_credentials(storage)) is not None:
        raise ConfigError(f"storage: {refused}")
    # What begins with ~ is somebody's home, or a folder here that is called so.
    if "://" in storage or storage.startswith("~") or Path(storage).is_absolute():
        return absolute(storage)
    if root := environment.get(STORAGE, ""):
        if (refused := refused_credentials(root)) is not None:
            raise ConfigError(f"{STORAGE}: {refused}")
        path, mark, options = root.partition("?")
        return absolute(f"{path.rstrip('/')}/{storage}{mark}{options}")
    if _SUBMITTED in environment:
        raise ConfigError(
            f"storage: a submitted job needs a place that every machine sees and that outlives the job, but got "
            f"{storage}: give storage=s3://... or an absolute path, or set {STORAGE} where Ray is started"
        )
    return absolute(storage)


def _without_credentials(place: str) -> str:
    if (refused := refused_credentials(place)) is not None:
        raise ValueError(refused)
    return place


Place = Annotated[str, AfterValidator(_without_credentials)]
"""A path, or a URI without credentials."""
