"""Rendered characters: enough classes, none of them a twin of another, the same for the same configuration."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from raydml.config import ConfigError, GlyphsConfig
from raydml.data import glyphs
from raydml.data.cache import Decoded
from raydml.data.glyphs import distinct_characters, render_glyphs
from raydml.metrics import retrieval_metrics

SMALL = GlyphsConfig(kind="glyphs", num_classes=30, images_per_class=6, image_size=16)


def test_the_fonts_have_as_many_classes_as_can_be_configured() -> None:
    largest = GlyphsConfig.model_fields["num_classes"].metadata
    most = next(limit.le for limit in largest if hasattr(limit, "le"))
    assert most >= 500
    assert len(distinct_characters()) >= most


def test_characters_that_look_alike_are_one_class_and_others_are_not() -> None:
    groups = distinct_characters()
    of = {character: number for number, group in enumerate(groups) for character in group}
    for alike in ("A\u0391\u0410", "O\u039f\u041e", "c\u0441", "p\u0440", "B\u0392\u0412"):
        assert len({of[character] for character in alike}) == 1
    apart = "ABEFOQCGILMNHKRPXYVUWZ0123456789acexyzhnburm\u0394\u03a9\u0416\u042f"
    assert len({of[character] for character in apart}) == len(apart)
    assert len(of) == sum(map(len, groups))


@pytest.fixture(scope="module")
def noisy() -> Decoded:
    return render_glyphs(SMALL)


@pytest.fixture(scope="module")
def clean() -> Decoded:
    return render_glyphs(SMALL.model_copy(update={"noise": 0.0}))


def test_every_class_has_its_images(noisy: Decoded) -> None:
    assert noisy.images.shape == (180, 16, 16, 1)
    assert noisy.images.dtype == np.uint8
    assert np.bincount(noisy.labels).tolist() == [6] * 30
    assert len(set(noisy.classes)) == len(noisy.classes) == 30
    assert len(noisy.sources) == 180
    for source, label in zip(noisy.sources, noisy.labels, strict=True):
        assert source.startswith(f"U+{ord(noisy.classes[label][0]):04X} ")


def test_the_faces_of_a_class_take_turns(noisy: Decoded) -> None:
    faces = [source.split(" ", 1)[1] for source in noisy.sources]
    assert all(len(set(faces[start : start + 6])) == 6 for start in range(0, 180, 6))


def test_the_seed_decides_every_pixel(noisy: Decoded) -> None:
    again = render_glyphs(SMALL)
    assert np.array_equal(noisy.images, again.images)
    assert noisy.classes == again.classes
    other = render_glyphs(SMALL.model_copy(update={"render_seed": 1}))
    assert not np.array_equal(noisy.images, other.images)
    assert noisy.classes != other.classes
    assert sorted(noisy.classes) == sorted(other.classes)


def test_rendering_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    render_glyphs(SMALL)
    assert torch.equal(torch.get_rng_state(), state)


def test_characters_are_white_on_black_and_every_instance_differs(clean: Decoded) -> None:
    assert (clean.images == 0).mean() > 0.5
    assert clean.images.max(axis=(1, 2, 3)).min() > 128
    assert len(np.unique(clean.images.reshape(180, -1), axis=0)) == 180


def test_even_of_one_face_every_instance_differs() -> None:
    config = SMALL.model_copy(update={"num_classes": 8, "images_per_class": 60, "noise": 0.0})
    decoded = render_glyphs(config)
    for source in sorted(set(decoded.sources)):
        same = decoded.images[[other == source for other in decoded.sources]].reshape(-1, 16 * 16)
        assert len(same) >= 3
        assert len(np.unique(same, axis=0)) == len(same)


def test_noise_has_the_deviation_asked_for(clean: Decoded, noisy: Decoded) -> None:
    ink = clean.images.astype(float) / 255
    # Where the clean image is grey, clipping hides nothing.
    grey = (ink > 0.4) & (ink < 0.6)
    assert (noisy.images / 255 - ink)[grey].std() == pytest.approx(0.1, abs=0.01)


def test_pixels_say_something_about_the_class_but_not_all(noisy: Decoded) -> None:
    rows = torch.from_numpy(noisy.images.reshape(180, -1)).float()
    metrics = retrieval_metrics(torch.nn.functional.normalize(rows - rows.mean(0), dim=1), noisy.labels)
    assert 0.15 < metrics["recall@1"] < 0.95


def test_more_classes_than_the_fonts_have_are_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glyphs, "distinct_characters", lambda: ["A", "B"])
    with pytest.raises(ConfigError, match=r"data\.num_classes: .* 2 distinct .* num_classes=30"):
        render_glyphs(SMALL)


def test_matplotlib_only_lends_its_fonts() -> None:
    code = (
        "import sys; from raydml.config import GlyphsConfig; from raydml.data import glyphs;"
        "config = GlyphsConfig(kind='glyphs', num_classes=8, images_per_class=2);"
        "glyphs.glyph_fingerprint(config); glyphs.render_glyphs(config);"
        "sys.exit(any(name.split('.')[0] == 'matplotlib' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
