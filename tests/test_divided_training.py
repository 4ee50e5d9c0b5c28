"""Divide-and-conquer in whole trainings: absent with one learner, what an epoch reports, and how it ends badly."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from raydml.config import ConfigError, ExperimentConfig
from raydml.data.opening import open_images
from raydml.data.subsets import fold_subsets
from raydml.epoch import TrainingStoppedError
from raydml.history import read_history
from raydml.kmeans import Shard
from raydml.models import EmbeddingModel
from raydml.optim import lr_factor, set_learning_rates
from raydml.training import Run, RunSpec
from tests.conftest import changed
from tests.divided_cases import (
    HOST,
    NUM_EPOCHS,
    SEE,
    Fields,
    assert_equal_runs,
    assert_equal_trainings,
    divided,
    trained,
    weights,
)

ONE: Fields = {
    "num_learners": 1,
    "recluster_epochs": 1,
    "full_embedding_epoch": 1,
    "conquer_epoch": 2,
    "cluster_on": "embeddings",
    "cluster_by": "class",
    "round_length": "max",
    "inactive_slices": "frozen",
    "hierarchical": True,
    "freeze_epochs": 3,
}
ON_CLUSTERINGS = {"divide/imbalance", "divide/learners", "divide/excluded", "divide/seconds"}


@pytest.mark.parametrize(
    ("loss", "see"),
    [({"kind": "proxy_anchor"}, SEE), ({"kind": "margin", "learn_beta": "per_class", "memory": {"size": 40}}, {})],
    ids=["see", "memory"],
)
@pytest.mark.parametrize(
    "one", [ONE, {**ONE, "masks": "learned", "normalise": "whole"}, {"preset": "tpami2021"}], ids=["v1", "masks", "v2"]
)
def test_one_learner_is_no_division(
    one: Fields, see: Fields, loss: Fields, tiny: ExperimentConfig, tmp_path: Path
) -> None:
    """To the bit, whatever else the section says."""
    config = changed(tiny, loss=loss, see=see)
    trained(config, tmp_path / "plain")
    rows = trained(changed(config, divide=one), tmp_path / "one")
    assert_equal_runs(tmp_path / "one", tmp_path / "plain")
    assert not [name for name in rows[0] if "divide" in name or "passes" in name]


@pytest.mark.parametrize("loss", ["proxy_anchor", "discriminate"])
@pytest.mark.parametrize(
    "see",
    [{**SEE, "num_expansions": 0}, {**SEE, "weight": 0.0}, {**SEE, "final_fraction": 0.0}],
    ids=["no expansions", "no weight", "of nobody"],
)
def test_expansions_that_do_nothing_change_no_division(
    see: Fields, loss: str, tiny: ExperimentConfig, tmp_path: Path
) -> None:
    """specs/see.md, 13: to the bit. Running means of losses on pairs move, and nothing reads them."""
    config = divided(tiny, loss__kind=loss)
    trained(config, tmp_path / "plain")
    trained(changed(config, see=see), tmp_path / "see")
    for prefix in ("model.", "loss."):
        assert_equal_trainings(tmp_path / "see", tmp_path / "plain", prefix=prefix)


@pytest.mark.parametrize("loss", ["proxy_anchor", "discriminate"])
def test_expansions_that_do_something_change_it(loss: str, tiny: ExperimentConfig, tmp_path: Path) -> None:
    config = divided(tiny, loss__kind=loss, see=SEE)
    rows, plain = trained(config, tmp_path / "see"), trained(divided(tiny, loss__kind=loss), tmp_path / "plain")
    assert all(row["train/see/selected"] > 0 for row in rows)
    assert all(row["train/loss"] != other["train/loss"] for row, other in zip(rows, plain, strict=True))


@pytest.mark.parametrize("loss", ["proxy_anchor", "soft_triple", "discriminate"])
def test_conquered_from_the_start_is_the_undivided_training(loss: str, tiny: ExperimentConfig, tmp_path: Path) -> None:
    """The same batches of all images, the same loss of all dimensions, to rounding."""
    config = changed(tiny, loss__kind=loss, training__precision="float64", optimizer={"kind": "sgd", "lr": 0.01})
    divide = {"num_learners": 4, "full_embedding_epoch": 0, "conquer_epoch": 0, "normalise": "whole"}
    plain, conquered = trained(config, tmp_path / "plain"), trained(changed(config, divide=divide), tmp_path / "all")
    for row, expected in zip(conquered, plain, strict=True):
        assert row.keys() == expected.keys()
        assert row["train/loss"] == pytest.approx(expected["train/loss"], rel=1e-9)
    found, expected_weights = weights(tmp_path / "all"), weights(tmp_path / "plain")
    torch.testing.assert_close(found, expected_weights, rtol=1e-8, atol=1e-9)


def test_an_epoch_reports_its_clustering(tiny: ExperimentConfig, tmp_path: Path) -> None:
    rows = trained(divided(tiny), tmp_path)
    sizes = {f"divide/size/{k}" for k in range(4)}
    reported = [{name for name in row if name.startswith("divide/")} for row in rows]
    again = sizes | ON_CLUSTERINGS | {"divide/churn"}
    assert reported == [sizes | ON_CLUSTERINGS, set(), again, set(), again, set()]
    for row in (rows[0], rows[2], rows[4]):
        counts = [row[name] for name in sorted(sizes)]
        assert sum(counts) == 72
        assert row["divide/imbalance"] == pytest.approx(max(counts) / 18)
        assert 0.0 <= row["divide/excluded"] < 1.0
        assert row["divide/learners"] in (1, 2, 3, 4)
        assert row["divide/seconds"] > 0
        assert 0.0 <= row.get("divide/churn", 0.0) <= 1.0
    assert ["train/passes" in row for row in rows] == [True] * 5 + [False]
    assert read_history(tmp_path) == rows


def test_clusters_keep_their_numbers(tiny: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same clusters under turned numbers: whoever matches by the inverse moves every image."""
    turns = iter(range(9))

    def turned(shard: Shard, num_learners: int, *, seed: int) -> Tensor:
        sizes = torch.tensor([12, 16, 20, 24])
        return (torch.arange(4).repeat_interleave(sizes) + next(turns)) % num_learners

    monkeypatch.setattr("raydml.clustering.partition", turned)
    rows = trained(divided(tiny), tmp_path)
    for row in (rows[0], rows[2], rows[4]):
        assert [row[f"divide/size/{k}"] for k in range(4)] == [12, 16, 20, 24]
        assert row.get("divide/churn", 0.0) == 0.0


