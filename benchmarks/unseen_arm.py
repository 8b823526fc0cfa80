"""An arm that training never saw: how much of its worth does the arm-attention network get out of its descriptor?

    python benchmarks/unseen_arm.py            # prints the tables
    python benchmarks/unseen_arm.py --write    # also writes docs/ablations/unseen_arm.md
    python benchmarks/unseen_arm.py --recording recordings/mine --left-out big/direct,big/written other/direct

AgentSteps, or any recording. Each arm in turn, or each of the named groups of arms, is left out of the pool. A policy
trained without it is played without it, then with it, having learned nothing; beside them a policy of the same recipe
that was trained with it, and what needs no policy: the zero router of the arms that training saw and that of all, and
always calling the best arm. AIQ is taken over hard budgets and prices of cost on the test tasks, always on the cost
range of the whole pool. `--folds` holds out every task once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import joined, machine, markdown, quality, show, sweep

from routegym.evaluation.outcomes import Grid, Outcomes, budget_grid, play
from routegym.evaluation.references import arms_alone
from routegym.evaluation.statistics import Sweep, aiq_difference
from routegym.graph import Recording, keep_arms, vary_arms
from routegym.graph.folds import fold_recordings
from routegym.graph.library import load_recording
from routegym.policies.algorithm import Problem
from routegym.policies.all_action import AllAction
from routegym.policies.network import NetworkPolicy

PAGE = Path(__file__).resolve().parents[1] / "docs" / "ablations" / "unseen_arm.md"
LEARNER = AllAction(network="attention", updates=400, tasks_per_update=256, ent_coef=0.03)
DROP = 0.3
TRAINED_FOR = (0.0, 0.2)
LAMBDAS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5)
N_BUDGETS = 8
END = "<!-- unseen_arm: end -->"  # of what is written; what stands below is kept
HEADER = ("left out", "without", "added unseen", "trained with", "gain", "share of the gain recovered", "calls to it")
BESIDE = ("left out", "beside", "AIQ", "added unseen, minus this")


class Group(NamedTuple):
    """What was played for one group of arms that is left out; sweeps are (seeds, points, tasks)."""

    without: Sweep
    """The policy trained and played without it."""
    unseen: Sweep
    """The same policy with it."""
    calls: float
    """Share of the latter's calls that go to it, over the hard budgets and at no price of cost."""


def played(policy: NetworkPolicy, recording: Recording, split: str) -> Outcomes:
    """Outcomes over budgets and prices of cost."""
    return play(policy, recording, split, Grid.of(recording, budget_grid(recording, N_BUDGETS).tolist(), LAMBDAS))


def calls_to(outcomes: Sequence[Outcomes], recording: Recording, arms: Sequence[str]) -> float:
    """Share of the calls that go to some arms, over the hard budgets and at no price of cost."""
    named = [recording.action_names.index(arm) for arm in arms]
    at = np.arange(N_BUDGETS) * len(LAMBDAS)
    calls = np.sum([one.calls[at, : len(recording.arms)] for one in outcomes], axis=(0, 1))
    return float(calls[named].sum() / calls.sum())


def measure(
    recording: Recording, groups: Sequence[Sequence[str]], learner: AllAction, seeds: int, split: str
) -> tuple[list[Group], Sweep]:
    """Every group, and the policy that was trained with all arms."""

    def fit(pool: Recording, seed: int) -> NetworkPolicy:
        return learner.fit(Problem(vary_arms(pool, DROP, seed=seed), lambda_=TRAINED_FOR), seed)

    trained = sweep([played(fit(recording, seed), recording, split) for seed in range(seeds)])
    found = []
    for left_out in groups:
        fewer = keep_arms(recording, [arm.name for arm in recording.arms if arm.name not in left_out])
        policies = [fit(fewer, seed) for seed in range(seeds)]
        without = sweep([played(policy, fewer, split) for policy in policies])
        moved = [played(policy.adapt(recording), recording, split) for policy in policies]
        found.append(Group(without, sweep(moved), calls_to(moved, recording, left_out)))
    return found, trained


def measure_folds(
    pools: Sequence[Recording], groups: Sequence[Sequence[str]], learner: AllAction, seeds: int, split: str
) -> tuple[list[Group], Sweep]:
    """As `measure`, on the tasks that each of the recordings holds out."""
    found, trained = zip(*(measure(pool, groups, learner, seeds, split) for pool in pools), strict=True)
    together = [
        Group(
            joined([part.without for part in parts]),
            joined([part.unseen for part in parts]),
            float(np.mean([part.calls for part in parts])),
        )
        for parts in zip(*found, strict=True)
    ]
    return together, joined(trained)


def some_arms(alone: Sweep, arms: Sequence[int]) -> Sweep:
    """Only some arms alone."""
    return Sweep(alone.scores[:, arms], alone.costs[:, arms])


def best_alone(recording: Recording, arms: Sequence[int]) -> int:
    """The arm with the highest AIQ alone on the validation tasks."""
    alone = arms_alone(recording, recording.split("val"))
    return max(arms, key=lambda arm: quality(some_arms(alone, [arm]), alone))


