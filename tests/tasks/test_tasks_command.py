"""``routegym tasks``, and the page about it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from routegym.cli.main import main
from routegym.tasks import load_tasks
from routegym.tasks.files import FIELDS
from routegym.tasks.graders import GRADERS

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.jsonl"
    rows = [{"prompt": f"{n}+1\x1b[2J", "reference": str(n + 1), "kind": "sum"} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_validate_counts_kinds_graders_and_splits(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["tasks", "validate", str(path), "--default-grader", "numeric"])
    out = capsys.readouterr().out
    assert re.search(r"sum\W+numeric\W+\d+\W+\d+\W+\d+", out)
    assert "20 tasks; every reference scores 1 with its own grader" in out


def test_show_prints_tasks_without_what_a_terminal_obeys(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["tasks", "show", str(path), "--n", "2"])
    out = capsys.readouterr().out
    assert out.count("-> ") == 2
    assert "0+1\\u001b[2J" in out
    assert "\x1b" not in out


def test_make_writes_what_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["tasks", "make", "arithmetic:12", "--out", str(tmp_path / "made.jsonl"), "--seed", "2"])
    assert load_tasks(tmp_path / "made.jsonl") == load_tasks("arithmetic:12", seed=2)
    assert "made.jsonl" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "p"}', "line 1, field 'reference'"),
        (
            '{"prompt": "p", "reference": "r", "grader": "numeric"}',
            "'numeric'|numeric: reference 'r' is not one number",
        ),
        ('{"prompt": "p", "reference": "a\\nb", "grader": "math_verify"}', "1 of 1 references do not score 1"),
        ('{"prompt": "p", "reference": "r", "grader": "nowhere:f"}', "cannot be imported"),
        ("{", "line 1: is not JSON"),
        ("", "holds no tasks"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(SystemExit) as caught:
        main(["tasks", "validate", str(path)])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(message, error)


def test_the_page_names_every_field_and_grader() -> None:
    page = PAGE.read_text()
    assert all(f"| `{name}` |" in page for name in (*FIELDS, *GRADERS))


def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("routegym.tasks.graders.GRADERS", dict(GRADERS))
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"{n}+{n}", "answer": str(2 * n)} for n in range(5)]
    Path("questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = PAGE.read_text()
    Path("examples.jsonl").write_text(re.findall(r"```json\n(.*?)```", page, re.S)[0])
    examples = load_tasks("examples.jsonl")
    examples.validate()
    assert len(examples) == 3
    for snippet in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(compile(snippet.replace(":500", ":20").replace(":200+", ":20+"), str(PAGE), "exec"), {})
    for command in re.findall(r"^routegym (.*)$", page, re.M):
        main(command.split())