@pytest.mark.parametrize("stage_full", [3, 9])
def test_a_hierarchical_run_doubles_its_learners(stage_full: int, tiny: ExperimentConfig, tmp_path: Path) -> None:
    divide = {"hierarchical": True, "full_embedding_epoch": stage_full, "conquer_epoch": 9}
    rows = trained(divided(tiny, divide, training__num_epochs=9), tmp_path)
    counts = [sum(name.startswith("divide/size/") for name in row) for row in rows]
    assert counts == [0, 0, 2, 0, 4, 0, 4, 0, 4]
    assert ["divide/churn" in row for row in rows] == [False] * 4 + [True, False, True, False, True]
    assert ["train/passes" in row for row in rows] == [False] * 2 + [True] * 7


def test_folds_are_divided_on_their_own(tiny: ExperimentConfig, tmp_path: Path) -> None:
    run = Run(RunSpec(divided(tiny), tmp_path, folds=(0, 1)), device=HOST)
    row = run.advance()
    run.close()
    assert row is not None
    for k in range(4):
        of_each = [row[f"fold{fold}/divide/size/{k}"] for fold in (0, 1)]
        assert row[f"divide/size/{k}"] == sum(of_each) / 2


class BrokenFeatures:
    """A backbone that gives NaN for two images, from some clustering on."""

    def __init__(self, right: Callable[[EmbeddingModel, Tensor], Tensor], *, fine_calls: int) -> None:
        self.right, self.fine_calls, self.calls = right, fine_calls, 0

    def __call__(self, model: EmbeddingModel, images: Tensor) -> Tensor:
        rows = self.right(model, images).clone()
        self.calls += 1
        if self.calls > self.fine_calls:
            rows[[3, 41]] = torch.nan
        return rows


