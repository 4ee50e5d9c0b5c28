"""Defects of other tools (specs/protocol.md, section 7) that a search must not have, and what shows that it has not.

The table names the test of each; those below had none.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import raydml.space  # noqa: F401
from raydml.config import ExperimentConfig, Model
from raydml.data.opening import open_images
from raydml.data.pixels import PixelSource
from raydml.data.subsets import fold_subsets
from raydml.epoch import embed_share, new_state
from raydml.metrics import retrieval_metrics
from raydml.model_training import data_shape
from tests.test_config import models

TESTS = Path(__file__).parent
SHOWN_BY = {
    4: ("test_defects.py", "test_metrics_do_not_depend_on_the_number_of_shards"),
    5: ("test_protocol.py", "test_command_line_before_file_before_preset_before_default"),
    6: ("test_defects.py", "test_every_setting_is_read_by_some_code"),
    7: ("test_protocol.py", "test_bad_protocols_are_named"),
    8: ("test_training.py", "test_two_identical_runs_are_bit_identical"),
    9: ("test_report_protocol.py", "test_the_best_epoch_on_test_is_shown_where_asked_for_and_labelled"),
    10: ("test_splits.py", "test_folds_cut_the_classes_into_even_parts"),
    11: ("integration/test_isolation.py", "test_a_search_that_cannot_open_a_test_image_is_the_same_search"),
    12: ("test_repeats.py", "test_the_winner_is_named_from_confirming_runs_only"),
    18: ("test_losses_ranking.py", "test_equals_the_loop_over_queries"),
    23: ("integration/test_search.py", "test_pruned_trials_are_pruned_with_their_last_value"),
}


@pytest.mark.parametrize("number", SHOWN_BY)
def test_the_table_names_tests_that_exist(number: int) -> None:
    name, function = SHOWN_BY[number]
    assert f"def {function}(" in (TESTS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("num_shards", [2, 3, 7])
def test_metrics_do_not_depend_on_the_number_of_shards(
    num_shards: int, tiny: ExperimentConfig, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samplers that pad the last shard count images twice."""
    images = open_images(tiny.data)
    train, val = fold_subsets(images, tiny.data, 0)
    state = new_state(tiny, data_shape(tiny, images, train), steps_per_epoch=1, device=device)
    source = PixelSource(images.images, val.index, device=device)
    whole = embed_share(state, source, val.labels)
    monkeypatch.setattr("raydml.epoch.world_size", lambda: num_shards)
    shards = []
    for shard in range(num_shards):
        monkeypatch.setattr("raydml.epoch.rank", lambda shard=shard: shard)
        shards.append(embed_share(state, source, val.labels))
    order = torch.cat([shard.index for shard in shards]).argsort()
    assert torch.equal(torch.cat([shard.index for shard in shards])[order].cpu(), torch.arange(len(val.labels)))
    embeddings = torch.cat([shard.embeddings for shard in shards])[order]
    np.testing.assert_allclose(embeddings.cpu(), whole.embeddings.cpu(), atol=1e-6)
    found = retrieval_metrics(embeddings, torch.cat([shard.labels for shard in shards])[order])
    assert found == pytest.approx(retrieval_metrics(whole.embeddings, whole.labels), abs=2 / len(val.labels))
    assert found["num_queries"] == len(val.labels)


@cache
def names_read() -> frozenset[str]:
    """Every attribute that code reads, every word and every parameter; but not what a section reads to check itself."""
    found: set[str] = set()
    for path in (TESTS.parent / "raydml").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = "config" in path.parts
        checks = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("_")]
        skipped = {id(below) for node in checks if inside for below in ast.walk(node)}
        for node in ast.walk(tree):
            if id(node) in skipped:
                continue
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.MatchClass):
                found.update(node.kwd_attrs)
            elif isinstance(node, ast.arg) and not inside:
                found.add(node.arg)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not inside:
                found.add(node.value)
    return frozenset(found)


@pytest.mark.parametrize("model", list(models(Model)), ids=lambda model: model.__name__)
def test_every_setting_is_read_by_some_code(model: type[Model]) -> None:
    """Options that are declared and never read let a user believe they worked."""
    if model.__module__.startswith(("raydml.report", "tests")):
        return
    unread = [name for name in model.model_fields if name not in names_read()]
    assert unread == []
