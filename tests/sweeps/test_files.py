"""The files in sweeps/: what the script writes, what W&B takes, and what the learners have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from services import wandb_history, wandb_records

pytest.importorskip("torch")

from routegym.cli.train import changes
from routegym.policies.algorithm import algorithm_names
from routegym.policies.config import hyperparameters, tuned
from routegym.registration import ENV_IDS, kind_of
from routegym.sweeps import SweepConfig, read_sweep
from routegym.sweeps.checks import check_hyperparameters, option
from routegym.sweeps.config import Parameter

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "sweeps").glob("*.yaml"))


def told(config: SweepConfig) -> tuple[str, str]:
    return str(option(config, "--algo")), str(option(config, "--env"))


def test_they_are_what_the_script_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from sweep_files import sweep_files

    written = dict(sweep_files())
    assert {path.name: path.read_text(encoding="utf-8") for path in FILES} == written, "run scripts/sweep_files.py"


def test_there_is_one_for_every_environment_and_learner() -> None:
    names = {f"{kind_of(env)}-{algo}" for env in ENV_IDS for algo in algorithm_names("learner")}
    assert {path.stem for path in FILES} == names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_learner_takes_all_of_it_and_what_is_shipped_lies_inside(path: Path) -> None:
    config = read_sweep(path)
    algo, env = told(config)
    assert path.stem == f"{kind_of(env)}-{algo}"
    check_hyperparameters(config, algo, env, lambda pair: changes((pair,)))
    shipped = hyperparameters(tuned(algo, env))
    outside = {name: shipped[name] for name, one in config.parameters.items() if not one.admits(shipped[name])}
    assert outside == {}
    assert (config.metric.name, config.metric.goal) == ("aiq", "maximize")
    assert option(config, "--split") == "val"


def test_they_are_valid_in_wandbs_schema() -> None:
    """W&B ships it in the package ``sweeps``, which wants an old numpy: checked where that is installed."""
    schema: Any = pytest.importorskip("sweeps.config.schema")
    for path in FILES:
        assert list(schema.validator.iter_errors(yaml.safe_load(path.read_text(encoding="utf-8")))) == [], path.name


def test_ranges_are_those_that_wandb_makes_of_them() -> None:
    """W&B's own scheduler turns the same files into Optuna's distributions."""
    pytest.importorskip("optuna")
    theirs = pytest.importorskip("wandb.sdk.sweeps.scheduler.optuna")
    from routegym.sweeps.optuna_study import distribution

    other = [
        {"min": 1, "max": 5},
        {"min": 0.5, "max": 2.0},
        {"min": 1, "max": 9, "q": 2, "distribution": "q_uniform"},
        {"min": 0.0, "max": 1.0, "q": 0.25, "distribution": "q_uniform"},
        {"min": 1, "max": 64, "distribution": "q_log_uniform_values"},
        {"value": "a"},
    ]
    raw = [yaml.safe_load(path.read_text(encoding="utf-8"))["parameters"] for path in FILES]
    raw.append({f"p{number}": one for number, one in enumerate(other)})
    for parameters in raw:
        config = SweepConfig(
            method="random",
            metric={"name": "aiq"},
            parameters=parameters,
            command=["x", "${args}"],  # type: ignore[arg-type]
        )
        ours = {name: distribution(one) for name, one in config.parameters.items()}
        assert ours == theirs.search_space_from_sweep_config(parameters)


def test_wandbs_agent_runs_them_as_they_are(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    own = {name: str(tmp_path / name) for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR")}
    environment = (
        os.environ | own | {"WANDB_MODE": "offline", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    )
    pairs = ["updates=1", "tasks_per_update=64", "learning_rate=1.0e-05", "network=mlp"]
    file = ROOT / "sweeps" / "single_call-all_action.yaml"
    command = [sys.executable, str(Path(__file__).with_name("agent.py")), str(file), *pairs]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "sweeps" / "sweep1" / "run1"
    assert folder.is_dir(), done.stderr
    chosen = yaml.safe_load((folder / "config.yaml").read_text())["hyperparameters"]
    assert {name: chosen[name] for name in ("updates", "tasks_per_update", "learning_rate", "network")} == {
        "updates": 1,
        "tasks_per_update": 64,
        "learning_rate": 1e-5,
        "network": "mlp",
    }
    (run,) = [record.run for record in wandb_records(folder) if record.WhichOneof("record_type") == "run"]
    assert (run.run_id, run.sweep_id, run.project) == ("run1", "sweep1", "made-up")
    summary = yaml.safe_load((folder / "summary.json").read_text())
    assert wandb_history(folder)[-1]["aiq"] == pytest.approx(summary["aiq"])
    kept = [record.summary for record in wandb_records(folder) if record.WhichOneof("record_type") == "summary"]
    in_summary = {
        item.key or ".".join(item.nested_key): json.loads(item.value_json) for one in kept for item in one.update
    }
    assert in_summary["aiq"] == pytest.approx(summary["aiq"])
    assert "Ignoring" not in done.stderr


@pytest.mark.parametrize("most", [0.3, 0.6, 0.7, 0.9])
def test_steps_end_at_the_maximum_whatever_its_last_digits(most: float) -> None:
    parameter = Parameter(distribution="q_uniform", min=0.0, max=most, q=0.1)
    assert parameter.choices is not None
    assert parameter.choices[-1] == pytest.approx(most)
    assert len(parameter.choices) == round(most * 10) + 1
    assert parameter.admits(most)
    assert not Parameter(distribution="log_uniform_values", min=1, max=64).whole
