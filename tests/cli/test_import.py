"""`routegym import` as a user meets it: from a table to a trained policy."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from commands import said

from routegym.cli.import_ import Import
from routegym.graph import Recording
from routegym.graph.imports import FORMATS
from routegym.graph.imports.registry import reader_of
from routegym.tasks.taskset import split_of


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """200 queries; the small arm solves the short ones only."""
    rng = np.random.default_rng(0)
    lines = ["query_id,model,ok,usd,question,tokens_in,tokens_out"]
    words = [first + second for first in ("ri", "ta", "win") for second in ("ver", "ble", "dow", "ket")]
    for number in range(200):
        hard = rng.random() < 0.5
        question = " ".join([*rng.choice(words, 6), "hard" if hard else "easy", f"x{number}"])
        for model, price, right in (("small", 0.2, not hard), ("large", 6.0, rng.random() < 0.9)):
            tokens = rng.integers(50, 400, 2)
            usd = price * tokens.sum() / 1e6
            lines.append(f"q{number},{model},{int(right)},{usd:.9f},{question},{tokens[0]},{tokens[1]}")
    path = tmp_path / "results.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


COLUMNS = (
    "query=query_id arm=model score=ok cost_usd=usd prompt=question "
    "prompt_tokens=tokens_in completion_tokens=tokens_out prices.arm=arm"
)


def test_from_a_table_to_a_recording(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, page = tmp_path / "theirs", tmp_path / "pages" / "report.md"
    text = said(
        capsys, "import", "table", str(table), "-o", str(out), "--columns", *COLUMNS.split(), "--report", str(page)
    )
    assert "rows read" in text
    assert re.search(r"small .* 0\.2 / 0\.2", text)
    assert re.search(r"large .* 6 / 6", text)
    assert "oracle" in text
    assert "warning" not in text
    assert "leak" not in text
    assert f"--env routegym/SingleCall-v0 --recording {out}" in text
    recording = Recording.load(out)
    assert (recording.name, recording.kind, len(recording.tasks)) == ("theirs", "single_call", 200)
    assert recording.tasks.embedding.shape == (200, 64)
    assert [arm.model for arm in recording.arms] == ["small", "large"]
    told = recording.provenance
    assert told["made_by"].startswith("routegym import table results.csv --columns query=query_id")
    assert str(tmp_path) not in json.dumps(told)
    assert told["imported"]["report"]["rows_read"] == 400
    assert list(told["imported"]["files"]) == ["results.csv"]
    assert page.read_text(encoding="utf-8").startswith("# Import of theirs\n")


def test_the_next_command_works(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The printed command, as printed."""
    out = tmp_path / "theirs"
    text = said(capsys, "import", "table", str(table), "-o", str(out), "--columns", *COLUMNS.split())
    (command,) = re.findall(r"^next: routegym (.*)$", text, flags=re.MULTILINE)
    shown = said(capsys, *command.split(), "--set", "updates=30", "--out", str(tmp_path / "run"))
    assert "run folder" in shown
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["policies"].keys() == {
        "all_action",
        "random",
        "first_large_k",  # and not confidence_cascade, which needs to see an answer
    }
    # who asks for it is told
    named = ("evaluate", str(tmp_path / "run"), "--baselines", "confidence_cascade")
    assert "needs the signal 'confidence'" in said(capsys, *named, code=2)