def test_features_that_are_not_finite_stop_the_training(
    tiny: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line; and the finished epochs stay."""
    broken = BrokenFeatures(EmbeddingModel.unit_features, fine_calls=1)
    monkeypatch.setattr(EmbeddingModel, "unit_features", lambda model, images: broken(model, images))
    with pytest.raises(TrainingStoppedError) as caught:
        trained(divided(tiny), tmp_path)
    message = "backbone features of the training images before epoch 3: 2 of 72 rows are NaN or infinite, first 3, 41"
    assert str(caught.value) == message
    assert len(read_history(tmp_path)) == 2


def test_so_do_embeddings_of_weights_that_are_not_finite(tiny: ExperimentConfig, tmp_path: Path) -> None:
    run = Run(RunSpec(divided(tiny, {"cluster_on": "embeddings"}), tmp_path), device=HOST)
    with torch.no_grad():
        run._models[0]._state.objective.model.head.weight[0, 0] = torch.inf
    with pytest.raises(TrainingStoppedError, match="embeddings of the training images before epoch 1: 72 of 72 rows"):
        run.advance()
    run.close()


def test_where_no_cluster_can_train_the_message_says_what_to_do(
    tiny: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight images of each class in eight clusters: no class has two in any."""

    def dealt(shard: Shard, num_learners: int, *, seed: int) -> Tensor:
        return torch.arange(shard.total) % num_learners

    monkeypatch.setattr("raydml.clustering.partition", dealt)
    subset = fold_subsets(open_images(tiny.data), tiny.data, 0)[0]
    assert np.array_equal(subset.labels, np.repeat(np.arange(9), 8))
    with pytest.raises(ConfigError, match=r"num_learners=8\) has two classes of two images; lower it, or set .*class"):
        trained(divided(tiny, {"num_learners": 8}), tmp_path)
    # Or each of nine classes whole in a cluster: then no image has a negative.
    monkeypatch.setattr("raydml.clustering.partition", lambda shard, num, seed: torch.arange(shard.total) // 8)
    with pytest.raises(ConfigError, match=r"none of 9 clusters .*num_learners=9\) has two classes"):
        trained(divided(tiny, {"num_learners": 9}), tmp_path / "classes")


def test_more_learners_than_images_are_refused(tiny: ExperimentConfig, tmp_path: Path) -> None:
    config = changed(tiny, model__embedding_dim=80)
    with pytest.raises(ConfigError, match=r"must not exceed the training images, but got 73 .* 72 images"):
        trained(divided(config, {"num_learners": 73}), tmp_path)


@pytest.mark.parametrize(
    ("round_length", "kind"),
    [("mean", "cosine"), ("max", "cosine"), ("min", "cosine"), ("proportional", "cosine"), ("max", "step")],
)
def test_epochs_of_any_length_keep_the_schedule(
    round_length: str, kind: str, tiny: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every epoch begins where it does in an undivided training, and never overtakes the next one."""
    factors: list[float] = []

    def noted(optimizer: torch.optim.Optimizer, factor: float, *, backbone_rests: bool = False) -> None:
        factors.append(factor)
        set_learning_rates(optimizer, factor, backbone_rests=backbone_rests)

    monkeypatch.setattr("raydml.epoch.set_learning_rates", noted)
    schedule = {"kind": kind, **({"every_epochs": 2} if kind == "step" else {})}
    data = {"batch_size": 8, "samples_per_class": 2}
    config = divided(tiny, {"round_length": round_length}, schedule=schedule)
    config = changed(config, **{f"data__{name}": value for name, value in data.items()})
    rows = trained(config, tmp_path)
    ends = [0, *(int(row["step"]) for row in rows)]
    of_epochs = [factors[first:behind] for first, behind in pairwise(ends)]
    expected = [
        lr_factor(config.schedule, step=3 * epoch, steps_per_epoch=3, num_epochs=NUM_EPOCHS)
        for epoch in range(NUM_EPOCHS)
    ]
    assert [factors_of[0] for factors_of in of_epochs] == pytest.approx(expected, rel=1e-12)
    assert factors == sorted(factors, reverse=True)
    assert {len(factors_of) for factors_of in of_epochs[:-1]} == {3} or round_length in ("max", "min")
    if round_length == "max":
        assert max(map(len, of_epochs)) > 3
