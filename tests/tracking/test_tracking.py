"""The same numbers in metrics.jsonl, TensorBoard and W&B, also after a crash; and no secret in any of them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from services import (
    jsonl_curves,
    tensorboard_curves,
    tensorboard_results,
    wandb_curves,
    wandb_history,
    wandb_records,
)

from routegym.errors import ConfigError, RunError
from routegym.graph.recording import Recording
from routegym.policies.algorithm import Problem
from routegym.policies.config import tuned
from routegym.policies.training import Training
from routegym.tracking import Run, Tracking
from routegym.tracking.results import result_scalars

CURVES = {"tensorboard": tensorboard_curves, "wandb": wandb_curves}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """W&B without network, and with everything that it keeps in a temporary folder."""
    place = tmp_path_factory.getbasetemp() / "wandb"
    own = {name: str(place / name) for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR")}
    own |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_SERVICE", raising=False)  # of this process; other ones have their own
    return own


def train(folder: Path, recording: Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``routegym train`` in a process of its own, short."""
    command = [sys.executable, "-m", "routegym", "train", "--recording", str(recording), "--out", str(folder)]
    command += ["--seeds", "2", "--steps", "16384", *more]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=300)


def record(step: int, seed: int = 0, **more: Any) -> dict[str, Any]:
    return {"step": step, "seed": seed, "steps_per_second": 10.0, "score": step / 1000, "loss": None, **more}


# -- metrics.jsonl -----------------------------------------------------------------------------
def test_what_a_resumed_training_reports_again_stands_there_once(tmp_path: Path) -> None:
    first = Run(tmp_path)
    assert [first.append(record(step)) for step in (1, 2, 2)] == [True, True, False]
    again = Run(tmp_path)
    assert [again.append(record(step, score=0.0)) for step in (1, 2, 3)] == [False, False, True]
    assert again.append(record(3, seed=1))
    assert [(one["seed"], one["step"], one["score"]) for one in Run(tmp_path).history()] == [
        (0, 1, 0.001),
        (0, 2, 0.002),
        (0, 3, 0.0),
        (1, 3, 0.003),
    ]


def test_a_line_that_was_cut_off_is_left_out_and_written_again(tmp_path: Path) -> None:
    Run(tmp_path).append(record(1))
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + json.dumps(record(2))[:-9])
    assert [one["step"] for one in Run(tmp_path).history()] == [1]
    assert Run(tmp_path).append(record(2))
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    Run(tmp_path).append(record(1))
    path = tmp_path / "metrics.jsonl"
    path.write_text("{'a'\n" + path.read_text())
    with pytest.raises(RunError, match=r"metrics.jsonl: line 1 is not valid JSON .*; delete the line"):
        Run(tmp_path).append(record(2))


def tracked(folder: Path, recordings: dict[str, Path], **config: Any) -> Tracking:
    return Tracking(Run(folder), recordings["cascade"], config=config)


def test_numbers_are_json_whatever_their_type(recordings: dict[str, Path], tmp_path: Path) -> None:
    with tracked(tmp_path, recordings) as tracking:
        tracking.report({"step": np.int64(3), "a": np.float32(0.5), "b": float("nan"), "c": float("inf"), "d": None})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    found = json.loads(line, parse_constant=pytest.fail)
    assert found == {"step": 3, "a": 0.5, "b": None, "c": None, "d": None, "seed": 0}


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"score": 1.0}, "step = None in a report; expected how many steps"),
        ({"step": 1, "shares": [0.5, 0.5]}, "2 shares in a report; expected one for each of"),
    ],
)
def test_a_record_that_is_none_is_refused(
    metrics: dict[str, Any], said: str, recordings: dict[str, Path], tmp_path: Path
) -> None:
    with tracked(tmp_path, recordings) as tracking, pytest.raises(ConfigError, match=said):
        tracking.report(metrics)
    assert Run(tmp_path).history() == []


def test_a_folder_is_one_training(recordings: dict[str, Path], tmp_path: Path) -> None:
    for step in (1, 2):
        with tracked(tmp_path, recordings, learning_rate=0.1, seed=0) as tracking:
            tracking.report(record(step))
    other = tracked(tmp_path, recordings, learning_rate=0.2, seed=0)
    with pytest.raises(RunError, match="holds a run with another learning_rate; a folder is one training"), other:
        pass
    assert [one["step"] for one in Run(tmp_path).history()] == [1, 2]


@pytest.mark.parametrize("name", ["linucb", "thompson", "pilot"])
def test_shares_of_bandits_are_those_of_all_actions(name: str, recordings: dict[str, Path], tmp_path: Path) -> None:
    problem = Problem(Recording.load(recordings["cascade"]))
    with tracked(tmp_path, recordings) as tracking:
        tuned(name, "routegym/Cascade-v0").fit(problem, 0, Training(report=tracking.report))
    assert Run(tmp_path).history()[-1]["share/accept"] == 0.0


