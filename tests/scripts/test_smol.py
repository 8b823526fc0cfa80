"""Tasks for the small language models: reproducible, without leaks, and gradable; and the files around them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from routegym.pool.pool import load_pool
from routegym.tasks import TaskSet, load_tasks

ROOT = Path(__file__).resolve().parents[2]
KINDS = "add,ball,category,in_words,nth_word,odd_one_out,whereabouts,word_length"


sys.path.insert(0, str(ROOT / "scripts"))
try:
    import convert_gguf
    import smol_tasks
finally:
    sys.path.remove(str(ROOT / "scripts"))


def made(out: Path, *arguments: str) -> TaskSet:
    assert smol_tasks.main(["--out", str(out), *arguments]) == 0
    return load_tasks(str(out))


def questions(tasks: TaskSet) -> set[str]:
    return {prompt.rpartition("\n")[2] for prompt in tasks.prompts}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> TaskSet:
    return made(tmp_path_factory.mktemp("smol") / "tasks.jsonl", "--kinds", KINDS, "--per-kind", "24")


def test_each_kind_has_its_tasks_in_every_split_and_every_reference_scores_1(tasks: TaskSet) -> None:
    assert sorted(set(tasks.kinds)) == sorted(KINDS.split(","))
    assert len(tasks) == 24 * len(set(tasks.kinds))
    assert {tasks.splits.count(split) > 0 for split in ("train", "val", "test")} == {True}
    tasks.validate()


def test_examples_are_the_same_for_a_kind_and_never_asked(tasks: TaskSet) -> None:
    for kind in set(tasks.kinds):
        prompts = [prompt for prompt, own in zip(tasks.prompts, tasks.kinds, strict=True) if own == kind]
        [shown] = {prompt.rpartition("\n")[0] for prompt in prompts}
        examples = shown.splitlines()[1:]
        assert len(examples) == 4
        asked = [prompt.rpartition("\n")[2] for prompt in prompts]
        assert not [
            example
            for example in examples
            for question in asked
            if example.startswith((f"{question} ->", f"{question}: "))
        ]


def test_a_reference_is_right_by_a_count_of_our_own(tasks: TaskSet) -> None:
    for prompt, reference, kind in zip(tasks.prompts, tasks.references, tasks.kinds, strict=True):
        question = prompt.rpartition("\n")[2]
        if kind == "add":
            assert sum(map(int, question.split(" + "))) == int(reference)
        elif kind == "nth_word":
            words, _, place = question.rstrip(")").rpartition(" (")
            assert words.split(", ")[int(place) - 1] == reference
        elif kind == "ball":
            assert question.split(" to ")[-1].split(".")[0] == reference


def test_the_same_seed_gives_the_same_file_and_fewer_tasks_its_beginning(tmp_path: Path) -> None:
    one, two, fewer = tmp_path / "one.jsonl", tmp_path / "two.jsonl", tmp_path / "fewer.jsonl"
    made(one, "--kinds", "add,owner", "--per-kind", "20")
    made(two, "--kinds", "add,owner", "--per-kind", "20")
    assert one.read_bytes() == two.read_bytes()
    made(fewer, "--kinds", "add,owner", "--per-kind", "7")
    lines = one.read_text(encoding="utf-8").splitlines()
    assert fewer.read_text(encoding="utf-8").splitlines() == [*lines[:7], *lines[20:27]]


def test_a_question_is_in_the_same_split_whatever_the_seed(tmp_path: Path) -> None:
    splits: dict[str, str] = {}
    seen = []
    for seed in ("1", "2"):
        tasks = made(tmp_path / f"{seed}.jsonl", "--kinds", "category,owner", "--per-kind", "60", "--seed", seed)
        for prompt, split in zip(tasks.prompts, tasks.splits, strict=True):
            assert splits.setdefault(prompt.rpartition("\n")[2], split) == split
        seen.append(questions(tasks))
    common = seen[0] & seen[1]
    assert common  # facts: there are only so many
    assert not {question for question in common if "car?" in question}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kinds", "add,nonsense"), "unknown kinds nonsense; expected some of add,"),
        (("--per-kind", "0"), "expected per-kind >= 1"),
        (("--seed", "-1"), "seed >= 0"),
    ],
)
def test_a_mistake_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        smol_tasks.main(["--out", str(tmp_path / "never.jsonl"), *arguments])
    assert stopped.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "never.jsonl").exists()


def test_a_list_that_is_too_short_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = made(tmp_path / "all.jsonl", "--kinds", "antonym", "--per-kind", "500")
    assert f"antonym has {len(tasks)} different tasks" in capsys.readouterr().err
    assert len(tasks) < 500


def test_the_pool_has_three_tiers_of_each_model_and_reads_answers_after_steps() -> None:
    pool = load_pool(ROOT / "docs/examples/smol_pool.yaml")
    names = [arm.name for arm in pool.arms]
    assert names == [f"{model}/{tier}" for model in ("smol", "gemma") for tier in ("direct", "steps", "vote5")]
    for model in ("smol", "gemma"):
        assert text_of(pool, f"{model}/steps", " c, h, e, r, r, y -> y") == "y"
        assert text_of(pool, f"{model}/steps", " 1 a -> a, 2 b -> b ") == "b"
        assert text_of(pool, f"{model}/steps", " pain") == "pain"
        assert text_of(pool, f"{model}/steps", " n," * 50) == ""
        assert text_of(pool, f"{model}/direct", " Rome") == "Rome"


def text_of(pool: Any, arm: str, generated: str) -> str:
    from routegym.pool.backend import Completion

    completion = Completion((generated,), (-1.0,), ("stop",), (1, 0, 1, 0), 0.1)
    return str(pool.tiers[arm].to_response(completion).text)


def test_the_facts_have_one_answer_each() -> None:
    for fact in set(smol_tasks._FACTS) - {"lists"}:
        pairs = smol_tasks._pairs(fact)
        assert all(isinstance(part, str) and part for pair in pairs for part in pair), fact
        assert len({question for question, _ in pairs}) == len(pairs) >= 60, fact


@pytest.mark.parametrize("argument", ["--start", "--help"])
def test_the_server_script_knows_its_arguments(argument: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/serve_smol.sh"), argument],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "SMOL_DIR": str(tmp_path / "smol")},
    )
    assert done.returncode == 1
    assert f"unknown argument {argument}; expected --prepare, --stop or nothing" in done.stderr
    assert not (tmp_path / "smol").exists()


def test_stopping_what_does_not_run_is_no_error(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/serve_smol.sh"), "--stop"],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "SMOL_DIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_begin_of_sequence_token_is_added_once() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = tokenizers.models.WordLevel({"<bos>": 0, "a": 1, "b": 2, "?": 3}, unk_token="?")
    core = tokenizers.Tokenizer(words)
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", unk_token="?")
    assert tokenizer("a b").input_ids == [1, 2]
    for _ in range(2):
        convert_gguf.add_bos(tokenizer)
        assert tokenizer("a b").input_ids == [0, 1, 2]


def test_a_file_that_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert_gguf.main([str(tmp_path / "no.gguf"), str(tmp_path / "out")]) == 2
    assert "no.gguf; give the path of a GGUF file" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
