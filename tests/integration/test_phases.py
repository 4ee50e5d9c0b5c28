"""Search, confirm, final and report through the command line; killed in every phase, and as if nothing had happened."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import pytest
import torch

from raydml import yamlfile
from raydml.config import parse
from raydml.history import read_history
from raydml.training import RunSpec
from tests.integration.studies import command, environment, outcome, run, run_here, trials_of, wait_for, write_study
from tests.training_cases import train

OPTIONS = (
    "protocol={preset: honest, folds_run: 2, confirm: {top: 1, seeds: 2}, final: {seeds: 2}}",
    "search.num_trials=4",
    "search.early_stopping.grace_epochs=2",
)
ONE_AT_A_TIME = (*OPTIONS, "search.max_concurrent=1")
CONFIRMED = {f"{name}-seed{k}" for name in ("base", "winner") for k in (0, 1)}
# What differs between two runs of the same numbers.
_TIMES_AND_PLACES = ("seconds", "directory", "time")


@dataclass(frozen=True)
class HonestStudy:
    """A study after all its phases, one trial at a time, undisturbed."""

    path: Path
    folder: Path
    process: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory, cache: Path, ray_here: None) -> HonestStudy:
    folder = tmp_path_factory.mktemp("honest")
    path = write_study(folder, cache)
    process = run_here("tune", path, *ONE_AT_A_TIME)
    assert process.returncode == 0, process.stdout + process.stderr
    return HonestStudy(path, folder / "runs" / "small", process)


def numbers(value: object) -> object:
    """A report without times and places."""
    if isinstance(value, Mapping):
        return {k: numbers(v) for k, v in value.items() if not str(k).endswith(_TIMES_AND_PLACES)}
    return [numbers(item) for item in value] if isinstance(value, list) else value


def report_of(folder: Path) -> object:
    return numbers(json.loads((folder / "report" / "report.json").read_text(encoding="utf-8")))


def looks_at(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "test_looks.jsonl").read_text(encoding="utf-8").splitlines()]


def runs_in(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("*-seed*/config.yaml")}


def test_every_phase_leaves_what_it_must(honest: HonestStudy) -> None:
    finals = runs_in(honest.folder / "final")
    assert finals in (CONFIRMED, {"base-seed0", "base-seed1"})
    assert len(runs_in(honest.folder / "confirm")) in (2, 4)
    for name in finals:
        run_folder = honest.folder / "final" / name
        rows = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        assert not any(key.startswith(("val/", "test/")) for row in rows for key in row)
        found = json.loads((run_folder / "evaluation" / "test" / "metrics.json").read_text(encoding="utf-8"))
        assert 0.0 < found["map@r"] < 1.0
    assert len(looks_at(honest.folder)) == len(finals), "every model met the test classes once"
    assert {path.suffix for path in (honest.folder / "report").iterdir()} == {".html", ".json", ".md", ".tex"}


def test_only_the_first_models_keep_checkpoints(honest: HonestStudy) -> None:
    kept = {path.parent.relative_to(honest.folder).parts[:2] for path in honest.folder.rglob("model.safetensors")}
    first = {name for name in runs_in(honest.folder / "final") if name.endswith("-seed0")}
    assert {parts for parts in kept if parts[0] != "trials"} == {("final", name) for name in first}
    winner = "winner" if "winner-seed0" in first else "base"
    assert f"checkpoint: final/{winner}-seed0/checkpoint" in (honest.folder / "best.yaml").read_text(encoding="utf-8")


def test_the_output_names_winner_and_intervals(honest: HonestStudy) -> None:
    text = honest.process.stdout
    assert "confirm base-seed0 trained: val/map@r=" in text
    assert "meet the test classes, once" in text
    assert "winner" in text
    assert "report.html" in text


def test_what_is_done_is_not_done_again(honest: HonestStudy) -> None:
    before = {path: path.stat().st_mtime_ns for path in honest.folder.glob("*/*/metrics.jsonl")}
    looks, report = looks_at(honest.folder), report_of(honest.folder)
    again = run_here("tune", honest.path, *ONE_AT_A_TIME)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {path: path.stat().st_mtime_ns for path in honest.folder.glob("*/*/metrics.jsonl")} == before
    assert looks_at(honest.folder) == looks
    assert report_of(honest.folder) == report


def start(path: Path, *overrides: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command("tune", path, *(overrides or ONE_AT_A_TIME)),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def epochs_in(folder: Path) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in folder.glob("*-seed*/metrics.jsonl"))


def evaluates(driver: int) -> bool:
    return any("raydml.evaluate" in line_of(child) for child in psutil.Process(driver).children(recursive=True))


def line_of(process: psutil.Process) -> str:
    """Its command line; nothing of one that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.mark.endurance
