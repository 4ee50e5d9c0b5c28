"""The test classes in numbers: winner and base, with intervals over seeds and over classes, and their difference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from optuna.trial import FrozenTrial

from raydml import jsonfile, statistics
from raydml.config import ConfigError, Final
from raydml.history import read_history
from raydml.identity import without_places
from raydml.repeats import BASE, Candidate, finalists, folds_on_test, winner_of
from raydml.report import phases
from raydml.report.class_tables import read_class_means
from raydml.report.estimates import (
    ClassMeans,
    averaged,
    differences_between,
    mean_over_seeds,
    over_classes,
    subtracted,
)
from raydml.report.phases import Finalist, Gain, OnTest, ReadOut
from raydml.report.reading import plain, read_numbers
from raydml.report.repetitions import Training, settings_of, trainings_of
from raydml.space import Study
from raydml.statistics import Run

# The share of queries with a tie: nothing that a better model has more of.
_TIED = "tied_queries"


@dataclass(frozen=True)
class _Table:
    """The classes of one model on the test classes."""

    path: Path
    of: Run
    means: ClassMeans


@dataclass
class _Values:
    """What one read-out found for one configuration: metrics by name and model, a table of each model that has one."""

    metrics: dict[str, dict[Run, float]] = field(default_factory=dict)
    tables: list[_Table] = field(default_factory=list)

    @property
    def seeds(self) -> set[int]:
        """Those of its models."""
        return {run[0] for values in self.metrics.values() for run in values}

    def averaged(self, seeds: set[int]) -> ClassMeans | None:
        """Every class, mean over the models of these seeds; None unless all of them have a table."""
        tables = [table.means for table in self.tables if table.of[0] in seeds]
        models = {run for values in self.metrics.values() for run in values if run[0] in seeds}
        return averaged(tables) if tables and len(tables) == len(models) else None


Found = dict[ReadOut, _Values]


def final_of(study: Study, directory: Path, trials: Sequence[FrozenTrial]) -> phases.Final | None:
    """None where the protocol leaves the test classes alone, or no run has begun. Raises ConfigError."""
    final = study.protocol.final
    earlier = len(_met_test_classes(directory / "final"))
    begun = any((directory / "final").glob("*/config.yaml"))
    if final is None or not (begun or earlier):
        return None
    winner = winner_of(study, directory, trials)
    chosen = () if winner is None else finalists(study, winner, trials)
    trainings = {
        one.name: [_evaluated(study, training) for training in trainings_of(directory, one, "final", final)]
        for one in chosen
    }
    found = {name: _found(study, final, of_one) for name, of_one in trainings.items()}
    _require_equal_classes(table for of_one in found.values() for values in of_one.values() for table in values.tables)
    return phases.Final(
        models=final.models,
        metric=study.search.metric.removeprefix("val/"),
        runs_done=sum(t.state == "done" for of_one in trainings.values() for t in of_one),
        runs_asked=final.seeds * len(chosen),
        finalists=tuple(_finalist(study, one, trainings[one.name], found[one.name]) for one in chosen),
        gains=_gains(found[chosen[0].name], found[BASE]) if len(chosen) > 1 else {},
        earlier_winners=earlier,
        retrieval=_retrieval(study, [training for of_one in trainings.values() for training in of_one]),
    )


def _retrieval(study: Study, trainings: Iterable[Training]) -> str | None:
    """What the first evaluation that says so found among what. Raises ConfigError where that cannot be read."""
    folders = [folder for training in trainings for folder in _evaluations(study, training)]
    paths = [path for folder in folders if (path := folder / "protocol.json").exists()]
    return str(jsonfile.load(paths[0]).get("description")) if paths else None


def _met_test_classes(final: Path) -> set[str]:
    """Folders of earlier winners whose models met the test classes, after the last epoch or after each."""
    evaluated = [path.parents[3].name for path in final.glob("earlier-*/*/evaluation/test*/metrics.json")]
    watched = [
        run.parent.name
        for run in final.glob("earlier-*/*")
        if any(key.startswith("test/") for row in read_history(run) for key in row)
    ]
    return {*evaluated, *watched}


def _evaluated(study: Study, training: Training) -> Training:
    """Done is only what met the test classes."""
    if training.state != "done" or all((folder / "metrics.json").exists() for folder in _evaluations(study, training)):
        return training
    return replace(training, state="not evaluated")


def _evaluations(study: Study, training: Training) -> list[Path]:
    """Folders of a training that hold an evaluation on test classes: of the whole, then of each fold's model."""
    places = [training.directory, *(training.directory / f"fold{fold}" for fold in folds_on_test(study))]
    return [place / "evaluation" / "test" for place in places]


