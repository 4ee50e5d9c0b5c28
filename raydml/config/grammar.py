"""From plain data to validated models and back: one entrance, one wording of errors, one grammar of dotted paths."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Literal, NamedTuple, TypeGuard, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from raydml.config.base import ConfigError
from raydml.config.experiment import ExperimentConfig

M = TypeVar("M", bound=BaseModel)


def parse(raw: Mapping[str, object]) -> ExperimentConfig:
    """Validates plain data. Raises ConfigError with dotted path, value and law."""
    return validate(ExperimentConfig, raw)


def dump(config: BaseModel) -> dict[str, object]:
    """Plain data with every field written out: numbers, strings, booleans, None, lists, dicts."""
    plain: dict[str, object] = config.model_dump(mode="json")
    return plain


def replace_at(config: ExperimentConfig, path: str, value: object) -> ExperimentConfig:
    """A new configuration with one value changed, validated. A new `kind` drops the old branch's fields.

    Raises ConfigError where the path does not exist or the result breaks a law.
    """
    return parse(set_at(dump(config), path, value))


def set_at(raw: Mapping[str, object], path: str, value: object) -> dict[str, object]:
    """A copy of nested plain data with one value changed; sections on the way are made where they are missing."""
    head, _, rest = path.partition(".")
    if not rest:
        if head == "kind" and raw.get("kind") != value:
            return {"kind": value}
        return {**raw, head: value}
    below = raw.get(head)
    return {**raw, head: set_at(below if isinstance(below, Mapping) else {}, rest, value)}


def get_at(config: BaseModel, path: str) -> object:
    """The value at a dotted path. Raises ConfigError that lists the known keys where there is none."""
    here: object = config
    for depth, key in enumerate(path.split(".")):
        if not isinstance(here, BaseModel | Mapping):
            raise ConfigError(f"{path}: {'.'.join(path.split('.')[:depth])} is a value, not a section")
        known = here if isinstance(here, Mapping) else type(here).model_fields
        if key not in known:
            raise ConfigError(f"{path}: {unknown_key(key, known)}")
        here = here[key] if isinstance(here, Mapping) else getattr(here, key)
    return here


def field_types(config: BaseModel, path: str) -> tuple[object, ...]:
    """The alternatives a field at a dotted path may hold: `float | None` gives (float, NoneType).

    A mapping says nothing of one key of it: there it is the type of the value.
    """
    section, _, key = path.rpartition(".")
    owner = get_at(config, section) if section else config
    value = get_at(config, path)
    if not isinstance(owner, BaseModel):
        return (type(value),)
    return tuple(_alternatives(type(owner).model_fields[key].annotation))


def section_of_kind(section: str, kind: object) -> type[BaseModel] | None:
    """The model of a section of the experiment for a kind; None where there is no such kind."""
    field = ExperimentConfig.model_fields.get(section)
    found = [] if field is None else [m for m in _alternatives(field.annotation) if kind in _kinds([m])]
    return found[0] if found and _is_section(found[0]) else None


def has_field(model: type[BaseModel], path: str) -> bool:
    """Whether a dotted path below a section leads to a field of it; a mapping may have any key."""
    key, _, rest = path.partition(".")
    if key not in model.model_fields:
        return False
    below = _sections_below(model, key)
    return not rest or any(not _is_section(found) or has_field(found, rest) for found in below)


def defaults_of(model: type[BaseModel]) -> dict[str, object]:
    """Plain data of every field that has a default."""
    fields = {name: field for name, field in model.model_fields.items() if not field.is_required()}
    values = {name: field.get_default(call_default_factory=True) for name, field in fields.items()}
    return {name: dump(value) if isinstance(value, BaseModel) else value for name, value in values.items()}


def validate(model: type[M], raw: object, *, source: str = "", prefix: str = "") -> M:
    """Validates plain data as `model`. Raises ConfigError; `source` and `prefix` say where the data comes from."""
    where = f"{source}: " if source else ""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}{prefix or 'the top level'}: expected keys and values, but got {raw!r}")
    try:
        _require_plain(raw, path=prefix, where=where)
    except RecursionError:
        raise ConfigError(f"{where}{prefix or 'the top level'}: a value contains itself") from None
    try:
        # As JSON, because a strict model takes a list for a tuple only there.
        return model.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        raise ConfigError(where + _describe(error.errors(), model, raw, prefix)) from None


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The wording for a key that does not exist: what exists, and the nearest spelling."""
    names = sorted(known)
    nearest = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
    return f"unknown key '{key}'; known: {', '.join(names) or 'none'}{hint}"


