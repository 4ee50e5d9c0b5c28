"""Streams of random numbers: the same from the same parts, different from any others."""

from __future__ import annotations

from itertools import product

import numpy as np

from raydml.seeds import Purpose, derive, stream, stream_at


def test_the_same_parts_give_the_same_numbers() -> None:
    assert stream(Purpose.CROPS, 3, 7).random(5).tolist() == stream(Purpose.CROPS, 3, 7).random(5).tolist()
    assert derive(Purpose.LOSS, 3, 7) == derive(Purpose.LOSS, 3, 7)


def test_every_purpose_seed_and_epoch_has_numbers_of_its_own() -> None:
    uses = list(product(Purpose, range(12), range(12)))
    assert len({derive(*use) for use in uses}) == len(uses)
    assert len({stream(*use).random() for use in uses}) == len(uses)


def test_a_stream_can_be_entered_anywhere() -> None:
    whole = stream_at(0, Purpose.CROPS, 3, 7).random(400)
    for block in (0, 1, 7, 99):
        assert stream_at(block, Purpose.CROPS, 3, 7).random(4).tolist() == whole[4 * block : 4 * block + 4].tolist()
    assert stream_at(2**40, Purpose.CROPS, 3, 7).random() not in whole
    others = [stream_at(0, *parts).random() for parts in ((Purpose.LOSS, 3, 7), (Purpose.CROPS, 7, 3))]
    assert not set(others) & set(whole)


def test_drawing_touches_no_global_generator() -> None:
    np.random.seed(0)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    stream(Purpose.BATCHES, 1).random(100)
    assert np.random.random() == expected  # noqa: NPY002


def test_a_derived_seed_suits_every_library() -> None:
    assert all(0 <= derive(Purpose.LAYERS, 2**40, epoch) < 2**32 for epoch in range(100))


def test_purposes_keep_their_numbers() -> None:
    # Every result depends on them: a renumbering would silently change all seeds.
    assert {purpose.name: purpose.value for purpose in Purpose} == {
        "BATCHES": 0,
        "CROPS": 1,
        "LOSS": 2,
        "LAYERS": 3,
        "SAMPLER": 4,
        "FRAMES": 5,
        "CLUSTERS": 6,
        "CONFIRM": 7,
        "FINAL": 8,
        "GALLERY": 9,
    }