def _found(study: Study, final: Final, trainings: Sequence[Training]) -> Found:
    found: Found = {}
    for training in trainings:
        if training.state != "done":
            continue
        seed = training.planned.config.seed
        whole, *of_folds = _evaluations(study, training)
        for fold, folder in zip(study.folds, of_folds, strict=False):
            _add(found, "separated", (seed, fold), folder)
        _add(found, "concatenated" if of_folds else "last", (seed, None), whole)
        if final.best_epoch_on_test:
            for name, value in _best_epochs(training).items():
                found.setdefault("selected", _Values()).metrics.setdefault(name, {})[seed, None] = value
    return found


def _add(found: Found, read_out: ReadOut, of: Run, folder: Path) -> None:
    metrics = {k: v for k, v in read_numbers(folder / "metrics.json").items() if not k.startswith("num_")}
    values = found.setdefault(read_out, _Values())
    for name, value in metrics.items():
        values.metrics.setdefault(name, {})[of] = value
    means = read_class_means(folder, metrics)
    if means is not None:
        values.tables.append(_Table(folder / "per_class.csv", of, means))


def _best_epochs(training: Training) -> dict[str, float]:
    """The highest value of every metric over the epochs, each at an epoch of its own."""
    scores = [n for n in training.rows[0] if n.startswith("test/") and "/num_" not in n and not n.endswith(_TIED)]
    missing = [name for name in scores or ["test/..."] if any(name not in row for row in training.rows)]
    if missing:
        raise ConfigError(f"{training.directory / 'metrics.jsonl'}: not every epoch has {', '.join(missing)}")
    return {name.removeprefix("test/"): max(row[name] for row in training.rows) for name in scores}


def _require_equal_classes(tables: Iterable[_Table]) -> None:
    first: _Table | None = None
    for table in tables:
        first = first or table
        same = table.means.classes == first.means.classes and table.means.num_queries == first.means.num_queries
        if not same:
            raise ConfigError(f"{table.path}: not the classes and numbers of queries of {first.path}")


def _finalist(study: Study, one: Candidate, trainings: Sequence[Training], found: Found) -> Finalist:
    values = {
        read_out: {name: statistics.by_seed(of_metric) for name, of_metric in of.metrics.items()}
        for read_out, of in found.items()
    }
    return Finalist(
        name=one.name,
        trial=one.trial,
        settings=settings_of(study.base, one.config),
        config=plain(without_places(one.config)),
        repeats=tuple(training.repeat for training in trainings),
        values=values,
        metrics={read_out: dict(_on_test(of)) for read_out, of in found.items()},
    )


def _on_test(values: _Values) -> Iterator[tuple[str, OnTest]]:
    table = values.averaged(values.seeds)
    intervals = over_classes(table) if table is not None else {}
    for name, of_metric in values.metrics.items():
        mean = mean_over_seeds(of_metric)
        assert mean is not None
        yield name, OnTest(mean=mean, classes=intervals.get(name))


def _gains(winner: Found, base: Found) -> dict[ReadOut, dict[str, Gain]]:
    """Of what was selected on the test classes there is none: it would be no more comparable than its values."""
    return {
        read_out: dict(_gain(base[read_out], values))
        for read_out, values in winner.items()
        if read_out in base and read_out != "selected"
    }


def _gain(base: _Values, winner: _Values) -> Iterator[tuple[str, Gain]]:
    """Every metric by itself: they are too much alike to be so many chances."""
    names = [name for name in winner.metrics if name in base.metrics and name != _TIED]
    common = winner.seeds & base.seeds
    first, second = base.averaged(common), winner.averaged(common)
    intervals = over_classes(subtracted(first, second)) if first is not None and second is not None else {}
    for name in names:
        [found] = differences_between([(base.metrics[name], winner.metrics[name])])
        if found is not None:
            yield name, Gain(seeds=found, classes=intervals.get(name))
