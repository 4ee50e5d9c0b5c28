"""`path=value` overrides of a study as plain data; what a study means is decided by `raydml.space`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel

from raydml import yamlfile
from raydml.config import ConfigError, ExperimentConfig, dump, parse
from raydml.config.divide import PRESETS
from raydml.config.grammar import defaults_of, has_field, section_of_kind, set_at, unknown_key

Plain = dict[str, object]


def parse_assignment(text: str) -> tuple[str, object]:
    """`loss.margin=0.3` as path and value; the value is YAML. Raises ConfigError."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"command line: expected path=value, but got '{text}'")
    try:
        return path, yamlfile.loads(value)
    except ConfigError as error:
        raise ConfigError(f"command line: {path}: {error}") from None


def own_options(overrides: Sequence[str], model: type[BaseModel]) -> tuple[Plain, list[str]]:
    """Options of a command itself, as plain data, and the overrides that are not among them."""
    own: Plain = {}
    rest: list[str] = []
    for text in overrides:
        path, value = parse_assignment(text)
        if path.partition(".")[0] in model.model_fields:
            own = set_at(own, path, value)
        else:
            rest.append(text)
    return own, rest


def apply(raw: Plain, overrides: Sequence[tuple[str, object]], *, study_keys: Sequence[str]) -> tuple[Plain, list[str]]:
    """The study with every override applied, and a note for whatever changed besides.

    A new `kind` drops the fields of the old branch and the ranges that it leaves without a meaning; a path that is
    searched is pinned: its range, its start values and its place in `search.minimize` go, and those of what lies below
    it. Kinds come first, whatever their place on the line, then the names that decide which arguments there are.
    """
    notes: list[str] = []
    for path, value in sorted(overrides, key=lambda item: _rank(item[0])):
        first = path.partition(".")[0]
        if first in ExperimentConfig.model_fields:
            raw = _set_in_base(raw, path, value, notes)
        elif first == "base" and "." in path:
            raw = _set_in_base(raw, path.removeprefix("base."), value, notes)
        elif first == "space" and "." in path:
            raw = {**raw, "space": {**_mapping(raw, "space"), path.removeprefix("space."): value}}
        elif first in study_keys:
            raw = set_at(_with_protocol(raw) if first == "protocol" else raw, path, value)
        else:
            known = [*ExperimentConfig.model_fields, *study_keys]
            raise ConfigError(f"command line: {path}: {unknown_key(first, known)}")
    return raw, notes


def _with_protocol(raw: Plain) -> Plain:
    """A preset by name has room for fields only when it is spelled out; no protocol is the honest one."""
    protocol = raw.get("protocol", "honest")
    return {**raw, "protocol": {"preset": protocol} if isinstance(protocol, str) else protocol}


# A name decides what its arguments mean, as a kind decides its fields.
_ARGUMENTS_OF = {"loss.name": "loss.arguments", "loss.miner": "loss.miner_arguments"}


def _rank(path: str) -> int:
    if path.endswith((".kind", ".preset")) or path == "protocol":
        return 0
    return 1 if path.removeprefix("base.") in _ARGUMENTS_OF else 2


def _set_in_base(raw: Plain, path: str, value: object, notes: list[str]) -> Plain:
    base = _mapping(raw, "base")
    section, _, key = path.rpartition(".")
    if key == "kind" and section:
        raw = _without_meaningless_ranges(raw, section, value, notes)
        notes += _adapted(base, section, value)
    if path == "divide.preset":
        raw = _without_preset_fields(raw, value, notes)
        base = _mapping(raw, "base")
    for searched in _mapping(raw, "space"):
        if searched == path or searched.startswith(f"{path}."):
            raw = _without_range(raw, searched, notes)
            notes.append(f"{path} is pinned to {value}: its range is removed")
    raw = {**raw, "base": set_at(_with_section(base, path), path, value)}
    if path in _ARGUMENTS_OF and _mapping(base, section).get(key) != value:
        return _without_arguments(raw, _ARGUMENTS_OF[path], value, notes)
    return raw


