"""The commands as a user meets them: exit codes, one line for bad input, and how little is loaded to say it."""

from __future__ import annotations

import io
import logging
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from raydml import cli, identity, yamlfile
from raydml.config.grammar import validate
from raydml.space import Study, read
from tests.command_lines import BAD, FILES, GOOD, HEAVY, MISUSED, STUDY, Outcome, environment, outcomes_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("cli")
    for name, content in FILES.items():
        (where / name).parent.mkdir(exist_ok=True)
        (where / name).write_bytes(content)
    return where


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[str, Outcome]:
    return outcomes_of(folder, {**{name: argv for name, (argv, _, _) in BAD.items()}, **GOOD, **MISUSED})


def heavy(outcome: Outcome) -> list[str]:
    return [name for name in outcome.loaded if name in HEAVY]


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_code_2(outcomes: dict[str, Outcome], name: str) -> None:
    _, begin, rest = BAD[name]
    outcome = outcomes[name]
    assert outcome.code == 2, outcome
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith(f"error: {begin}"), outcome.err
    assert all(text in outcome.err for text in rest), outcome.err
    assert "Traceback" not in outcome.err
    assert heavy(outcome) == [], "bad input is found before anything heavy is loaded"


@pytest.mark.parametrize("name", MISUSED)
def test_a_misused_command_shows_the_usage_of_that_command(outcomes: dict[str, Outcome], name: str) -> None:
    """`python -m raydml` alone does not exist."""
    outcome = outcomes[name]
    assert outcome.code == 2
    assert outcome.err.startswith(f"usage: python -m raydml.{MISUSED[name][0]} ")
    assert f"python -m raydml.{MISUSED[name][0]}: error: " in outcome.err
    assert "required: STUDY.yaml, path=value" not in outcome.err, "overrides are never required"


def test_help_says_what_to_type(outcomes: dict[str, Outcome]) -> None:
    assert all(command in outcomes["help"].out for command in ("tune", "train", "evaluate", "report"))
    for command, what in (("tune", "STUDY.yaml"), ("train", "STUDY.yaml"), ("evaluate", "RUN"), ("report", "RUN")):
        outcome = outcomes[f"help of {command}"]
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.out.startswith(f"usage: python -m raydml.{command} ")
        assert what in outcome.out
        assert "path=value" in outcome.out
        assert heavy(outcome) == []


@pytest.mark.parametrize("name", ["tune", "train"])
def test_check_prints_what_would_run_and_what_it_needs(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    assert (outcome.code, outcome.err) == (0, "")
    assert heavy(outcome) == []
    resolved, _, plan = outcome.out.partition("\ntrainings: ")
    assert validate(Study, yamlfile.loads(resolved)) == read(Path(STUDY))
    assert plan.startswith(
        "12 (12 x 1 folds), at most 144 epochs" if name == "tune" else "1 (1 x 1 folds), at most 12 "
    )
    assert "a trial needs: 1 workers x 1 CPUs" in plan
    assert re.search(r"this machine: \d+ CPUs, \d+ GPUs: \d+ at a time", plan)


def test_check_prints_words_as_they_are(outcomes: dict[str, Outcome]) -> None:
    """Brackets are no markup."""
    out = outcomes["words"].out
    assert out.startswith("adapted: loss.margin is pinned to 0.5: its range is removed\n")
    assert "storage: runs[old]\n" in out
    assert "a trial needs: 1 workers x 1 CPUs and 0 GPUs\n" in out


def test_check_says_what_a_kind_adapted(outcomes: dict[str, Outcome]) -> None:
    assert "adapted: data.kind glyphs -> digits: batch_size 128 -> 40, " in outcomes["digits"].out


def test_flags_and_overrides_come_in_any_order(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["check first"]
    assert outcome.code == 0, outcome.err
    assert "margin: 0.5\n" in outcome.out


def test_every_fold_of_a_single_trial_is_a_training(outcomes: dict[str, Outcome]) -> None:
    assert "trainings: 2 (1 x 2 folds), at most 16 epochs" in outcomes["one trial"].out


def python_m(folder: Path, *argv: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options, "-m", *argv]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)


def test_check_takes_well_under_two_seconds_and_loads_neither_torch_nor_ray(folder: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = python_m(folder, "raydml.tune", STUDY, "--check", options=("-X", "importtime"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "raydml.space" in imported
    assert imported.isdisjoint(HEAVY)
    # Seconds of the processor: those of the clock depend on what else this machine does.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.0


@pytest.mark.parametrize("command", ["tune", "train", "evaluate", "report"])
def test_the_module_is_the_command(folder: Path, command: str) -> None:
    done = python_m(folder, f"raydml.{command}", "missing.yaml")
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"error: missing\.yaml: no such (file|run)\n", done.stderr)


def ray_runs() -> bool:
    ray: Any = sys.modules.get("ray")
    return bool(ray and ray.is_initialized())


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_a_folder_that_holds_a_different_study_is_refused_before_ray_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Small, should the refusal ever fail.
    small = [f"storage={tmp_path}", "search.num_trials=1", "data.num_classes=24", "training.num_epochs=2"]
    other = read(Path(STUDY), [*small, "optimizer.weight_decay=0.5"])
    identity.write(tmp_path / "margin", identity.identity_of(other, "f"))
    assert cli.main(["tune", STUDY, *small]) == 2
    error = one_line(capsys)
    assert f"{tmp_path / 'margin'} holds a different study: base.optimizer.weight_decay is 0.5 there" in error
    assert "name=" in error
    assert not ray_runs()
    assert sorted(p.name for p in (tmp_path / "margin").iterdir()) == ["identity.json"]


@pytest.mark.parametrize("command", ["tune", "train"])
def test_a_storage_that_cannot_be_written_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (tmp_path / "file").touch()
    assert cli.main([command, STUDY, f"storage={tmp_path / 'file'}"]) == 2
    assert str(tmp_path / "file") in one_line(capsys)
    assert not ray_runs()


@pytest.mark.parametrize("command", ["tune", "train"])
def test_a_precision_that_would_be_wrong_on_this_machine_is_bad_input(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    small = ["data.num_classes=24", "data.images_per_class=8", "data.image_size=16", f"data.cache={cache}"]
    wrong = ["training.precision=bfloat16", "resources.gpus_per_worker=0"]
    assert cli.main([command, STUDY, f"storage={tmp_path}", *small, *wrong]) == 2
    assert one_line(capsys).startswith("error: training.precision: bfloat16 on the CPU has wrong gradients in ")
    assert not ray_runs()


def test_evaluating_a_folder_without_a_run_says_what_could_be_there(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", str(folder / "plain")]) == 2
    assert one_line(capsys).startswith(f"error: {folder / 'plain'}: neither embeddings (.parquet), nor ")
    assert not ray_runs()


def test_an_interrupted_command_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "read_with_notes", interrupted)
    assert cli.main(["tune", STUDY]) == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on from here\n"


@pytest.mark.parametrize(("terminal", "lines"), [(True, 3), (False, 1)])
def test_a_message_in_a_log_is_one_line_and_no_padding(terminal: bool, lines: int) -> None:
    console = Console(file=io.StringIO(), width=40, force_terminal=terminal, color_system=None)
    handler = cli._log_handler(console)
    handler.handle(logging.LogRecord("x", logging.WARNING, "", 0, "0000 lost a worker: " + "gone " * 15, (), None))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert text.count("\n") >= lines if terminal else text == f"WARNING 0000 lost a worker: {'gone ' * 15}\n"
