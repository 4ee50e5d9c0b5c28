"""Paths that others wrote stay in their folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raydml.config import ConfigError
from raydml.inside import require_inside, require_safe, safe_relative, shown

SAFE = (
    "best.yaml",
    "trials/0007/fold0/checkpoint/state.pt",
    "..hidden/...",
    "a b/caf\u00e9.png",
    "a~/~b",
    "12:30/x:y",
    "sha1#7",
)
UNSAFE = (
    "",
    ".",
    "..",
    "./a",
    "a/./b",
    "../a",
    "a/../b",
    "a/..",
    "a//b",
    "a/",
    "/etc/passwd",
    "//server/share",
    "~",
    "~/x",
    "~user/x",
    "C:",
    "c:/windows",
    "C:windows",
    "a\\b",
    "..\\a",
    "\\\\server\\share",
    "a\0b",
    "a\nb",
    "\x1b[2J",
    "a\x7f",
    "\ud800",
)


@pytest.mark.parametrize("path", SAFE)
def test_a_path_below_its_folder_is_safe(path: str, tmp_path: Path) -> None:
    assert safe_relative(path)
    assert require_inside(tmp_path, path, said_by="x") == tmp_path / path


@pytest.mark.parametrize("path", UNSAFE)
def test_any_other_path_is_not(path: str, tmp_path: Path) -> None:
    assert not safe_relative(path)
    with pytest.raises(ConfigError, match=r"^best\.yaml: checkpoint: must be a path with / between") as error:
        require_inside(tmp_path, path, said_by="best.yaml: checkpoint")
    assert str(error.value).isprintable()


def test_every_safe_path_is_below_its_folder_for_the_system(tmp_path: Path) -> None:
    """The judge is the system's own resolution, over all short words of a mean alphabet."""
    words = [""]
    for _ in range(5):
        words += [word + letter for word in words if len(word) == max(map(len, words)) for letter in "./a~"]
    accepted = [word for word in words if safe_relative(word)]
    assert len(accepted) > 300
    for word in accepted:
        real = os.path.normpath(tmp_path / Path(word).expanduser())
        assert real.startswith(f"{tmp_path}{os.sep}"), word
        assert Path(real) == tmp_path / word


def test_the_first_of_many_that_is_not_is_named() -> None:
    """As keys of a store, which unlike names of files may hold anything."""
    require_safe(SAFE, said_by="s3://b")
    for path in UNSAFE:
        with pytest.raises(ConfigError, match=r"^s3://b: names what is not below its folder: ") as error:
            require_safe([*SAFE, path, "/later"], said_by="s3://b")
        assert str(error.value).isprintable()
        assert "later" not in str(error.value)


def test_links_may_not_lead_out(tmp_path: Path) -> None:
    inner, outer = tmp_path / "run", tmp_path / "secret"
    (inner / "real").mkdir(parents=True)
    outer.mkdir()
    (inner / "near").symlink_to("real")
    (inner / "far").symlink_to(outer)
    (inner / "round").symlink_to("round")
    assert require_inside(inner, "near/x", said_by="f") == inner / "near" / "x"
    with pytest.raises(ConfigError, match=r"^f: far/x leaves .*run by a symbolic link, to .*secret/x$"):
        require_inside(inner, "far/x", said_by="f")
    with pytest.raises(ConfigError, match="round is a symbolic link that leads nowhere"):
        require_inside(inner, "round", said_by="f")


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")
    assert require_inside(tmp_path / "run", "a", said_by="f") == tmp_path / "run" / "a"


def test_a_message_shows_a_name_on_one_line() -> None:
    assert shown("a\nb\x1b[2J\u202e\0") == r"a\nb\x1b[2J\u202e\x00"
    assert shown("caf\u00e9 bird.png") == "caf\u00e9 bird.png"
    assert len(shown("x" * 10_000)) == 100