def test_cascades_stand_beside_a_policy_that_is_told_of_success(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The strongest rule there; elsewhere it is not named."""
    out = tmp_path / "told"
    common = ("import", "table", str(table), "-o", str(out), "--columns", *COLUMNS.split(), "--text", "none")
    assert "fixed_cascade" not in said(capsys, *common)
    text = said(capsys, *common, "--kind", "cascade", "--verdict")
    assert "--policies knn logistic random_mixture fixed_cascade all_action --seeds 1" in text
    (command,) = re.findall(r"^next: routegym (.*)$", text, flags=re.MULTILINE)
    said(capsys, *command.split(), "--set", "updates=30", "--out", str(tmp_path / "run"))
    policies = json.loads((tmp_path / "run" / "metrics.json").read_text())["policies"]
    assert policies.keys() == {"all_action", "random", "first_large_k", "fixed_cascade"}


def test_a_report_that_cannot_be_written_leaves_nothing(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    common = ("import", "table", str(table), "-o", str(tmp_path / "theirs"), "--columns", *COLUMNS.split())
    text = said(capsys, *common, "--text", "none", "--report", str(tmp_path / "file" / "report.md"), code=2)
    assert "cannot be written" in text
    assert not (tmp_path / "theirs").exists()


def test_no_command_is_named_that_would_refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "r.csv", tmp_path / "theirs"
    common = ("import", "table", str(path), "-o", str(out), "--text", "none")

    def import_of(small: float, split: str) -> str:
        rows = [
            f"q{query},{arm},{(query + (arm == 'large')) % 2},{usd},{split}"
            for query in range(80)
            for arm, usd in (("small", small), ("large", 0.01))
        ]
        path.write_text("query,arm,score,cost_usd,split\n" + "\n".join(rows) + "\n", encoding="utf-8")
        return said(capsys, *common)

    text = import_of(0.01, "")
    assert "warning: there is no cost to trade off: all arms cost 0.01 USD on average" in text
    assert "next: nothing to train, there is no cost to trade off" in text
    assert "--algo" not in text
    text = import_of(0.001, "train")
    assert "warning: there is no test split" in text
    assert "routegym train --env" not in text
    (command,) = re.findall(r"^next: routegym (bench .*)$", text, flags=re.MULTILINE)
    quick = command.replace("knn logistic random_mixture all_action", "random_mixture").split()
    assert "5-fold cross-validation" in said(capsys, *quick, "--out", str(tmp_path / "bench"))


@pytest.mark.parametrize("kind", ["single_call", "cascade"])
def test_options(kind: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = table.read_text(encoding="utf-8").replace(",", ";").splitlines()
    table.write_text("\n".join(text[:-1]) + "\n", encoding="utf-8")  # the last query lacks an arm
    prices = tmp_path / "prices.csv"
    prices.write_text("arm;usd_in_per_m;usd_out_per_m\nsmall;0.1;0.1\nlarge;3;3\n", encoding="utf-8")
    out = tmp_path / kind
    common = ("import", "table", str(table), "-o", str(out), "--columns", *COLUMNS.split(), "--delimiter", ";")
    chosen = ("--kind", kind, "--text", "none", "--prices", str(prices), "--costs", "tokens", "--name", "mine")
    assert "without a row, masked" in said(capsys, *common, *chosen, "--missing", "mask")
    first = Recording.load(out)
    assert (first.name, len(first.tasks), first.tasks.embedding.shape[1]) == ("mine", 200, 0)
    assert first.prices.prices["large"].completion == 3.0
    assert first.provenance["imported"]["costs"] == "tokens"
    # again, over it
    shown = said(capsys, *common, *chosen, "--arms", "large", "small", "--text", "hashing", "--dims", "8", "--verdict")
    second = Recording.load(out)
    assert [arm.model for arm in second.arms] == ["large", "small"]
    assert len(second.tasks) == 199
    assert second.tasks.embedding.shape[1] == 8
    assert "rows dropped: of queries that not every arm was recorded for" in shown
    if kind == "cascade":
        assert second.controls == ("stop",)


def test_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "steps.csv"
    rows = [
        f"q{query},{arm},{turn},{'ok' if turn else 'error'},{int(turn and (query + large) % 2)},{0.1 * (1 + large)}"
        for query in range(20)
        for large, arm in enumerate(("small", "large"))
        for turn in range(2)
    ]
    path.write_text("query,arm,turn,feedback,score,cost_usd\n" + "\n".join(rows) + "\n", encoding="utf-8")
    out = tmp_path / "attempts"
    said(capsys, "import", "steps", str(path), "-o", str(out), "--kind", "attempts", "--text", "none")
    recording = Recording.load(out)
    assert recording.kind == "attempts"
    assert recording.controls == ("stop",)
    assert "format 'steps' takes no turns" in said(
        capsys, "import", "steps", str(path), "-o", str(out), "--turns", str(path), code=2
    )


def test_options_of_a_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "steps.csv"
    path.write_text("query,arm,turn,feedback,score,cost_usd\nq,a,0,ok,1,0.1\nr,a,0,ok,0,0.1\n", encoding="utf-8")
    common = ("import", "steps", str(path), "-o", str(tmp_path / "out"), "--kind", "cascade", "--text", "none")
    for chosen, control in (((), "stop"), (("--set", "verdict=false"), "accept")):
        said(capsys, *common, *chosen)
        recording = Recording.load(tmp_path / "out")
        assert recording.controls == (control,)
    assert "--set verdict=false" in recording.provenance["made_by"]
    assert "format 'steps' takes no max_steps" in said(capsys, *common, "--set", "max_steps=3", code=2)
    assert "expected name=value" in said(capsys, *common, "--set", "verdict", code=2)


def test_the_program_that_converts_a_pickle_can_be_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "real.pkl"
    source.write_bytes(b"\x80\x04.")
    text = said(capsys, "import", "routereval", str(source), "-o", str(tmp_path / "out"), code=2)
    message, _, program = text.partition("\n\n")
    assert message.startswith(f"error: {source}: a pickle runs code when it is opened")
    assert program.startswith("import pickle, sys, pandas\n")
    compile(program, "convert.py", "exec")


def test_help_lists_the_formats(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(said(capsys, "import", "--help").split())
    for name in FORMATS:
        line = " ".join(str(reader_of(name).__doc__).split("\n\n")[0].split())
        assert f"{name} {line}" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tabel", "results.csv"], "did you mean 'table'?"),
        (["table", "results.csv", "--columns", "query"], "--columns query; expected NAME=COLUMN"),
        (["table", "results.csv", "--columns", "query="], "expected NAME=COLUMN"),
        (["table", "results.csv", "--columns", "arm=a", "arm=b"], "names 'arm' twice"),
        (["table", "results.csv", "--columns", "modle=a"], "columns names 'modle'"),
        (["table", "results.csv", "--delimiter", ";;"], "delimiter = ';;'"),
        (["table", "results.csv"], "line 1: no column 'query'; it has query_id, model"),
        (["table", "nowhere.csv"], "nowhere.csv: there is no such file"),
        (["table", "results.csv", "--columns", *COLUMNS.split(), "--arms", "smal"], "did you mean 'small'?"),
        (["table", "results.csv", "--columns", *COLUMNS.split(), "--kind", "attempts"], "has no turns"),
        (["table", "results.csv", "--columns", *COLUMNS.split(), "--dims", "0"], "dims = 0"),
        (
            ["table", "results.csv", "--columns", *COLUMNS.split(), "--kind", "cascade", "--most-attempts", "1"],
            "at least 2",
        ),
        (["table", "results.csv", "--columns", *COLUMNS.split(), "--costs", "tokens"], "prices"),
        (["table", "results.csv", "--set", "kind=cascade"], "--set kind; it is an option of its own: --kind"),
        (["table", "results.csv", "--set", "most_attempts=3"], "option of its own: --most-attempts"),
        (["table", "a\0b.csv"], "no such file"),
        (["table", "x" * 300 + ".csv"], "cannot be read"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    message: str,
    table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert table.is_file()
    text = said(capsys, "import", *arguments, "-o", "out", "--report", "report.md", code=2)
    assert message in text
    assert len(text.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]


def test_nothing_else_is_overwritten(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("import", "table", str(table), "--columns", *COLUMNS.split(), "--text", "none", "-o")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "kept").touch()
    for out in (folder, table):
        before = table.read_bytes()
        assert "exists and is not a recording" in said(capsys, *common, str(out), code=2)
        assert table.read_bytes() == before
    assert "is a folder" in said(capsys, *common, str(tmp_path / "new"), "--report", str(folder), code=2)
    assert "cannot be written" in said(capsys, *common, str(table / "below"), code=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "results.csv"]
    assert [path.name for path in folder.iterdir()] == ["kept"]


def test_validate_warns_of_leaks(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "theirs"
    common = ("import", "table", str(table), "--columns", *COLUMNS.split(), "--text", "none", "-o", str(out))
    said(capsys, *common)
    text = said(capsys, "recording", "validate", str(out))
    assert "sound" in text
    assert "warning" not in text
    rows = [line.split(",") for line in table.read_text(encoding="utf-8").splitlines()]
    trained, held = (next(row for row in rows[1:] if split_of(row[0]) == split) for split in ("train", "test"))
    for change, expected in (
        (str, "queries moved to the split"),
        (str.upper, "leak: 1 prompt(s) are in several splits"),
    ):
        changed = [[*row[:4], change(trained[4]), *row[5:]] if row[0] == held[0] else row for row in rows]
        table.write_text("".join(",".join(row) + "\n" for row in changed), encoding="utf-8")
        assert expected in said(capsys, *common)
    text = said(capsys, "recording", "validate", str(out))
    assert "sound" in text
    assert f"{out}: warning: 1 prompt(s) are in several splits" in text
    assert repr(held[0]) in text


def test_an_option_of_a_format_may_be_none(tmp_path: Path) -> None:
    command = Import("intercode", tmp_path, tmp_path / "out", set=("max_turns=null",))
    assert command._options()["max_turns"] is None
    assert "verdict" not in command._options()
