"""The page of a protocol: what was asked for, where it is not what it is called, and what it has cost."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import JsonValue

from raydml.report.blocks import NOTHING, Block, Heading, Paragraph, Table, duration, shown, table
from raydml.report.contents import StudyContents
from raydml.report.phases import Plan

Section = dict[str, JsonValue]


def plan_blocks(study: StudyContents) -> Iterator[Block]:
    """The parts of the protocol, departures and budget."""
    plan = study.plan
    yield Heading("Protocol", 3)
    rows = [
        ("preset", plan.preset),
        ("folds", f"{plan.folds_run} of {plan.folds}"),
        ("search", _search(plan)),
        ("early stopping", "none" if plan.early_stopping is None else f"ASHA, {shown(plan.early_stopping)}"),
        ("confirm", _confirm(study.protocol["confirm"])),
        ("final", _final(study.protocol["final"])),
    ]
    yield table("What was asked for", ("", ""), rows, words=(0, 1))
    if plan.departures:
        yield Paragraph(f"Not as the preset {plan.preset}: {'; '.join(plan.departures)}.", warning=True)
    if plan.differences:
        rows_of_paper = [(difference,) for difference in plan.differences]
        yield table("What differs from Musgrave, Belongie and Lim (2020)", ("",), rows_of_paper)
    yield _spent(study)


def _search(plan: Plan) -> str:
    hours = "" if plan.max_hours is None else f", at most {plan.max_hours:g} hours"
    return f"{plan.num_trials} trials by {plan.sampler}{hours}, for the highest {plan.metric} at the last epoch"


def _confirm(asked: JsonValue) -> str:
    if not isinstance(asked, dict):
        return "none: the best trial of the search is the winner"
    return f"the best {asked['top']} configurations and the base, {_seeds(asked)}: the best mean wins"


def _final(asked: JsonValue) -> str:
    if not isinstance(asked, dict):
        return "none: no look at the test classes"
    folds = asked["models"] == "folds"
    models = "one model for each fold" if folds else "one model of all training classes"
    looks = "after every epoch" if asked["best_epoch_on_test"] else "after the last epoch"
    return f"winner and base, {_seeds(asked)}, {models}; the test classes {looks}"


def _seeds(asked: Section) -> str:
    seeds = f"{asked['seeds']} fresh seed{'' if asked['seeds'] == 1 else 's'} each"
    if asked["half_width"] is None:
        return seeds
    return (
        f"{seeds} and more, up to {asked['max_seeds']}, until every interval is at most +- {shown(asked['half_width'])}"
    )


def _spent(study: StudyContents) -> Table:
    asked = {"search": True, "confirm": study.protocol["confirm"], "final": study.protocol["final"]}
    rows = [
        (spent.phase, str(spent.runs), str(spent.epochs), duration(spent.seconds) if spent.runs else NOTHING)
        for spent in study.plan.spent
        if asked[spent.phase] or spent.runs
    ]
    return table("What it has cost so far", ("phase", "runs", "epochs", "time"), rows)
