"""What stands on the page, as plain data: numbers worked out, texts shortened, nothing escaped or coloured yet."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from routegym.core.render import format_usd
from routegym.evaluation.calibration import brier, expected_calibration_error, predicted_success, reliability
from routegym.evaluation.collapse import DIFFICULTIES, difficulty
from routegym.evaluation.page import figures
from routegym.evaluation.page.figures import Figure
from routegym.evaluation.page.text import excerpt
from routegym.evaluation.references import recorded_alone
from routegym.evaluation.report import Table, budget_table, comparison_table, decision_table, evaluated_tasks, leaders
from routegym.evaluation.routes import Route, largest_differences, trace_routes
from routegym.evaluation.shares import call_shares

if TYPE_CHECKING:
    from routegym.evaluation.comparison import Comparison
    from routegym.graph.recording import Recording
    from routegym.policies.policy import Policy

__all__ = ["Card", "Contrast", "Section", "SectionContent", "Stop", "Way", "contrast", "section_content", "situation"]

_PROMPT, _SITUATION, _NAME = 1500, 400, 120  # characters of a text on the page
_SOLVED = 0.5  # expected score that counts as solved, as in `difficulty`


@dataclass(frozen=True)
class Section:
    """A run to be shown."""

    name: str
    """Heading, such as the name of the run's folder."""
    env: str
    """Environment id."""
    comparison: Comparison
    played: Comparison
    """The same on the tasks that `policy` has not seen: the first fold where there are folds, else `comparison`."""
    metrics: Mapping[str, Any]
    """Of the comparison; with ``decisions`` if `routegym bench` measured them."""
    policy: Callable[[str], Policy]
    """The policy of a competitor: that of its first seed, and of the first fold."""
    commands: tuple[str, ...]
    """What makes all of this again."""
    seeds: tuple[int, ...]
    machine: str
    versions: Mapping[str, str]
    cap: int
    """Number of the hard budget in the grid under which routes are compared."""


@dataclass(frozen=True)
class Stop:
    """A step of a route."""

    situation: str
    choice: str
    cost: str
    remaining: str
    """Of the budget, before the choice."""


@dataclass(frozen=True)
class Way:
    """A route."""

    name: str
    """Of the policy."""
    stops: tuple[Stop, ...]
    end: str
    """The situation it ended in."""
    score: float
    cost: str
    out_of_budget: bool


@dataclass(frozen=True)
class Card:
    """One task, and how two policies and every arm alone do on it."""

    task: str
    prompt: str
    reference: str
    difficulty: str
    solved_by: int
    """How many arms alone solve it, of those that were recorded for it."""
    gain: float
    """Score of the first way minus that of the second."""
    saved: str
    """USD that the first way is cheaper, with its sign."""
    ways: tuple[Way, Way]
    alone: tuple[tuple[str, tuple[float, str, bool] | None], ...]
    """Of every arm alone, without a cap: name; expected score, mean cost and whether that is within the budget, None
    where the arm was not recorded for the task."""
    best: tuple[float, str]
    """Score and cost of the clairvoyant optimum under the same hard budget."""


@dataclass(frozen=True)
class Contrast:
    """The best policy and its rival, task by task."""

    mine: str
    theirs: str
    budget: str
    price: float
    tasks: int
    higher: int
    """Tasks on which the first scores more."""
    lower: int
    score_difference: float
    """Mean over the tasks."""
    dearer: bool
    """Whether the first costs more."""
    cost_difference: str
    """By how many USD per task."""
    gained: tuple[Card, ...]
    lost: tuple[Card, ...]


@dataclass(frozen=True)
class SectionContent:
    """Everything that a section shows."""

    name: str
    anchor: str
    env: str
    recording: str
    evaluated: str
    tasks: int
    masked: int
    """(task, arm) pairs that were not recorded: another arm stands in for them, see `arms_alone`."""
    fold: str | None
    """What shares, calibration and routes are of, if not of all these tasks."""
    best: str | None
    """The best learned policy, else the best baseline."""
    rival: str | None
    """The best baseline; where nothing but baselines or nothing but learned policies is in the run, the best of the
    others."""
    alike: bool
    """Whether the rival is of the sort of the best policy."""
    over_rival: Mapping[str, Any] | None
    """The best policy's AIQ over its rival's, with its interval."""
    metrics: Mapping[str, Any]
    curves: tuple[str, ...]
    """Competitors that have a curve."""
    frontier: Figure
    colors: Mapping[str, str]
    """Of the actions, cheap to dear."""
    levels: tuple[tuple[str, int], ...]
    """Difficulties and how many tasks have them."""
    shares: tuple[tuple[str, Figure, Figure], ...]
    """Policy, its shares by difficulty, its shares by hard budget."""
    calibration: Figure | None
    calibration_table: Table | None
    tables: tuple[Table, ...]
    contrast: Contrast | None
    provenance: tuple[tuple[str, str], ...]
    commands: tuple[str, ...]

    @property
    def of_best(self) -> Mapping[str, Any]:
        """The measures of the best policy."""
        found: Mapping[str, Any] = self.metrics["policies"][self.best]
        return found


