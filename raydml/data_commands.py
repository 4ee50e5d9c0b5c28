"""`python -m raydml.data check DATA` and `python -m raydml.data prepare DATA`, from words to an exit code."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from raydml import atomic
from raydml.config import CheckOptions, ConfigError, DigitsConfig, GlyphsConfig, dump
from raydml.config.grammar import validate
from raydml.data.argument import Located, located
from raydml.overrides import own_options

_CLEAN, _WRONG = 0, 1
# What a user's own data are tried on first.
_STUDY = "search_spaces/margin.yaml"


def check(what: str, overrides: Sequence[str], console: Console) -> int:
    """Prints what is wrong with data; 1 where there are errors. Raises ConfigError where there is nothing to check."""
    own, rest = own_options(overrides, CheckOptions)
    options = validate(CheckOptions, own, source="command line")
    data = _located(what, rest, console)
    config = data.config
    if isinstance(config, GlyphsConfig | DigitsConfig):
        _say(console, f"{config.kind}: made on first use, there is nothing to check")
        _say(console, f"  next: {_tune_command(data)}")
        return _CLEAN
    from raydml.data.checking import check as check_photos
    from raydml.data_display import Images, print_checked

    say_terms(config.kind, console)
    with Images(console, "checked") as progress:
        checked = check_photos(config, decode=options.decode, progress=progress)
    print_checked(checked, console)
    if options.out is not None:
        _write(Path(options.out).expanduser(), asdict(checked) | {"config": dump(config)})
        _say(console, f"written: {options.out}")
    if checked.of_level("error"):
        _say(console, "  next: mend the errors and check again")
        return _WRONG
    waiting = config.decode == "once" and not (checked.overview is not None and checked.overview.cached)
    following = _prepare_command(data) if waiting else _tune_command(data)
    _say(console, f"  next: {following}")
    return _CLEAN


def prepare(what: str, overrides: Sequence[str], console: Console, *, verbose: bool) -> int:
    """Decodes images into the cache. Raises ConfigError for bad data."""
    data = _located(what, overrides, console)
    config = data.config
    if not isinstance(config, GlyphsConfig | DigitsConfig):
        if config.decode == "always":
            raise ConfigError("data.decode: always keeps no image in the cache: there is nothing to prepare")
        say_terms(config.kind, console)
    from raydml.data_display import Images, amount
    from raydml.prepare import PreparationFailedError
    from raydml.prepare import prepare as prepare_images

    try:
        with Images(console, "decoded") as progress:
            done = prepare_images(config, progress=progress, verbose=verbose)
    except PreparationFailedError as error:
        print(f"error: the images could not be decoded: {error}; the same command goes on from here", file=sys.stderr)
        return _WRONG
    images = len(done.images.labels)
    held = f"{images:,} images of {len(done.images.classes):,} classes, {amount(done.num_bytes)}"
    if done.num_decoded:
        start = f"{done.start_s:,.1f} s until the first came, then {done.rate:,.0f} images/s"
        _say(console, f"decoded {done.num_decoded:,} images in {done.seconds:,.1f} s: {start}")
    elif not isinstance(config, GlyphsConfig | DigitsConfig):
        _say(console, "already there")
    _say(console, f"cache: {done.entry}: {held}")
    _say(console, f"  next: {_tune_command(data)}")
    return _CLEAN


def say_terms(kind: str, console: Console) -> None:
    """Prints the terms of use of a published benchmark where this user was not told before."""
    from raydml.data.terms import first_terms

    if (terms := first_terms(kind)) is not None:
        _say(console, f"terms of use: {terms}")


def _located(what: str, overrides: Sequence[str], console: Console) -> Located:
    data = located(what, overrides)
    for note in data.notes:
        _say(console, f"adapted: {note}")
    return data


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)


def _write(path: Path, found: object) -> None:
    try:
        atomic.write_json(path, found)
    except OSError as error:
        raise ConfigError(f"command line: out: {path} cannot be written: {error.strerror}") from None


def _prepare_command(data: Located) -> str:
    if data.study is not None:
        return shlex.join(["python", "-m", "raydml.data", "prepare", data.study, *data.words])
    place = next(word for word in data.words if word.startswith("data.root=")).partition("=")[2]
    rest = [word for word in data.words if not word.startswith("data.root=")]
    return shlex.join(["python", "-m", "raydml.data", "prepare", place, *rest])


def _tune_command(data: Located) -> str:
    return shlex.join(["python", "-m", "raydml.tune", data.study or _STUDY, *data.words])