def table(groups: Sequence[Sequence[str]], found: Sequence[Group], trained: Sweep, alone: Sweep) -> list[list[str]]:
    """Rows of the first table: mean and spread between seeds."""

    def by_seed(of_all: Sweep) -> np.ndarray:
        pairs = zip(of_all.scores, of_all.costs, strict=True)
        return np.array([quality(Sweep(scores[None], costs[None]), alone) for scores, costs in pairs])

    rows = []
    with_it = by_seed(trained)
    for arms, group in zip(groups, found, strict=True):
        without, unseen = by_seed(group.without), by_seed(group.unseen)
        gain = with_it - without
        # a gain that is no larger than the spread between seeds has no share worth naming
        worth = gain.mean() > 2 * gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else False
        share = f"{100 * (unseen - without).mean() / gain.mean():.0f} %" if worth else "-"
        cells = [f"{of_seeds.mean():.3f} ± {of_seeds.std():.3f}" for of_seeds in (without, unseen, with_it)]
        rows.append([", ".join(arms), *cells, f"{gain.mean():+.3f}", share, f"{group.calls:.0%}"])
    return rows


def beside(
    recording: Recording, groups: Sequence[Sequence[str]], found: Sequence[Group], trained: Sweep, alone: Sweep
) -> list[list[str]]:
    """Rows of the second table: the policy with the unseen beside what there is without training, and with it."""
    names = [arm.name for arm in recording.arms]
    rows = []
    for arms, group in zip(groups, found, strict=True):
        unseen = [names.index(arm) for arm in arms]
        seen = [number for number in range(len(names)) if number not in unseen]
        best, best_unseen = best_alone(recording, range(len(names))), best_alone(recording, unseen)
        others = {
            "the policy without": group.without,
            "trained with": trained,
            "zero router without": some_arms(alone, seen),
            "zero router with": alone,
            f"always {names[best]}, the best arm": some_arms(alone, [best]),
        }
        if best_unseen != best:
            others[f"always {names[best_unseen]}, the best left out"] = some_arms(alone, [best_unseen])
        for number, (name, other) in enumerate(others.items()):
            difference = aiq_difference(group.unseen, other, alone).signed()
            rows.append(["" if number else ", ".join(arms), name, f"{quality(other, alone):.3f}", difference])
    return rows


def page(name: str, tasks: int, rows: list[list[str]], others: list[list[str]], note: str) -> str:
    """The page of docs/."""
    return "\n".join(
        [
            "# An arm that training never saw",
            "",
            "The arm-attention network knows an arm by its descriptor (price, measured accuracy by kind of situation,",
            "latency, tokens), so a policy can be moved to a pool with another arm: `policy.adapt(recording)`.",
            "How much of the arm's worth does it get without learning anything more?",
            f"AIQ on {tasks} tasks of `{name}` that no training saw:",
            "",
            *markdown(HEADER, rows, 1),
            "",
            "± is the standard deviation between seeds. No share is given where the gain from training with the arm is",
            "within two standard errors of nothing: the other arms make up for it. The last column is the share of the",
            "calls that the unseen gets over the budgets.",
            "",
            "Where the best arm of the pool is among the unseen, whoever always calls that one gains, too. So the same",
            "policy, with the unseen, beside what needs no policy:",
            "",
            *markdown(BESIDE, others, 2),
            "",
            "Brackets: 95 % paired bootstrap over tasks and seeds; * excludes 0. AIQ of a policy is here that of the",
            "mean over seeds at each operating point. The zero router mixes single arms at random. The best arm is the",
            "one with the highest AIQ alone on the validation tasks.",
            "",
            "A policy's AIQ is that of the hull over all budgets and prices on the evaluated tasks themselves, whereas",
            "`routegym bench` chooses the points on validation tasks: so it may be optimistic.",
            "",
            f"Every policy is trained with `vary_arms(recording, {DROP})`: each training task lacks a random part of",
            "the pool. Not shown: descriptors measured on other tasks.",
            "",
            note,
            END,
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recording", default="agent_steps")
    parser.add_argument("--left-out", nargs="+", metavar="ARM,ARM", help="groups of arms; each arm alone by default")
    parser.add_argument("--split", default="test")
    parser.add_argument("--folds", type=int, default=0, help="cross-validate; 0 takes the recording's own split")
    parser.add_argument("--quick", action="store_true", help="only show that it runs")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    recording, began = load_recording(options.recording), time.process_time()
    learner = replace(LEARNER, updates=5) if options.quick else LEARNER
    groups = [group.split(",") for group in options.left_out or [arm.name for arm in recording.arms]]
    pools = fold_recordings(recording, options.folds) if options.folds else [recording]
    found, trained = measure_folds(pools, groups, learner, options.seeds, options.split)
    alone = joined([arms_alone(pool, pool.split(options.split)) for pool in pools])
    rows = table(groups, found, trained, alone)
    others = beside(recording, groups, found, trained, alone)
    named, of = "", f"{options.split} split"
    if options.left_out is not None:
        named = f"--recording {options.recording} --left-out {' '.join(options.left_out)} "
    if options.folds:
        named, of = f"{named}--folds {options.folds} ", f"{options.folds} folds"
    note = (
        f"{machine(['numpy', 'torch'])}; seeds 0 to {options.seeds - 1}, {of}, "
        f"{time.process_time() - began:.0f} CPU s; "
        f"`python benchmarks/unseen_arm.py {named}--seeds {options.seeds} --write`"
    )
    show("AIQ with an arm that training never saw", HEADER, rows, note)
    show("The same beside what needs no policy", BESIDE, others, "95 % paired bootstrap over tasks and seeds")
    if options.write:
        place = PAGE if options.left_out is None else PAGE.with_stem(f"unseen_arm_{recording.name}")
        place.parent.mkdir(parents=True, exist_ok=True)
        _, _, below = place.read_text(encoding="utf-8").partition(END) if place.exists() else ("", "", "")
        written = page(recording.name, alone.scores.shape[2], rows, others, note)
        place.write_text(f"{written}{below or chr(10)}", encoding="utf-8")


if __name__ == "__main__":
    main()
