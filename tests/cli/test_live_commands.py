"""Training and checking on a live pool from the command line: the embedded pool's models answer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from routegym.cli.main import main
from routegym.graph.recording import Recording
from routegym.pool.spend import SpendCap
from routegym.pool.store import ResponseStore

TRAIN = [
    "train", "--live", "--tasks", "operations:40", "--env", "routegym/Cascade-v0", "--algo", "maskable_ppo",
    "--seeds", "1", "--steps", "1024", "--set", "n_envs=32", "n_steps=8", "batch_size=128",
]  # fmt: skip


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose recording was grown while it learned."""
    run = tmp_path_factory.mktemp("live") / "run"
    main([*TRAIN, "--out", str(run)])
    return run


def test_a_live_training_keeps_what_it_asked(grown: Path) -> None:
    recording = Recording.load(grown / "recording")
    config = yaml.safe_load((grown / "config.yaml").read_text())
    assert config["pool"] == "embedded"
    assert config["content_hash"] == recording.content_hash
    tasks = set(recording.graph.node_task[recording.graph.edge_sources()[0]].tolist())
    assert len(tasks) > 0
    assert tasks <= set(recording.split("train").tolist())  # nothing is asked of tasks that are held out
    with ResponseStore(grown.with_name("run.store"), read_only=True) as store:
        assert 0 < len(store) <= 6 * len(tasks)  # an arm answers a prompt once, however often it is called


def test_a_finished_live_training_asks_nothing_again(grown: Path) -> None:
    before = (grown / "recording" / "edges.parquet").read_bytes()
    main([*TRAIN, "--out", str(grown)])
    assert (grown / "recording" / "edges.parquet").read_bytes() == before