def differences(a: object, b: object, where: str = "") -> Iterator[tuple[str, object, object]]:
    """Dotted paths at which two pieces of plain data differ, with both values."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            yield from differences(a.get(key), b.get(key), f"{where}.{key}" if where else str(key))
    elif a != b:
        yield where, a, b


def _require_plain(value: object, *, path: str, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ConfigError(f"{where}{path or 'the top level'}: keys must be words, but got {key!r}")
            _require_plain(item, path=f"{path}.{key}" if path else key, where=where)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _require_plain(item, path=f"{path}.{index}", where=where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}{path}: numbers must be finite, but got {value}")
    elif not isinstance(value, str | int | float | bool | None):
        raise ConfigError(f"{where}{path}: expected a number, word, list or mapping, but got {value} ({_kind(value)})")


def _describe(errors: Sequence[ErrorDetails], model: type[BaseModel], raw: Mapping[str, object], prefix: str) -> str:
    located = [(_locate(error["loc"], model, raw), error) for error in errors]
    place, first = located[0]
    same_place = [error for other, error in located if other.path == place.path]
    path = ".".join(filter(None, (prefix, place.path)))
    # A field of two types fails once for each; together they are one law.
    text = _law(first, place) if len(same_place) == 1 else _either(same_place)
    others = len({other.path for other, _ in located}) - 1
    more = f" (and {others} more {'place' if others == 1 else 'places'})" if others else ""
    return f"{path}: {text}{more}" if path else f"{text}{more}"


class _Place(NamedTuple):
    path: str
    section: type[BaseModel] | None
    """The section that holds the last key of the path."""
    kinds: tuple[str, ...]
    """What a section at the path itself may be."""


def _locate(location: tuple[int | str, ...], model: type[BaseModel], raw: object) -> _Place:
    """Where an error is. The tag of a union follows its field in a location, and is no part of a path."""
    keys: list[str] = []
    section: type[BaseModel] | None = None
    here: list[object] = [model]
    for key in location:
        if len(here) > 1:
            here = [kind for kind in here if key in _kinds([kind])]
            continue
        if not isinstance(raw, Mapping | list):
            break
        owner = here[0] if here else None
        section = owner if _is_section(owner) else None
        keys.append(str(key))
        raw = _child(raw, key)
        here = _sections_below(owner, str(key))
    return _Place(".".join(keys), section, _kinds(here))


def _child(raw: Mapping[str, object] | list[object], key: int | str) -> object:
    if isinstance(raw, Mapping):
        return raw.get(str(key))
    return raw[key] if isinstance(key, int) else None


def _is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _sections_below(owner: object, key: str) -> list[object]:
    """Sections, or mappings to sections, that may lie at a key of a section or of a mapping."""
    if get_origin(owner) is dict:
        below: object = get_args(owner)[1]
    elif _is_section(owner) and key in owner.model_fields:
        below = owner.model_fields[key].annotation
    else:
        return []
    return [found for found in _alternatives(below) if _is_section(found) or get_origin(found) is dict]


def _kinds(sections: Iterable[object]) -> tuple[str, ...]:
    tagged = [section for section in sections if _is_section(section) and "kind" in section.model_fields]
    return tuple(str(tag) for section in tagged for tag in get_args(section.model_fields["kind"].annotation))


def _alternatives(annotation: object) -> list[object]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [alternative for argument in get_args(annotation) for alternative in _alternatives(argument)]
    return [annotation]


def _law(error: ErrorDetails, place: _Place) -> str:
    match error["type"]:
        case "extra_forbidden":
            return unknown_key(str(error["loc"][-1]), place.section.model_fields if place.section else ())
        case "missing":
            return "missing"
        case "union_tag_not_found":
            return f"kind is missing; known: {', '.join(sorted(place.kinds))}"
        case "union_tag_invalid":
            tags = [tag.strip(" '") for tag in str(error["ctx"]["expected_tags"]).split(",")]
            return unknown_key(str(error["ctx"]["tag"]), tags).replace("unknown key", "unknown kind", 1)
        case "value_error":
            return str(error["ctx"]["error"])
        case _:
            return f"{_expected(error)}, but got {_shown(error['input'])}"


def _either(errors: Sequence[ErrorDetails]) -> str:
    return f"{' or '.join(dict.fromkeys(_expected(error) for error in errors))}, but got {_shown(errors[0]['input'])}"


def _expected(error: ErrorDetails) -> str:
    return (
        error["msg"]
        .replace("Input should", "must")
        .replace("greater than or equal to", "at least")
        .replace("less than or equal to", "at most")
        .replace("be an object", "be keys and values")
        .replace("a valid dictionary", "keys and values")
        .replace("a valid array", "a list")
    )


def _shown(value: object) -> str:
    return f"{json.dumps(value)} ({_kind(value)})"


def _kind(value: object) -> str:
    names = {bool: "true/false", int: "an integer", float: "a number", str: "a word", list: "a list", dict: "a mapping"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def literal_values(alternative: object) -> tuple[object, ...]:
    """The words of a Literal type; none for other types."""
    return get_args(alternative) if get_origin(alternative) is Literal else ()
