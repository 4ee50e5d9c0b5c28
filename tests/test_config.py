"""The configuration: strict, frozen, and honest about what is wrong with what a user wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

import raydml.space  # noqa: F401 - a Study is a Model too
from raydml.config import ConfigError, ExperimentConfig, Model, backbone_names, dump, parse, replace_at
from raydml.config.grammar import field_types, get_at

Raw = dict[str, Any]


def models(root: type[BaseModel] = Model) -> Iterator[type[BaseModel]]:
    """Every section of the configuration; other tests may have loaded models of something else."""
    for child in root.__subclasses__():
        if child.__module__.startswith(("raydml.config.", "raydml.space")):
            yield child
            yield from models(child)


def alternatives(annotation: Any) -> list[Any]:  # noqa: ANN401
    """The types a field may hold."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return alternatives(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [a for argument in get_args(annotation) for a in alternatives(argument)]
    return [annotation]


PHOTOS = ("folder", "csv", "parquet", "cub200", "cars196", "sop", "inshop", "vehicleid")
NEEDED: dict[str, Raw] = {**{kind: {"root": "images"} for kind in PHOTOS}, "library": {"name": "NTXentLoss"}}
"""Kinds whose name alone is no configuration, and what they need."""


def kinds() -> list[tuple[str, type[BaseModel], str]]:
    """Section, class and tag of every member of every union of the experiment."""
    return [
        (section, member, get_args(member.model_fields["kind"].annotation)[0])
        for section, field in ExperimentConfig.model_fields.items()
        for member in alternatives(field.annotation)
        if isinstance(member, type) and issubclass(member, BaseModel) and "kind" in member.model_fields
    ]


def required(section: str, kind: str) -> Raw:
    """The shortest experiment with a kind."""
    return {section: {"kind": kind, **NEEDED.get(kind, {})}}


KINDS = [pytest.param(section, model, kind, id=f"{section}.{kind}") for section, model, kind in kinds()]


def refusal(raw: Raw) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(raw)
    return str(caught.value)


def drawn(field: FieldInfo) -> st.SearchStrategy[Any]:
    """Values of a field as YAML would give them; a range's own laws hold, laws between fields may not."""
    limits = {name: getattr(m, name) for m in field.metadata for name in ("ge", "gt", "le", "lt") if hasattr(m, name)}
    low, high = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
    strategies = {
        int: st.integers(0 if low is None else low, 2000 if high is None else int(high)),
        # A warm-up must end within the eight epochs of the default.
        float: st.floats(
            low,
            7.5 if high is None else high,
            exclude_min="gt" in limits,
            exclude_max="lt" in limits,
            allow_infinity=False,
        ),
        str: st.text(min_size=1, max_size=8) | st.sampled_from(["null", "1e-5", "yes", "012", "~", "a: b"]),
        NoneType: st.none(),
    }
    found = []
    for alternative in alternatives(field.annotation):
        if get_origin(alternative) is Literal:
            found.append(st.sampled_from(get_args(alternative)))
        elif get_origin(alternative) is tuple and get_args(alternative)[0] is str:
            found.append(st.lists(st.sampled_from(["map", "mrr", "map@10", "precision@5"]), unique=True))
        elif get_origin(alternative) is tuple:
            found.append(st.lists(st.integers(1, 50), min_size=1, max_size=4, unique=True).map(sorted))
        elif alternative in strategies:
            found.append(strategies[alternative])
    return st.one_of(found)


def searched_fields(model: type[BaseModel]) -> list[str]:
    """Fields that hold values, not sections."""
    sections = {
        n for n, f in model.model_fields.items() if "Config" in str(f.annotation) or "dict" in str(f.annotation)
    }
    return [name for name in model.model_fields if name not in sections | {"kind", "backbone"}]


@pytest.mark.parametrize(("section", "model", "kind"), KINDS)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_dump_is_the_inverse_of_parse(section: str, model: type[BaseModel], kind: str, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(searched_fields(model)))
    raw = required(section, kind)
    raw[section][name] = data.draw(drawn(model.model_fields[name]))
    try:
        config = parse(raw)
    except ConfigError:
        assume(False)
    assert parse(dump(config)) == config
    assert get_at(config, f"{section}.{name}") == (
        tuple(raw[section][name]) if isinstance(raw[section][name], list) else raw[section][name]
    )


@pytest.mark.parametrize("section", ["model", "training", "evaluation"])
@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_dump_is_the_inverse_of_parse_in_plain_sections(section: str, data: st.DataObject) -> None:
    model = type(getattr(ExperimentConfig(), section))
    name = data.draw(st.sampled_from(searched_fields(model)))
    config = parse({section: {name: data.draw(drawn(model.model_fields[name]))}})
    assert parse(dump(config)) == config


def test_the_empty_experiment_is_all_defaults() -> None:
    assert parse({}) == ExperimentConfig()
    assert parse(dump(ExperimentConfig())) == ExperimentConfig()


@pytest.mark.parametrize("model", [pytest.param(m, id=m.__name__) for m in models()])
def test_every_section_is_strict_and_frozen(model: type[BaseModel]) -> None:
    settings_of = model.model_config
    assert settings_of.get("frozen")
    assert settings_of.get("strict")
    assert settings_of.get("extra") == "forbid"
    assert settings_of.get("allow_inf_nan") is False


