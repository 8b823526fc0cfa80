"""``routegym sweep`` as a user meets it, mostly with trials that are over in no time."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from commands import refused, said

from routegym.errors import RunError

pytest.importorskip("optuna")

ROOT = Path(__file__).resolve().parents[2]
FAKE = str(ROOT / "tests" / "sweeps" / "fake_trial.py")
SWEEP = {
    "name": "made up",
    "method": "random",
    "metric": {"name": "aiq", "goal": "maximize"},
    "parameters": {"x": {"min": 0.0, "max": 1.0}},
    "command": ["${env}", "${interpreter}", FAKE, "${args_no_hyphens}"],
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(**changes: Any) -> str:
    """A sweep's file; what is None is left out."""
    content = {name: value for name, value in (SWEEP | changes).items() if value is not None}
    Path("sweep.yaml").write_text(yaml.safe_dump(content))
    return "sweep.yaml"


def rows(folder: str = "runs/sweeps/sweep") -> list[dict[str, Any]]:
    return sorted(pq.read_table(Path(folder) / "trials.parquet").to_pylist(), key=lambda row: row["trial"])


def until(found: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while not found():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)


# -- what is tried, and what comes of it -------------------------------------------------------
def test_a_sweep_prints_and_writes_its_trials_best_first(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    shown = said(capsys, "sweep", written(method="bayes"), "--trials", "12", "--jobs", "2", "--set", "act=quick")
    found = rows()
    assert [row["trial"] for row in found] == list(range(12))
    assert all(row["state"] == "finished" and row["records"] == 9 for row in found)
    assert all(row["summary/aiq"] == pytest.approx(1 - (row["set/x"] - 0.3) ** 2) for row in found)
    best = max(found, key=lambda row: row["summary/aiq"])
    folder = Path("runs/sweeps/sweep")
    page = (folder / "sweep.md").read_text()
    assert f"x={best['set/x']} act=quick" in shown
    assert f"x={best['set/x']} act=quick" in page
    assert page.index(f"**{best['trial']}**") < page.index("| 0.", page.index(f"**{best['trial']}**"))
    assert "The same for all: act = quick." in page
    assert (folder / "parallel_coordinates.png").read_bytes().startswith(b"\x89PNG")


def test_a_grid_is_tried_as_a_whole_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    grid = {"x": {"min": 0, "max": 1}, "act": {"values": ["quick", "nothing"]}, "n": {"value": 5}}
    file = written(method="grid", parameters=grid)
    said(capsys, "sweep", file)
    points = [(row["set/x"], row["set/act"], row["set/n"]) for row in rows()]
    assert sorted(points) == [(0, "nothing", 5), (0, "quick", 5), (1, "nothing", 5), (1, "quick", 5)]
    said(capsys, "sweep", file, "--trials", "9")
    assert len(Path("begun").read_text().splitlines()) == 4


@pytest.mark.parametrize("metric", [{"name": "aiq", "goal": "maximize"}, {"name": "cost_usd", "goal": "minimize"}])
def test_what_falls_behind_ends_early(capsys: pytest.CaptureFixture[str], metric: dict[str, str]) -> None:
    """By the training's return, of which much is good, whatever is sought."""
    parameters = {"x": {"values": [0.3, 0.9]}, "act": {"value": "stall"}}
    ends = {"type": "hyperband", "min_iter": 2}
    said(capsys, "sweep", written(method="grid", parameters=parameters, early_terminate=ends, metric=metric))
    good, bad = rows()
    assert (good["state"], good["summary/aiq"]) == ("finished", 1.0)
    assert (bad["state"], bad["records"], bad["summary/aiq"]) == ("pruned", 3, None)
    _gone(int(Path("begun").read_text().split()[-1]))


def test_several_objectives_give_a_pareto_front(capsys: pytest.CaptureFixture[str]) -> None:
    parameters = {"x": {"values": [0.1, 0.2, 0.3, 0.4, 0.6]}}
    ends = {"type": "hyperband", "min_iter": 1}
    file = written(method="grid", parameters=parameters, early_terminate=ends)
    said(capsys, "sweep", file, "--objectives", "aiq", "cost_usd")
    assert {row["state"] for row in rows()} == {"finished"}  # no trial ends early
    page = Path("runs/sweeps/sweep/sweep.md").read_text()
    # A dearer trial than x = 0.3 has a lower AIQ, a cheaper one too.
    front = {line.split("|")[4].strip() for line in page.splitlines() if line.startswith("| **")}
    assert front == {"0.1", "0.2", "0.3"}


def test_a_trial_that_fails_is_told_of_and_the_sweep_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    parameters = {"x": {"values": [0.9, 0.3]}, "act": {"value": "fail"}}
    shown = said(capsys, "sweep", written(method="grid", parameters=parameters))
    failed, finished = rows()
    assert (failed["state"], finished["state"]) == ("failed", "finished")
    assert failed["problem"] == "exit code 3\nfirst line\nlast line: x is too large"
    assert "last line: x is too large" in shown
    said(capsys, "sweep", "sweep.yaml")
    assert len(Path("begun").read_text().splitlines()) == 2  # nor is it tried again


def test_a_number_that_no_trial_leaves_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, "sweep", written(), "--trials", "1", "--objectives", "speed")
    assert "summary.json has no number 'speed'; it has aiq, score, cost_usd" in shown


