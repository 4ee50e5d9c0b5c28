"""The section `divide`: laws with both numbers, and presets. Overrides and searches of it: test_divide_studies.py."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from raydml.config import ConfigError, DivideConfig, ExperimentConfig, dump, parse
from raydml.divide import subspaces
from tests.conftest import changed

Raw = dict[str, Any]
PRESETS = get_args(DivideConfig.model_fields["preset"].annotation)


def experiment(divide: Raw, **sections: Raw) -> ExperimentConfig:
    return parse({"divide": divide, **sections})


def message_of(divide: Raw, **sections: Raw) -> str:
    with pytest.raises(ConfigError) as caught:
        experiment(divide, **sections)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def is_legal(divide: Raw, **sections: Raw) -> bool:
    try:
        experiment(divide, **sections)
    except ConfigError:
        return False
    return True


# The section, other sections, what the message must say.
INVALID: list[tuple[Raw, Raw, tuple[str, ...]]] = [
    ({"num_learners": 0}, {}, ("divide.num_learners: must be at least 1", "got 0")),
    ({"num_learners": 4.0}, {}, ("divide.num_learners", "integer", "4.0")),
    ({"recluster_epochs": 0}, {}, ("divide.recluster_epochs", "at least 1")),
    ({"freeze_epochs": -1}, {}, ("divide.freeze_epochs", "at least 0")),
    ({"mask_weight": -0.1}, {}, ("divide.mask_weight", "at least 0")),
    ({"full_embedding_epoch": -1}, {}, ("divide: full_embedding_epoch must not be negative, but got -1",)),
    ({"conquer_epoch": -2}, {}, ("divide: conquer_epoch must not be negative, but got -2",)),
    ({"conquer_epoch": "end"}, {}, ("divide.conquer_epoch", "'auto' or 'never'", '"end"')),
    ({"full_embedding_epoch": "never"}, {}, ("divide.full_embedding_epoch", '"never"')),
    ({"full_embedding_epoch": True}, {}, ("divide.full_embedding_epoch", "true")),
    ({"round_length": "median"}, {}, ("divide.round_length", "'proportional'", '"median"')),
    ({"num_clusters": 4}, {}, ("divide.num_clusters: unknown key 'num_clusters'", "num_learners")),
    ({"preset": "cvpr"}, {}, ("divide.preset", "'none', 'cvpr2019' or 'tpami2021'", '"cvpr"')),
    ({"preset": ["cvpr2019"]}, {}, ("divide.preset", "'none', 'cvpr2019' or 'tpami2021'", "a list")),
    ({"preset": {"name": "cvpr2019"}}, {}, ("divide.preset", "a mapping")),
    ({"preset": None}, {}, ("divide.preset", "null")),
    ({"num_learners": 6, "hierarchical": True}, {}, ("divide: hierarchical needs num_learners", "num_learners=6")),
    ({"num_learners": 12, "preset": "tpami2021"}, {}, ("power of two", "num_learners=12")),
    ({"num_learners": 2, "masks": "learned"}, {}, ("masks=learned needs normalise=whole", "normalise=slices")),
    (
        {"num_learners": 9},
        {"model": {"embedding_dim": 8}},
        ("divide.num_learners must not exceed model.embedding_dim", "num_learners=9", "embedding_dim=8"),
    ),
    (
        {"num_learners": 4, "full_embedding_epoch": 7, "conquer_epoch": 6},
        {},
        ("must not exceed divide.conquer_epoch", "full_embedding_epoch=7", "conquer_epoch=6", "num_epochs=20"),
    ),
    (
        {"num_learners": 4, "full_embedding_epoch": 10, "conquer_epoch": "never"},
        {"training": {"num_epochs": 9}},
        ("full_embedding_epoch=10", "conquer_epoch=9 of training.num_epochs=9"),
    ),
    (
        {"num_learners": 4, "full_embedding_epoch": 20},
        {"training": {"num_epochs": 20}},
        ("full_embedding_epoch=20", "conquer_epoch=19", "num_epochs=20"),
    ),
    ({"freeze_epochs": 2, "recluster_epochs": 2, "num_learners": 2}, {}, ("freeze_epochs=2, recluster_epochs=2",)),
    (
        {"num_learners": 2, "masks": "learned", "normalise": "whole", "inactive_slices": "frozen"},
        {},
        ("inactive_slices=frozen needs masks=fixed",),
    ),
    (
        {"num_learners": 8},
        {"model": {"embedding_dim": 31}, "see": {"num_expansions": 3}},
        ("dimension of the smallest learner - 1", "num_expansions=3 and 3 dimensions", "dim=31", "num_learners=8"),
    ),
    (
        {"num_learners": 2, "masks": "learned", "normalise": "whole"},
        {"see": {"num_expansions": 3}},
        ("needs divide.masks=fixed", "see.num_expansions=3", "divide.num_learners=2"),
    ),
]


@pytest.mark.parametrize(("divide", "sections", "laws"), INVALID)
def test_every_law_names_what_breaks_it(divide: Raw, sections: Raw, laws: tuple[str, ...]) -> None:
    message = message_of(divide, **({"training": {"num_epochs": 20}} | sections))
    for law in laws:
        assert law in message, message


@pytest.mark.parametrize(
    ("divide", "sections"),
    [
        ({"num_learners": 8}, {"model": {"embedding_dim": 8}}),
        ({"num_learners": 1, "hierarchical": True}, {}),
        ({"num_learners": 64, "hierarchical": True}, {}),
        ({"num_learners": 6}, {}),
        ({"num_learners": 2, "masks": "learned", "normalise": "whole"}, {}),
        # With one learner nothing is divided, and no stage can be out of place.
        ({"num_learners": 1, "masks": "learned", "full_embedding_epoch": 99, "conquer_epoch": 3}, {}),
        ({"num_learners": 1, "masks": "learned"}, {"see": {"num_expansions": 3}}),
        ({"num_learners": 4, "full_embedding_epoch": 0, "conquer_epoch": 0}, {}),
        ({"num_learners": 4, "full_embedding_epoch": 6, "conquer_epoch": 6}, {}),
        ({"num_learners": 4, "conquer_epoch": 999}, {}),
        ({"num_learners": 8}, {"model": {"embedding_dim": 32}, "see": {"num_expansions": 3}}),
    ],
)
def test_the_nearest_legal_neighbours_are_legal(divide: Raw, sections: Raw) -> None:
    raw = {"training": {"num_epochs": 20}, **sections, "divide": divide}
    config = parse(raw)
    assert parse(dump(config)) == config


@pytest.mark.parametrize("dim", range(2, 25))
def test_learners_and_expansions_fit_the_dimensions(dim: int) -> None:
    """Every number of learners, each with as many expansions as its smallest slice has room for, and one more."""
    model = {"embedding_dim": dim}
    for count in range(1, dim + 1):
        room = min(part.stop - part.start for part in subspaces(dim, count)) - 1
        assert is_legal({"num_learners": count}, model=model, see={"num_expansions": room})
        assert not is_legal({"num_learners": count}, model=model, see={"num_expansions": room + 1})
    assert not is_legal({"num_learners": dim + 1}, model=model)
    assert f"num_learners={dim + 1}, model.embedding_dim={dim}" in message_of({"num_learners": dim + 1}, model=model)


@pytest.mark.parametrize("count", range(1, 33))
def test_a_hierarchy_is_of_powers_of_two(count: int) -> None:
    assert is_legal({"num_learners": count, "hierarchical": True}) == (count in (1, 2, 4, 8, 16, 32))


def test_one_learner_is_the_default_and_all_fields_are_plain() -> None:
    assert ExperimentConfig().divide == DivideConfig(num_learners=1, preset="none")
    assert dump(DivideConfig()) == {
        "num_learners": 1,
        "preset": "none",
        "recluster_epochs": 8,
        "full_embedding_epoch": "auto",
        "conquer_epoch": "auto",
        "cluster_on": "features",
        "cluster_by": "image",
        "round_length": "mean",
        "normalise": "slices",
        "inactive_slices": "momentum",
        "hierarchical": False,
        "masks": "fixed",
        "mask_weight": 0.01,
        "freeze_epochs": 0,
    }


# What the releases set, and nothing else.
SET_BY: dict[str, Raw] = {
    "none": {},
    "cvpr2019": {"recluster_epochs": 2, "round_length": "max"},
    "tpami2021": {
        "recluster_epochs": 2,
        "round_length": "max",
        "normalise": "whole",
        "hierarchical": True,
        "freeze_epochs": 1,
        "conquer_epoch": "never",
    },
}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_sets_these_fields_alone(preset: str) -> None:
    found = dump(experiment({"preset": preset, "num_learners": 4}).divide)
    assert found == {**dump(DivideConfig()), "num_learners": 4, "preset": preset, **SET_BY[preset]}


# A value that neither the defaults nor any preset have.
OTHER: Raw = {
    "round_length": "proportional",
    "normalise": "slices",
    "hierarchical": False,
    "freeze_epochs": 5,
    "conquer_epoch": "auto",
    "recluster_epochs": 7,
    "masks": "learned",
}


@pytest.mark.parametrize("field", OTHER)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_fills_only_what_is_not_given(preset: str, field: str) -> None:
    """Also where what is given is the default."""
    found = dump(experiment({"preset": preset, field: OTHER[field]}).divide)
    assert found == {**dump(DivideConfig()), "preset": preset, **SET_BY[preset], field: OTHER[field]}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("given", [{}, {"hierarchical": False, "num_learners": 3}, {"freeze_epochs": 0}])
def test_what_is_written_is_what_is_read(preset: str, given: Raw) -> None:
    config = experiment({"preset": preset, **given})
    assert parse(dump(config)) == config
    assert DivideConfig.model_validate(config.divide.model_dump()) == config.divide


def test_a_change_of_one_value_keeps_the_preset(tiny: ExperimentConfig) -> None:
    config = changed(tiny, divide={"preset": "tpami2021", "num_learners": 2})
    assert changed(config, divide__num_learners=4).divide.normalise == "whole"