def test_a_configuration_cannot_be_changed() -> None:
    config = ExperimentConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.loss.margin = 0.5  # type: ignore[misc, union-attr]
    assert hash(config) == hash(ExperimentConfig())


@pytest.mark.parametrize(("section", "model", "kind"), KINDS)
def test_the_tag_of_a_union_is_no_part_of_a_path(section: str, model: type[BaseModel], kind: str) -> None:
    """Also where the tag is the name of a field: the loss `margin` has a `margin`."""
    defaults = {k: v for k, v in dump(model(**required(section, kind)[section])).items() if v is not None}
    for name in searched_fields(model):
        raw = {section: {**defaults, name: {"not": "a value"}}}
        assert refusal(raw).startswith(f"{section}.{name}: "), name
    unknown = {section: {**defaults, "nonsense": 1}}
    assert refusal(unknown).startswith(f"{section}.nonsense: unknown key 'nonsense'; known: ")


@pytest.mark.parametrize("path", ["seed", "data.render_seed"])
def test_a_seed_must_fit_into_torch(path: str) -> None:
    """torch.manual_seed takes 64 bits; a longer one must not survive until a worker meets it."""
    with pytest.raises(ConfigError, match=rf"^{path}: "):
        replace_at(ExperimentConfig(), path, 2**64)


def test_an_integer_is_a_number() -> None:
    lr = parse({"optimizer": {"kind": "adamw", "lr": 1}}).optimizer.lr
    assert lr == 1.0
    assert isinstance(lr, float)


def test_a_list_fills_a_tuple() -> None:
    assert parse({"evaluation": {"recall_at": [1, 10]}}).evaluation.recall_at == (1, 10)
    assert parse({"evaluation": {"recall_at": (1, 10)}}).evaluation.recall_at == (1, 10)


def test_replace_at_changes_one_value_and_nothing_else() -> None:
    base = ExperimentConfig()
    changed = replace_at(base, "data.augment.flip", 0.5)
    assert changed.data.augment.flip == 0.5
    assert replace_at(changed, "data.augment.flip", base.data.augment.flip) == base
    assert replace_at(base, "training.steps_per_epoch", 7).training.steps_per_epoch == 7


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("loss.margin", "0.1", "loss.margin: "),
        ("loss.margn", 0.1, "loss.margn: unknown key"),
        ("data.batch_size", 6, "data: batch_size must be divisible"),
        ("data.kind", "folder", "data.root: missing"),
        ("nothing.at.all", 1, "nothing: unknown key"),
    ],
)
def test_replace_at_validates(path: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        replace_at(ExperimentConfig(), path, value)


@pytest.mark.parametrize(("section", "model", "kind"), KINDS)
def test_a_new_kind_has_none_of_the_old_fields(section: str, model: type[BaseModel], kind: str) -> None:
    if kind in NEEDED:
        pytest.skip("a kind alone is no configuration here")
    for other in (k for s, _, k in kinds() if s == section and k not in NEEDED):
        changed = replace_at(parse(required(section, other)), f"{section}.kind", kind)
        assert changed == parse(required(section, kind))
    # The same kind again is no change.
    numbers = ((n, v) for n, v in dump(model(kind=kind)).items() if isinstance(v, float))
    name, value = next(numbers, ("", 0.0))
    kept = parse({section: {"kind": kind, name: value / 2}}) if value else None
    assert kept is None or replace_at(kept, f"{section}.kind", kind) == kept


def test_get_at_lists_what_exists() -> None:
    with pytest.raises(ConfigError, match=r"loss.margn: unknown key 'margn'; known: .*did you mean 'margin'"):
        get_at(ExperimentConfig(), "loss.margn")
    with pytest.raises(ConfigError, match=r"loss.margin.x: loss.margin is a value, not a section"):
        get_at(ExperimentConfig(), "loss.margin.x")
    assert field_types(ExperimentConfig(), "optimizer.clip_norm") == (float, NoneType)


@pytest.mark.parametrize("model", [pytest.param(m, id=m.__name__) for m in models()])
def test_every_section_and_every_field_says_what_it_means(model: type[BaseModel]) -> None:
    assert model.__doc__
    for name, field in model.model_fields.items():
        # A kind is explained by the docstring of its class.
        assert field.description or name == "kind", name


# What a description begins with, and the unit its field must carry in the name.
UNITS = {
    r"Epochs\b": "epochs",
    r"Steps\b": "steps",
    r"Seconds\b": "_s",
    r"Height and width in pixels": "_size",
    r"CPU cores\b": "cpus",
    r"GPUs\b": "gpus",
    r"Images embedded\b": "batch_size",
    r"Seed\b": "seed",
}


@pytest.mark.parametrize("model", [pytest.param(m, id=m.__name__) for m in models()])
def test_units_are_part_of_the_name(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        for begin, unit in UNITS.items():
            if field.description and re.match(begin, field.description):
                assert unit in name, f"{name}: {field.description}"


def test_the_list_of_backbones_has_no_tags_and_no_duplicates() -> None:
    names = backbone_names()
    assert len(names) == len(set(names)) > 500
    assert not any("." in name for name in names)
