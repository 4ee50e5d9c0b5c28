"""The page of trainings: each by itself, and what repetitions say together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raydml.report import run_plots
from raydml.report.blocks import (
    NOTHING,
    Block,
    Heading,
    Paragraph,
    Picture,
    Table,
    duration,
    metric,
    plus_minus,
    probability,
    shown,
    table,
)
from raydml.report.contents import Comparison, Group, Pair, RunContents
from raydml.report.estimates import FEW_SEEDS
from raydml.report.neighbor_sheets import neighbor_blocks
from raydml.report.study_page import RECONSTRUCTION, provenance_table

_MOST_COLUMNS = 4


def runs_blocks(runs: Sequence[RunContents], comparison: Comparison | None) -> Iterator[Block]:
    """Everything there is to say of trainings."""
    yield Heading("Training" if len(runs) == 1 else "Trainings", 2)
    if _any_of_kind(runs, "data", "glyphs"):
        yield Paragraph("Synthetic images (glyphs).", warning=True)
    if _any_of_kind(runs, "loss", "discriminate"):
        yield Paragraph(RECONSTRUCTION, warning=True)
    if comparison is not None and len(runs) > 1:
        yield from _groups(comparison)
    if comparison is not None and len(comparison.groups) > 1:
        yield from _pairs(comparison)
    yield Heading("Every run", 3)
    yield _every_run(runs, comparison)
    if len(runs) == 1 and runs[0].models[0].metrics:
        yield _metrics_of(runs[0])
    if any(run.epochs for run in runs):
        yield Picture(run_plots.learning_curves(runs, comparison), "Epoch by epoch")
    if len(runs) == 1:
        yield from neighbor_blocks(runs[0].directory, runs[0].neighbors)
    if comparison is not None and comparison.common:
        yield _configuration(comparison)
    yield from _provenance(runs)


def _any_of_kind(runs: Sequence[RunContents], section: str, kind: str) -> bool:
    sections = [run.config.get(section) for run in runs]
    return any(isinstance(found, dict) and found.get("kind") == kind for found in sections)


def _groups(comparison: Comparison) -> Iterator[Block]:
    groups = comparison.groups
    yield Heading("Groups", 3)
    yield Paragraph(
        "Runs of a group differ in nothing but seed and fold. Means are over seeds, of the mean over folds, with the "
        "95 % interval by Student's t; a single seed has no interval. They tell how another seed would come out, not "
        "how other classes would."
    )
    paths = list(groups[0].settings)
    rows = [
        (group.name, str(len(group.seeds)), _folds(group.folds), *(shown(group.settings[path]) for path in paths))
        for group in groups
    ]
    yield table("What distinguishes them" if paths else "One group", ("group", "seeds", "folds", *paths), rows)
    yield _means(comparison)
    if any(comparison.metric in group.means for group in groups):
        yield Picture(run_plots.means(comparison), f"{comparison.metric}: mean over seeds and 95 % interval")
    few = [group.name for group in groups if 1 < len(group.seeds) < FEW_SEEDS]
    if few:
        yield Paragraph(
            f"Fewer than {FEW_SEEDS} seeds in {', '.join(few)}: the deviation of so few is often far too small, and "
            "with it the number of seeds needed.",
            warning=True,
        )


def _means(comparison: Comparison) -> Table:
    """A column for each of a few groups, a row for each of many."""
    groups = comparison.groups
    names = list(dict.fromkeys(name for group in groups for name in group.means))
    caption = "Mean over seeds and 95 % interval"
    if len(groups) <= _MOST_COLUMNS:
        rows = [(name, *(_mean(group, name) for group in groups)) for name in names]
        return table(caption, ("metric", *(group.name for group in groups)), rows)
    return table(caption, ("group", *names), [(g.name, *(_mean(g, name) for name in names)) for g in groups])


def _mean(group: Group, name: str) -> str:
    found = group.means.get(name)
    return NOTHING if found is None else plus_minus(found.mean, found.half_width)


def _folds(folds: Sequence[int | None]) -> str:
    return ", ".join("none" if fold is None else str(fold) for fold in folds)


def _pairs(comparison: Comparison) -> Iterator[Block]:
    """In every metric where there are two groups; of more only in the one that is shown."""
    yield Heading("Paired comparison", 3)
    several = len(comparison.groups) > 2
    pairs = [pair for pair in comparison.pairs if not several or pair.metric == comparison.metric]
    if not pairs:
        yield Paragraph("The groups have no seed and fold in common: nothing can be compared in pairs.", warning=True)
        return
    adjusted = ("p (Holm)",) if several else ()
    header = ("pair", "metric", "seeds", "difference", "p", *adjusted, "visible", "seeds needed")
    rows = [_pair(pair, several=several) for pair in pairs]
    yield table("Second minus first, at the seeds and folds they share", header, rows, words=(0, 1))
    holm = " p (Holm): adjusted for the number of pairs." if several else ""
    yield Paragraph(
        f"p: two-sided paired t-test.{holm} visible: the smallest true difference that this many seeds would show with "
        "80 % power. seeds needed: to show half a point (0.005) with 80 % power, judged from the deviation here."
    )


def _pair(pair: Pair, *, several: bool) -> tuple[str, ...]:
    return (
        f"{pair.second} - {pair.first}",
        pair.metric,
        str(pair.difference.n),
        plus_minus(pair.difference.mean, pair.difference.half_width),
        probability(pair.p),
        *((probability(pair.p_adjusted),) if several else ()),
        metric(pair.detectable),
        NOTHING if pair.seeds_needed is None else str(pair.seeds_needed),
    )


def _every_run(runs: Sequence[RunContents], comparison: Comparison | None) -> Table:
    chosen = "val/map@r" if comparison is None else comparison.metric
    groups = () if comparison is None else comparison.groups
    group_of = {run: group.name for group in groups for run in group.runs}
    rows = [
        (
            group_of.get(run.name, NOTHING),
            run.name,
            str(run.seed),
            _folds([model.fold for model in run.models]),
            f"{run.epochs}/{run.num_epochs}",
            ", ".join(metric(model.metrics.get(chosen)) for model in run.models),
            duration(run.seconds),
        )
        for run in sorted(runs, key=lambda run: (group_of.get(run.name, "~"), run.seed, run.name))
    ]
    header = ("group", "run", "seed", "fold left out", "epochs", chosen, "time")
    return table("With its final value", header, rows, words=(0, 1))


def _metrics_of(run: RunContents) -> Table:
    names = list(dict.fromkeys(name for model in run.models for name in model.metrics))
    several = len(run.models) > 1
    header = ("metric", *(f"fold {model.fold}" if several else "value" for model in run.models))
    rows = [(name, *(metric(model.metrics.get(name)) for model in run.models)) for name in names]
    return table("Final metrics", header, rows)


def _configuration(comparison: Comparison) -> Table:
    rows = [(change.path, shown(change.before), shown(change.after)) for change in comparison.common]
    return table("Settings of every run that are not the default", ("setting", "default", "here"), rows)


def _provenance(runs: Sequence[RunContents]) -> Iterator[Block]:
    """Once for all runs that share it."""
    yield Heading("Where the numbers come from", 3)
    alike: dict[str, list[RunContents]] = {}
    for run in runs:
        alike.setdefault(run.provenance.model_dump_json(), []).append(run)
    for together in alike.values():
        names = {} if len(alike) == 1 else {"runs": ", ".join(run.name for run in together)}
        yield provenance_table(together[0].provenance, names)