def section_content(section: Section, count: int = 20, tell: Callable[[str], None] = lambda _: None) -> SectionContent:
    """Work out a section.

    Args:
        section: the run.
        count: largest gains and largest losses to show, so many of each.
        tell: is told what is done next.
    """
    comparison, metrics = section.comparison, section.metrics
    recording, split = section.played.recording, section.played.split
    tasks = comparison.recording.split(comparison.split)
    learned, baseline = comparison.best(learned=True), comparison.best(learned=False)
    alike = not (learned and baseline)
    best = learned or baseline
    rival = comparison.best(learned=bool(learned), without=best) if alike else baseline
    over = None
    if best and rival:
        over = comparison.over(best, rival) if alike else metrics["policies"][best]["over_best_baseline"]
    shown = tuple(leaders(metrics))
    tell("frontier")
    drawn = figures.frontier(comparison, shown)
    tell("shares")
    calls = {
        name: call_shares(section.policy(name), recording, split, comparison.grid.caps)
        for name in (best, rival)
        if name
    }
    first = next(iter(calls.values()))
    colors = figures.action_colors(first.actions, first.n_arms)
    levels = np.bincount(difficulty(recording, recording.split(split)), minlength=len(DIFFICULTIES))
    tell("calibration")
    diagram, table = _calibration(section)
    tell("routes")
    pair = None
    if best and rival:
        pair = contrast(
            section.played, (best, section.policy(best)), (rival, section.policy(rival)), section.cap, count
        )
    tables = [comparison_table(metrics), budget_table(metrics)]
    return SectionContent(
        name=section.name,
        anchor=f"run-{hashlib.sha256(section.name.encode('utf-8', 'replace')).hexdigest()[:8]}",
        env=section.env,
        recording=recording.name,
        evaluated=evaluated_tasks(metrics),
        tasks=len(tasks),
        masked=int((~recorded_alone(comparison.recording, tasks)).sum()),
        fold=_fold(section),
        best=best,
        rival=rival,
        alike=alike,
        over_rival=over,
        metrics=metrics,
        curves=shown,
        frontier=drawn,
        colors=colors,
        levels=tuple(zip(DIFFICULTIES, levels.tolist(), strict=True)),
        shares=tuple(
            (
                name,
                figures.difficulty_shares(found, colors),
                figures.budget_shares(metrics["policies"][name]["budgets"], found.actions, colors),
            )
            for name, found in calls.items()
        ),
        calibration=diagram,
        calibration_table=table,
        tables=(*tables, decision_table(metrics)) if "decisions" in metrics else tuple(tables),
        contrast=pair,
        provenance=tuple(_provenance(section)),
        commands=section.commands,
    )


def contrast(
    comparison: Comparison, mine: tuple[str, Policy], theirs: tuple[str, Policy], cap: int, count: int
) -> Contrast:
    """Two policies task by task under one hard budget of the grid, at its lowest price.

    Args:
        comparison: gives recording, split, grid and references.
        mine, theirs: name and policy.
        cap: number of the budget.
        count: most cards of gains, and of losses.
    """
    recording, grid = comparison.recording, comparison.grid
    point = grid.at_cap(cap)
    ours, others = (trace_routes(policy, recording, comparison.split, grid, point) for _, policy in (mine, theirs))
    gain = np.array([a.score - b.score for a, b in zip(ours, others, strict=True)])
    saved = np.array([b.cost_usd - a.cost_usd for a, b in zip(ours, others, strict=True)])
    names = (mine[0], theirs[0])
    levels = difficulty(recording, recording.split(comparison.split))
    gained, lost = (
        tuple(
            _card(comparison, names, (ours[index], others[index]), index, cap, DIFFICULTIES[levels[index]])
            for index in chosen.tolist()
        )
        for chosen in largest_differences(ours, others, count)
    )
    return Contrast(
        mine=names[0],
        theirs=names[1],
        budget=format_usd(float(grid.caps[cap])),
        price=float(grid.lambdas[0]),
        tasks=len(gain),
        higher=int((gain > 0).sum()),
        lower=int((gain < 0).sum()),
        score_difference=float(gain.mean()),
        dearer=bool(saved.mean() < 0),
        cost_difference=format_usd(abs(float(saved.mean()))),
        gained=gained,
        lost=lost,
    )


