"""Queries against a gallery and drawn galleries, against loops; which split has which protocol."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from raydml.config import ConfigError, Wanted, parse
from raydml.config.experiment import ExperimentConfig
from raydml.data import subsets
from raydml.data.listing import ANY_ROLE, GALLERY, QUERY
from raydml.data.subsets import fold_subsets, split_subset, trainval_subset
from raydml.metrics import query_metrics, retrieval_metrics
from raydml.retrieval import (
    EveryOther,
    QueryGallery,
    RandomGallery,
    _draws,
    beyond_gallery,
    described,
    facts_of,
    protocol_metrics,
    protocol_of,
    protocol_of_roles,
)
from tests.retrieval_oracles import by_draws, by_roles, image_set, mean_of, unit_rows

Engine = Literal["rank", "faiss"]
both_engines = pytest.mark.parametrize("engine", ["rank", "faiss"])
RANKS = (1, 2, 5)
A, Q, G = ANY_ROLE, QUERY, GALLERY

# Labels, and roles of the images.
ROLES: dict[str, tuple[list[int], list[int]]] = {
    "every class on both sides": ([0, 0, 0, 1, 1, 2, 2, 2, 3, 3], [Q, G, Q, G, Q, G, G, Q, Q, G]),
    "a class without query, two without gallery": ([0, 0, 1, 1, 1, 2, 2, 3, 4, 4], [Q, G, G, G, G, Q, Q, Q, Q, G]),
    "some images are either": ([0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4], [A, A, Q, A, G, Q, A, Q, A, Q, A]),
    "either, and only one of each class": ([0, 0, 1, 1, 2], [Q, A, A, Q, A]),
    "many": (sorted(list(range(30)) * 5), ([Q, Q, G, A, G] * 31)[1:151]),
}


def data_of(kind: str, **values: object) -> ExperimentConfig:
    return parse({"data": {"kind": kind, "root": "nowhere", "num_folds": 2, **values}})


@both_engines
@pytest.mark.parametrize("case", ROLES)
def test_queries_against_a_gallery_equal_the_loop(case: str, engine: Engine, device: torch.device) -> None:
    labels, roles = ROLES[case]
    rows, y = unit_rows(labels, seed=1)
    protocol = protocol_of_roles(np.array(roles, dtype=np.int8), "x")
    assert isinstance(protocol, QueryGallery)
    found = protocol_metrics(protocol, rows.to(device), y.to(device), wanted=Wanted(RANKS), engine=engine)
    expected, left_out = by_roles(rows, y, protocol.roles, RANKS)
    for name, values in found.values.items():
        assert values.tolist() == pytest.approx([row[name] for row in expected.values()], abs=1e-7), name
    assert found.labels.tolist() == [labels[i] for i in expected]
    means = mean_of(list(expected.values()))
    del means["mrr"]
    counts = {"num_queries": len(expected), "num_queries_without_positive": left_out}
    assert found.means() == pytest.approx({**means, **counts}, abs=1e-7)
    by_class = {
        label: [row for i, row in expected.items() if labels[i] == label] for label in set(found.labels.tolist())
    }
    for label, row in found.class_means().items():
        mean = mean_of(by_class[label])
        assert row == pytest.approx({name: mean.get(name, len(by_class[label])) for name in row}, abs=1e-7)


def test_queries_without_a_positive_are_counted() -> None:
    labels, roles = ROLES["a class without query, two without gallery"]
    rows, y = unit_rows(labels, seed=2)
    means = protocol_metrics(protocol_of_roles(np.array(roles, np.int8), "x"), rows, y).means()
    assert (means["num_queries"], means["num_queries_without_positive"]) == (2, 3)


@both_engines
def test_a_query_does_not_hide_the_gallery_image_at_its_own_position(engine: Engine) -> None:
    """The only positive of query i is row i of the gallery."""
    labels = [0, 1, 2, 3] * 2
    roles = np.array([QUERY] * 4 + [GALLERY] * 4, dtype=np.int8)
    rows = np.eye(4)[labels]
    means = protocol_metrics(QueryGallery(roles), rows, np.array(labels), engine=engine).means()
    assert (means["recall@1"], means["map@r"], means["num_queries"]) == (1.0, 1.0, 4)


@both_engines
def test_the_query_image_under_another_label_in_the_gallery_counts_against_it(engine: Engine) -> None:
    rows = np.array([[1.0, 0.0], [1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    roles = np.array([QUERY, GALLERY, GALLERY, GALLERY], dtype=np.int8)
    found = protocol_metrics(
        QueryGallery(roles), rows, np.array([0, 1, 0, 1]), wanted=Wanted((1, 2)), engine=engine
    ).means()
    assert (found["recall@1"], found["recall@2"], found["map@r"]) == (0.0, 1.0, 0.0)
    equal = protocol_metrics(
        QueryGallery(roles), rows[[0, 1, 1, 3]], np.array([0, 1, 0, 1]), wanted=Wanted((1, 2)), engine=engine
    ).means()
    assert (equal["recall@1"], equal["recall@2"], equal["tied_queries"]) == (0.0, 1.0, 1.0), "a tie counts against it"


@both_engines
def test_an_image_that_is_either_is_not_found_by_itself(engine: Engine) -> None:
    rows = np.array([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]])
    roles = np.array([ANY_ROLE, GALLERY, QUERY], dtype=np.int8)
    found = protocol_metrics(QueryGallery(roles), rows, np.array([0, 0, 0]), wanted=Wanted((1,)), engine=engine)
    assert found.means()["num_queries"] == 2
    foreign = protocol_metrics(QueryGallery(roles), rows, np.array([0, 1, 0]), wanted=Wanted((1,)), engine=engine)
    assert foreign.labels.tolist() == [0], "alone in its class but for itself and a query"
    assert foreign.num_without_positive == 1


@both_engines
@pytest.mark.parametrize("num_draws", [1, 7])
@pytest.mark.parametrize(
    "labels",
    [[0] * 3 + [1] * 2 + [2] * 5, [4, 0, 0, 2, 4, 2, 7, 4, 7], [0, 0, 1, 2, 2, 2, 3], sorted(list(range(40)) * 3)],
    ids=["rising", "in any order", "some alone", "many"],
)
def test_drawn_galleries_equal_the_loop(
    labels: list[int], num_draws: int, engine: Engine, device: torch.device
) -> None:
    rows, y = unit_rows(labels, seed=3)
    found = protocol_metrics(
        RandomGallery(num_draws), rows.to(device), y.to(device), wanted=Wanted(RANKS), engine=engine
    )
    galleries = [gallery.tolist() for _, gallery in _draws(y.numpy(), num_draws)]
    images = by_draws(rows, y, galleries, RANKS)
    seen = [i for i, row in enumerate(images) if row]
    assert found.times is not None
    assert found.times.tolist() == [images[i]["times"] for i in seen]
    assert found.labels.tolist() == [labels[i] for i in seen]
    for name, values in found.values.items():
        assert values.tolist() == pytest.approx([images[i][name] for i in seen], abs=1e-7), name
    means = found.means()
    # The mean over draws of the mean over queries.
    for name in found.values:
        draws = [np.mean([row[name] for row in by_draws(rows, y, [gallery], RANKS) if row]) for gallery in galleries]
        assert means[name] == pytest.approx(np.mean(draws), abs=1e-7), name
    assert (means["num_queries"], means["num_queries_without_positive"]) == (len(labels) - len(set(labels)), 0)


@both_engines
def test_classes_of_drawn_galleries_weighted_by_their_queries_are_the_whole(engine: Engine) -> None:
    labels = [0] * 2 + [1] * 7 + [2] + [3] * 4
    rows, y = unit_rows(labels, seed=4)
    found = protocol_metrics(RandomGallery(9), rows, y, wanted=Wanted(RANKS), engine=engine)
    classes, whole = found.class_means(), found.means()
    assert {label: row["num_queries"] for label, row in classes.items()} == {0: 1, 1: 6, 3: 3}
    assert all(isinstance(row["num_queries"], int) for row in classes.values())
    for name in found.values:
        mean = sum(row["num_queries"] * row[name] for row in classes.values()) / whole["num_queries"]
        assert mean == pytest.approx(whole[name], abs=1e-12)
    images = by_draws(rows, y, [gallery.tolist() for _, gallery in _draws(y.numpy(), 9)], RANKS)
    for label, row in classes.items():
        own = [image for image, of in zip(images, labels, strict=True) if of == label and image]
        mean = np.average([image["map@r"] for image in own], weights=[image["times"] for image in own])
        assert row["map@r"] == pytest.approx(mean, abs=1e-7)


def test_in_a_drawn_gallery_map_is_the_first_rank_and_mrr_the_mean_of_its_reciprocal() -> None:
    rows, y = unit_rows(sorted(list(range(20)) * 4), seed=5, spread=1.5)
    found = protocol_metrics(RandomGallery(3), rows, y).means()
    assert found["map@r"] == found["r_precision"] == found["recall@1"] < found["mrr"] < 1


def test_every_draw_holds_one_image_of_each_class_and_the_others_ask() -> None:
    labels = np.array([3, 0, 0, 3, 5, 0])
    draws = [(query.tolist(), gallery.tolist()) for query, gallery in _draws(labels, 300)]
    for query, gallery in draws:
        assert labels[gallery].tolist() == [0, 3, 5]
        assert sorted(query + gallery) == list(range(6))
        assert query == sorted(query)
    share = np.bincount([place for _, gallery in draws for place in gallery], minlength=6) / 300
    assert share == pytest.approx([1 / 2, 1 / 3, 1 / 3, 1 / 2, 1, 1 / 3], abs=0.1)


def test_draws_are_the_same_for_every_model_and_more_of_them_begin_alike() -> None:
    labels = np.repeat(np.arange(50), 6)
    few, many = ([gallery.tolist() for _, gallery in _draws(labels, count)] for count in (3, 5))
    assert many[:3] == few
    assert len({tuple(gallery) for gallery in many}) == 5
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert [gallery.tolist() for _, gallery in _draws(labels, 3)] == few


def test_classes_of_one_image_leave_nobody_to_ask() -> None:
    rows, y = unit_rows([0, 1, 2], seed=6)
    with pytest.raises(ValueError, match="no query has a positive: every class has one image"):
        protocol_metrics(RandomGallery(2), rows, y)


@both_engines
def test_every_other_image_is_what_the_metrics_do(engine: Engine) -> None:
    rows, y = unit_rows(sorted(list(range(9)) * 3), seed=7)
    assert protocol_metrics(EveryOther(), rows, y, engine=engine).means() == retrieval_metrics(rows, y, engine=engine)
    either = QueryGallery(np.zeros(27, dtype=np.int8))
    assert protocol_metrics(either, rows, y, engine=engine).means() == retrieval_metrics(rows, y, engine=engine)


@both_engines
def test_the_first_rank_is_asked_for_beyond_the_deepest_recall(engine: Engine) -> None:
    """Lists of faiss may end before it: then it is counted."""
    gallery, gallery_labels = unit_rows(list(range(60)), seed=8)
    query, query_labels = unit_rows(list(range(60)), seed=9)
    found = query_metrics(query, query_labels, gallery, gallery_labels, wanted=Wanted((1,), mrr=True), engine=engine)
    similarity = query @ gallery.T
    first = (similarity >= similarity.diagonal()[:, None]).sum(1)
    assert found.values["mrr"].tolist() == pytest.approx((1 / first.double()).tolist(), abs=1e-12)
    assert first.max() > 30


INSHOP = image_set([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5], num_training=4, roles=[A] * 8 + [Q, G, G, Q])


def test_training_images_have_one_protocol_and_test_images_that_of_their_roles() -> None:
    data = data_of("inshop").data
    assert protocol_of(data, INSHOP, trainval_subset(INSHOP, data), "train") == EveryOther()
    assert protocol_of(data, INSHOP, fold_subsets(INSHOP, data, 0)[1], "val") == EveryOther()
    found = protocol_of(data, INSHOP, subsets.test_subset(INSHOP, data), "test")
    assert isinstance(found, QueryGallery)
    assert found.roles.tolist() == [Q, G, G, Q]
    plain = image_set([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5], num_training=4)
    assert protocol_of(data, plain, subsets.test_subset(plain, data), "test") == EveryOther()
    unused = image_set([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5], num_training=4, roles=[A] * 12)
    assert protocol_of(data, unused, subsets.test_subset(unused, data), "test") == EveryOther()


@pytest.mark.parametrize(("role", "missing"), [(Q, "gallery"), (G, "query")])
def test_roles_that_leave_a_side_empty_are_refused(role: int, missing: str) -> None:
    data = data_of("inshop").data
    images = image_set([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5], num_training=4, roles=[A] * 8 + [role] * 4)
    law = f"data: the test images of by hand: some have a role, but none is a {missing} image"
    with pytest.raises(ConfigError, match=law):
        protocol_of(data, images, subsets.test_subset(images, data), "test")


def vehicles() -> tuple[list[int], dict[str, list[bool]]]:
    """Five classes train. Of six others `small` has two and half of a third, `large` all but one of those."""
    labels = [label for label in range(11) for _ in range(4)]
    small = [label in (5, 8) or (label == 10 and place % 4 < 2) for place, label in enumerate(labels)]
    return labels, {"small": small, "large": [label in (6, 7, 8, 9, 10) for label in labels]}


def test_a_test_list_is_its_images_and_its_classes() -> None:
    labels, lists = vehicles()
    images = image_set(labels, num_training=5, test_lists=lists, name="vehicleid")
    for name, classes in (("small", [5, 8, 10]), ("large", [6, 7, 8, 9, 10])):
        data = data_of("vehicleid", test_list=name).data
        subset = split_subset(images, data, "test", None)
        assert subset.index.tolist() == np.flatnonzero(lists[name]).tolist()
        assert subset.classes.tolist() == classes
        assert subset.classes[subset.labels].tolist() == images.labels[subset.index].tolist()
        assert protocol_of(data, images, subset, "test") == RandomGallery(10)
        assert protocol_of(data, images, subset, "val") == EveryOther()
        assert trainval_subset(images, data).classes.tolist() == [0, 1, 2, 3, 4]
    other = data_of("vehicleid", gallery="leave_one_out").data
    assert protocol_of(other, images, split_subset(images, other, "test", None), "test") == EveryOther()
    with pytest.raises(ConfigError, match=r"data.test_list: this vehicleid has the lists small, large, but got medium"):
        split_subset(images, data_of("vehicleid", test_list="medium").data, "test", None)


def test_what_is_said_of_a_protocol() -> None:
    labels = np.repeat(np.arange(1200), 3)
    roles = np.tile(np.array([Q, G, G], dtype=np.int8), 1200)
    assert described(EveryOther(), labels) == "every image against all others: 3,600 images"
    assert described(QueryGallery(roles), labels) == "query against gallery: 1,200 queries, 2,400 gallery images"
    assert described(RandomGallery(10), labels) == "random gallery of 1,200, mean of 10 draws: 2,400 queries"
    alone = described(RandomGallery(1), np.array([0, 0, 1, 2]))
    assert alone == (
        "random gallery of 3, one draw: 1 queries; 2 of them are all there is of their class, which has no query"
    )
    some = QueryGallery(np.array([Q, G, A, G], dtype=np.int8))
    assert facts_of(some, np.array([0, 0, 1, 2])) == {
        "protocol": "query against gallery",
        "num_queries": 2,
        "num_gallery": 3,
        "num_gallery_classes_without_query": 1,
    }
    assert facts_of(RandomGallery(4), np.array([0, 0, 1, 2]))["num_classes_of_one_image"] == 2


def test_ranks_beyond_a_gallery_are_named() -> None:
    labels = np.array([0, 0, 1, 1])
    wanted = Wanted((1, 3, 4), precision_at=(2, 9), map_at=(4,))
    said = beyond_gallery(EveryOther(), labels, wanted)
    assert said == "recall@4, precision@9, map@4: a query has only 3 images to be found among"
    assert beyond_gallery(EveryOther(), labels, Wanted((1, 3))) is None
    few = beyond_gallery(QueryGallery(np.array([Q, Q, G, G], dtype=np.int8)), labels, Wanted((1, 3)))
    assert few == "recall@3: a query has only 2 images to be found among"
