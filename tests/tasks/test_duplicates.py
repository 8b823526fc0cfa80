"""Prompts that are nearly the same are found, and templates and short sums are not taken for that."""

from __future__ import annotations

import numpy as np
import pytest

from routegym.tasks.duplicates import near_duplicates, normalized

WORDS = [
    first + second for first in ("ri", "ta", "ye", "qui", "mar", "win") for second in ("ver", "ble", "low", "ck", "ket")
]


def sentences(count: int, length: int = 14, seed: int = 0) -> list[str]:
    """Prompts without much in common."""
    rng = np.random.default_rng(seed)
    vocabulary = [f"{first}{second}" for first in WORDS for second in WORDS]
    return [" ".join(rng.choice(vocabulary, length)) for _ in range(count)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("What is  the capital\nof France?", "what is the capital of france"),
        ("\u201cWell\u201d \u2013 he said, \u2018no\u2019!", "\"well\" - he said 'no'"),
        ("Compute 3.5 + 2,000 .", "compute 3.5 + 2,000"),
        ("\ufb01ve", "five"),
    ],
)
def test_what_does_not_count(first: str, second: str) -> None:
    assert normalized(first) == normalized(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("58*7", "58-7"),
        ("3.5", "35"),
        ("a[1:]", "a[:1]"),
        ("not (a and b)", "(not a) and b"),
        ("caf\u00e9", "cafe"),
        ("x_1", "x1"),
    ],
)
def test_what_counts(first: str, second: str) -> None:
    assert normalized(first) != normalized(second)


CHANGES = {
    "a word added": lambda words: [*words, "please"],
    "two words in front": lambda words: ["kindly", "answer:", *words],
    "a word left out": lambda words: words[:5] + words[6:],
    "a word replaced": lambda words: [*words[:7], "entirely", *words[8:]],
    "the first word replaced": lambda words: ["entirely", *words[1:]],
    "two words exchanged": lambda words: [*words[:-2], words[-1], words[-2]],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_near_duplicate_is_found(change: object) -> None:
    assert callable(change)
    prompts = sentences(400)
    for row in range(40):
        prompts[399 - row] = " ".join(change(prompts[row].split()))
    group = np.repeat([0, 1], 200)
    found = near_duplicates(prompts, group)
    assert found.tolist() == [[row, 399 - row] for row in range(40)]
    assert not len(near_duplicates(prompts, np.zeros(400, dtype=int)))  # of one group: nothing leaks


def test_unrelated_prompts_are_none() -> None:
    assert not len(near_duplicates(sentences(2000), np.arange(2000) % 3))


def test_the_same_prompt_is_no_near_duplicate() -> None:
    prompt = " ".join(WORDS)
    assert not len(near_duplicates([prompt, prompt.upper() + "."], np.array([0, 1])))


def test_other_numbers_make_another_task() -> None:
    text = "a train of {} cars leaves the station and every car holds {} people who pay a dollar each"
    prompts = [text.format(one, other) for one in range(2, 30) for other in (40, 50)]
    assert not len(near_duplicates(prompts, np.arange(len(prompts)) % 2))


def test_examples_before_the_question_are_a_template() -> None:
    rng = np.random.default_rng(0)
    shown = (
        "answer with the opposite of the word: day -> night, hot -> cold, early -> late, north -> south, rich -> poor"
    )
    prompts = [f"{shown}, {word} ->" for word in rng.choice(sentences(1, 900)[0].split(), 400, replace=False)]
    assert not len(near_duplicates(prompts, np.arange(400) % 2))


@pytest.mark.parametrize("prompts", [[], ["one"], ["", ""], ["1 + 1", "2 + 2"], ["(" * 40, ")" * 40]])
def test_hardly_anything_to_compare(prompts: list[str]) -> None:
    assert near_duplicates(prompts, np.arange(len(prompts))).shape == (0, 2)
