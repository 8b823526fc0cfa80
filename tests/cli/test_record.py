"""`routegym record` as a user meets it, on the embedded pool; `tests/collect` kills it and changes its pool."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from routegym.cli.main import main
from routegym.graph.recording import Recording

pytest.importorskip("transformers", reason="the embedded pool needs the extra pool")

AGENT = ("--env", "routegym/AgentSteps-v0", "--tasks", "arithmetic:2")


def record(*arguments: str | Path) -> int:
    """The exit code."""
    try:
        main(["record", *map(str, arguments)])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_recording_says_how_it_was_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, tasks = tmp_path / "far away" / "mine", tmp_path / "sums.csv"
    tasks.write_text("id,prompt,reference\na,58+7,65\nb,9-4,5\nc,123*5,615\n")
    given = ("--tasks", tasks, "--out", out, "--licence", "CC0-1.0")
    assert record(*given) == 0
    shown = capsys.readouterr()
    assert "18 calls made now" in shown.err
    assert f"next: routegym train --env routegym/Cascade-v0 --recording {out}" in shown.out
    assert "large/direct" in shown.out
    recording = Recording.load(out)
    assert recording.graph.complete
    found = recording.provenance
    assert found["complete"] is True
    assert found["licence"] == "CC0-1.0"
    assert found["made_by"] == (
        "routegym record --pool embedded --tasks sums.csv --env routegym/Cascade-v0 --strategy all --out mine"
    )
    assert found["spent_usd"] > 0
    assert found["pool"]["name"] == "embedded"
    assert len(found["pool"]["sha256"]) == len(found["tasks"]["sha256"]) == 64
    assert {"routegym", "numpy", "python"} <= set(found["versions"])
    assert str(tmp_path) not in (out / "meta.json").read_text()
    meta = json.loads((out / "meta.json").read_text())
    assert meta["provenance"] == found

    assert record(*given) == 0
    assert "0 calls made now for $0.000000" in capsys.readouterr().err
    assert Recording.load(out).content_hash == recording.content_hash


def test_two_recordings_share_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = (*AGENT, "--store", tmp_path / "answers")
    assert record(*common, "--out", tmp_path / "a", "--strategy", "boundary") == 0
    assert record(*common, "--out", tmp_path / "b", "--strategy", "boundary") == 0
    assert "0 calls made now" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "answers", "b"]


def test_on_demand_records_the_start_of_each_task(tmp_path: Path) -> None:
    assert record(*AGENT, "--out", tmp_path / "out", "--strategy", "on-demand") == 0
    recording = Recording.load(tmp_path / "out")
    assert recording.graph.n_nodes == recording.graph.n_tasks == 2
    assert recording.graph.n_edges == 0
    assert recording.provenance["complete"] is False


def test_a_policy_of_another_pool_is_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert record(*AGENT, "--out", out, "--strategy", f"policy={trained}") == 2
    assert "trained with other actions" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_record_train_record(tmp_path: Path) -> None:
    first, run = tmp_path / "first", tmp_path / "run"
    assert record(*AGENT[:2], "--tasks", "arithmetic:12", "--out", first) == 0
    main(["train", "--recording", str(first), "--out", str(run), "--seeds", "1", "--steps", "4096", "--no-evaluate"])
    common = ("--env", "routegym/AgentSteps-v0", "--tasks", "arithmetic:14", "--store", tmp_path / "first.store")
    assert record(*common, "--out", tmp_path / "more", "--strategy", f"policy={run}") == 0
    found, trained_on = Recording.load(tmp_path / "more"), Recording.load(first)
    assert 0 < found.graph.n_edges < trained_on.graph.n_edges
    assert found.budget_range_usd == trained_on.budget_range_usd
    assert found.cost_scale_usd == trained_on.cost_scale_usd
    assert found.provenance["strategy"] == "policy"
    assert str(tmp_path) not in json.dumps(found.provenance)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--env", "routegym/Cascades-v0"], ["env", "Cascades-v0", "routegym/Cascade-v0"]),
        (["--strategy", "al"], ["strategy = 'al'", "all", "policy=RUN"]),
        (["--strategy", "policy="], ["strategy = 'policy='"]),
        (["--strategy", "policy=/nowhere"], ["/nowhere", "routegym train"]),
        (["--spend-cap", "-1"], ["spend cap", "-1"]),
        (["--spend-cap", "nan"], ["spend cap", "nan"]),
        (["--rollouts", "0"], ["rollouts = 0"]),
        (["--workers", "0"], ["workers = 0"]),
        (["--passes", "-1"], ["passes = -1"]),
        (["--seed", "-1"], ["seed = -1"]),
        (["--samples", "large/direct"], ["ARM=K"]),
        (["--samples", "large/direct=many"], ["ARM=K"]),
        (["--samples", "larg/direct=2"], ["larg/direct", "large/direct"]),
        (["--samples", "large/direct=256"], ["256", "255"]),
        (["--shard", "2/2"], ["shard = '2/2'", "0/4"]),
        (["--shard", "-1/2"], ["shard"]),
        (["--shard", "half"], ["shard = 'half'"]),
        (["--tasks", "arithmetics:10"], ["arithmetics:10", "arithmetic:SIZE"]),
        (["--tasks", "nowhere.jsonl"], ["nowhere.jsonl"]),
        (["--tasks", "arithmetic:-1"], ["arithmetic:-1"]),
        (["--pool", "nowhere.yaml"], ["nowhere.yaml"]),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = dict(zip(AGENT[::2], AGENT[1::2], strict=True)) | {"--out": "out"}
    given |= dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert record(*(part for pair in given.items() for part in pair)) == 2
    shown = capsys.readouterr().err
    message = shown.splitlines()[-1]
    assert message.startswith("error: ")
    assert "Traceback" not in shown
    assert all(word in message for word in words), message
    assert not Path("out").exists()


def test_a_folder_with_something_else_is_left_alone(
    recordings: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("precious")
    assert record(*AGENT, "--out", tmp_path / "thesis") == 2
    assert "is not a recording" in capsys.readouterr().err
    before = (recordings["agent_steps"] / "meta.json").read_bytes()
    assert record(*AGENT, "--out", recordings["agent_steps"]) == 2
    assert "has not made" in capsys.readouterr().err
    assert (recordings["agent_steps"] / "meta.json").read_bytes() == before


def test_references_that_cannot_be_right_are_refused_before_anything_is_paid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = tmp_path / "tasks.csv"
    tasks.write_text("id,prompt,reference,grader\na,58+7,sixty five,numeric\nb,1+1,2,numeric\n")
    assert record("--tasks", tasks, "--out", tmp_path / "out") == 2
    assert "'sixty five' is not one number" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["tasks.csv"]
