from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from routegym.errors import MissingExtraError, TaskError
from routegym.tasks import generate_tasks, join_tasks, load_tasks, save_tasks, split_of
from routegym.tasks.reasoning import generate_reasoning_tasks, names


def test_arithmetic_tasks_are_those_of_the_embedded_problem() -> None:
    tasks, plain = load_tasks("arithmetic:20", seed=3), generate_tasks(20, seed=3)
    assert (tasks.prompts, tasks.references) == (plain.prompts, plain.references)
    assert set(tasks.kinds) == {"arithmetic"}


def test_reasoning_gym_tasks_have_options_and_a_verifier() -> None:
    tasks = load_tasks("reasoning_gym:chain_sum:40?max_terms=2&max_digits=2", seed=4)
    assert len(tasks) == len(set(tasks.prompts)) == 40
    assert all(reference.lstrip("-").isdigit() for reference in tasks.references)
    assert set(tasks.kinds) == {"chain_sum?max_terms=2&max_digits=2"}
    assert set(tasks.graders) == {"reasoning_gym"}
    assert json.loads(tasks.details[0])["options"] == {"max_digits": 2, "max_terms": 2}
    assert tasks.grade(range(40), tasks.references).tolist() == [1.0] * 40
    tasks.validate()


def test_more_tasks_begin_with_the_same_ones_and_another_seed_shares_none() -> None:
    few, many = (generate_reasoning_tasks("products", count, seed=42) for count in (10, 30))
    assert many.prompts[:10] == few.prompts
    assert not set(many.prompts) & set(generate_reasoning_tasks("products", 30, seed=43).prompts)


@pytest.mark.parametrize("spec", ["reasoning_gym:coin_flip:40", "operations:200"])
def test_a_prompt_has_one_id_and_one_split_whatever_the_seed(spec: str) -> None:
    first, second = (load_tasks(spec, seed=seed) for seed in (0, 1))
    places = [dict(zip(t.prompts, zip(t.ids, t.splits, strict=True), strict=True)) for t in (first, second)]
    shared = places[0].keys() & places[1].keys()
    assert shared  # these generators know few tasks
    assert all(places[0][prompt] == places[1][prompt] for prompt in shared)
    assert not set(first.ids) & {task for prompt, (task, _) in places[1].items() if prompt not in shared}
    assert all(split == split_of(task) for task, split in zip(first.ids, first.splits, strict=True))


def test_generated_tasks_of_two_sources_and_two_seeds_are_joined() -> None:
    assert len(load_tasks("arithmetic:5+operations:5")) == 10
    first, second = (load_tasks("operations:200", seed=seed) for seed in (0, 1))
    joined = join_tasks([first, second])
    assert set(joined.prompts) == {*first.prompts, *second.prompts}
    assert len(joined) < 400


@pytest.mark.slow
def test_the_same_tasks_under_every_hash_seed() -> None:
    program = (
        "from routegym.tasks.reasoning import generate_reasoning_tasks as g\n"
        "print([g(n, 3).ids for n in ('isomorphic_strings', 'polynomial_multiplication', 'ransom_note')])"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in "12"
    }
    assert len(found) == 1


def test_specs_and_files_are_joined(tmp_path: Path) -> None:
    parts = "reasoning_gym:products:5+arithmetic:3"
    path = tmp_path / "own.jsonl"
    save_tasks(load_tasks(parts), path)
    assert load_tasks(path) == load_tasks(parts)
    joined = load_tasks(f"{path}+{parts}+reasoning_gym:products:8")
    assert len(joined) == 11  # what is there already is dropped
    assert joined.ids[:8] == load_tasks(path).ids
    assert load_tasks(path.rename(tmp_path / "a+b.jsonl")).ids == joined.ids[:8]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("somewhere", "tasks 'somewhere' are unknown; expected a .jsonl"),
        ("arithmetic:none", "size 'none'; expected a number"),
        ("arithmetic:0", "size '0'"),
        ("arithmetic:-1", "size '-1'"),
        ("reasoning_gym:chain_sum", r"size|expected reasoning_gym:NAME:SIZE"),
        ("reasoning_gym:chainsum:5", "unknown generator 'chainsum' of reasoning-gym; did you mean 'chain_sum'"),
        ("reasoning_gym:chain_sum:5?max_terms", "option 'max_terms'; expected NAME=VALUE"),
        ("reasoning_gym:chain_sum:5?max_term=3", "no task could be drawn.*unexpected keyword argument 'max_term'"),
        ("reasoning_gym:chain_sum:5?min_terms=9&max_terms=2", "no task could be drawn.*options do not fit"),
        ("reasoning_gym:chain_sum:5?seed=3", "option 'seed' is given elsewhere"),
        ("reasoning_gym:rush_hour:5", "gives no reference with its tasks"),
        ("reasoning_gym:coin_flip:500", "gave only [0-9]+ different tasks in 2100 draws, 500 were asked for"),
        ("reasoning_gym:arc_agi:2", "references do not score 1 with their own grader"),
        ("arithmetic:3+nothing.jsonl", r"nothing\.jsonl: there is no such file"),
    ],
)
def test_specs_that_make_no_sense_are_refused(spec: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        load_tasks(spec)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(TaskError, match="seed = -1"):
        load_tasks("arithmetic:3", seed=-1)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("routegym.tasks.reasoning", "routegym.tasks.mathematics"):
        monkeypatch.setattr(f"{module}.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"'reasoning-gym' is needed.*routegym\[tasks\]"):
        load_tasks("reasoning_gym:chain_sum:3")
    with pytest.raises(MissingExtraError, match=r"'math-verify' is needed"):
        load_tasks("arithmetic:3").__class__(("a",), ("p",), ("x",), ("train",), ("math_verify",)).validate()


@pytest.mark.slow
def test_nearly_every_generator_can_be_used() -> None:
    refused = []
    for name in names():
        try:
            generate_reasoning_tasks(name, 3).validate()
        except TaskError:
            refused.append(name)
    # No references, or references that their own verifier does not accept once they were in a file.
    assert set(refused) <= {
        "arc_agi",
        "boxnet",
        "graph_color",
        "propositional_logic",
        "rearc",
        "rubiks_cube",
        "rush_hour",
    }
