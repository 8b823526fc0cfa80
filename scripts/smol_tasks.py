"""Write the tasks on which two small language models are recorded: many kinds, each partly solved (docs/smol.md).

    python scripts/smol_tasks.py --out tasks.jsonl
    python scripts/smol_tasks.py --out more.jsonl --per-kind 100 --seed 7 --kinds nth_word,french

A prompt shows worked examples of its kind and then the question. The examples are the same for all tasks of the kind,
and never one of the tasks. Where a kind can be worked out step by step, the first two show how
(``cherry: c, h, e, r, r, y -> y``); the others, and all examples of the other kinds, go straight to the answer
(``lamp -> p``). So a tier that ends the prompt with an arrow gets an answer, one that ends it with a colon gets steps.

Item i of a kind is drawn from ``SeedSequence([seed, kind, i])``, so that neighbouring seeds share nothing, and the
split follows from the question alone: a question is in the same split whatever the seed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from routegym.errors import RoutegymError
from routegym.tasks import load_tasks, split_of
from routegym.tasks.reasoning import generate_reasoning_tasks

__all__ = ["KINDS", "Item", "Kind", "make_tasks"]

T = TypeVar("T")

EXAMPLES = 4
PER_KIND = 32
_DRAWS_PER_ITEM = 50  # before a kind is taken to have no more different questions
_FACTS = yaml.safe_load(Path(__file__).with_name("smol_facts.yaml").read_text(encoding="utf-8"))
_LISTS: dict[str, list[str]] = {name: words.split() for name, words in _FACTS["lists"].items()}


@dataclass(frozen=True)
class Item:
    """One question with its right answer."""

    question: str
    answer: str
    steps: str = ""
    """How one gets there; empty where nothing but knowing leads there."""
    details: str = ""
    """What the grader needs, as JSON text."""


@dataclass(frozen=True)
class Kind:
    """One kind of task."""

    grader: str
    heading: str
    """First line of the prompt; empty where the questions say it themselves."""
    items: Callable[[str, int, int], list[Item]]
    """From the kind's name, a seed and a count to so many different items, or fewer where there are no more."""


def make_tasks(kinds: Sequence[str], per_kind: int, seed: int) -> Iterator[dict[str, Any]]:
    """Tasks as rows of a task file, kind by kind."""
    for name in kinds:
        kind = KINDS[name]
        items = kind.items(name, seed, EXAMPLES + per_kind)
        examples, asked = items[:EXAMPLES], items[EXAMPLES:]
        if len(asked) < per_kind:
            print(f"smol_tasks: {name} has {len(asked)} different tasks", file=sys.stderr)
        heading = f"{kind.heading}\n" if kind.heading else ""
        shown = heading + "".join(_worked(item, with_steps=place < 2) for place, item in enumerate(examples))
        for item in asked:
            digest = hashlib.sha1(item.question.encode(), usedforsecurity=False).hexdigest()[:12]
            task_id = f"{name}-{digest}"
            row: dict[str, Any] = {
                "id": task_id,
                "prompt": shown + item.question,
                "reference": item.answer,
                "grader": kind.grader,
                "kind": name,
                "split": split_of(task_id),
            }
            if item.details:
                row["details"] = json.loads(item.details)
            yield row


def _worked(item: Item, with_steps: bool) -> str:
    steps = f": {item.steps}" if item.steps and with_steps else ""
    return f"{item.question}{steps} -> {item.answer}\n"


# Where items come from


def drawn(draw: Callable[[np.random.Generator], Item]) -> Callable[[str, int, int], list[Item]]:
    """Items that a function draws."""

    def items(name: str, seed: int, count: int) -> list[Item]:
        found: dict[str, Item] = {}
        for index in range(_DRAWS_PER_ITEM * count):
            if len(found) == count:
                break
            item = draw(np.random.default_rng(np.random.SeedSequence([seed, _number(name), index])))
            found.setdefault(item.question, item)
        return list(found.values())

    return items


def listed(fact: str) -> Callable[[str, int, int], list[Item]]:
    """Items of a list in smol_facts.yaml, shuffled; there are only so many."""

    def items(name: str, seed: int, count: int) -> list[Item]:
        pairs = _pairs(fact)
        order = np.random.default_rng(np.random.SeedSequence([seed, _number(name)])).permutation(len(pairs))
        return [Item(*pairs[place]) for place in order[:count]]

    return items


def reasoning(generator: str, **options: Any) -> Callable[[str, int, int], list[Item]]:
    """Items of one of reasoning-gym's generators, on one line each."""

    def items(name: str, seed: int, count: int) -> list[Item]:
        tasks = generate_reasoning_tasks(generator, count, seed, options)
        rows = zip(tasks.prompts, tasks.references, tasks.details, strict=True)
        return [Item(" ".join(prompt.split()), reference, details=details) for prompt, reference, details in rows]

    return items


def _number(name: str) -> int:
    return zlib.crc32(name.encode())