def test_a_driver_killed_in_later_phases_changes_nothing(honest: HonestStudy, tmp_path: Path, cache: Path) -> None:
    path = write_study(tmp_path, cache)
    folder = tmp_path / "runs" / "small"
    moments: list[Callable[[int], bool]] = [
        lambda _: epochs_in(folder / "confirm") >= 3,
        evaluates,
    ]
    for moment in moments:
        driver = start(path)
        try:
            wait_for(lambda: moment(driver.pid))  # noqa: B023
        finally:
            driver.kill()
            driver.wait()
    last = run("tune", path, *ONE_AT_A_TIME)
    assert last.returncode == 0, last.stdout + last.stderr
    assert outcome(folder) == outcome(honest.folder)
    assert report_of(folder) == report_of(honest.folder)


def test_a_run_that_fails_ends_the_phase_and_is_named(honest: HonestStudy, tmp_path: Path, cache: Path) -> None:
    path = write_study(tmp_path, cache)
    folder = tmp_path / "runs" / "small"
    shutil.copytree(honest.folder, folder)
    shutil.rmtree(folder / "confirm" / "base-seed1")
    shutil.rmtree(folder / "final")
    broken = folder / "confirm" / "base-seed1" / "fold0" / "checkpoint"
    broken.mkdir(parents=True)
    (broken / "meta.json").write_text("{}", encoding="utf-8")
    failed = run_here("tune", path, *ONE_AT_A_TIME)
    assert failed.returncode == 1
    assert "confirm: 1 of 2 runs failed: base-seed1" in failed.stderr.replace("\n", " ")
    assert not (folder / "final").exists(), "no winner is named without all its runs"


def kill_something(chance: random.Random, driver: psutil.Process) -> None:
    """The driver, an actor of a trial, or the process that evaluates."""
    children = driver.children(recursive=True)
    trials = [c for c in children if "ray::InlineTrial" in line_of(c)]
    looks = [c for c in children if "raydml.evaluate" in line_of(c)]
    chance.choice([driver, *trials[:1], *looks[:1]]).kill()


@pytest.mark.endurance
@pytest.mark.timeout(3600)
def test_twenty_kills_over_all_phases_change_nothing(honest: HonestStudy, tmp_path: Path, cache: Path) -> None:
    path = write_study(tmp_path, cache)
    folder = tmp_path / "runs" / "small"
    chance = random.Random(0)
    kills = 0
    while kills < 20:
        driver = start(path)
        try:
            driver.wait(timeout=chance.uniform(3.0, 25.0))
        except subprocess.TimeoutExpired:
            kill_something(chance, psutil.Process(driver.pid))
            kills += 1
            if driver.poll() is None and chance.random() < 0.5:
                driver.kill()
            driver.wait()
        else:
            # All phases ended between two kills: the result must be right, and another study begins.
            assert report_of(folder) == report_of(honest.folder)
            shutil.rmtree(folder)
    last = run("tune", path, *ONE_AT_A_TIME)
    assert last.returncode == 0, last.stdout + last.stderr
    assert outcome(folder) == outcome(honest.folder)
    assert report_of(folder) == report_of(honest.folder)


@pytest.mark.endurance
@pytest.mark.timeout(3600)
def test_kills_with_two_trials_at_a_time_leave_every_curve(honest: HonestStudy, tmp_path: Path, cache: Path) -> None:
    """Suggestions depend on timing; what a configuration achieves does not, and nothing is counted twice."""
    path = write_study(tmp_path, cache)
    folder = tmp_path / "runs" / "small"
    chance = random.Random(1)
    for _ in range(10):
        driver = start(path, *OPTIONS)
        try:
            driver.wait(timeout=chance.uniform(5.0, 25.0))
        except subprocess.TimeoutExpired:
            kill_something(chance, psutil.Process(driver.pid))
            driver.kill()
            driver.wait()
    last = run("tune", path, *OPTIONS)
    assert last.returncode == 0, last.stdout + last.stderr
    trials = trials_of(folder)
    assert len(trials) == 4
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    for run_folder in [*folder.glob("trials/*"), *folder.glob("confirm/*"), *folder.glob("final/*")]:
        split: Literal["train", "trainval"] = "trainval" if run_folder.parent.name == "final" else "train"
        config = parse(yamlfile.load(run_folder / "config.yaml"))
        alone = tmp_path / "alone" / run_folder.relative_to(folder)
        train(RunSpec(config, alone, split, (0, 1)), device=torch.device("cpu"), report=lambda row: None)
        disturbed = timeless(run_folder)
        assert disturbed == timeless(alone)[: len(disturbed)], "a pruned trial is the beginning of a whole one"


def timeless(run_folder: Path) -> list[dict[str, float]]:
    rows = read_history(run_folder)
    return [{name: value for name, value in row.items() if not name.endswith("seconds")} for row in rows]
