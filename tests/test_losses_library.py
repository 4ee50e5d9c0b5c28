"""Losses of pytorch-metric-learning by name: the same numbers, no trace on the world, and errors a person can read."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses as pml
from pytorch_metric_learning import miners
from torch import Tensor

from raydml.config import (
    ConfigError,
    Distribution,
    ExperimentConfig,
    LibraryConfig,
    Range,
    distribution_of,
    dump,
    parse,
    replace_at,
)
from raydml.config.grammar import field_types, get_at, validate
from raydml.losses import build_loss
from raydml.losses.library import LibraryLoss
from raydml.objective import DataShape, StepContext, build_objective
from raydml.space import read, read_with_notes
from tests import loss_oracles as oracle

_DIM, _NUM_CLASSES, _NAMES = 4, 6, [0, 0, 1, 1, 2, 2, 5, 5]
_SHAPE = DataShape(num_classes=_NUM_CLASSES, in_channels=1, image_size=32, mean=(0.4,), std=(0.3,))


def _build(device: torch.device, name: str, **fields: object) -> LibraryLoss:
    """With the same parameters every time, in float32."""
    config = LibraryConfig.model_validate({"kind": "library", "name": name, **fields})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        loss = build_loss(config, num_classes=_NUM_CLASSES, embedding_dim=_DIM)
    assert isinstance(loss, LibraryLoss)
    return loss.to(device)


def _batch(device: torch.device) -> tuple[Tensor, Tensor]:
    rows = oracle.unit_rows(len(_NAMES), _DIM, seed=3, noise=2.0, classes=_NAMES).float()
    return rows.to(device), torch.tensor(_NAMES, device=device)


_DIRECT: dict[str, tuple[dict[str, Any], Callable[[], Any]]] = {
    "no arguments": ({"name": "FastAPLoss"}, lambda: pml.FastAPLoss()),
    "an argument": ({"name": "NTXentLoss", "arguments": {"temperature": 0.3}}, lambda: pml.NTXentLoss(temperature=0.3)),
    "a miner": (
        {"name": "MarginLoss", "miner": "TripletMarginMiner", "miner_arguments": {"type_of_triplets": "hard"}},
        lambda: pml.MarginLoss(),
    ),
    "proxies": ({"name": "ProxyAnchorLoss"}, lambda: pml.ProxyAnchorLoss(_NUM_CLASSES, _DIM)),
    "weights": (
        {"name": "ArcFaceLoss", "arguments": {"margin": 10.0, "scale": 8}},
        lambda: pml.ArcFaceLoss(_NUM_CLASSES, _DIM, margin=10.0, scale=8),
    ),
    # These two hand num_classes and embedding_size on without naming them.
    "weights, by keywords": ({"name": "CosFaceLoss"}, lambda: pml.CosFaceLoss(_NUM_CLASSES, _DIM)),
    "sub-centres": (
        {"name": "SubCenterArcFaceLoss", "arguments": {"sub_centers": 2}},
        lambda: pml.SubCenterArcFaceLoss(num_classes=_NUM_CLASSES, embedding_size=_DIM, sub_centers=2),
    ),
    "what the data says, overruled": (
        {"name": "MarginLoss", "arguments": {"learn_beta": True, "num_classes": None}},
        lambda: pml.MarginLoss(learn_beta=True),
    ),
}


@pytest.mark.parametrize(("fields", "direct"), _DIRECT.values(), ids=_DIRECT)
def test_equals_the_library_itself(fields: dict[str, Any], direct: Callable[[], Any], device: torch.device) -> None:
    rows, labels = _batch(device)
    found = oracle.run_loss(_build(device, **fields), rows, labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        theirs = direct().to(device)
    triplets = miners.TripletMarginMiner(**fields["miner_arguments"])(rows, labels) if "miner" in fields else None
    leaf = rows.clone().requires_grad_()
    value = theirs(leaf, labels, triplets)
    value.backward()
    assert leaf.grad is not None
    gradients = tuple(p.grad.cpu().double() for p in theirs.parameters())
    assert float(value.detach()) > 0
    oracle.assert_agree(found, oracle.Judged(value.detach().cpu().double(), leaf.grad.cpu().double(), gradients), 1e-6)


def _random(device: torch.device) -> LibraryLoss:
    """The library draws triplets from the global generators."""
    return _build(device, "TripletMarginLoss", miner="DistanceWeightedMiner", arguments={"margin": 1.0})


def test_a_random_miner_follows_the_generator(device: torch.device) -> None:
    """Equal on every rank and after a resume, wherever the global generators are."""
    (rows, labels), loss = _batch(device), _random(device)

    def value(seed: int) -> float:
        return float(loss(rows, labels, generator=torch.Generator(device).manual_seed(seed)).value)

    first = [value(seed) for seed in range(6)]
    torch.rand(7)
    assert [value(seed) for seed in range(6)] == first
    assert len(set(first)) > 1


def test_global_generators_stay_where_they_are(device: torch.device) -> None:
    """Those of every GPU, for a batch that lies on the CPU too; dropout would depend on the loss otherwise."""
    rows, labels = _batch(device)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    before = torch.random.get_rng_state()
    _random(device)(rows, labels, generator=torch.Generator(device).manual_seed(3))
    assert torch.equal(torch.random.get_rng_state(), before)
    after = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    assert all(torch.equal(a, b) for a, b in zip(cuda, after, strict=True))


def test_without_a_generator_the_global_one_is_used(device: torch.device) -> None:
    (rows, labels), loss = _batch(device), _random(device)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        values = {float(loss(rows, labels).value) for _ in range(6)}
    assert len(values) > 1


@pytest.mark.parametrize("name", ["ProxyAnchorLoss", "ArcFaceLoss", "SoftTripleLoss"])
def test_parameters_stay_float32_under_half_precision(name: str, device: torch.device) -> None:
    """The library would cast them to bfloat16 for good (specs/losses.md, 2.3, number 12), and return that."""
    (rows, labels), loss = _batch(device), _build(device, name)
    output = loss(rows.bfloat16(), labels)
    output.value.backward()
    assert output.value.dtype == torch.float32
    assert output.stats == {}
    assert [p.dtype for p in loss.parameters()] == [torch.float32]
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in loss.parameters())


def test_a_checked_loss_refuses_a_bad_batch(device: torch.device) -> None:
    rows, labels = _batch(device)
    loss = _build(device, "NTXentLoss")
    loss(rows, labels, check=True)
    with pytest.raises(ValueError, match=r"labels must be int64"):
        loss(rows, labels.int(), check=True)


_REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "loss": ({"name": "FastAP"}, "loss.name: pytorch-metric-learning has no losses.FastAP; nearest: FastAPLoss"),
    "no neighbour": ({"name": "xyz"}, "loss.name: pytorch-metric-learning has no losses.xyz"),
    "no module": ({"name": "WeightRegularizerMixin"}, "loss.name: pytorch-metric-learning has no losses.WeightReg"),
    "argument": (
        {"name": "NTXentLoss", "arguments": {"temprature": 0.1}},
        "loss.arguments.temprature: unknown key 'temprature'; known: collect_stats, ",
    ),
    "too few": (
        {"name": "RankedListLoss", "arguments": {"Tn": 1.0}},
        "loss.name: RankedListLoss refuses its arguments {'Tn': 1.0}: ",
    ),
    "a loss of losses": ({"name": "CrossBatchMemory"}, "loss.name: CrossBatchMemory refuses its arguments {}: "),
    "miner": (
        {"name": "NTXentLoss", "miner": "TripletMiner"},
        "loss.miner: pytorch-metric-learning has no miners.TripletMiner; nearest: TripletMarginMiner",
    ),
    "argument of the miner": (
        {"name": "NTXentLoss", "miner": "TripletMarginMiner", "miner_arguments": {"margn": 0.1}},
        "loss.miner_arguments.margn: unknown key 'margn'; known: ",
    ),
}


@pytest.mark.parametrize(("fields", "message"), _REFUSED.values(), ids=_REFUSED)
def test_what_the_library_has_not_is_refused_in_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _build(torch.device("cpu"), **fields)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    if "unknown key" in message:
        assert "did you mean" in str(caught.value)


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    with pytest.raises(ConfigError, match=r"^loss.kind: .* not installed: pip install 'raydml\[library\]'$"):
        _build(torch.device("cpu"), "NTXentLoss")


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
def test_it_trains_in_an_objective(precision: str, tiny: ExperimentConfig, device: torch.device) -> None:
    """Its parameters are the objective's, in the precision of the model's."""
    loss = {"kind": "library", "name": "ProxyAnchorLoss", "miner": "MultiSimilarityMiner"}
    config = replace_at(replace_at(tiny, "loss", loss), "training.precision", precision)
    objective = build_objective(config, _SHAPE).to(device)
    (proxies,) = [p for name, p in objective.named_parameters() if name.startswith("loss.")]
    assert proxies.shape == (_NUM_CLASSES, config.model.embedding_dim)
    images = torch.randint(0, 256, (8, 1, 32, 32), dtype=torch.uint8, device=device)
    labels = torch.tensor(_NAMES, device=device)
    objective(images, labels, context=StepContext(seed=0, epoch=1, step=1)).value.backward()
    assert proxies.dtype == (torch.float64 if precision == "float64" else torch.float32)
    assert proxies.grad is not None
    assert float(proxies.grad.norm()) > 0
    again = build_objective(config, _SHAPE).to(device)
    assert all(torch.equal(a, b) for a, b in zip(objective.parameters(), again.parameters(), strict=True))


_STUDY = """
protocol: quick
base:
  loss: {kind: library, name: NTXentLoss, arguments: {temperature: 0.1, hard: 3, flag: true, word: a, empty: null}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    written = tmp_path / "study.yaml"
    written.write_text(_STUDY, encoding="utf-8")
    return written


def _arguments(config: ExperimentConfig) -> dict[str, Any]:
    assert isinstance(config.loss, LibraryConfig)
    return dict(config.loss.arguments)


def test_arguments_are_read_overridden_and_written(path: Path) -> None:
    """An int stays an int, a float a float: the library tells them apart."""
    base = read(path).base
    assert _arguments(base) == {"temperature": 0.1, "hard": 3, "flag": True, "word": "a", "empty": None}
    assert parse(dump(base)) == base
    changed = _arguments(read(path, ["loss.arguments.temperature=1.0", "loss.arguments.new=2"]).base)
    assert (changed["temperature"], changed["new"]) == (1.0, 2)
    assert (type(changed["temperature"]), type(changed["new"]), type(changed["hard"])) == (float, int, int)
    assert _arguments(parse(dump(read(path, ["loss.arguments.temperature=1.0"]).base)))["temperature"] == 1.0


@pytest.mark.parametrize(
    ("key", "limits", "expected"),
    [
        ("temperature", {"low": 0.01, "high": 1, "log": True}, Distribution("float", 0.01, 1.0, log=True)),
        ("hard", {"low": 1, "high": 5}, Distribution("int", 1, 5)),
        ("hard", {"choices": [1, 2, 4]}, Distribution("ordered", high=2, choices=(1, 2, 4))),
        ("word", {"choices": ["a", "b"]}, Distribution("categorical", high=1, choices=("a", "b"))),
        ("empty", {"choices": ["a", "b"]}, Distribution("categorical", high=1, choices=("a", "b"))),
    ],
)
def test_an_argument_is_searched_by_the_type_of_its_value(
    key: str, limits: dict[str, Any], expected: Distribution, path: Path
) -> None:
    base = read(path).base
    assert distribution_of(base, f"loss.arguments.{key}", validate(Range, limits)) == expected
    value = _arguments(base)[key]
    assert get_at(base, f"loss.arguments.{key}") == value
    assert field_types(base, f"loss.arguments.{key}") == (type(value),)


def test_a_study_searches_an_argument(path: Path) -> None:
    study, notes = read_with_notes(
        path,
        [
            "space.loss.arguments.temperature={low: 0.01, high: 1.0, log: true}",
            "search.start=[{}, {loss.arguments.temperature: 0.5}]",
        ],
    )
    assert notes == []
    assert [point["loss.arguments.temperature"] for point in study.start_points()] == [0.1, 0.5]
    found = _arguments(study.experiment({"loss.arguments.temperature": 0.07}))
    assert (found["temperature"], found["hard"]) == (0.07, 3)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("loss.arguments.temprature={low: 0, high: 1}", "unknown key 'temprature'; known: empty, flag, hard, "),
        ("loss.miner_arguments.margin={low: 0, high: 1}", "unknown key 'margin'; known: none"),
        ("loss.arguments.hard={low: 0.5, high: 1.0}", "this field is an integer, but got low=0.5, high=1.0"),
        ("loss.arguments.word={low: 0, high: 1}", "this field is not a number, so its range must be given as choices"),
        ("loss.arguments.flag={low: 0, high: 1}", "this field is not a number, so its range must be given as choices"),
        ("loss.arguments.word.x={low: 0, high: 1}", "loss.arguments.word is a value, not a section"),
        ("loss.arguments={choices: [a, b]}", "this is a section or a list; only single values are searched"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_path(space: str, message: str, path: Path) -> None:
    with pytest.raises(ConfigError, match="space") as caught:
        read(path, [f"space.{space}"])
    assert message in str(caught.value)


def test_another_kind_takes_the_range_of_an_argument_with_it(path: Path) -> None:
    path.write_text(_STUDY + "space: {loss.arguments.temperature: {low: 0.01, high: 1.0}}\n", encoding="utf-8")
    study, notes = read_with_notes(path, ["loss.kind=nt_xent"])
    assert study.space == {}
    assert "loss.kind is nt_xent, which has no loss.arguments.temperature: its range is removed" in notes
    pinned, notes = read_with_notes(path, ["loss.arguments.temperature=0.2"])
    assert (pinned.space, _arguments(pinned.base)["temperature"]) == ({}, 0.2)
    assert notes == ["loss.arguments.temperature is pinned to 0.2: its range is removed"]
