"""One evaluation at a time writes a folder; what keeps it from that is said in a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydml.config import ConfigError
from raydml.evaluate import _alone


def test_two_at_once_are_refused_and_one_after_the_other_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "evaluation" / "test"
    with _alone(folder), pytest.raises(ConfigError, match="is being written by another evaluation"), _alone(folder):
        pass
    with _alone(folder):
        assert folder.is_dir()


def test_a_place_that_takes_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    refused = pytest.raises(ConfigError, match=r"run/evaluation: cannot be written: Not a directory$")
    with refused, _alone(tmp_path / "run" / "evaluation"):
        pass


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied", "image.png"), OSError(28, "No space")])
def test_what_goes_wrong_inside_is_told_as_what_it_is(tmp_path: Path, error: OSError) -> None:
    with pytest.raises(OSError, match=str(error.strerror)) as caught, _alone(tmp_path):
        raise error
    assert caught.value is error