# -- services ----------------------------------------------------------------------------------
def test_an_unknown_service_is_refused(recordings: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="service = 'mlflow'; expected one of none, tensorboard, wandb"):
        Tracking(Run(tmp_path / "run"), recordings["cascade"], "mlflow")  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("service", CURVES)
def test_a_missing_package_is_told_before_anything_is_written(
    service: str, recordings: dict[str, Path], tmp_path: Path
) -> None:
    block = f"import sys; sys.modules[{service!r}] = None; from routegym.cli.main import main; main(sys.argv[1:])"
    options = ["--recording", str(recordings["cascade"]), "--out", str(tmp_path / "run"), "--track", service]
    done = subprocess.run([sys.executable, "-c", block, "train", *options], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert 'pip install "routegym[track]"' in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("service", CURVES)
def test_every_number_of_a_training_is_there(service: str, recordings: dict[str, Path], tmp_path: Path) -> None:
    source, folder = recordings["agent_steps"], tmp_path / "run"
    done = train(folder, source, "--track", service)
    assert done.returncode == 0, done.stderr
    told = jsonl_curves(folder)
    assert CURVES[service](folder) == pytest.approx(told, rel=1e-6)
    names = {name for _, _, name in told}
    actions = Recording.load(source).action_names
    assert {f"share/{action}" for action in actions} | {"selection_entropy", "largest_share"} < names
    assert {"score", "cost_usd", "return", "episodes", "steps_per_second", "entropy_loss"} < names
    assert {seed for seed, _, _ in told} == {0, 1}
    expected = result_scalars(json.loads((folder / "metrics.json").read_text()), "maskable_ppo")
    assert {"aiq", "over_zero_router", "violations", "collapse_index", "score", "cost_usd"} < set(expected)
    if service == "tensorboard":
        scalars, pictures, texts = tensorboard_results(folder)
        assert scalars == pytest.approx(expected, rel=1e-6)
        assert pictures == ["frontier"]
        assert set(texts) == {"config", "budgets", "routes"}
    else:
        last = wandb_history(folder)[-1]
        assert {name: last[name] for name in expected} == pytest.approx(expected)
        assert last["frontier._type"] == "image-file"
        (routes,) = (folder / "wandb").glob("offline-run-*/files/media/table/routes_*.json")
        table = json.loads(routes.read_text())
        assert table["columns"][:3] == ["task", "prompt", "maskable_ppo: route"]
        assert table["data"]
        check_artifacts(folder, source)


def check_artifacts(folder: Path, source: Path) -> None:
    """The recording and the policy are artifacts that name the sha256 of their files."""
    artifacts = [one.artifact for one in wandb_records(folder) if one.WhichOneof("record_type") == "artifact"]
    found = {one.type: json.loads(one.metadata)["sha256"] for one in artifacts if one.type in ("recording", "policy")}
    for kind, place in (("recording", source), ("policy", folder)):
        assert found[kind]
        for name, sha256 in found[kind].items():
            assert hashlib.sha256((place / name).read_bytes()).hexdigest() == sha256
    assert {"policy.json", "policy.safetensors", "config.yaml"} == set(found["policy"])


@pytest.mark.parametrize(
    ("environment", "said"),
    [({"WANDB_MODE": "online"}, "W&B has no API key"), ({"WANDB_MODE": "ofline"}, "W&B's settings are wrong")],
)
def test_wandb_that_cannot_begin_is_told_before_anything_is_written(
    environment: dict[str, str], said: str, recordings: dict[str, Path], tmp_path: Path
) -> None:
    own = environment | {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}
    done = train(tmp_path / "run", recordings["cascade"], "--track", "wandb", **own)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_not_kept_deletes_nothing(
    recordings: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for mode in ("offline", "disabled"):
        monkeypatch.setenv("WANDB_MODE", mode)
        with Tracking(Run(tmp_path), recordings["cascade"], "wandb") as tracking:
            tracking.report(record(10))
    assert {step for _, step, _ in wandb_curves(tmp_path)} == {10}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"id": '])
def test_a_damaged_identity_begins_another_run(content: str, recordings: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "wandb.json").write_text(content)
    with Tracking(Run(tmp_path), recordings["cascade"], "wandb") as tracking:
        tracking.report(record(10))
    assert {step for _, step, _ in wandb_curves(tmp_path)} == {10}


def test_wandb_is_told_the_configuration(recordings: dict[str, Path], tmp_path: Path) -> None:
    config = {"algo": "ppo", "hyperparameters": {"learning_rate": 0.1}, "commit": "abc"}
    with Tracking(Run(tmp_path), recordings["cascade"], "wandb", config) as tracking:
        tracking.report(record(1))
    (run,) = (one.run for one in wandb_records(tmp_path) if one.WhichOneof("record_type") == "run")
    told = {item.key: json.loads(item.value_json) for item in run.config.update if item.key != "_wandb"}
    assert told == config
    assert run.project == "routegym"


# -- crashes -----------------------------------------------------------------------------------
@pytest.mark.parametrize("service", CURVES)
def test_a_run_that_is_gone_on_with_is_one_run(service: Any, recordings: dict[str, Path], tmp_path: Path) -> None:
    def crash() -> None:
        with Tracking(Run(tmp_path), recordings["cascade"], service) as tracking:
            for step in (10, 20, 30):
                tracking.report(record(step))
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        crash()
    crashed = CURVES[service](tmp_path)
    assert crashed == pytest.approx(jsonl_curves(tmp_path), rel=1e-6)
    with Tracking(Run(tmp_path), recordings["cascade"], service) as tracking:
        for step in (20, 30, 40):  # from a checkpoint
            tracking.report(record(step))
        tracking.report(record(10, seed=1))
    told = CURVES[service](tmp_path)
    assert told == pytest.approx(jsonl_curves(tmp_path), rel=1e-6)
    assert {(seed, step) for seed, step, _ in told} == {(0, 10), (0, 20), (0, 30), (0, 40), (1, 10)}
    if service == "wandb":
        runs = [one.run.run_id for one in wandb_records(tmp_path) if one.WhichOneof("record_type") == "run"]
        assert runs == [json.loads((tmp_path / "wandb.json").read_text())["id"]]


KILLED = """
import os, signal, sys, time
from routegym.policies.algorithm import Problem
from routegym.policies.config import tuned
from routegym.policies.training import Training
from routegym.tracking import Run, Tracking

with Tracking(Run(sys.argv[1]), sys.argv[2], sys.argv[3]) as tracking:
    for step in (10, 20, 30):
        tracking.report({"step": step, "seed": 0, "steps_per_second": 10.0, "score": step / 1000})
    time.sleep(4)  # W&B writes what it holds once a second
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("service", CURVES)
def test_what_was_reported_survives_kill_9(service: Any, recordings: dict[str, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(recordings["cascade"]), service]
    done = subprocess.run(command, timeout=120)
    assert done.returncode == -signal.SIGKILL
    kept = CURVES[service](tmp_path)
    assert kept.items() <= jsonl_curves(tmp_path).items() or service == "tensorboard"  # which rounds to float32
    assert {step for _, step, _ in kept} >= {10, 20}  # W&B may hold the last row, which metrics.jsonl has
    assert len(jsonl_curves(tmp_path)) == 6
    with Tracking(Run(tmp_path), recordings["cascade"], service) as tracking:
        tracking.report(record(40))
    assert {step for _, step, _ in CURVES[service](tmp_path)} == {10, 20, 30, 40}


# -- secrets -----------------------------------------------------------------------------------
def test_no_secret_is_tracked(recordings: dict[str, Path], tmp_path: Path, offline: dict[str, str]) -> None:
    """Canaries in the environment, on the command line and in the text of an exception are in no file."""
    canary = "0123456789abcdef0123456789abcdef01234567"
    (tmp_path / "broken.py").write_text(
        "from routegym.policies.all_action import AllAction\n\n"
        "class Broken(AllAction):\n"
        "    def fit(self, problem, seed=0, training=None):\n"
        "        training.report({'step': 1, 'seed': seed, 'score': 0.5})\n"
        f"        raise RuntimeError('Bearer {canary}')\n"
    )
    for service in CURVES:
        command = [sys.executable, "-m", "routegym", "train", "--recording", str(recordings["cascade"])]
        command += ["--algo", "broken:Broken", "--track", service, "--out", f"{service}-run", "--store", canary]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=os.environ | {"WANDB_API_KEY": canary, "OPENAI_API_KEY": canary},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode != 0
        assert canary in done.stderr  # the test's own exception, which nobody else wrote down
        assert len(jsonl_curves(tmp_path / f"{service}-run")) == len(CURVES[service](tmp_path / f"{service}-run"))
    places = [tmp_path / f"{service}-run" for service in CURVES] + [Path(offline["WANDB_DATA_DIR"]).parent]
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert [path for path in files if canary.encode() in path.read_bytes()] == []


def test_a_run_folder_names_the_commit(recordings: dict[str, Path], tmp_path: Path) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    command = [sys.executable, "-m", "routegym", "train", "--recording", str(recordings["cascade"]), "--algo", "always"]
    subprocess.run([*command, "--seeds", "1", "--no-evaluate"], cwd=tmp_path, check=True, timeout=120)
    (path,) = tmp_path.glob("runs/*/config.yaml")
    assert yaml.safe_load(path.read_text())["commit"] == commit