def _pairs(fact: str) -> list[tuple[str, str]]:
    """(question, answer) pairs of a list of facts, which maps questions to answers or answers to questions."""
    pairs: list[tuple[str, str]] = []
    for key, value in _FACTS[fact].items():
        pairs += [(question, key) for question in value] if isinstance(value, list) else [(key, value)]
    return pairs


def _int(rng: np.random.Generator, low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    return int(rng.integers(low, high + 1))


def _some(rng: np.random.Generator, values: Sequence[T], count: int) -> list[T]:
    """Different values, in a drawn order."""
    return [values[place] for place in rng.permutation(len(values))[:count]]


# The kinds that are drawn


def _add(rng: np.random.Generator) -> Item:
    a, b = _int(rng, 11, 49), _int(rng, 2, 9)
    to_ten = -a % 10
    steps = (
        f"{a} + {to_ten} = {a + to_ten}, {a + to_ten} + {b - to_ten} = {a + b}"
        if 0 < to_ten < b
        else f"{a} + {b} = {a + b}"
    )
    return Item(f"{a} + {b}", str(a + b), steps)


def _multiply(rng: np.random.Generator) -> Item:
    a, b = _int(rng, 2, 9), _int(rng, 2, 9)
    return Item(f"{a} x {b}", str(a * b), ", ".join(str(a * times) for times in range(1, b + 1)))


def _nth_word(rng: np.random.Generator) -> Item:
    words, place = _some(rng, _LISTS["words"], 4), _int(rng, 1, 4)
    counted = ", ".join(f"{number} {word}" for number, word in enumerate(words[:place], 1))
    return Item(f"{', '.join(words)} ({place})", words[place - 1], counted)


def _odd_one_out(rng: np.random.Generator) -> Item:
    most, odd = _some(rng, list(_FACTS["category"]), 2)
    groups = dict.fromkeys(_some(rng, _FACTS["category"][most], 3), most)
    (other,) = _some(rng, _FACTS["category"][odd], 1)
    words = _some(rng, [*groups, other], 4)
    groups[other] = odd
    return Item(", ".join(words), other, ", ".join(f"{word} {groups[word]}" for word in words))


def _last_letter(rng: np.random.Generator) -> Item:
    (word,) = _some(rng, _words(), 1)
    return Item(word, word[-1], ", ".join(word))


def _word_length(rng: np.random.Generator) -> Item:
    (word,) = _some(rng, _words(), 1)
    return Item(word, str(len(word)), ", ".join(f"{number} {letter}" for number, letter in enumerate(word, 1)))


def _count(rng: np.random.Generator) -> Item:
    words = _some(rng, _LISTS["words"], _int(rng, 2, 7))
    return Item(", ".join(words), str(len(words)), ", ".join(f"{place} {word}" for place, word in enumerate(words, 1)))


def _repeat(rng: np.random.Generator) -> Item:
    (word,), times = _some(rng, _LISTS["words"], 1), _int(rng, 2, 4)
    return Item(f"{word}, {times}", " ".join([word] * times), " ".join(f"{n} {word}" for n in range(1, times + 1)))


def _owner(rng: np.random.Generator) -> Item:
    names, colours, asked = _some(rng, _LISTS["names"], 3), _some(rng, _LISTS["colours"], 3), _int(rng, 0, 2)
    pairs = list(zip(names, colours, strict=True))
    facts = " ".join(f"{name} has a {colour} car." for name, colour in pairs)
    steps = f"{colours[asked]} car: {names[asked]}"
    return Item(f"{facts} Who has the {colours[asked]} car?", names[asked], steps)


def _ball(rng: np.random.Generator) -> Item:
    names, holders = _some(rng, _LISTS["names"], 3), [0]
    story = [f"{names[0]} has the ball."]
    for _ in range(_int(rng, 1, 3)):
        (other,) = _some(rng, [place for place in range(3) if place != holders[-1]], 1)
        story.append(f"{names[holders[-1]]} gives it to {names[other]}.")
        holders.append(other)
    held = [names[place] for place in holders]
    return Item(f"{' '.join(story)} Who has the ball?", held[-1], ", ".join(held))


def _whereabouts(rng: np.random.Generator) -> Item:
    names, rooms, mover = _some(rng, _LISTS["names"], 3), _some(rng, _LISTS["rooms"], 4), _int(rng, 0, 2)
    story = [f"{name} is in the {room}." for name, room in zip(names, rooms, strict=False)]
    rooms_of = {name: [room] for name, room in zip(names, rooms, strict=False)}
    rooms_of[names[mover]].append(rooms[3])
    asked = names[mover] if _int(rng, 0, 1) else _some(rng, names, 1)[0]
    question = f"{' '.join(story)} {names[mover]} goes to the {rooms[3]}. Where is {asked} now?"
    return Item(question, rooms_of[asked][-1], f"{asked}: {', '.join(rooms_of[asked])}")


def _in_digits(rng: np.random.Generator) -> Item:
    number = _int(rng, 100, 9999)
    return Item(_spelled(number), str(number), ", ".join(map(str, _parts(number))))


def _in_words(rng: np.random.Generator) -> Item:
    number = _int(rng, 101, 999)
    return Item(str(number), _spelled(number), ", ".join(_spelled(part) for part in _parts(number)))


def _parts(number: int) -> list[int]:
    """Thousands, hundreds, and what is left, without zeros."""
    parts = [number // 1000 * 1000, number % 1000 // 100 * 100, number % 100]
    return [part for part in parts if part]


def _spelled(number: int) -> str:
    """A number below 10,000 in English words."""
    if number < 20:
        return _LISTS["numbers"][number]
    if number < 100:
        ones = f"-{_LISTS['numbers'][number % 10]}" if number % 10 else ""
        return _LISTS["tens"][number // 10 - 2] + ones
    unit, word = (100, "hundred") if number < 1000 else (1000, "thousand")
    rest = number % unit
    tail = "" if rest == 0 else f" and {_spelled(rest)}" if rest < 100 else f" {_spelled(rest)}"
    return f"{_spelled(number // unit)} {word}{tail}"


def _words() -> list[str]:
    """Words to take letters from."""
    return sorted(
        {*_LISTS["words"], *(word for word, _ in _pairs("category")), *(word for word, _ in _pairs("french"))}
    )


KINDS: dict[str, Kind] = {
    "add": Kind("numeric", "Add.", drawn(_add)),
    "antonym": Kind("normalized", "The opposite.", listed("antonym")),
    "ball": Kind("normalized", "Answer the question.", drawn(_ball)),
    "category": Kind("normalized", "Animal, fruit, tool, instrument or clothing.", listed("category")),
    "count": Kind("numeric", "The number of words.", drawn(_count)),
    "french": Kind("normalized", "English to French.", listed("french")),
    "in_digits": Kind("numeric", "In digits.", drawn(_in_digits)),
    "in_words": Kind("normalized", "In words.", drawn(_in_words)),
    "language": Kind("normalized", "The language of the sentence.", listed("language")),
    "last_letter": Kind("normalized", "The last letter.", drawn(_last_letter)),
    "multiply": Kind("numeric", "Multiply.", drawn(_multiply)),
    "nth_word": Kind("normalized", "The word at the given place.", drawn(_nth_word)),
    "odd_one_out": Kind("normalized", "The word that does not belong.", drawn(_odd_one_out)),
    "owner": Kind("normalized", "Answer the question.", drawn(_owner)),
    "repeat": Kind("normalized", "Repeat the word so many times.", drawn(_repeat)),
    "symbol": Kind("exact", "The chemical symbol.", listed("symbol")),
    "whereabouts": Kind("normalized", "Answer the question.", drawn(_whereabouts)),
    "word_length": Kind("numeric", "The number of letters.", drawn(_word_length)),
    "rg_chain_sum": Kind(
        "reasoning_gym", "", reasoning("chain_sum", min_terms=2, max_terms=2, min_digits=1, max_digits=1)
    ),
    "rg_fraction": Kind(
        "reasoning_gym",
        "",
        reasoning("fraction_simplification", min_value=1, max_value=6, max_factor=6, styles=["plain"]),
    ),
    "rg_gcd": Kind("reasoning_gym", "", reasoning("gcd", max_value=12)),
    "rg_legs": Kind("reasoning_gym", "", reasoning("leg_counting", min_animals=1, max_animals=1, max_instances=3)),
    "rg_product": Kind("reasoning_gym", "", reasoning("products", min_digits=1, max_digits=1)),
    "rg_reorder": Kind(
        "reasoning_gym", "", reasoning("sentence_reordering", min_words_in_sentence=3, max_words_in_sentence=4)
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write tasks for small language models.")
    parser.add_argument("--out", type=Path, required=True, help="file to write (JSON lines)")
    parser.add_argument("--per-kind", type=int, default=PER_KIND, help="tasks of each kind, where it has so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), help="names of kinds, with commas between them")
    options = parser.parse_args(arguments)
    kinds = options.kinds.split(",")
    if unknown := [name for name in kinds if name not in KINDS]:
        parser.error(f"unknown kinds {', '.join(unknown)}; expected some of {', '.join(KINDS)}")
    if options.per_kind < 1 or options.seed < 0:
        parser.error(f"per-kind = {options.per_kind}, seed = {options.seed}; expected per-kind >= 1 and seed >= 0")
    try:
        rows = list(make_tasks(kinds, options.per_kind, options.seed))
        options.out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        tasks = load_tasks(str(options.out))
        tasks.validate()
    except RoutegymError as error:
        print(f"smol_tasks: {error}", file=sys.stderr)
        return 2
    splits = ", ".join(f"{tasks.splits.count(split)} {split}" for split in ("train", "val", "test"))
    print(f"{options.out}: {len(tasks)} tasks of {len(kinds)} kinds ({splits}); every reference scores 1")
    return 0


if __name__ == "__main__":
    sys.exit(main())
