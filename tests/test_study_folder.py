"""The folder of a study as its driver works in it, on a path and on a URI."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from raydml.config import ConfigError
from raydml.layout import added_later, in_checkpoint, in_run, of_others
from raydml.patience import StorageError, TakenOverError
from raydml.storage import RemoteFolder
from raydml.study_folder import StudyFolder
from tests.test_storage import files_of, objects_of, write

CHECKPOINT = {"checkpoint/meta.json": "{}", "checkpoint/model.safetensors": "w"}
RUN = {"metrics.jsonl": "1\n", **CHECKPOINT}
FOLDS = {f"fold{k}/{path}": text for k in (0, 1) for path, text in CHECKPOINT.items()} | {"metrics.jsonl": "1\n"}


def at(tmp_path: Path, **more: object) -> StudyFolder:
    return StudyFolder((tmp_path / "store").as_uri(), "s", **more)  # type: ignore[arg-type]


def trained(tmp_path: Path, run: str, files: Mapping[str, str] = RUN) -> None:
    """As the process that trains a run stores it."""
    there = tmp_path / "elsewhere" / run
    RemoteFolder((tmp_path / "store" / "s" / run).as_uri(), write(there, files)).push()


def started(tmp_path: Path) -> StudyFolder:
    folder = at(tmp_path)
    folder.open()
    write(folder.path, {"study.yaml": "name: s", "optuna.journal": "{}\n"})
    folder.save()
    return folder


def test_which_file_belongs_to_what() -> None:
    assert in_run("trials/0007/metrics.jsonl")
    assert in_run("final/earlier-1234/winner-seed0/evaluation/test/metrics.json")
    for path in ("study.yaml", "report/report.html", "report/trials/x/y", "trials/list.txt"):
        assert not in_run(path)
    assert in_checkpoint("checkpoint/meta.json")
    assert in_checkpoint("fold0/checkpoint/model.safetensors")
    assert not in_checkpoint("metrics.jsonl")
    assert not in_checkpoint("checkpoint")
    for path in ("evaluation/val/metrics.json", "fold0/evaluation/val/events.1", "report/report.md"):
        assert added_later(path)
    for path in ("evaluation/note.txt", "metrics.jsonl", "report"):
        assert not added_later(path), "a file in no folder that is stored by itself"
    for path in ("trials/0007/metrics.jsonl", "report/report.md", "test_looks/ab/looks.jsonl", "test_looks.jsonl"):
        assert of_others(path)
    for path in ("optuna.journal", "best.yaml", "study.yaml"):
        assert not of_others(path)


def test_a_study_on_a_path_is_worked_on_in_its_place(tmp_path: Path) -> None:
    folder = StudyFolder(str(tmp_path), "s")
    folder.open()
    assert folder.path == tmp_path / "s"
    assert folder.place == folder.argument == str(tmp_path / "s")
    assert folder.curves == f"tensorboard --logdir {tmp_path / 's'}"
    run = write(folder.path / "trials" / "0000", RUN)
    assert folder.uri_of(run) is None
    assert folder.has_checkpoint(run / "checkpoint")
    for unchanged in (folder.save, folder.save_rarely, lambda: folder.take(run, models=True), lambda: folder.keep(run)):
        unchanged()
    assert files_of(folder.path) == {f"trials/0000/{path}": text for path, text in RUN.items()}
    folder.drop_models(run)
    assert files_of(run) == {"metrics.jsonl": "1\n"}
    assert not folder.has_checkpoint(run / "checkpoint")


def test_another_driver_goes_on_with_everything_but_models(tmp_path: Path) -> None:
    started(tmp_path)
    for name in ("trials/0000", "confirm/base-seed0", "final/earlier-1234/winner-seed0"):
        trained(tmp_path, name)
    second = at(tmp_path)
    second.open()
    runs = {f"{name}/metrics.jsonl": "1\n" for name in ("trials/0000", "confirm/base-seed0")}
    earlier = {"final/earlier-1234/winner-seed0/metrics.jsonl": "1\n"}
    assert files_of(second.path) == {"study.yaml": "name: s", "optuna.journal": "{}\n", **runs, **earlier}
    run = second.path / "trials" / "0000"
    assert second.has_checkpoint(run / "checkpoint")
    second.take(run, models=True)
    assert files_of(run) == RUN
    second.take(run)
    assert files_of(run) == RUN, "models that are there do not disturb"


def test_runs_are_no_part_of_the_study_s_own_snapshot(tmp_path: Path) -> None:
    folder = started(tmp_path)
    write(folder.path, {"trials/0000/metrics.jsonl": "1\n", ".lock": ""})
    folder.save()
    assert objects_of(tmp_path / "store" / "s") == ["optuna.journal", "snapshot.json", "study.yaml"]


def test_what_the_driver_adds_to_a_run_is_kept_without_its_models_again(tmp_path: Path) -> None:
    folder = started(tmp_path)
    trained(tmp_path, "final/base-seed0")
    run = folder.path / "final" / "base-seed0"
    folder.take(run, models=True)
    before = {p.name for p in (tmp_path / "store").rglob("model.safetensors~*")}
    write(run, {"evaluation/test/metrics.json": "{}"})
    folder.keep(run)
    assert {p.name for p in (tmp_path / "store").rglob("model.safetensors~*")} == before
    second = at(tmp_path)
    second.open()
    assert (second.path / "final" / "base-seed0" / "evaluation" / "test" / "metrics.json").exists()
    assert second.has_checkpoint(second.path / "final" / "base-seed0" / "checkpoint")


def test_the_models_of_folds_are_dropped_here_and_there(tmp_path: Path) -> None:
    folder = started(tmp_path)
    trained(tmp_path, "trials/0000", FOLDS)
    run = folder.path / "trials" / "0000"
    folder.take(run, models=True)
    assert folder.has_checkpoint(run / "fold1" / "checkpoint")
    folder.drop_models(run)
    assert files_of(run) == {"metrics.jsonl": "1\n"}
    assert objects_of(tmp_path / "store" / "s" / "trials" / "0000") == ["metrics.jsonl", "snapshot.json"]
    assert not folder.has_checkpoint(run / "fold1" / "checkpoint")


def test_the_end_of_curves_that_came_late_outlives_the_models(tmp_path: Path) -> None:
    """A trial that was pruned says so after the driver took over what it had."""
    folder = started(tmp_path)
    there = tmp_path / "elsewhere"
    trial = RemoteFolder((tmp_path / "store" / "s" / "trials" / "0000").as_uri(), write(there, RUN))
    trial.push()
    run = folder.path / "trials" / "0000"
    folder.take(run)
    write(there, {"events": "the end"})
    trial.push()
    folder.drop_models(run)
    second = at(tmp_path)
    second.open()
    assert files_of(second.path / "trials" / "0000") == {"metrics.jsonl": "1\n", "events": "the end"}


def test_a_kill_while_a_run_is_put_elsewhere_is_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = started(tmp_path)
    trained(tmp_path, "final/winner-seed0")
    run, to = "final/winner-seed0", "final/earlier-1234/winner-seed0"

    def killed(self: RemoteFolder) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            first.move(first.path / run, first.path / to)
    second = at(tmp_path)
    second.open()
    assert (second.path / run).exists()
    second.move(second.path / run, second.path / to)
    third = at(tmp_path)
    third.open()
    assert not (third.path / run).exists()
    assert files_of(third.path / to) == {"metrics.jsonl": "1\n"}


@pytest.mark.parametrize("remote", [True, False])
def test_a_run_is_put_elsewhere(tmp_path: Path, remote: bool) -> None:
    folder = started(tmp_path) if remote else StudyFolder(str(tmp_path / "store"), "s")
    run, to = (folder.path / "final" / name for name in ("winner-seed0", "earlier-1234/winner-seed0"))
    if remote:
        trained(tmp_path, "final/winner-seed0")
        write(to, {"left": "by a kill in between"})
    else:
        write(run, RUN)
    folder.move(run, to)
    assert not run.exists()
    assert files_of(to) == {"metrics.jsonl": "1\n"}
    if remote:
        store = tmp_path / "store" / "s" / "final"
        assert objects_of(store / "winner-seed0") == []
        assert objects_of(store / "earlier-1234" / "winner-seed0") == ["metrics.jsonl", "snapshot.json"]


def test_epochs_are_stored_rarely_and_tells_at_once(tmp_path: Path) -> None:
    now = [100.0]
    folder = at(tmp_path, clock=lambda: now[0])
    folder.open()

    def stored() -> str:
        raw = json.loads((tmp_path / "store" / "s" / "snapshot.json").read_text())
        return str(raw["number"])

    for second, text, save, number in (
        (100.0, "a", folder.save, "1"),
        (105.0, "b", folder.save_rarely, "1"),
        (111.0, "c", folder.save_rarely, "2"),
        (112.0, "d", folder.save, "3"),
    ):
        now[0] = second
        write(folder.path, {"optuna.journal": text})
        save()
        assert stored() == number


def test_a_driver_that_was_overtaken_ends(tmp_path: Path) -> None:
    first, second = started(tmp_path), at(tmp_path)
    second.open()
    write(second.path, {"optuna.journal": "{}\n{}\n"})
    second.save()
    write(first.path, {"optuna.journal": "other"})
    with pytest.raises(TakenOverError):
        first.save()


def test_a_storage_that_was_never_there_is_said_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("raydml.patience.time.sleep", waits.append)
    with pytest.raises(StorageError, match=r"^storage: nowhere://data/s failed 1 times in 0 s: "):
        StudyFolder("nowhere://data", "s").open()
    assert not waits


def test_a_damaged_study_is_refused(tmp_path: Path) -> None:
    started(tmp_path)
    [path] = (tmp_path / "store" / "s").glob("optuna.journal~*")
    path.write_text("{}\n{}\n")
    with pytest.raises(ConfigError, match="is not what was stored"):
        at(tmp_path).open()
    shutil.rmtree(tmp_path / "store")


def test_commands_name_a_uri_with_its_options() -> None:
    folder = StudyFolder("file:///runs?x=1", "s")
    assert folder.place == "file:///runs/s"
    assert folder.argument == "'file:///runs/s?x=1'"
    assert folder.argument_of("best.yaml") == "'file:///runs/s/best.yaml?x=1'"
    assert folder.curves == "python -m raydml.report 'file:///runs/s?x=1' --fetch s && tensorboard --logdir s"
