"""The page of the test classes: winner and base, how sure their difference is, and how often anyone looked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from raydml.report import phase_plots
from raydml.report.blocks import (
    NOTHING,
    Block,
    Heading,
    Paragraph,
    Picture,
    Table,
    duration,
    interval,
    metric,
    plus_minus,
    shown,
    table,
)
from raydml.report.confirmation_page import HOW_TO_READ, difference_cells, few_seeds, progress, settings
from raydml.report.contents import StudyContents
from raydml.report.estimates import GENERATOR_SEED, NUM_RESAMPLES
from raydml.report.phases import Final, Finalist, Gain, ReadOut, WinnersPair

SELECTED = "selected on test, not comparable"
_READ_OUTS: dict[ReadOut, str] = {
    "last": "",
    "separated": "separated",
    "concatenated": "concatenated",
    "selected": SELECTED,
}
_MEANING: dict[ReadOut, str] = {
    "separated": "separated: mean of the metrics of the models of the folds.",
    "concatenated": "concatenated: the embeddings of the models of the folds put together, an ensemble.",
    "selected": (
        f"{SELECTED}: the best epoch on the test classes themselves, for every metric its own, as many papers report "
        "it; beside the last epoch it shows how much that is worth."
    ),
}
Column = tuple[Finalist, ReadOut]


def final_blocks(found: Final, *, confirmed: bool) -> Iterator[Block]:
    """Everything there is to say of final runs; `confirmed` is whether the winner was named from fresh seeds."""
    yield from final_summary(found, confirmed=confirmed)
    if not found.finalists:
        return
    columns = _columns(found)
    if columns:
        yield from _details(found, columns)
    yield _every_run(found)


def final_summary(found: Final, *, confirmed: bool) -> Iterator[Block]:
    """Whether the winner is better than the base, and how good both are."""
    yield Heading("Test classes", 3)
    if found.earlier_winners:
        yield Paragraph(
            f"The test classes were looked at for {found.earlier_winners + 1} winners, one after the other: the more "
            "winners, the less new these classes are.",
            warning=True,
        )
    if not found.finalists:
        yield Paragraph("The winner is not known yet: confirming runs are missing.", warning=True)
        return
    repeats = [repeat for one in found.finalists for repeat in one.repeats]
    yield from progress(found.runs_done, found.runs_asked, repeats)
    yield from _who(found, confirmed=confirmed)
    columns = _columns(found)
    if columns:
        yield from _verdict(found)
        caption = "On the test classes: mean over seeds and 95 % interval"
        rows = [(name, *_means(name, columns)) for name in _names(columns)]
        yield table(caption, ("metric", *map(_heading, columns)), rows)
        if found.retrieval:
            yield Paragraph(f"Retrieval on the test classes: {found.retrieval}.")


def _columns(found: Final) -> list[Column]:
    return [(one, read_out) for one in found.finalists for read_out in _READ_OUTS if read_out in one.metrics]


def _names(columns: Sequence[Column]) -> list[str]:
    return list(dict.fromkeys(name for one, read_out in columns for name in one.metrics[read_out]))


def _who(found: Final, *, confirmed: bool) -> Iterator[Block]:
    first = found.finalists[0]
    if first.name == "base":
        yield Paragraph("The base won: it met the test classes alone, and there is nothing to compare.")
        return
    how = "" if confirmed else ", the best trial of the search: no fresh seed has confirmed it"
    trial = "" if first.trial is None else f"trial {first.trial}"
    yield Paragraph(f"The winner is {trial}{how}. Its settings: {settings(first.settings)}.", warning=not confirmed)


def _details(found: Final, columns: Sequence[Column]) -> Iterator[Block]:
    honest = [(one, read_out) for one, read_out in columns if read_out != "selected"]
    names = _names(columns)
    yield from (Paragraph(words) for read_out, words in _MEANING.items() if any(read_out == of for _, of in columns))
    with_classes = [(one, of) for one, of in honest if any(m.classes is not None for m in one.metrics[of].values())]
    if with_classes:
        yield _classes(names, with_classes)
    if found.gains:
        yield _gains(found)
        yield Paragraph(
            "difference: paired at equal seeds, with the 95 % interval by Student's t: how another seed would come "
            "out. over classes: how other classes would, by the bootstrap of the classes' differences "
            f"({NUM_RESAMPLES} resamples, generator seed {GENERATOR_SEED}). p: two-sided paired t-test, of each metric "
            f"by itself; the one that was searched for is {found.metric}. {HOW_TO_READ}"
        )
    yield from few_seeds([one.metrics[of][name].mean for one, of in honest for name in one.metrics[of]])
    if any("recall@" in name for name in names):
        yield Picture(
            phase_plots.recall_on_test(honest), "Test classes: queries with an image of their class among the k"
        )


def _verdict(found: Final) -> Iterator[Block]:
    for read_out, gains in found.gains.items():
        gain = gains.get(found.metric)
        if gain is not None:
            name = ", ".join(filter(None, (found.metric, _READ_OUTS[read_out])))
            by = gain.seeds.difference
            shown_by = "is" if gain.seeds.p is not None and gain.seeds.p < 0.05 else "is not"
            yield Paragraph(
                f"{name}: winner minus base {plus_minus(by.mean, by.half_width)} over {by.n} "
                f"seed{'' if by.n == 1 else 's'}; a difference {shown_by} shown (paired t-test at 5 %)."
            )


def _heading(column: Column) -> str:
    one, read_out = column
    seeds = max((mean.mean.n for mean in one.metrics[read_out].values()), default=0)
    words = ", ".join(filter(None, (one.name, _READ_OUTS[read_out])))
    return f"{words} (n = {seeds})"


def _means(name: str, columns: Sequence[Column]) -> Iterator[str]:
    for one, read_out in columns:
        value = one.metrics[read_out].get(name)
        yield NOTHING if value is None else plus_minus(value.mean.mean, value.mean.half_width)


def _classes(names: Sequence[str], columns: Sequence[Column]) -> Table:
    rows = []
    for name in names:
        values = [one.metrics[read_out].get(name) for one, read_out in columns]
        found = [None if value is None else value.classes for value in values]
        if any(found):
            rows.append((name, *(NOTHING if i is None else interval(i.low, i.high) for i in found)))
    num_classes = {value.classes.n for one, of in columns for value in one.metrics[of].values() if value.classes}
    caption = (
        f"95 % interval over the {', '.join(map(str, sorted(num_classes)))} test classes: bootstrap "
        f"({NUM_RESAMPLES} resamples, generator seed {GENERATOR_SEED})"
    )
    return table(caption, ("metric", *map(_heading, columns)), rows)


def _gains(found: Final) -> Table:
    rows = [_gain(name, read_out, gain) for read_out, gains in found.gains.items() for name, gain in gains.items()]
    header = ("metric", "seeds", "difference", "over classes", "p", "visible", "seeds needed")
    return table("Winner minus base", header, rows)


def _gain(name: str, read_out: ReadOut, gain: Gain) -> tuple[str, ...]:
    difference, *rest = difference_cells(gain.seeds, adjusted=False)
    over_classes = NOTHING if gain.classes is None else interval(gain.classes.low, gain.classes.high)
    words = ", ".join(filter(None, (name, _READ_OUTS[read_out])))
    return (words, str(gain.seeds.difference.n), difference, over_classes, *rest)


def _every_run(found: Final) -> Table:
    name = found.metric
    rows = []
    for one in found.finalists:
        values = one.values.get("last", one.values.get("concatenated", {})).get(name, {})
        for repeat in one.repeats:
            epochs = f"{repeat.epochs}/{repeat.num_epochs}"
            time = duration(repeat.seconds) if repeat.epochs else NOTHING
            value = metric(values.get(repeat.seed))
            rows.append((repeat.name, str(repeat.seed), repeat.state, epochs, value, time))
    return table("Every final run", ("run", "seed", "state", "epochs", f"test/{name}", "time"), rows, words=(0, 2))


def looks_blocks(study: StudyContents) -> Iterator[Block]:
    """How often test classes were looked at, and for whom."""
    if not study.looks:
        if study.final is not None and study.final.runs_done:
            yield Paragraph("test_looks.jsonl is missing: nobody noted how often the test classes were looked at.")
        return
    total = sum(study.looks.values())
    yield Paragraph(f"The test classes were looked at {total} time{'' if total == 1 else 's'} in this study.")
    models: Counter[str] = Counter()
    looks: Counter[str] = Counter()
    for run, count in study.looks.items():
        whose = run.rpartition("-seed")[0] or run
        models[whose] += 1
        looks[whose] += count
    rows = [(whose, str(models[whose]), str(looks[whose])) for whose in sorted(looks)]
    yield table("Looks at the test classes", ("of", "runs", "looks"), rows)
    by_hand = sum(count for whose, count in looks.items() if not whose.startswith("final/"))
    if by_hand:
        yield Paragraph(
            f"{by_hand} of them not by the protocol's final runs: what is chosen with such a look in mind is tuned on "
            "the test classes.",
            warning=True,
        )


def winners_blocks(pairs: Sequence[WinnersPair]) -> Iterator[Block]:
    """The winners of several studies, two at a time."""
    yield Heading("Winners of the studies on the test classes", 2)
    for pair in pairs:
        yield Heading(f"{pair.second} - {pair.first}", 3)
        if pair.missing is not None:
            yield Paragraph(f"They cannot be compared: {pair.missing}.", warning=True)
        elif not pair.changes:
            yield Paragraph("Their winners are the same configuration.")
        if pair.changes:
            rows = [(path, shown(before), shown(after)) for path, (before, after) in pair.changes.items()]
            yield table("Where the winners differ", ("setting", pair.first, pair.second), rows)
        if pair.metrics:
            cells = [
                (name, str(found.difference.n), *difference_cells(found, adjusted=True))
                for name, found in pair.metrics.items()
            ]
            header = ("metric", "seeds", "difference", "p", "p (Holm)", "visible", "seeds needed")
            yield table(f"{pair.second} minus {pair.first}, at the seeds they share", header, cells)
            yield Paragraph(f"p (Holm): adjusted for the number of pairs of studies. {HOW_TO_READ}")