# -- interrupted -------------------------------------------------------------------------------
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_was_interrupted_goes_on(end: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    parameters = {"x": {"min": 0.0, "max": 1.0}, "act": {"values": ["wait"]}}
    file = written(method="bayes", parameters=parameters)
    options = ["sweep", file, "--trials", "13", "--seed", "3"]  # from the 11th on, results decide what is tried
    Path("go").touch()
    said(capsys, *options, "--out", "whole")
    Path("begun").unlink()
    process = subprocess.Popen([sys.executable, "-m", "routegym", *options], stderr=subprocess.PIPE)
    until(lambda: Path("runs/sweeps/sweep/trials/0001").is_dir(), process)
    Path("go").unlink()
    until(lambda: _waits("runs/sweeps/sweep"), process)
    process.send_signal(end)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if end == signal.SIGINT else -end)
    assert end == signal.SIGKILL or b"the same command goes on from there" in errors
    before = [line.split() for line in Path("begun").read_text().splitlines()]
    last, pid = before[-1]
    _gone(int(pid))
    Path("go").touch()
    said(capsys, *options)
    after = [line.split()[0] for line in Path("begun").read_text().splitlines()[len(before) :]]
    assert after == [f"{number:04d}" for number in range(int(last), 13)]
    same = ("trial", "state", "set/x", "summary/aiq")
    assert [[row[name] for name in same] for row in rows()] == [[row[name] for name in same] for row in rows("whole")]


def _waits(folder: str) -> bool:
    """Whether a trial has reported three records and no more: it waits."""
    paths = sorted(Path(folder, "trials").glob("*/metrics.jsonl"))
    return bool(paths) and len(paths[-1].read_text().splitlines()) == 3


def _gone(pid: int) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    pytest.fail("the trial outlived its sweep")


def test_a_journal_whose_last_line_was_cut_off_is_gone_on_with(capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "sweep", written(), "--trials", "2")
    journal = Path("runs/sweeps/sweep/journal.log")
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    journal.with_name("journal.log.lock").symlink_to("journal.log")
    said(capsys, "sweep", "sweep.yaml", "--trials", "3")
    assert len(rows()) == 3


@pytest.mark.parametrize(
    ("changes", "options", "said_of"),
    [
        ({"method": "bayes"}, (), "method"),
        ({"parameters": {"x": {"min": 0.0, "max": 2.0}}}, (), "parameters"),
        ({}, ("--seed", "1"), "seed"),
        ({}, ("--objectives", "score"), "objectives"),
    ],
)
def test_a_folder_is_one_sweep(
    changes: dict[str, Any], options: tuple[str, ...], said_of: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "sweep", written(), "--trials", "1")
    message = refused(capsys, "sweep", written(**changes), "--trials", "1", *options)
    assert f"holds a sweep with another {said_of}; name another folder with --out" in message