def test_the_live_check_of_such_a_run_has_no_recorded_side(grown: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", str(grown), "--live"])
    found = json.loads((grown / "live.json").read_text())
    assert found["pool"] == "embedded"
    assert len(found["budgets"]) == 4
    assert all(row["score"]["recorded"] is None and 0 <= row["score"]["live"] <= 1 for row in found["budgets"])
    assert "live mean" in capsys.readouterr().out


def test_the_live_check_finds_no_drift_where_the_same_models_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, run = tmp_path / "arith", tmp_path / "run"
    main(["record", "--tasks", "operations:40", "--env", "routegym/SingleCall-v0", "--out", str(place)])
    main([
        "train", "--env", "routegym/SingleCall-v0", "--recording", str(place), "--algo", "knn", "--seeds", "1",
        "--out", str(run), "--no-evaluate",
    ])  # fmt: skip
    main(["evaluate", str(run), "--live"])
    found = json.loads((run / "live.json").read_text())
    assert found["failed"] == 0
    for row in found["budgets"]:
        assert row["same_choices"] == 1
        assert row["score"]["drift"] == row["cost_usd"]["drift"] == 0
    assert "No live call failed" in capsys.readouterr().out


@pytest.fixture
def serve(tmp_path: Path, socket_enabled: None) -> Iterator[Callable[..., Path]]:
    """Writes a pool file of two models behind a server on loopback, with their prices times a factor."""
    folder = tmp_path / "server"
    folder.mkdir()
    script = Path(__file__).parents[1] / "collect" / "arithmetic_server.py"
    process = subprocess.Popen([sys.executable, str(script), str(folder), "0"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = int(process.stdout.readline())

    def write(name: str = "pool.yaml", factor: float = 1.0) -> Path:
        kinds = ("prompt", "cached", "completion", "reasoning")
        models = {
            f"m{index}": {
                "endpoint": "server",
                "price": dict.fromkeys(kinds, factor * 10**index),
                "tiers": {"direct": {"template": "{prompt}", "max_tokens": 4}},
            }
            for index in range(2)
        }
        server = {"backend": "openai", "base_url": f"http://127.0.0.1:{port}/v1", "attempts": 1}
        content = {
            "schema_version": 2, "name": "served", "prices": {"date": "2026-01-01", "note": "made up"},
            "endpoints": {"server": server}, "models": models,
        }  # fmt: skip
        (tmp_path / name).write_text(yaml.safe_dump(content, sort_keys=False))
        return tmp_path / name

    yield write
    process.terminate()
    process.wait()
    process.stdout.close()


def trained_on(pool: Path, env: str = "routegym/Cascade-v0") -> Path:
    """A run of a policy that was trained on the recording of a pool."""
    place, run = pool.with_name("recorded"), pool.with_name("run")
    main(["record", "--pool", str(pool), "--tasks", "operations:40", "--env", env, "--out", str(place)])
    main([
        "train", "--env", env, "--recording", str(place), "--algo", "all_action", "--seeds", "1", "--out", str(run),
        "--set", "updates=30", "--no-evaluate",
    ])  # fmt: skip
    return run


@pytest.mark.parametrize("budgets", [[], ["--budgets", "0.00002", "0.001"]], ids=["recorded range", "named budgets"])
def test_the_live_check_finds_no_drift_behind_a_server_that_counts_no_prompts(
    serve: Callable[..., Path], budgets: list[str]
) -> None:
    pool = serve()
    run = trained_on(pool)
    main(["evaluate", str(run), "--live", "--pool", str(pool), *budgets])
    found = json.loads((run / "live.json").read_text())
    assert found["failed"] == 0
    for row in found["budgets"]:
        assert row["same_choices"] == 1
        assert row["score"]["drift"] == row["cost_usd"]["drift"] == 0


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_a_changed_price_is_a_drift_of_cost_alone(
    serve: Callable[..., Path], factor: float, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained_on(serve())
    main(["evaluate", str(run), "--live", "--pool", str(serve("repriced.yaml", factor))])
    found = json.loads((run / "live.json").read_text())
    assert found["repriced"] == ["m0", "m1"]
    assert found["failed"] == 0
    assert "prices differ from the recording's for m0, m1" in " ".join(capsys.readouterr().out.split())
    cost = found["budgets"][-1]["cost_usd"]
    assert cost["drifted"]
    assert (cost["drift"] > 0) == (factor > 1)


def test_a_live_training_is_not_resumed_at_other_prices(
    serve: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*TRAIN, "--out", str(tmp_path / "run")]
    main([*command, "--pool", str(serve())])
    serve(factor=10.0)
    message = refusal(capsys, *command, "--pool", serve(factor=10.0))
    assert "prices" in message
    assert "m0" in message


def refusal(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.count("error:") == 1
    assert "Traceback" not in message
    return message


def test_a_spend_cap_stops_a_live_training_and_keeps_what_it_paid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "capped"
    message = refusal(capsys, *TRAIN, "--out", run, "--spend-cap", "0.001")
    assert "spend cap of 0.001 USD" in message
    assert Recording.load(run / "recording").graph.n_edges > 0 or len(ResponseStore(tmp_path / "capped.store"))
    main([*TRAIN, "--out", str(run), "--spend-cap", "1"])  # the same command with a higher cap goes on
    assert (run / "policy.json").is_file()


def test_the_live_check_tells_what_failed_and_writes_it_down(
    serve: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pool = serve()
    run = trained_on(pool, "routegym/SingleCall-v0")
    (run / "live.json").write_text("of an earlier check")
    for model in ("m0", "m1"):
        (pool.with_name("server") / f"down-{model}").touch()
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", str(run), "--live", "--pool", str(pool)])
    assert stopped.value.code == 1
    found = json.loads((run / "live.json").read_text())
    assert found["failed"] == found["episodes"]
    assert found["failures"]["ServerFailedError"] > 0
    assert all(row["score"]["live"] is None and row["same_choices"] is None for row in found["budgets"])
    assert "out of order" in " ".join(capsys.readouterr().out.split())


def test_the_live_check_tells_all_that_it_spent(serve: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    pool = serve()
    run = trained_on(pool, "routegym/SingleCall-v0")
    (pool.with_name("server") / "log").write_text("")
    capsys.readouterr()
    main(["evaluate", str(run), "--live", "--pool", str(pool)])
    with SpendCap(run / "live.store", None, "live check") as spend:
        spent = spend.spent_usd
    calls = len((pool.with_name("server") / "log").read_text().splitlines())
    assert calls > 0
    assert json.loads((run / "live.json").read_text())["spent_usd"] == spent > 0
    out, err = capsys.readouterr()
    assert f"${spent:.6f} spent now" in out
    assert f"${spent:.6f}" in err  # the line of progress ends with all of it
    assert f"{calls}/{calls} answers" in err


def test_a_live_training_is_not_resumed_with_other_tasks(grown: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (grown / "recording" / "meta.json").read_bytes()
    other = ["operations:41" if word == "operations:40" else word for word in TRAIN]
    message = refusal(capsys, *other, "--out", grown)
    assert "operations:40" in message
    assert "--out" in message
    assert (grown / "recording" / "meta.json").read_bytes() == before


def test_live_training_wants_tasks_and_makes_its_own_recording(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--tasks" in refusal(capsys, "train", "--live")
    assert "--recording" in refusal(capsys, "train", "--live", "--tasks", "arithmetic:5", "--recording", "cascade")
