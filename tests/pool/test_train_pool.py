"""The training command, on a model small enough to train in a blink."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from routegym.pool import Request, Response, load_pool
from routegym.pool.codec import ANSWER_TOKENS

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train_pool.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if not SCRIPT.exists():
        pytest.skip("scripts/ is not part of the installed package")
    spec = importlib.util.spec_from_file_location("train_pool", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    monkeypatch.setitem(sys.modules, "train_pool", module)
    spec.loader.exec_module(module)
    return module


def test_training_is_reproducible_and_gives_a_pool(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = script.Recipe(
        width=8, layers=1, heads=1, levels={"add1": 1.0}, written=0.3, steps=12, batch=16, learning_rate=1e-2
    )
    monkeypatch.setattr(script, "RECIPES", {"nano": recipe})
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        trained = script.train("nano", recipe, seed, tmp_path / folder / "nano")
        script.update_pool_file(tmp_path / folder / "pool.yaml", {"nano": trained})
    first, again, other = ((tmp_path / folder / "nano" / "model.safetensors").read_bytes() for folder in "abc")
    assert first == again
    assert first != other
    assert "nano 12" in capsys.readouterr().out

    pool = load_pool(tmp_path / "a" / "pool.yaml")
    assert [arm.name for arm in pool.arms] == ["nano/direct"]
    assert pool.training("nano")["seed"] == 1
    (answer,) = pool.backend.generate([Request(pool.arms[0], "3+4")])
    assert isinstance(answer, Response)
    assert 1 <= answer.tokens[2] <= ANSWER_TOKENS


def test_the_embedded_pool_was_trained_with_these_recipes(script: ModuleType) -> None:
    pool = load_pool()
    for name, recipe in script.RECIPES.items():
        recorded = pool.training(name)["recipe"]
        assert recorded == {**vars(recipe)}, name


def test_the_embedded_pool_file_is_what_the_command_writes(script: ModuleType, tmp_path: Path) -> None:
    shipped = load_pool().path.read_text(encoding="utf-8")
    script.update_pool_file(tmp_path / "pool.yaml", yaml.safe_load(shipped)["models"])
    assert (tmp_path / "pool.yaml").read_text(encoding="utf-8") == shipped
