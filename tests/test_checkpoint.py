"""A checkpoint is whole, says what it is, runs no code and refuses other data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from raydml import checkpoint
from raydml.config import ConfigError, ExperimentConfig, parse, replace_at
from raydml.epoch import TrainingState, new_state
from raydml.objective import DataShape

SHAPE = DataShape(num_classes=3, in_channels=1, image_size=16, mean=(0.25,), std=(1 / 3,))


def fresh(config: ExperimentConfig, device: torch.device) -> TrainingState:
    return new_state(config, SHAPE, steps_per_epoch=4, device=device)


def stepped(config: ExperimentConfig, device: torch.device, *, epoch: int = 2) -> TrainingState:
    """A state whose optimizer has moments, with a history."""
    state = fresh(config, device)
    for parameter in state.objective.parameters():
        parameter.grad = torch.full_like(parameter, 0.1)
    state.optimizer.step()
    state.epoch, state.step = epoch, 4 * epoch
    state.history = [{"epoch": e + 1, "val/map@r": 0.1 * e} for e in range(epoch)]
    return state


def assert_equal_states(ours: TrainingState, theirs: TrainingState) -> None:
    assert ours.objective.state_dict().keys() == theirs.objective.state_dict().keys()
    for name, value in ours.objective.state_dict().items():
        assert torch.equal(value, theirs.objective.state_dict()[name]), name
    one, other = ours.optimizer.state_dict(), theirs.optimizer.state_dict()
    assert one["param_groups"] == other["param_groups"]
    torch.testing.assert_close(one["state"], other["state"], rtol=0, atol=0)
    for field in ("config", "shape", "steps_per_epoch", "epoch", "step", "history", "unfinished"):
        assert getattr(ours, field) == getattr(theirs, field)


@pytest.fixture
def config(tiny: ExperimentConfig) -> ExperimentConfig:
    return replace_at(tiny, "loss.kind", "proxy_anchor")


@pytest.fixture
def folder(config: ExperimentConfig, tmp_path: Path) -> Path:
    checkpoint.save(stepped(config, torch.device("cpu")), tmp_path / "checkpoint", fingerprint="one", fold=1)
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_state_comes_back_as_it_was(
    optimizer: str, precision: str, config: ExperimentConfig, device: torch.device, tmp_path: Path
) -> None:
    config = replace_at(replace_at(config, "optimizer.kind", optimizer), "training.precision", precision)
    state = stepped(config, device)
    checkpoint.save(state, tmp_path, fingerprint="f", fold=0)
    assert_equal_states(checkpoint.load(tmp_path, device=device, fingerprint="f"), state)


def test_the_objective_alone_is_ready_for_use(config: ExperimentConfig, folder: Path) -> None:
    objective, its_config, shape = checkpoint.load_objective(folder)
    assert (its_config, shape) == (config, SHAPE)
    assert not objective.training
    expected = stepped(config, torch.device("cpu")).objective.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in objective.state_dict().items())


def test_a_person_can_read_what_it_is(config: ExperimentConfig, folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["meta.json", "model.safetensors", "state.pt"]
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    assert parse(meta["config"]) == config
    assert (meta["epoch"], meta["step"], meta["fold"], meta["fingerprint"]) == (2, 8, 1, "one")
    assert torch.__version__.startswith(meta["versions"]["torch"])
    assert [row["epoch"] for row in meta["history"]] == [1, 2]


def test_a_digest_is_that_of_the_model(config: ExperimentConfig, folder: Path, tmp_path: Path) -> None:
    before = checkpoint.digest(folder)
    moved = folder.rename(tmp_path / "moved")
    assert checkpoint.digest(moved) == before
    meta = json.loads((moved / "meta.json").read_text(encoding="utf-8"))
    (moved / "meta.json").write_text(json.dumps({**meta, "epoch": 7}), encoding="utf-8")
    assert checkpoint.digest(moved) == before
    meta["config"]["data"]["image_size"] = 32
    (moved / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    other = checkpoint.digest(moved)
    with (moved / "model.safetensors").open("ab") as file:
        file.write(b"x")
    assert len({before, other, checkpoint.digest(moved)}) == 3


def test_other_data_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"other data .*one.*two"):
        checkpoint.load(folder, device=torch.device("cpu"), fingerprint="two")


@pytest.mark.parametrize(
    ("meta", "law"), [(None, "no whole checkpoint"), ("{", "no whole checkpoint"), ('{"format": 99}', "format 99")]
)
def test_what_is_no_checkpoint_is_refused(meta: str | None, law: str, folder: Path) -> None:
    (folder / "meta.json").unlink()
    if meta is not None:
        (folder / "meta.json").write_text(meta, encoding="utf-8")
    for load in (checkpoint.load_objective, checkpoint.read_meta):
        with pytest.raises(ConfigError, match=law):
            load(folder)
    with pytest.raises(ConfigError, match=law):
        checkpoint.load(folder, device=torch.device("cpu"))


class _Exploit:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_a_checkpoint_runs_no_code(folder: Path, tmp_path: Path) -> None:
    torch.save({"optimizer": _Exploit(tmp_path / "touched")}, folder / "state.pt")
    with pytest.raises(ConfigError, match=r"state\.pt holds more than tensors, numbers and names"):
        checkpoint.load(folder, device=torch.device("cpu"))
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("crash_at", [1, 2], ids=["before the first rename", "between the renames"])
def test_a_crash_while_saving_leaves_the_checkpoint_before(
    crash_at: int, config: ExperimentConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, count = Path.rename, 0

    def crashing(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == crash_at:
            raise SystemError("crash")
        return rename(self, target)

    host = torch.device("cpu")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", crashing)
        with pytest.raises(SystemError):
            checkpoint.save(stepped(config, host, epoch=3), folder, fingerprint="one", fold=1)
    assert checkpoint.exists(folder)
    assert_equal_states(checkpoint.load(folder, device=host), stepped(config, host))
    checkpoint.save(stepped(config, host, epoch=3), folder, fingerprint="one", fold=1)
    assert checkpoint.load(folder, device=host).epoch == 3
    assert not (folder.parent / "checkpoint.previous").exists()


def test_half_a_checkpoint_is_none(config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", no_space)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(fresh(config, torch.device("cpu")), tmp_path / "checkpoint", fingerprint="f", fold=0)
    assert not checkpoint.exists(tmp_path / "checkpoint")
    assert list(tmp_path.iterdir()) == []


def test_where_the_first_weights_came_from_stays_on_record(
    config: ExperimentConfig, folder: Path, tmp_path: Path
) -> None:
    host, later = torch.device("cpu"), tmp_path / "later"
    started = replace_at(config, "model.weights", str(folder))
    state = fresh(started, host)
    checkpoint.save(state, later, fingerprint="f", fold=0)
    # A resumed training needs them no more: they may be gone.
    folder.rename(tmp_path / "gone")
    resumed = checkpoint.load(later, device=host)
    checkpoint.save(resumed, later, fingerprint="f", fold=0)
    assert parse(checkpoint.read_meta(later)["config"]) == started
