"""`report URI --fetch DIR`: what comes, what comes the second time, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydml.brought_runs import study_at
from raydml.cli import main
from raydml.config import ConfigError
from raydml.fetching import fetch
from tests.remote_cases import files_in, store, write

MODEL = "checkpoint/model.safetensors"


@pytest.fixture
def study(tmp_path: Path) -> str:
    folder = write(tmp_path / "small", "study.yaml", "optuna.journal", "report/report.md")
    for run in ("trials/0000", "trials/0001"):
        write(folder, f"{run}/config.yaml", f"{run}/events.out.tfevents.1", f"{run}/{MODEL}")
    write(folder, "trials/0001/evaluation/val/metrics.json")
    (folder / "best.yaml").write_text("checkpoint: trials/0001/checkpoint\n", "utf-8")
    return store(folder, (tmp_path / "storage").as_uri(), at=tmp_path / "copy")


def models_in(folder: Path) -> list[str]:
    return [name for name in files_in(folder) if name.endswith(MODEL)]


def test_a_study_comes_with_its_best_model_alone(study: str, tmp_path: Path) -> None:
    fetch(study, tmp_path / "new" / "here")
    found = files_in(tmp_path / "new" / "here")
    assert {"optuna.journal", "report/report.md", "trials/0000/events.out.tfevents.1"} < found.keys()
    assert "trials/0001/evaluation/val/metrics.json" in found
    assert models_in(tmp_path / "new" / "here") == [f"trials/0001/{MODEL}"]


def test_fetched_again_it_is_what_the_storage_has_by_then(study: str, tmp_path: Path) -> None:
    here = tmp_path / "here"
    fetch(study, here)
    driver = study_at(study)
    driver.open()
    driver.move(driver.path / "trials/0001", driver.path / "final/earlier-ab/0001")
    write(driver.path, "clock.json")
    (driver.path / "best.yaml").write_text("checkpoint: trials/0000/checkpoint\n", "utf-8")
    driver.save()
    write(here, "trials/0000/own note")
    fetch(study, here)
    assert (here / "clock.json").exists()
    assert not (here / "trials/0001").exists(), "put aside"
    assert (here / "final/earlier-ab/0001/evaluation/val/metrics.json").exists()
    assert models_in(here) == [f"trials/0000/{MODEL}"]
    assert not (here / "trials/0000/own note").exists(), "the storage is right"


def test_another_best_model_takes_the_place_of_the_first(study: str, tmp_path: Path) -> None:
    fetch(study, tmp_path / "here")
    driver = study_at(study)
    driver.open()
    (driver.path / "best.yaml").write_text("checkpoint: trials/0000/checkpoint\n", "utf-8")
    driver.save()
    fetch(study, tmp_path / "here")
    assert models_in(tmp_path / "here") == [f"trials/0000/{MODEL}"]


def test_a_run_comes_whole(study: str, tmp_path: Path) -> None:
    fetch(f"{study}/trials/0001", tmp_path / "run")
    names = {"config.yaml", "events.out.tfevents.1", MODEL, "evaluation/val/metrics.json"}
    assert files_in(tmp_path / "run").keys() == names


def test_a_folder_with_something_else_is_refused_and_left_alone(study: str, tmp_path: Path) -> None:
    mine = write(tmp_path / "mine", "thesis.tex")
    with pytest.raises(ConfigError, match=r"mine holds something else than file://.*/small: name a new or empty"):
        fetch(study, mine)
    assert files_in(mine) == {"thesis.tex": "thesis.tex"}
    (tmp_path / "empty").mkdir()
    fetch(f"{study}/trials/0000", tmp_path / "empty")
    with pytest.raises(ConfigError, match="holds something else than"):
        fetch(study, tmp_path / "empty")


def test_only_studies_and_runs_at_uris_are_fetched(study: str, tmp_path: Path) -> None:
    for run, law in (
        (str(tmp_path), "is on this machine: --fetch brings what lies at a URI"),
        ((tmp_path / "nowhere").as_uri(), "nowhere: neither a study nor a run"),
        (f"{study}/trials", "small/trials: neither a study nor a run"),
    ):
        with pytest.raises(ConfigError, match=law):
            fetch(run, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_command_says_what_to_do_next(study: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = tmp_path / "here"
    assert main(["report", study, "--fetch", str(here)]) == 0
    out = capsys.readouterr().out
    for line in (f"fetched: {here}", f"tensorboard --logdir {here}", f"optuna-dashboard {here}/optuna.journal"):
        assert line in out
    assert main(["report", study, study, "--fetch", str(here)]) == 2
    assert main(["report", study, "--fetch", str(here), "out=x"]) == 2
    assert "out: means nothing to --fetch" in capsys.readouterr().err
