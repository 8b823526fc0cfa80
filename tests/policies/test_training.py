"""Checkpoints: the last two, whole or not at all, and the newest that can be read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routegym.policies.training import Training, nested, pick, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_gives_back_what_was_saved(tmp_path: Path) -> None:
    arrays = {
        "a/weights": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
        "count": np.array(3, dtype=np.int64),
        "keys": np.array([2**64 - 1], dtype=np.uint64),
        "none": np.zeros((0, 4)),
        "over": np.array([True, False]),
    }
    Training(tmp_path / "new" / "folder").save(7, {"step": 7, "rate": 0.1}, arrays)
    found = Training(tmp_path / "new" / "folder").latest()
    assert found is not None
    settings, loaded = found
    assert settings == {"step": 7, "rate": 0.1}
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


def test_keeps_the_last_two(tmp_path: Path) -> None:
    training = Training(tmp_path)
    assert training.latest() is None
    for number in (9, 10, 100, 1000):
        training.save(number, {"number": number}, {})
        found = training.latest()
        assert found is not None
        assert found[0]["number"] == number
    assert names(tmp_path) == ["checkpoint-000000000100.safetensors", "checkpoint-000000001000.safetensors"]
    (tmp_path / "mine").write_text("precious")
    training.clear()
    assert names(tmp_path) == ["mine"]
    (tmp_path / "mine").unlink()
    training.clear()
    assert not tmp_path.exists()


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _garbage(content: bytes) -> bytes:
    return b"\xff" * len(content)


def _empty(_: bytes) -> bytes:
    return b""


def _without_settings(content: bytes) -> bytes:
    return content.replace(b"settings", b"sittings")


@pytest.mark.parametrize("damage", [_cut, _garbage, _empty, _without_settings])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(damage: Any, tmp_path: Path) -> None:
    training = Training(tmp_path)
    for number in (1, 2):
        training.save(number, {"number": number}, {"x": np.full(50, number)})
    newest = tmp_path / "checkpoint-000000000002.safetensors"
    newest.write_bytes(damage(newest.read_bytes()))
    found = training.latest()
    assert found is not None
    assert found[0] == {"number": 1}
    np.testing.assert_array_equal(found[1]["x"], np.ones(50))
    for path in tmp_path.iterdir():
        path.write_bytes(damage(path.read_bytes()))
    assert training.latest() is None


def test_an_interrupted_write_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def failing(*_: Any) -> None:
        raise KeyboardInterrupt

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, failing)
            with pytest.raises(KeyboardInterrupt):
                write_atomically(path, b"new and longer")
        assert path.read_bytes() == b"old"
    write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"new and longer"
    assert names(tmp_path) == ["file"]


def test_a_draft_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(tmp_path)
    training.save(1, {"number": 1}, {})

    def failing(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(OSError, match="no space left"):
            training.save(2, {"number": 2}, {})
    assert len(names(tmp_path)) == 2  # the draft is there
    found = training.latest()
    assert found is not None
    assert found[0] == {"number": 1}


def test_is_due_when_the_time_has_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    training = Training(tmp_path, every_s=30)
    assert not training.due
    now = 129.0
    assert not training.due
    now = 130.0
    assert training.due
    training.save(1, {}, {})
    assert not training.due
    now = 160.0
    assert training.due


def test_without_a_folder_nothing_is_kept() -> None:
    training = Training(every_s=0)
    assert not training.due
    training.save(1, {}, {"x": np.zeros(1)})
    assert training.latest() is None
    training.clear()


def test_passes_on_metrics() -> None:
    records: list[Any] = []
    Training(report=records.append).report({"step": 3})
    assert records == [{"step": 3}]
    Training().report({"step": 3})


def test_nested_and_pick_are_inverse() -> None:
    inner = {"x": np.ones(2), "deep/y": np.zeros(1)}
    outer = nested("policy", inner) | nested("policy2", {"x": np.full(1, 5)})
    assert set(outer) == {"policy/x", "policy/deep/y", "policy2/x"}
    assert pick("policy", outer).keys() == inner.keys()
    np.testing.assert_array_equal(pick("policy2", outer)["x"], [5])