def _without_preset_fields(raw: Plain, preset: object, notes: list[str]) -> Plain:
    """A new preset sets what the file says of its fields, and of the old one's."""
    base = _mapping(raw, "base")
    divide = _mapping(base, "divide")
    fields = {**PRESETS.get(str(divide.get("preset")), {}), **PRESETS.get(str(preset), {})}
    given = [field for field in fields if field in divide]
    if given:
        notes.append(f"divide.preset={preset} decides instead of the file: {', '.join(given)}")
        base = {**base, "divide": {field: value for field, value in divide.items() if field not in fields}}
    raw = {**raw, "base": base}
    for path in _mapping(raw, "space"):
        if path.removeprefix("divide.") in fields and path.startswith("divide."):
            raw = _without_range(raw, path, notes)
            notes.append(f"divide.preset={preset} decides {path}: its range is removed")
    return raw


def _without_arguments(raw: Plain, arguments: str, name: object, notes: list[str]) -> Plain:
    """Another loss of a library has other arguments."""
    section, _, key = arguments.partition(".")
    base = _mapping(raw, "base")
    if dropped := _mapping(_mapping(base, section), key):
        notes.append(f"{arguments} of another than {name} are dropped: {', '.join(dropped)}")
        base = set_at(base, arguments, {})
    for path in _mapping(raw, "space"):
        if path.startswith(f"{arguments}."):
            raw = _without_range(raw, path, notes)
    return {**raw, "base": base}


def _with_section(base: Plain, path: str) -> Plain:
    """A file may leave a section out: what is changed then is one of the default's kind.

    A section without kinds needs nothing: fields that are not given follow its preset, or are defaults.
    """
    first, _, rest = path.partition(".")
    default = dump(ExperimentConfig()).get(first)
    of_a_kind = isinstance(default, dict) and "kind" in default
    return {**base, first: default} if first not in base and rest and of_a_kind else base


def _mapping(raw: Mapping[str, object], key: str) -> Plain:
    value = raw.get(key)
    return dict(value) if isinstance(value, Mapping) else {}


def _without_range(raw: Plain, path: str, notes: list[str]) -> Plain:
    space = {key: limits for key, limits in _mapping(raw, "space").items() if key != path}
    search = _mapping(raw, "search")
    start = search.get("start")
    if isinstance(start, list):
        search["start"] = [
            {key: value for key, value in point.items() if key != path} if isinstance(point, Mapping) else point
            for point in start
        ]
    minimize = search.get("minimize")
    if isinstance(minimize, list) and path in minimize:
        search["minimize"] = [name for name in minimize if name != path]
        notes.append(f"{path} is searched no longer: it is no objective of search.minimize")
    return {**raw, "space": space, **({"search": search} if search else {})}


def _without_meaningless_ranges(raw: Plain, section: str, kind: object, notes: list[str]) -> Plain:
    model = section_of_kind(section, kind)
    if model is None:
        return raw  # the study as a whole is about to be refused, in better words
    for path in _mapping(raw, "space"):
        if path.startswith(f"{section}.") and not has_field(model, path.removeprefix(f"{section}.")):
            raw = _without_range(raw, path, notes)
            notes.append(f"{section}.kind is {kind}, which has no {path}: its range is removed")
    return raw


def _adapted(base: Plain, section: str, kind: object) -> list[str]:
    """What a new kind changes in a section besides the kind: shared fields that take its defaults, fields dropped."""
    model = section_of_kind(section, kind)
    try:
        old = dump(parse(base))[section]
    except ConfigError:
        return []
    if model is None or not isinstance(old, dict) or old["kind"] == kind:
        return []
    new = defaults_of(model)
    shared = [key for key in new if key in old and key != "kind"]
    changed = [f"{key} {old[key]} -> {new[key]}" for key in shared if old[key] != new[key]]
    dropped = [key for key in old if key not in model.model_fields]
    parts = [", ".join(changed)] if changed else []
    parts += [f"dropped {', '.join(dropped)}"] if dropped else []
    return [f"{section}.kind {old['kind']} -> {kind}" + (": " + "; ".join(parts) if parts else "")]
