"""The page of a search: what was run, what came of it, and what it does not show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import JsonValue

from raydml.report import front, study_plots
from raydml.report.blocks import NOTHING, Block, Heading, Paragraph, Picture, Table, duration, metric, shown, table
from raydml.report.contents import Best, Provenance, StudyContents, Trial
from raydml.report.neighbor_sheets import neighbor_blocks
from raydml.report.phases_page import phases_blocks

RECONSTRUCTION = (
    "The Margin-based Discriminate Loss is raydml's reconstruction from the abstract of Sun, Tang and Bai (2018): "
    "its formula is not public, and no number here can be compared with the paper's."
)


def study_blocks(study: StudyContents) -> Iterator[Block]:
    """Everything there is to say of a search."""
    yield Heading(f"Search: {study.name}", 2)
    yield from _warnings(study)
    yield _what_was_run(study)
    yield from phases_blocks(study)
    if study.best is not None:
        yield from _best(study, study.best)
    if study.front:
        yield from front.front_blocks(study)
    yield from _trials(study)
    yield from _space(study)
    yield from neighbor_blocks(study.directory, study.neighbors)
    yield Heading("Where the numbers come from", 3)
    yield provenance_table(study.provenance, {"study": study.identity})


def _warnings(study: StudyContents) -> Iterator[Block]:
    yield Paragraph(f"{study.stamp}.", warning=True)
    if study.best is None:
        yield Paragraph("No trial is complete: there is no best configuration.", warning=True)
    else:
        complete = study.budget.states.get("complete", 0)
        trials = "1 complete trial" if complete == 1 else f"{complete} complete trials"
        yield Paragraph(
            f"{study.metric} {study.best.value:.4f} is the best of {trials}, on the classes it was "
            "chosen by: a search reports its luckiest trial, so expect less from a fresh seed.",
            warning=True,
        )
        raw = study.baseline.get(study.metric.removeprefix("val/"))
        if raw is not None and study.best.value <= raw:
            yield Paragraph(f"That is no better than raw pixels, without any training: {raw:.4f}.", warning=True)
    if _at(study.base, "loss.kind") == "discriminate":
        yield Paragraph(RECONSTRUCTION, warning=True)


def _what_was_run(study: StudyContents) -> Table:
    budget = study.budget
    states = ", ".join(f"{count} {state}" for state, count in budget.states.items()) or "none yet"
    settings = ("data.kind", "loss.kind", "model.backbone", "model.embedding_dim", "training.num_epochs", "seed")
    rows = [
        ("trials", f"{states}; asked for {budget.trials_asked}"),
        ("epochs of all trials", str(budget.epochs)),
        ("time spent on them", duration(budget.seconds)),
        ("metric", study.metric),
        *((("kept small", ", ".join(study.minimize)),) if study.minimize else ()),
        *((path, shown(_at(study.base, path))) for path in settings if path not in study.space),
    ]
    return table("What was run", ("", ""), rows, words=(0, 1))


def _at(raw: dict[str, JsonValue], path: str) -> JsonValue:
    found: JsonValue = raw
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _best(study: StudyContents, best: Best) -> Iterator[Block]:
    yield Heading(f"The best of the search: trial {best.number}", 3)
    if best.changes:
        rows = [(change.path, shown(change.before), shown(change.after)) for change in best.changes]
        yield table("Its configuration, where it is not the base", ("setting", "base", "best"), rows)
    else:
        yield Paragraph("Its configuration is the base itself.")
    yield _best_metrics(study, best)
    yield Picture(study_plots.learning_curves(study, best), f"Trial {best.number}, epoch by epoch")
    yield Picture(study_plots.recall_curve(study, best), "Queries with an image of their class among the k nearest")


def _best_metrics(study: StudyContents, best: Best) -> Table:
    columns = [("mean of folds" if best.folds else f"trial {best.number}", best.metrics)]
    if study.baseline:
        columns.append(("raw pixels", {f"val/{name}": value for name, value in study.baseline.items()}))
    columns += [(f"fold {fold}", of_fold) for fold, of_fold in best.folds.items()]
    rows = [(name, *(metric(values.get(name)) for _, values in columns)) for name in best.metrics]
    caption = "On validation classes, after the last epoch"
    return table(caption, ("metric", *(heading for heading, _ in columns)), rows)


def _trials(study: StudyContents) -> Iterator[Block]:
    yield Heading("All trials", 3)
    if not study.trials:
        yield Paragraph("No trial has begun.")
        return
    yield Picture(study_plots.history(study), "Value of every trial, in the order they were begun")
    measured = [name for name in study.minimize if name not in study.space]
    header = ("trial", "state", "epochs", study.metric, *measured, *study.space)
    rows = [_row(study, trial, measured) for trial in study.trials]
    yield table("Complete ones first, best first; of a pruned one its last value", header, rows, words=(1,))
    failures = [(str(trial.number), trial.failure) for trial in study.trials if trial.failure is not None]
    if failures:
        yield table("Why trials failed", ("trial", "reason"), failures, words=(1,))


def _row(study: StudyContents, trial: Trial, measured: Sequence[str]) -> tuple[str, ...]:
    further = (shown(trial.further[name]) if trial.further else NOTHING for name in measured)
    values = (shown(trial.point[path]) if path in trial.point else NOTHING for path in study.space)
    return (str(trial.number), trial.state, str(trial.epochs), metric(trial.value), *further, *values)


def _space(study: StudyContents) -> Iterator[Block]:
    yield Heading("The space", 3)
    if any(trial.point for trial in study.trials):
        caption = "Trials as lines through their settings; in grey those that did not end complete"
        yield Picture(study_plots.parallel_coordinates(study), caption)
    importance = study.importance
    if importance.missing is not None:
        yield Paragraph(f"Importance of the settings: {importance.missing}.")
        return
    yield Picture(study_plots.importances(study), f"Importance of the settings: {importance.method}")
    rows = [(path, f"{share:.3f}") for path, share in importance.shares.items()]
    caption = f"Share of the variance of {study.metric} over {importance.num_trials} complete trials"
    yield table(caption, ("setting", "share"), rows)


def provenance_table(provenance: Provenance, more: dict[str, str]) -> Table:
    """Fingerprint, commit and versions, as far as they were noted."""
    rows = [
        *more.items(),
        ("data fingerprint", provenance.fingerprint or "unknown"),
        *((("commit of raydml", provenance.commit),) if provenance.commit else ()),
        *provenance.versions.items(),
    ]
    return table("Identity, data and versions", ("", ""), rows, words=(0, 1))
