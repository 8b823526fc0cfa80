"""Cross-validation: every task is held out once, and nothing of it is seen before."""

import numpy as np
import pyarrow as pa
import pytest

from routegym.errors import ConfigError
from routegym.graph import folds as folds_module
from routegym.graph.folds import fold_of_tasks, fold_recordings
from routegym.graph.imports import RoutingData, to_recording


def made(n=60, text="hashing"):
    ids = [f"q{q}" for q in range(n)]
    prompts = [f"prompt {q // 2} of {q % 2}" if q >= 10 else "the same" for q in range(n)]
    responses = pa.table({"query": ids, "arm": ["a"] * n, "score": [1.0] * n, "cost_usd": [1.0] * n})
    return to_recording(RoutingData("made", responses, pa.table({"query": ids, "prompt": prompts})), text=text, dims=4)


def test_every_task_is_held_out_once() -> None:
    recording = made().recording
    parts = fold_recordings(recording, 5)
    held = np.concatenate([part.split("test") for part in parts])
    assert sorted(held.tolist()) == list(range(60))
    for part in parts:
        assert {"train", "val", "test"} == set(part.tasks.splits)
        assert part.graph is recording.graph
        assert part.cost_scale_usd == recording.cost_scale_usd
    assert recording.tasks.splits == made().recording.tasks.splits  # left as it was


def test_equal_prompts_are_in_one_fold() -> None:
    assert len(set(fold_of_tasks(made().recording.tasks, 5)[:10].tolist())) == 1


def test_text_features_are_fitted_on_each_training_split() -> None:
    parts = fold_recordings(made().recording, 3)
    for part in parts:
        train = part.tasks.embedding[part.split("train")]
        assert train.max() == 1.0
        assert train.min() == 0.0
        assert f"on {len(train)} prompts" in part.tasks.embedder


def test_another_seed_deals_anew_and_the_same_seed_does_not() -> None:
    tasks = made().recording.tasks
    assert (fold_of_tasks(tasks, 5, seed=1) != fold_of_tasks(tasks, 5)).any()
    np.testing.assert_array_equal(fold_of_tasks(tasks, 5, seed=1), fold_of_tasks(tasks, 5, seed=1))


def test_it_can_be_saved(tmp_path) -> None:
    from routegym.graph import Recording

    part = fold_recordings(made().recording, 3)[1]
    part.save(tmp_path / "part")
    again = Recording.load(tmp_path / "part")
    assert again.tasks.splits == part.tasks.splits
    assert again.provenance["fold"]["number"] == 1


@pytest.mark.parametrize(("folds", "message"), [(1, "expected at least 2"), (2000, "leave fold .* empty")])
def test_bad_numbers(folds: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fold_recordings(made().recording, folds)


@pytest.mark.parametrize(("wanted", "message"), [("val", "no validation task"), ("train", "no training task")])
def test_a_fold_needs_tasks_to_train_and_to_validate_on(wanted: str, message: str, monkeypatch) -> None:
    keep = 8 if wanted == "val" else 1  # one task in so many is for validation: none of these buckets, or all of them
    monkeypatch.setattr(folds_module, "_VALIDATION", keep)
    monkeypatch.setattr(folds_module, "_bucket", lambda prompt, seed: 2 + len(prompt) % 2)
    with pytest.raises(ConfigError, match=f"leave fold 0 {message}"):
        fold_recordings(made(text="none").recording, 2)