def test_a_folder_of_something_else_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.tex").touch()
    assert "is not the folder of a sweep" in refused(capsys, "sweep", written(), "--out", "mine")


# -- mistakes ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "annealing"}, "method = 'annealing': Input should be 'grid', 'random' or 'bayes'"),
        ({"metric": None}, "metric: missing"),
        ({"parameters": {"x": {"distribution": "beta", "min": 0.0, "max": 1.0}}}, "parameters.x.distribution = 'beta'"),
        ({"parameters": {"x": {"min": 1, "max": 0}}}, "parameters.x: min = 1, max = 0; expected finite numbers"),
        ({"parameters": {"x": {"min": "1e-4", "max": 1}}}, "write 1.0e-4"),
        (
            {"parameters": {"x": {"values": [[64, 64]]}}},
            'parameters.x.values.0: .*write a list as text: "\\[64, 64\\]"',
        ),
        ({"parameters": {"x": {"min": 0.0}}}, "parameters.x: distribution uniform takes max and min"),
        ({"method": "grid"}, "parameters.x is a range, and method grid takes value, values or steps"),
        ({"command": "python train.py"}, "command = 'python train.py': .* expected a list"),
        ({"command": ["python", "train.py"]}, "command passes no hyperparameter on"),
        ({"command": ["python", "${argv}"]}, r"command has the macro \$\{argv\}; expected one of"),
        ({"early_terminate": {"type": "hyperband"}}, "early_terminate: expected either min_iter, or max_iter and s"),
        ({"controller": {"type": "local"}}, "controller: Extra inputs are not permitted"),
    ],
)
def test_a_mistake_in_the_file_is_named(
    changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = refused(capsys, "sweep", written(**changes))
    assert shown.startswith("error: sweep.yaml: ")
    assert re.search(message, shown), shown
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--jobs", "100000"), "jobs = 100000; expected 1 to"),
        (("--trials", "0"), "trials = 0; expected"),
        (
            ("--backend", "wandb", "--objectives", "score", "cost_usd"),
            "backend = 'wandb' with objectives = ('score', 'cost_usd')",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, "sweep", written(), *options)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"speed": {"values": [1, 2]}}, "parameters.speed: all_action: no hyperparameter 'speed'; it has updates"),
        (
            {"learning_rate": {"min": -1.0, "max": 1.0}},
            "parameters.learning_rate: all_action: .*learning_rate = -1.0; expected a number > 0",
        ),
    ],
)
def test_hyperparameters_are_checked_before_the_first_trial(
    parameters: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    command = ["routegym", "train", "--algo", "all_action", "--set", "${args_no_hyphens}"]
    assert re.search(message, refused(capsys, "sweep", written(parameters=parameters, command=command)))
    assert not Path("runs").exists()


# -- backends ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("mode", "message"), [("online", "W&B has no API key"), ("offline", "its server chooses what to try")]
)
def test_wandb_needs_a_login(
    mode: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    environment = os.environ | {"WANDB_MODE": mode, "HOME": str(Path.cwd()), "NETRC": str(Path.cwd() / "netrc")}
    environment.pop("WANDB_API_KEY", None)
    command = [sys.executable, "-m", "routegym", "sweep", written(), "--backend", "wandb"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())


def test_wandb_is_given_the_sweep_and_this_process_is_its_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    from routegym.cli.main import main
    from routegym.sweeps import wandb_agent

    told: list[Any] = []
    online = type("Setup", (), {"settings": type("Settings", (), {"mode": "online", "project": None})})
    monkeypatch.setattr("routegym.tracking.weights_and_biases.check_settings", lambda: None)
    monkeypatch.setattr(wandb_agent.wandb, "setup", lambda: online)
    monkeypatch.setattr(wandb, "sweep", lambda config, **where: told.append((config, where)) or "abc")
    monkeypatch.setattr(wandb, "agent", lambda sweep, **how: told.append((sweep, how)))
    main(["sweep", written(), "--backend", "wandb", "--trials", "7", "--set", "act=quick"])
    (config, where), (sweep, how) = told
    parameters = SWEEP["parameters"] | {"act": {"value": "quick"}}  # type: ignore[operator]
    usual = {"x": {"distribution": "uniform"}, "act": {"distribution": "constant"}}
    assert config == SWEEP | {"parameters": {name: parameters[name] | usual[name] for name in parameters}}
    assert where == {"project": "routegym", "entity": None}
    assert (sweep, how) == ("abc", {"project": "routegym", "entity": None, "count": 7})


@pytest.mark.slow
def test_ray_runs_the_same_trials(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray")
    file = written(parameters={"x": {"values": [0.3, 0.9]}, "act": {"value": "fail"}}, method="grid")
    for trials in ("1", "2"):  # goes on where it was
        command = [sys.executable, "-m", "routegym", "sweep", file, "--backend", "ray", "--trials", trials]
        done = subprocess.run(command, capture_output=True, text=True, timeout=170)
        assert done.returncode == 0, done.stderr
    good, bad = rows()
    assert (good["state"], good["set/x"], good["summary/aiq"]) == ("finished", 0.3, 1.0)
    assert (bad["state"], bad["problem"]) == ("failed", "exit code 3\nfirst line\nlast line: x is too large")
    assert len(Path("begun").read_text().splitlines()) == 2


# -- a training --------------------------------------------------------------------------------
def test_trainings_are_trials(recordings: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("torch", "matplotlib"):
        pytest.importorskip(package)
    file = yaml.safe_load((ROOT / "sweeps" / "single_call-all_action.yaml").read_text())
    command = [*file["command"], "--seeds", "1", "--recording", str(recordings["single_call"])]
    shown = said(capsys, "sweep", written(**file | {"command": command}), "--trials", "1", "--set", "updates=2")
    (row,) = rows()
    folder = Path("runs/sweeps/sweep/trials/0000")
    assert row["state"] == "finished", row["problem"]
    assert row["records"] == 2
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["split"] == "val"
    assert row["summary/aiq"] == metrics["policies"]["all_action"]["aiq"]
    assert not (folder / "wandb").exists()
    chosen = yaml.safe_load((folder / "config.yaml").read_text())["hyperparameters"]
    assert {name: chosen[name] for name in file["parameters"]} == {
        name: row[f"set/{name}"] for name in file["parameters"]
    }
    assert "best: routegym train --env routegym/SingleCall-v0 --algo all_action" in shown


def test_lists_can_be_fixed(capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "sweep", written(), "--trials", "1", "--set", "hidden=[64, 64]")
    assert rows()[0]["set/hidden"] == "[64, 64]"
    assert "'hidden=[64, 64]'" in Path("runs/sweeps/sweep/sweep.md").read_text()


def test_rungs_compare_the_first_seed_only(tmp_path: Path) -> None:
    """The next one begins untrained: what it reports early says nothing against a trial that has come far."""
    from routegym.sweeps.config import SweepConfig
    from routegym.sweeps.trial import Trial

    script = tmp_path / "two_seeds.py"
    script.write_text(
        "import json, os, pathlib\n"
        "out = pathlib.Path(os.environ['ROUTEGYM_OUT']); out.mkdir(parents=True, exist_ok=True)\n"
        "rows = [{'seed': seed, 'step': step, 'return': seed + step} for seed in (3, 4) for step in range(4)]\n"
        "(out / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\\n' for row in rows))\n"
    )
    command = ["${interpreter}", str(script), "${args_no_hyphens}"]
    config = SweepConfig.model_validate(SWEEP | {"command": command})
    with Trial(config, {"x": 0.5}, tmp_path, 0) as trial:
        while trial.running:
            time.sleep(0.05)
        assert trial.reports() == [(1, 3.0), (2, 4.0), (3, 5.0), (4, 6.0)]
        assert trial.iterations == 8
        with trial.path.joinpath("metrics.jsonl").open("a") as file:
            file.write('"no record"\n')
        with pytest.raises(RunError, match="is no record of numbers"):
            trial.reports()
