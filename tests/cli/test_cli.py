"""The commands as a user meets them: what they write, what they print, and what they say of mistakes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from commands import refused, said
from helpers import Edge, hand_made
from safetensors.numpy import load_file, save_file

from routegym.cli.main import main
from routegym.graph.recording import Recording
from routegym.policies.storage import load_policies, save_policies
from routegym.tracking.run import Run


def test_a_run_folder_holds_everything(trained: Path, recording: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names == {
        "config.yaml",
        "frontier.png",
        "metrics.json",
        "metrics.jsonl",
        "policy.json",
        "policy.safetensors",
        "results.parquet",
        "summary.json",
    }
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["content_hash"] == Recording.load(recording).content_hash
    assert config["seeds"] == [0, 1]
    assert {"routegym", "torch", "numpy"} <= set(config["versions"])
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert {line["seed"] for line in lines} == {0, 1}
    assert max(line["step"] for line in lines) >= 16384
    shares = [[value for name, value in line.items() if name.startswith("share/")] for line in lines]
    assert all(abs(sum(values) - 1) < 1e-3 for values in shares)


def test_results_have_a_row_for_every_policy_seed_and_budget(trained: Path) -> None:
    table = pq.read_table(trained / "results.parquet")
    assert table.column_names == [
        "env",
        "policy",
        "seed",
        "budget_usd",
        "lambda",
        "score",
        "cost_usd",
        "violations",
    ]
    rows = table.to_pylist()
    metrics = json.loads((trained / "metrics.json").read_text())
    learned = [row for row in rows if row["policy"] == "maskable_ppo"]
    caps, prices = metrics["budgets_usd"], metrics["lambdas"]
    assert len(learned) == 2 * (len(caps) + 1) * len(prices)  # no cap is played as well
    assert all(row["violations"] == 0 for row in rows)
    assert all(row["cost_usd"] <= row["budget_usd"] for row in rows)
    point = metrics["policies"]["maskable_ppo"]["budgets"][3]
    same = [row for row in learned if row["budget_usd"] == point["budget_usd"] and row["lambda"] == min(prices)]
    assert sum(row["score"] for row in same) / 2 == pytest.approx(point["score"])


def test_the_oracle_is_never_beaten(trained: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    for found in metrics["policies"].values():
        assert found["aiq"] <= metrics["oracle"]["aiq"] + 1e-12
        for point, best in zip(found["budgets"], metrics["oracle"]["budgets"], strict=True):
            assert point["score"] <= best["score"] + 1e-12
            assert point["regret"] == pytest.approx(best["score"] - point["score"])


def test_evaluate_gives_the_same_numbers_again_elsewhere(
    trained: Path, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = shutil.copytree(recording, tmp_path / "moved")
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "metrics.json").unlink()
    monkeypatch.chdir(tmp_path)
    main(["evaluate", "run", "--recording", str(moved)])
    assert json.loads((run / "metrics.json").read_text()) == json.loads((trained / "metrics.json").read_text())


@pytest.mark.slow
def test_the_attainable_bound_stands_between_policy_and_oracle(run_folder: Path) -> None:
    main(["evaluate", str(run_folder), "--attainable"])
    metrics = json.loads((run_folder / "metrics.json").read_text())
    learned = metrics["policies"]["maskable_ppo"]["aiq"]
    assert learned - 0.01 <= metrics["attainable"]["aiq"] <= metrics["oracle"]["aiq"] + 1e-12


def test_enjoy_shows_a_route(trained: Path, recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = Recording.load(recording).tasks
    capsys.readouterr()
    main(["enjoy", str(trained), "--task", tasks.ids[0]])
    shown = capsys.readouterr().out
    assert tasks.ids[0] in shown
    assert tasks.prompts[0] in shown
    assert "may cost $" in shown
    assert "score " in shown


@pytest.mark.parametrize(
    ("env", "kind"), [("routegym/SingleCall-v0", "single_call"), ("routegym/Cascade-v0", "cascade")]
)
def test_every_family_can_be_trained_and_compared(
    env: str, kind: str, recordings: dict[str, Path], tmp_path: Path
) -> None:
    source = str(recordings[kind])
    main(
        [
            "train",
            "--env",
            env,
            "--recording",
            source,
            "--out",
            str(tmp_path / "run"),
            "--seeds",
            "1",
            "--steps",
            "8192",
        ]
    )
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["policies"]["maskable_ppo"]["violations"] == 0
    assert metrics["policies"]["maskable_ppo"]["aiq"] <= metrics["oracle"]["aiq"] + 1e-12


def test_training_goes_on_where_it_stopped(trained: Path, recording: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [
        "train",
        "--recording",
        str(recording),
        "--out",
        str(run),
        "--steps",
        "16384",
        "--no-evaluate",
    ]
    main([*arguments, "--seeds", "2"])
    whole = (run / "policy.safetensors").read_bytes()
    assert whole == (trained / "policy.safetensors").read_bytes()  # same seeds, same weights
    opened = Recording.load(recording)
    save_policies(run, opened, {0: load_policies(run, opened)[0]})  # type: ignore[dict-item] # as if seed 1 had been interrupted
    main([*arguments, "--seeds", "2"])
    assert (run / "policy.safetensors").read_bytes() == whole


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--env", "routegym/AgentStep-v0"], ["env", "AgentStep-v0", "routegym/AgentSteps-v0"]),
        (["train", "--seeds", "0"], ["seeds = 0"]),
        (["train", "--steps", "-5"], ["steps", "-5"]),
        (["train", "--recording", "/nowhere"], ["/nowhere", "shipped recording"]),
        (["train", "--budget-usd", "-1", "1"], ["budget_usd", "-1"]),
        (["train", "--lambda", "nan", "1"], ["lambda_", "nan"]),
        (["train", "--algo", "maskable_pp"], ["maskable_pp", "did you mean 'maskable_ppo'"]),
        (["train", "--algo", "nowhere:Router"], ["nowhere", "spelling"]),
        (["train", "--set", "batch_size=7"], ["batch_size = 7", "divisor"]),
        (["train", "--set", "batchsize=7"], ["batchsize", "batch_size"]),
        (["train", "--set", "batch_size"], ["name=value"]),
        (["train", "--set", "network=transformer"], ["transformer", "mlp"]),
        (["bench", "--policies", "random", "knm"], ["knm", "did you mean 'knn'"]),
        (["bench", "--seeds", "0"], ["seeds = 0"]),
        (["bench", "--budgets", "1e-12"], ["1e-12", "cheapest arm"]),
        (["evaluate", "/nowhere"], ["/nowhere", "routegym train"]),
        (["enjoy", "/nowhere"], ["/nowhere", "routegym train"]),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    words: list[str],
    recording: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if arguments[0] in ("train", "bench"):
        arguments = [*arguments, "--out", str(tmp_path / "run")]
        if "--recording" not in arguments:
            arguments += ["--recording", str(recording)]
    message = refused(capsys, *arguments)
    assert all(word in message for word in words), message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["train", "bench"])
def test_a_recording_of_another_kind_is_refused(
    command: str, recordings: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = str(recordings["cascade"]), tmp_path / "run"
    message = refused(capsys, command, "--env", "routegym/SingleCall-v0", "--recording", source, "--out", str(out))
    assert "is of kind 'cascade', and env = 'routegym/SingleCall-v0' takes 'single_call'" in message
    assert "--env routegym/Cascade-v0" in message
    other = hand_made([(0, None), (1, 1.0)], [Edge(0, 0, 1), Edge(0, 1, 1)])
    message = refused(capsys, command, "--recording", str(other.save(tmp_path / "hand")), "--out", str(out))
    assert "is of kind 'hand'; expected one that an environment takes: single_call," in message
    assert not out.exists()


def test_the_environment_follows_from_the_recording(
    recordings: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ("--recording", str(recordings["cascade"]), "--seeds", "1")
    small = ("--algo", "all_action", "--set", "updates=2", "--no-evaluate")
    shown = said(capsys, "train", *source, *small, "--out", str(tmp_path / "run"))
    assert "routegym/Cascade-v0" in shown
    assert Run(tmp_path / "run").config.env == "routegym/Cascade-v0"
    said(capsys, "bench", *source, "--policies", "random", "--no-attainable", "--out", str(tmp_path / "bench"))
    assert json.loads((tmp_path / "bench" / "metrics.json").read_text())["env"] == "routegym/Cascade-v0"


def one_call(path: Path, tokens: tuple[int, ...], splits: tuple[str, ...]) -> Path:
    """A recording of single calls: what an answer of each arm takes, at (arm + 1) * 1e-6 USD a token."""
    arms, count = len(tokens), len(splits)
    recording = hand_made(
        [(0, None)] * count + [(1, 1.0)] * count,
        [Edge(task, arm, count + task, tokens[arm]) for task in range(count) for arm in range(arms)],
        limits=(100,) * arms,
        splits=splits,
        task_of=[*range(count)] * 2,
    )
    recording.kind = "single_call"
    return recording.save(path)


@pytest.mark.parametrize("command", ["train", "bench"])
@pytest.mark.parametrize(
    ("tokens", "splits", "words"),
    [
        ((0, 0), ("train", "val", "test"), ["every call costs 0 USD", "prices"]),
        ((5,), ("train", "val", "test"), ["a0/t is its only arm", "second arm"]),
        ((10, 5), ("train", "val", "test"), ["each of a0/t, a1/t costs 1e-05 USD per task", "no range of costs"]),
        ((5, 5), ("train", "train", "test"), ["no task in split 'val' of its 3 tasks (test 1, train 2)", "--folds 5"]),
        ((5, 5), ("train", "train", "val"), ["no task in split 'test'", "--folds 5"]),
    ],
)
def test_what_cannot_be_compared_is_not_fitted(
    command: str,
    tokens: tuple[int, ...],
    splits: tuple[str, ...],
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, out = str(one_call(tmp_path / "flat", tokens, splits)), tmp_path / "run"
    message = refused(capsys, command, "--recording", source, "--out", str(out))
    assert all(word in message for word in words), message
    assert not out.exists()


def damage_truncate(run: Path) -> str:
    path = run / "policy.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return "policy.safetensors"


def damage_weights(run: Path) -> str:
    path = run / "policy.safetensors"
    arrays = load_file(path)
    next(iter(arrays.values()))[:] = float("nan")
    save_file(arrays, path)
    return "NaN"


def damage_json(run: Path) -> str:
    (run / "policy.json").write_text("{")
    return "policy.json"


def damage_missing(run: Path) -> str:
    (run / "policy.json").unlink()
    return "policy.json"


def damage_columns(run: Path) -> str:
    meta = json.loads((run / "policy.json").read_text())
    meta["columns"][0] = "something else"
    (run / "policy.json").write_text(json.dumps(meta))
    return "something else"


def damage_widths(run: Path) -> str:
    meta = json.loads((run / "policy.json").read_text())
    meta["policies"]["0"]["hidden"] = [7, 7]
    (run / "policy.json").write_text(json.dumps(meta))
    return "does not fit policy.json"


def damage_kind(run: Path) -> str:
    meta = json.loads((run / "policy.json").read_text())
    meta["policies"]["0"]["kind"] = "os:system"
    (run / "policy.json").write_text(json.dumps(meta))
    return "'os:system' is not known"


def damage_config(run: Path) -> str:
    config = yaml.safe_load((run / "config.yaml").read_text()) | {"seeds": []}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return "seeds"


def damage_yaml(run: Path) -> str:
    (run / "config.yaml").write_text("env: [")
    return "not valid YAML"


def damage_tag(run: Path) -> str:
    (run / "config.yaml").write_text("!!python/object/apply:os.system ['echo hacked > hacked']")
    return "not valid YAML"


def damage_hash(run: Path) -> str:
    config = yaml.safe_load((run / "config.yaml").read_text()) | {"content_hash": "0" * 64}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return "content hash"


@pytest.mark.parametrize(
    "damage",
    [
        damage_truncate,
        damage_weights,
        damage_json,
        damage_missing,
        damage_columns,
        damage_widths,
        damage_kind,
        damage_config,
        damage_yaml,
        damage_tag,
        damage_hash,
    ],
)
def test_a_damaged_run_is_refused(damage: object, run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    word = damage(run_folder)  # type: ignore[operator]
    before = (run_folder / "metrics.json").read_bytes()
    assert word in refused(capsys, "evaluate", str(run_folder))
    assert word in refused(capsys, "enjoy", str(run_folder))
    assert (run_folder / "metrics.json").read_bytes() == before
    assert not Path("hacked").exists()


def test_another_configuration_does_not_overwrite_a_run(
    run_folder: Path, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("train", "--recording", str(recording), "--out", str(run_folder), "--seeds", "3")
    assert "another" in refused(capsys, *arguments)


def test_a_folder_that_is_no_run_is_left_alone(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    message = refused(capsys, "train", "--recording", str(recording), "--out", str(tmp_path))
    assert "not a run folder" in message
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_package_runs_as_a_module() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "routegym", "train", "--seeds", "0"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 2
    assert found.stderr.startswith("error: seed = 0, seeds = 0")


def test_doctor_names_what_is_missing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else real(name, *rest)
    )
    main(["doctor"])
    shown = capsys.readouterr().out
    assert "missing: matplotlib" in shown
    assert 'pip install "routegym[plots]"' in shown
