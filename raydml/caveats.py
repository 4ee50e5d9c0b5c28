"""What a reader must know before quoting a number of a study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from raydml.config import (
    PRESETS,
    Cars196Config,
    Cub200Config,
    ExperimentConfig,
    Photos,
    Protocol,
    SopConfig,
    dump,
)
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


def opening_lines(study: Study) -> tuple[str, ...]:
    """What is said before a search: its stamp, and for `mlrc` every difference from the paper."""
    unlike = differences_from_mlrc(study) if study.protocol.preset == "mlrc" else ()
    return (f"{study.name}: {stamp(study)}", *(f"  unlike Musgrave et al. 2020: {line}" for line in unlike))


def differences_from_mlrc(study: Study) -> tuple[str, ...]:
    """Where a study with the preset `mlrc` is not what Musgrave, Belongie and Lim (2020) ran, beyond `departures`.

    Their settings are those of their published configurations; what raydml cannot do comes first.
    """
    return (*_never_as_in_mlrc(study), *_data_unlike_mlrc(study.base), *_model_unlike_mlrc(study))


def _never_as_in_mlrc(study: Study) -> Iterator[str]:
    epochs = study.base.training.num_epochs
    yield (
        f"a trial's value is that of its last epoch, after {epochs} epochs; theirs is the best one, on the validation "
        "classes it is chosen by, looked at every 2 epochs until 9 looks bring nothing better"
    )
    yield (
        "the interval is over fresh seeds alone; theirs pools them with the trial that was selected, which makes its "
        "mean a little too high"
    )
    if study.search.sampler == "gp":
        startup = study.search.startup_trials
        yield f"the sampler gp is Optuna's, after {startup} trials without a model; theirs is Ax's, after a Sobol start"
    else:
        yield f"search.sampler is {study.search.sampler}; theirs is a Gaussian process with expected improvement (Ax)"
    if study.search.metric != "val/map@r":
        yield f"search.metric is {study.search.metric}; theirs is MAP@R"
    if study.search.start:
        yield f"start points that are tried first: {len(study.search.start)}; theirs none"
    yield "the untuned base meets the test classes beside the winner; theirs only the winner"


def _data_unlike_mlrc(base: ExperimentConfig) -> Iterator[str]:
    data = base.data
    if not isinstance(data, Cub200Config | Cars196Config | SopConfig):
        yield f"the images are {data.kind}; theirs CUB-200-2011, Cars196 and Stanford Online Products"
    if isinstance(data, SopConfig) and data.lists != "halves":
        yield "Stanford Online Products by its own lists, 11,318 and 11,316 classes; theirs by halves, 11,317 each"
    if isinstance(data, Photos) and (data.image_size, data.input_size) != (256, 227):
        yield f"images are resized to {data.image_size} and cropped to {data.input_size}; theirs 256 and 227"
    augment = (data.augment.smallest_crop, data.augment.widest_aspect, data.augment.flip)
    if (augment[0], round(augment[1], 2), augment[2]) != (0.16, 1.33, 0.5):
        yield (
            f"crops of at least {augment[0]:g} of the image, sides up to {augment[1]:.3g} to 1, flipped with "
            f"probability {augment[2]:g}; theirs 0.16, 1.33 and 0.5"
        )
    jitter = [name for name in ("brightness", "contrast", "saturation", "hue") if getattr(data.augment, name)]
    if jitter:
        yield f"colours change at random ({', '.join(jitter)}); theirs do not"
    if (data.batch_size, data.samples_per_class) != (32, 4):
        slots = data.batch_size // data.samples_per_class
        yield f"a batch is {slots} class slots of {data.samples_per_class} images; theirs 8 classes of 4"
    if base.training.steps_per_epoch != 100:
        steps = base.training.steps_per_epoch
        length = "once through the training images" if steps is None else f"{steps} steps"
        yield f"an epoch is {length}; theirs 100 steps"


def _model_unlike_mlrc(study: Study) -> Iterator[str]:
    model, optimizer, schedule = study.base.model, study.base.optimizer, study.base.schedule
    yield f"the backbone is {model.backbone} (weights: {model.weights}); theirs BN-Inception from ImageNet"
    if model.embedding_dim != 128:
        yield f"embeddings have {model.embedding_dim} dimensions; theirs 128"
    if model.batch_norm != "frozen":
        yield f"BatchNorm is {model.batch_norm}; theirs frozen"
    yield (
        f"the optimizer is {optimizer.kind} (lr {optimizer.lr:g}, weight_decay {optimizer.weight_decay:g}); theirs "
        "RMSprop (lr 1e-06, weight decay 0.0001, momentum 0.9) for every loss"
    )
    if schedule.kind != "constant" or schedule.warmup_epochs:
        warm_up = f" after a warm-up of {schedule.warmup_epochs:g} epochs" if schedule.warmup_epochs else ""
        yield f"the learning rate follows a {schedule.kind} schedule{warm_up}; theirs is constant"
    yield from _searched_unlike_mlrc(study)


def _searched_unlike_mlrc(study: Study) -> Iterator[str]:
    path = "optimizer.loss_lr"
    limits = study.distributions().get(path)
    if limits is None:
        yield f"{path} is not searched; theirs is, from 1e-06 to 1, for losses with parameters of their own"
    elif limits.choices:
        yield f"{path} is one of {', '.join(map(str, limits.choices))}; theirs anything from 1e-06 to 1"
    elif not limits.log or (limits.low, limits.high) != (1e-6, 1.0):
        yield f"{path} is searched from {limits.low:g} to {limits.high:g}; theirs from 1e-06 to 1, in logarithms"
    others = sorted(name for name in study.space if name != path and not name.startswith("loss."))
    if others:
        yield f"searched too: {', '.join(others)}; theirs only the loss and its learning rate"
