"""The driver finds the fingerprint of the images once; whoever trains or embeds is told it and lists nothing."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from raydml import identity
from raydml.capacity import Worker
from raydml.config import ConfigError, ExperimentConfig, replace_at
from raydml.data.opening import fingerprint, open_images
from raydml.phases import _knowing, spec_of
from raydml.probe import _with_steps
from raydml.recorded import Task
from raydml.repeats import base_of, repetition
from raydml.training import Run, RunSpec, require_trainable
from raydml.tune import _trial_config
from tests.conftest import study_folder
from tests.photographs import config_of, make_photographs
from tests.test_repeats import study_of


def test_trials_and_repetitions_are_told(tmp_path: Path) -> None:
    study = study_of(folds_run=2)
    run = repetition(tmp_path, base_of(study, []), "confirm", 0)

    def told(experiment: ExperimentConfig) -> str | None:
        task = _trial_config(study, study_folder(tmp_path), Worker(1.0, 0.0), 0, experiment, {})["task"]
        found: str | None = task.spec.fingerprint
        return found

    assert told(study.base) is _knowing(study, tmp_path, spec_of(study, run)).fingerprint is None
    identity.write(tmp_path, identity.identity_of(study, "abc"))
    assert told(study.base) == "abc"
    assert told(replace_at(study.base, "data.image_size", 17)) is None, "a trial of other images finds its own"
    assert _knowing(study, tmp_path, spec_of(study, run)).fingerprint == "abc"
    assert _knowing(study, tmp_path, spec_of(study, run)) == replace(spec_of(study, run), fingerprint="abc")


def test_a_probe_keeps_what_it_was_told(tiny: ExperimentConfig, tmp_path: Path) -> None:
    spec = RunSpec(tiny, tmp_path, "train", (0, 1), 1, fingerprint="abc")
    wanted = replace(spec, config=replace_at(tiny, "training.steps_per_epoch", 7), directory=tmp_path / "probe")
    task = Task(spec, {}, Worker(1.0, 0.0))
    assert _with_steps(task, 7, "probe") == replace(task, spec=wanted)


def test_a_run_refuses_other_images(tiny: ExperimentConfig, tmp_path: Path) -> None:
    known = fingerprint(tiny.data)
    Run(RunSpec(tiny, tmp_path / "same", fingerprint=known), device=torch.device("cpu")).close()
    with pytest.raises(ConfigError, match="the images changed since this run began: they were abc"):
        Run(RunSpec(tiny, tmp_path / "other", fingerprint="abc"), device=torch.device("cpu"))
    assert require_trainable(tiny, known=known).fingerprint == known
    with pytest.raises(ConfigError, match="the images changed"):
        require_trainable(tiny, known="abc")


def test_equal_names_sizes_and_times_at_two_places_are_two_data_sets(tmp_path: Path) -> None:
    """Archives that are packed reproducibly agree in all three; pixels must never come from the other."""
    found = []
    for number, place in enumerate(("one", "other")):
        root = make_photographs(tmp_path / place)
        for path in sorted(root.rglob("*.jpg")):
            pixels = Image.new("RGB", (24, 20), (100 * number, 0, 0))
            path.unlink()
            pixels.save(path.with_suffix(".bmp"))
            os.utime(path.with_suffix(".bmp"), (1, 1))
        found.append(open_images(config_of(root, cache=str(tmp_path / "cache"))))
    assert found[0].sources == found[1].sources
    assert found[0].fingerprint != found[1].fingerprint
    assert [int(images.images.max()) for images in found] == [0, 100]
