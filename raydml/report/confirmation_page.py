"""The page of the confirming runs: who won with fresh seeds, and how far the search had overrated it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import JsonValue

from raydml.report import phase_plots
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
from raydml.report.estimates import FEW_SEEDS, Difference, MeanOfSeeds
from raydml.report.phases import Confirmation, Confirmed, Repeat

HOW_TO_READ = (
    "visible: the smallest true difference that this many seeds would show with 80 % power. seeds needed: to show half "
    "a point (0.005) with 80 % power, judged from the deviation here."
)
_STATES = {
    "unfinished": "ended after epoch {epochs} of {num_epochs} (running or interrupted): in no mean",
    "failed": "failed after epoch {epochs} of {num_epochs}, and would again: its configuration cannot win",
    "not evaluated": "trained, but not evaluated on the test classes yet: in no mean",
    "other configuration": "trained with another configuration than this study's: in no mean",
}


def confirmation_blocks(found: Confirmation) -> Iterator[Block]:
    """Everything there is to say of confirming runs."""
    yield from confirmation_summary(found)
    yield _settings(found)
    yield Paragraph(
        "search value: the one it was chosen by, and inflated for that; it is in no mean. confirmed: mean over fresh "
        "seeds of the mean over folds, with the 95 % interval by Student's t. minus base: paired at equal seeds and "
        f"folds. p: two-sided paired t-test, adjusted for the number of candidates (Holm). {HOW_TO_READ}"
    )
    yield from few_seeds([one.mean for one in found.candidates])
    if any(one.mean is not None for one in found.candidates):
        yield Picture(phase_plots.confirmed(found), f"{found.metric}: what the search found, and what fresh seeds say")
    if found.fold_curves:
        name = label(found.winner or "")
        yield Picture(phase_plots.fold_curves(found), f"The winner ({name}) fold by fold, mean over fresh seeds")
    yield _every_run(found)


def confirmation_summary(found: Confirmation) -> Iterator[Block]:
    """Who won, by how much, and how the candidates did."""
    yield Heading("Confirmed with fresh seeds", 3)
    yield from progress(found.runs_done, found.runs_asked, _repeats(found))
    yield from _verdict(found)
    yield _candidates(found)


def label(name: str) -> str:
    """A candidate in words: `0007` is trial 7."""
    return f"trial {int(name)}" if name.isdecimal() else f"the {name}"


def _repeats(found: Confirmation) -> list[Repeat]:
    return [repeat for one in found.candidates for repeat in one.repeats]


def progress(done: int, asked: int, repeats: Sequence[Repeat]) -> Iterator[Block]:
    """How much of a phase is there, and which of its runs are in no mean."""
    if done < asked:
        yield Paragraph(f"Not finished: {done} of {asked} runs.", warning=True)
    for repeat in repeats:
        if repeat.state in _STATES:
            words = _STATES[repeat.state].format(epochs=repeat.epochs, num_epochs=repeat.num_epochs)
            yield Paragraph(f"{repeat.name}: {words}.", warning=True)


def few_seeds(means: Sequence[MeanOfSeeds | None]) -> Iterator[Block]:
    """A warning where deviations come from too few seeds."""
    if any(mean is not None and 1 < mean.n < FEW_SEEDS for mean in means):
        yield Paragraph(
            f"Fewer than {FEW_SEEDS} seeds: the deviation of so few is often far too small, and with it the number of "
            "seeds needed.",
            warning=True,
        )
    if any(mean is not None and mean.n == 1 for mean in means):
        yield Paragraph("A single seed has no interval: nothing is known of how another one would end.", warning=True)


def _verdict(found: Confirmation) -> Iterator[Block]:
    winner = next((one for one in found.candidates if one.name == found.winner), None)
    if winner is not None and winner.mean is not None:
        value = f"{found.metric} {plus_minus(winner.mean.mean, winner.mean.half_width)}"
        seeds = f"{winner.mean.n} fresh seed{'' if winner.mean.n == 1 else 's'}"
        if winner.minus_base is None:
            yield Paragraph(
                f"The base won, with {value} over {seeds}: no configuration that the search preferred was better with "
                "fresh seeds."
            )
        else:
            yield Paragraph(
                f"The winner is {label(winner.name)}: {value} over {seeds}, from which alone it is named. As the best "
                f"of {len(found.candidates)} its mean is a little too high still; final runs have seeds of their own."
            )
            yield from _doubt(winner.minus_base)
    best = max((one for one in found.candidates if one.search_value is not None), key=_searched, default=None)
    if best is not None and best.mean is not None and best.inflation is not None:
        more = "more" if best.inflation >= 0 else "less"
        yield Paragraph(
            f"The best of the search was {label(best.name)} with {metric(best.search_value)} there: "
            f"{abs(best.inflation):.4f} {more} than the {best.mean.mean:.4f} of fresh seeds."
        )


def _searched(one: Confirmed) -> float:
    assert one.search_value is not None
    return one.search_value


def _doubt(gain: Difference) -> Iterator[Block]:
    if gain.p_adjusted is None:
        yield Paragraph("That it is better than the base is not shown: there is no test of it.", warning=True)
    elif gain.p_adjusted >= 0.05:
        yield Paragraph(
            "That it is better than the base is not shown: seeds alone make differences as large as this one.",
            warning=True,
        )


def settings(changes: dict[str, JsonValue]) -> str:
    """What a configuration changes of the base."""
    return ", ".join(f"{path}={shown(value)}" for path, value in changes.items()) or "the base"


def _candidates(found: Confirmation) -> Table:
    header = ("candidate", "search value", "seeds", "confirmed", "minus base", "p", "p (Holm)", "visible")
    rows = [_candidate(_named(one, found), one) for one in found.candidates]
    return table(f"{found.metric} of the candidates", (*header, "seeds needed"), rows)


def _settings(found: Confirmation) -> Table:
    paths = list(dict.fromkeys(path for one in found.candidates for path in one.settings))
    rows = [
        (_named(one, found), *(shown(one.settings[path]) if path in one.settings else NOTHING for path in paths))
        for one in found.candidates
    ]
    return table("Their settings, where they are not the base's", ("candidate", *paths), rows)


def _named(one: Confirmed, found: Confirmation) -> str:
    trial = f" (trial {one.trial})" if one.name == "base" and one.trial is not None else ""
    winner = ", winner" if one.name == found.winner else ""
    return f"{label(one.name).removeprefix('the ')}{trial}{winner}"


def _candidate(name: str, one: Confirmed) -> tuple[str, ...]:
    return (
        name,
        metric(one.search_value),
        NOTHING if one.mean is None else str(one.mean.n),
        NOTHING if one.mean is None else plus_minus(one.mean.mean, one.mean.half_width),
        *difference_cells(one.minus_base, adjusted=True),
    )


def difference_cells(found: Difference | None, *, adjusted: bool) -> tuple[str, ...]:
    """Difference, p, perhaps p (Holm), visible, seeds needed."""
    if found is None:
        return (NOTHING,) * (5 if adjusted else 4)
    return (
        plus_minus(found.difference.mean, found.difference.half_width),
        probability(found.p),
        *((probability(found.p_adjusted),) if adjusted else ()),
        metric(found.detectable),
        NOTHING if found.seeds_needed is None else str(found.seeds_needed),
    )


def _every_run(found: Confirmation) -> Table:
    rows = [
        (
            repeat.name,
            str(repeat.seed),
            repeat.state,
            f"{repeat.epochs}/{repeat.num_epochs}",
            metric(one.values.get(repeat.seed)),
            duration(repeat.seconds) if repeat.epochs else NOTHING,
        )
        for one in found.candidates
        for repeat in one.repeats
    ]
    header = ("run", "seed", "state", "epochs", found.metric, "time")
    return table("Every confirming run", header, rows, words=(0, 2))