def _card(
    comparison: Comparison, names: tuple[str, str], routes: tuple[Route, Route], index: int, cap: int, level: str
) -> Card:
    """The card of the index-th task of the split."""
    recording, arms, oracle = comparison.recording, comparison.references.arms, comparison.references.oracle_cap
    tasks, task = recording.tasks, routes[0].task
    budget = float(comparison.grid.caps[cap])
    scores, known = arms.scores[0, :, index], recorded_alone(recording, np.array([task]))[:, 0]
    return Card(
        task=excerpt(tasks.ids[task], _NAME),
        prompt=excerpt(tasks.prompts[task], _PROMPT),
        reference=excerpt(tasks.references[task], _SITUATION),
        difficulty=level,
        solved_by=int((known & (scores >= _SOLVED)).sum()),
        gain=routes[0].score - routes[1].score,
        saved=_saved(routes[0].cost_usd, routes[1].cost_usd),
        ways=(_way(recording, names[0], routes[0]), _way(recording, names[1], routes[1])),
        alone=tuple(
            (arm.name, (float(score), format_usd(float(cost)), bool(cost <= budget)) if there else None)
            for arm, there, score, cost in zip(recording.arms, known, scores, arms.costs[0, :, index], strict=True)
        ),
        best=(float(oracle.scores[0, cap, index]), format_usd(float(oracle.costs[0, cap, index]))),
    )


def situation(recording: Recording, node: int) -> str:
    """The text of a situation for readers: nothing where it is the prompt itself, a cascade's calls a line each."""
    text = str(recording.texts[node])
    if text == recording.tasks.prompts[int(recording.graph.node_task[node])]:
        return ""
    if recording.kind == "cascade" and text.startswith("["):
        calls = json.loads(text)
        lines = (f"{arm}: {excerpt(answer, _SITUATION)} (confidence {sure:.2f})" for arm, answer, sure in calls)
        return "\n".join(lines) or "nothing asked yet"
    return excerpt(text, _SITUATION)


def _way(recording: Recording, name: str, route: Route) -> Way:
    return Way(
        name=name,
        stops=tuple(
            Stop(
                situation(recording, step.node),
                recording.action_names[step.action],
                format_usd(step.cost_usd),
                format_usd(step.remaining_usd),
            )
            for step in route.steps
        ),
        end=situation(recording, route.end),
        score=route.score,
        cost=format_usd(route.cost_usd),
        out_of_budget=route.out_of_budget,
    )


def _calibration(section: Section) -> tuple[Figure | None, Table | None]:
    """The reliability of every policy that predicts success."""
    comparison = section.played
    curves, rows = {}, []
    for name in comparison.entries:
        policy: Any = section.policy(name)
        if not hasattr(policy, "predicted"):
            continue
        pairs = predicted_success(policy, comparison.recording, comparison.split)
        curves[name] = reliability(*pairs)
        rows.append((name, f"{brier(*pairs):.3f}", f"{expected_calibration_error(*pairs):.3f}", f"{len(pairs[0]):,}"))
    if not curves:
        return None, None
    table = Table(title="calibration", header=("policy", "Brier", "ECE", "predictions"), rows=rows)
    return figures.calibration(curves), table


def _provenance(section: Section) -> Iterator[tuple[str, str]]:
    comparison = section.comparison
    recording = comparison.recording
    yield "environment", section.env
    yield "recording", f"{recording.name} (sha256 of its content {recording.content_hash})"
    yield "tasks", f"{len(recording.split(comparison.split)):,} of split {comparison.split}"
    if fold := _fold(section):
        yield "cross-validation", f"every task was held out once; shares, calibration and routes: {fold}"
    yield "arms", ", ".join(arm.name for arm in recording.arms)
    yield "prices", f"of {recording.prices.date}; {recording.prices.note}"
    yield "training seeds", ", ".join(map(str, section.seeds))
    yield "hard budgets", ", ".join(f"{cap:.3g}" for cap in comparison.grid.caps) + " USD, and none"
    yield "prices of cost", ", ".join(f"{price:g}" for price in comparison.grid.lambdas)
    yield "intervals", f"95 %, paired bootstrap over tasks and seeds, {comparison.resamples:,} resamples"
    yield "machine", section.machine
    yield "versions", ", ".join(f"{name} {version}" for name, version in section.versions.items())
    for name, value in recording.provenance.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield f"recording: {name}", excerpt(text, _PROMPT)


def _fold(section: Section) -> str | None:
    if section.played is section.comparison:
        return None
    return f"the first fold, {len(section.played.recording.split(section.played.split)):,} tasks"


def _saved(mine: float, theirs: float) -> str:
    """USD that the first is cheaper, with its sign."""
    if math.isclose(mine, theirs, rel_tol=1e-9):
        return "same cost"
    return f"{'+' if mine < theirs else '-'}{format_usd(abs(theirs - mine))}"
