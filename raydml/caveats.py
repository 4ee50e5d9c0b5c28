"""What a reader must know before quoting a number of a study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from raydml.config import PRESETS, Protocol, dump
from raydml.config.grammar import differences
from raydml.space import Study


def stamp(study: Study) -> str:
    """One line: what the images are, how many folds and seeds, what was confirmed, who saw the test classes."""
    return "; ".join(_parts(study))


def _parts(study: Study) -> Iterator[str]:
    if study.base.data.kind == "glyphs":
        yield "synthetic images"
    protocol = study.protocol
    folds = f"{len(study.folds)} of {study.base.data.num_folds} folds"
    if protocol.confirm is None and protocol.final is None:
        yield f"exploratory: {folds}, one seed, nothing confirmed"
    else:
        yield f"{protocol.preset}: {folds}"
        yield from _phases(protocol)
        changed = ", ".join(departures(study))
        if changed:
            yield f"not as the preset {protocol.preset}: {changed}"


def _phases(protocol: Protocol) -> Iterator[str]:
    confirm, final = protocol.confirm, protocol.final
    if confirm is None:
        yield "nothing confirmed"
    else:
        yield f"the best {confirm.top} and the base confirmed with {_seeds(confirm.seeds, confirm.most)}"
    if final is None:
        yield "no look at the test classes"
    elif final.best_epoch_on_test:
        yield f"test classes with {_seeds(final.seeds, final.most)}, after every epoch: selected on test"
    else:
        yield f"test classes once with each of {_seeds(final.seeds, final.most)}"


def _seeds(least: int, most: int) -> str:
    count = f"{least}" if least == most else f"{least} to {most}"
    return f"{count} fresh seed{'' if most == 1 else 's'}"


def departures(study: Study) -> Iterator[str]:
    """Where a study is not what its preset says: `search.num_trials=12 instead of 50`."""
    preset = PRESETS.get(study.protocol.preset)
    if preset is None:
        return
    asked = dump(Protocol.model_validate(study.protocol.preset))
    yield from _changed("protocol.", asked, dump(study.protocol))
    yield from _changed("search.", preset.search, dump(study.search))
    yield from _changed("data.", preset.data, dump(study.base.data))


def _changed(prefix: str, asked: Mapping[str, object], found: Mapping[str, object]) -> Iterator[str]:
    common = {key: found[key] for key in asked}
    for path, before, after in differences(dict(asked), common):
        if isinstance(before, Mapping) or isinstance(after, Mapping):
            yield f"{prefix}{path} {'left out' if after is None else 'added'}"
        else:
            yield f"{prefix}{path}={after} instead of {before}"
