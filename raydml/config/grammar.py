"""From plain data to validated models and back: one entrance, one wording of errors, one grammar of dotted paths."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from types import UnionType
from typing import Annotated, Literal, TypeVar, Union, get_args, get_origin

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
        if not isinstance(here, BaseModel):
            raise ConfigError(f"{path}: {'.'.join(path.split('.')[:depth])} is a value, not a section")
        if key not in type(here).model_fields:
            raise ConfigError(f"{path}: {unknown_key(key, type(here).model_fields)}")
        here = getattr(here, key)
    return here


def field_types(config: BaseModel, path: str) -> tuple[object, ...]:
    """The alternatives a field at a dotted path may hold: `float | None` gives (float, NoneType)."""
    section, _, key = path.rpartition(".")
    owner = get_at(config, section) if section else config
    get_at(config, path)
    return tuple(_alternatives(type(owner).model_fields[key].annotation)) if isinstance(owner, BaseModel) else ()


def validate(model: type[M], raw: object, *, source: str = "", prefix: str = "") -> M:
    """Validates plain data as `model`. Raises ConfigError; `source` and `prefix` say where the data comes from."""
    where = f"{source}: " if source else ""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}{prefix or 'the top level'}: expected keys and values, but got {raw!r}")
    _require_plain(raw, path=prefix, where=where)
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
    return f"unknown key '{key}'; known: {', '.join(names)}{hint}"


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
    located = [(*_locate(error["loc"], model, raw), error) for error in errors]
    first_path, section, first = located[0]
    same_place = [error for path, _, error in located if path == first_path]
    path = ".".join(filter(None, (prefix, first_path)))
    # A field of two types fails once for each; together they are one law.
    text = _law(first, section) if len(same_place) == 1 else _either(same_place)
    others = len({path for path, _, _ in located}) - 1
    more = f" (and {others} more {'place' if others == 1 else 'places'})" if others else ""
    return f"{path}: {text}{more}" if path else f"{text}{more}"


def _locate(location: tuple[int | str, ...], model: type[BaseModel], raw: object) -> tuple[str, type[BaseModel] | None]:
    """Dotted path of an error and the section it lies in. The tags of unions are no part of a path."""
    keys: list[str] = []
    section: type[BaseModel] | None = model
    inner: type[BaseModel] | None = model
    for key in location:
        if isinstance(raw, Mapping) and key not in raw and key == raw.get("kind"):
            continue
        if not isinstance(raw, Mapping | list):
            break
        section = inner
        keys.append(str(key))
        raw = _child(raw, key)
        inner = _section_of(section, str(key), raw)
    return ".".join(keys), section


def _child(raw: Mapping[str, object] | list[object], key: int | str) -> object:
    if isinstance(raw, Mapping):
        return raw.get(str(key))
    return raw[key] if isinstance(key, int) else None


def _section_of(model: type[BaseModel] | None, key: str, raw: object) -> type[BaseModel] | None:
    field = model.model_fields.get(key) if model else None
    if field is None:
        return None
    sections = [t for t in _alternatives(field.annotation) if isinstance(t, type) and issubclass(t, BaseModel)]
    if len(sections) > 1 and isinstance(raw, Mapping):
        sections = [s for s in sections if raw.get("kind") in get_args(s.model_fields["kind"].annotation)]
    return sections[0] if len(sections) == 1 else None


def _alternatives(annotation: object) -> list[object]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [alternative for argument in get_args(annotation) for alternative in _alternatives(argument)]
    return [annotation]


def _law(error: ErrorDetails, section: type[BaseModel] | None) -> str:
    match error["type"]:
        case "extra_forbidden":
            return unknown_key(str(error["loc"][-1]), section.model_fields if section else ())
        case "missing":
            return "missing"
        case "union_tag_not_found":
            return "kind is missing"
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
    )


def _shown(value: object) -> str:
    return f"{json.dumps(value)} ({_kind(value)})"


def _kind(value: object) -> str:
    names = {bool: "true/false", int: "an integer", float: "a number", str: "a word", list: "a list", dict: "a mapping"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def literal_values(alternative: object) -> tuple[object, ...]:
    """The words of a Literal type; none for other types."""
    return get_args(alternative) if get_origin(alternative) is Literal else ()
