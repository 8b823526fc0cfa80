"""Item response theory with planning: what has failed so far tells how hard a task is.

Papers: Song et al., "IRT-Router: Effective and Interpretable Multi-LLM Routing via Item Response Theory", arXiv
2506.01048 (success of a model on a query from abilities and difficulties that depend on the text); Bock and Aitkin,
"Marginal Maximum Likelihood Estimation of Item Parameters: Application of an EM Algorithm", Psychometrika 46 (1981)
(the hidden difficulty is integrated out by quadrature); Weitzman, "Optimal Search for the Best Alternative",
Econometrica 47 (1979) (which of several costly chances to try next, and when to stop).
Deviations: one hidden difficulty per task, the same for all arms up to a factor, beside linear functions of what is
seen of the task; the posterior after failures decides the next attempt; the order is found by trying out the orders of
a short list and not by an index, because an episode allows few attempts and arms fail together; an arm that has failed
is begun again only where that ever solved a training task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from routegym.core.observation import ObservationLayout
from routegym.core.rollout import rollout
from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError, MissingExtraError
from routegym.evaluation.references import recorded_alone
from routegym.graph.graph import OPEN
from routegym.graph.subset import arm_signals
from routegym.graph.values import always_arm_actions, evaluate_choices, most_attempts
from routegym.policies.algorithm import Problem
from routegym.policies.checks import check_positive
from routegym.policies.success import price_of, sigmoid
from routegym.policies.training import Arrays, Training

if TYPE_CHECKING:
    from routegym.graph.graph import TransitionGraph
    from routegym.graph.recording import Recording

__all__ = ["IRT", "IRTPolicy"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_BATCH = 256  # episodes planned at a time
_PRICES = (0.02, 0.1, 0.35, 1.0, 3.0)  # that a fit is judged by
_TIE = 1e-6  # the least price: among equal plans the cheaper one is taken
_SLACK = 1e-6  # of what is left of a budget: observations are float32
_LEAST_COST = 1e-12  # USD, where nothing is known to cost anything
_BEGUN = ("attempts", "calls")  # signals that count what was begun: constant while the first attempt goes on


class _Columns(NamedTuple):
    """Where things stand in a flat observation; empty where they are not shown."""

    task: Ints
    """What is the same in all situations of a task."""
    attempt: Ints
    """What changes while an attempt goes on."""
    tried: Ints
    running: Ints
    begun: Ints
    """The signal that counts attempts."""


class _Model(NamedTuple):
    """Fitted numbers, a arms, d columns of the task, k of an attempt under way, q points of the quadrature."""

    center: Floats
    """Mean of the task's columns, (d,)."""
    ability: Floats
    """Logit of success: (d + 1, a), the last row where the others are 0."""
    discrimination: Floats
    """How much the hidden difficulty counts, (a,)."""
    going: Floats
    """What an attempt under way adds to the logit, (k + 1,)."""
    cost: Floats
    """Logarithm of an attempt's cost in USD, (d + 1, a)."""
    left: Floats
    """Logarithm of the share of it that is still to come, (k + 1,)."""
    points: Floats
    """Values of the hidden difficulty, (q,)."""
    weights: Floats
    """How likely each of them is, (q,)."""
    unit: Floats
    """What an attempt adds to the signal that counts them, (1,); empty where none is shown."""


class IRTPolicy:
    """Plans the next attempts by their chances and costs, and begins the first of the best plan.

    Args:
        recording: gives names, columns and the cost scale.
        model: fitted numbers, by name.
        most: attempts that an episode allows.
        shortlist: arms whose orders are tried out.
        columns: where things stood in the observation that the model was fitted to, by name.
        retries: whether an arm that has failed may solve the task when it is begun again.
    """

    kind = "irt"

    def __init__(
        self,
        recording: Recording,
        model: Mapping[str, Floats],
        most: int,
        shortlist: int,
        columns: Mapping[str, Ints],
        retries: bool,
    ) -> None:
        self.layout = ObservationLayout.of(recording)
        self.n_arms = len(recording.arms)
        self._scale, self._most, self._shortlist = recording.cost_scale_usd, most, min(shortlist, self.n_arms)
        self._controls, self._told, self._retries = bool(recording.controls), recording.tells_success, retries
        self._columns = _Columns(**{name: np.asarray(columns[name], dtype=np.int64) for name in _Columns._fields})
        self._model = _Model(**{name: np.asarray(model[name], dtype=np.float64) for name in _Model._fields})
        self._plans = {
            (left, goes_on): (plans, _tree(plans))
            for left in range(most + 1)
            for goes_on in (False, True)
            if len(plans := _plans(self._shortlist, left, goes_on))
        }

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[npt.NDArray[np.int64], Any]:
        """See `routegym.policies.policy.Policy`; the state says which arms were abandoned, bool (N, n_arms)."""
        flat = np.asarray(observation)
        shape = (len(flat), self.n_arms)
        abandoned = np.zeros(shape, dtype=bool) if state is None else np.array(state, dtype=bool)
        if episode_start is not None:
            abandoned[episode_start] = False
        masks = flat[:, self.layout.columns["affordable"]] > 0.5 if action_masks is None else np.asarray(action_masks)
        actions = np.empty(len(flat), dtype=np.int64)
        for low in range(0, len(flat), _BATCH):
            part = slice(low, low + _BATCH)
            actions[part] = self._choose(flat[part], masks[part], abandoned[part])
        if len(self._columns.running):
            running = flat[:, self._columns.running] > 0.5
            abandoned |= running & (actions[:, None] != np.arange(self.n_arms))
        return actions, abandoned

    def predicted(self, observation: Any) -> Floats:
        """Predicted final score of each arm alone, and 0 of a control, float64 (n, n_actions).

        Where the environment says when a task is solved, it is the chance of that: a score of 1.
        """
        flat = np.asarray(observation)
        chance, _, posterior = self._chances(flat)
        score = np.zeros((len(flat), len(self.layout.action_names)))
        score[:, : self.n_arms] = (chance * posterior[:, None]).sum(axis=2)
        return score

    def _choose(
        self, flat: npt.NDArray[np.float32], masks: npt.NDArray[np.bool_], abandoned: npt.NDArray[np.bool_]
    ) -> Ints:
        n, everyone = len(flat), np.arange(len(flat))
        chance, cost, posterior = self._chances(flat, abandoned)
        price = np.maximum(price_of(flat, self.layout), _TIE) / self._scale
        legal = masks[:, : self.n_arms]
        running = flat[:, self._columns.running] > 0.5 if len(self._columns.running) else np.zeros_like(legal)
        if not self._retries:  # an arm that fails again is begun only where something must be, and nothing else may
            hopeful = legal & (running | ~self._failed(flat, abandoned))
            legal = np.where(masks[:, -1:] | hopeful.any(axis=1, keepdims=True), hopeful, legal)
        begun = self._begun(flat)
        # without a verdict a second answer would take the first one's place, and nobody says which is right
        left = np.clip((self._most if self._told else 1) - begun, 0, None)
        expected = (chance * posterior[:, None]).sum(axis=2)
        with np.errstate(divide="ignore", over="ignore"):
            per_success = np.where(legal, cost / np.maximum(expected, 1e-12), np.inf)
        alone = np.where(legal, expected - price[:, None] * cost, -np.inf)
        rank = np.minimum(_ranks(per_success), _ranks(-alone))
        rank = np.where(running, -1.0, np.where(legal, rank, np.inf))
        short = np.argsort(rank, axis=1, kind="stable")[:, : self._shortlist]  # (n, s)
        remaining = self._remaining(flat)
        reserve = flat[:, self.layout.columns["arm_reserve"]][:, : self.n_arms] * self._scale
        best, first = np.zeros(n), np.full(n, -1, dtype=np.int64)
        on = running.any(axis=1)
        for many in np.unique(left):
            for goes_on in (False, True):
                rows = np.flatnonzero((left == many) & (on == goes_on))
                if not len(rows) or not (many or goes_on):
                    continue
                plans, tree = self._plans[int(many), goes_on]
                arms = short[rows][:, plans]  # (m, p, length), where the plan ends -1
                arms = np.where(plans < 0, -1, arms)
                value = self._value(
                    arms,
                    tree,
                    chance[rows],
                    cost[rows],
                    posterior[rows],
                    price[rows],
                    remaining[rows],
                    reserve[rows],
                    legal[rows],
                )
                chosen = value.argmax(axis=1)
                best[rows], first[rows] = value[np.arange(len(rows)), chosen], arms[np.arange(len(rows)), chosen, 0]
        over = (first < 0) | (best <= 0)
        if not self._told:  # nobody says whether an answer is right: the first one is handed in
            over |= begun > 0
        stop = over & masks[:, -1] if self._controls else np.zeros(n, dtype=bool)
        first = np.where((first < 0) | ~legal[everyone, np.maximum(first, 0)], rank.argmin(axis=1), first)
        return np.where(stop | ~legal.any(axis=1), masks.shape[1] - 1 if self._controls else first, first)

    def _value(
        self,
        arms: Ints,
        tree: Sequence[tuple[Ints, Ints]],
        chance: Floats,
        cost: Floats,
        posterior: Floats,
        price: Floats,
        remaining: Floats,
        reserve: npt.NDArray[np.float32],
        legal: npt.NDArray[np.bool_],
    ) -> Floats:
        """Expected score minus priced cost of plans (m, p, length) that grow out of each other, float64 (m, p)."""
        row = np.arange(len(arms))[:, None]
        value = np.zeros(arms.shape[:2])
        payable = remaining[:, None] * (1.0 + _SLACK)
        whole = legal & (cost <= payable) if len(self._columns.running) else legal
        whole = whole | ~whole.any(axis=1, keepdims=True)  # what is payable only in part is begun if nothing else is
        before = np.zeros((len(arms), 1))
        so_far, spent, going, alive = before, before, before == 0, posterior[:, None]  # of plans that are one shorter
        for place, (plans, shorter) in enumerate(tree):
            arm = arms[:, plans, place]
            going = going[:, shorter] & legal[row, arm]
            if place:
                # a reserve is that of the next turn, and shown at most as the cost scale
                going &= spent[:, shorter] + np.maximum(reserve, cost)[row, arm] <= payable
            else:  # the mask says what may be begun, and reserves in float32 might contradict it
                going &= whole[row, arm]
            alive = alive[:, shorter]  # (m, p, q)
            hit = alive * (chance[row, arm] * going[:, :, None])
            so_far = so_far[:, shorter] + hit.sum(axis=2) - price[:, None] * cost[row, arm] * alive.sum(axis=2) * going
            spent = spent[:, shorter] + cost[row, arm]
            alive = alive - hit
            value[:, plans] = so_far
        return value

    def _chances(
        self, flat: npt.NDArray[np.float32], abandoned: npt.NDArray[np.bool_] | None = None
    ) -> tuple[Floats, Floats, Floats]:
        """Chance of each arm at each difficulty (n, a, q), its cost in USD (n, a), and the posterior (n, q).

        What was tried has failed, unless it was abandoned: that says nothing.
        """
        model, columns = self._model, self._columns
        task = _with_one(flat[:, columns.task] - model.center)
        logit, cost = task @ model.ability, np.exp(np.minimum(task @ model.cost, 50.0))
        steps = model.discrimination[:, None] * model.points
        fresh = sigmoid(logit[:, :, None] + steps)
        posterior = np.tile(model.weights, (len(flat), 1))
        if self._told and len(columns.tried):
            failed = self._failed(flat, abandoned)
            posterior = posterior * np.where(failed[:, :, None], 1.0 - fresh, 1.0).prod(axis=1)
            posterior /= np.maximum(posterior.sum(axis=1, keepdims=True), 1e-300)
        if not len(columns.running):
            return fresh, cost, posterior
        running = flat[:, columns.running] > 0.5
        attempt = _with_one(flat[:, columns.attempt])
        going = sigmoid((logit + (attempt @ model.going)[:, None])[:, :, None] + steps)
        later = cost * np.exp(np.minimum(attempt @ model.left, 0.0))[:, None]
        return np.where(running[:, :, None], going, fresh), np.where(running, later, cost), posterior

    def _failed(self, flat: npt.NDArray[np.float32], abandoned: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_]:
        """Arms that were tried and not abandoned, (n, a)."""
        tried = flat[:, self._columns.tried] > 0.5
        return tried if abandoned is None else tried & ~abandoned

    def _begun(self, flat: npt.NDArray[np.float32]) -> Ints:
        """Attempts begun, int64 (n,); without a verdict, or where arms are not told apart, whether there is one.

        Where no signal counts them, arms are counted: an arm that was begun twice counts once.
        """
        if not self._told or not len(self._columns.tried):
            return (flat[:, self.layout.columns["step"].start] > 0).astype(np.int64)
        if len(self._columns.begun):
            return np.asarray(np.rint(flat[:, self._columns.begun[0]] / self._model.unit[0]), dtype=np.int64)
        begun = flat[:, self._columns.tried] > 0.5
        if len(self._columns.running):
            begun = begun | (flat[:, self._columns.running] > 0.5)
        return np.asarray(begun.sum(axis=1), dtype=np.int64)

    def _remaining(self, flat: npt.NDArray[np.float32]) -> Floats:
        share = flat[:, self.layout.columns["remaining"].start].astype(np.float64)  # b / (b + scale)
        return np.where(share >= 1.0, np.inf, self._scale * share / np.maximum(1.0 - share, 1e-12))

    def to_state(self) -> tuple[dict[str, Any], Arrays]:
        """See `routegym.policies.storage.StoredPolicy`."""
        settings = {"most": self._most, "shortlist": self._shortlist, "retries": self._retries}
        return settings, {**self._model._asdict(), **self._columns._asdict()}

    @classmethod
    def from_state(cls, recording: Recording, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        """See `routegym.policies.storage.StoredPolicy`."""
        # older files count arms, and begin one again that has failed
        known: Arrays = {"begun": np.zeros(0), "unit": np.zeros(0)} | arrays
        retries = bool(settings.get("retries", True))
        return cls(recording, known, int(settings["most"]), int(settings["shortlist"]), known, retries)


@dataclass(frozen=True)
class IRT:
    """Fits how hard tasks are and what arms can do, and plans attempts with it."""

    penalties: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    """Ridge penalties of what is seen of a task; the one that plans best for training tasks left out of the fit."""
    folds: int = 5
    """Parts of the training tasks that are left out in turn."""
    points: int = 11
    """Points of the quadrature over the hidden difficulty."""
    shortlist: int = 6
    """Arms whose orders are tried out at every decision: the cheapest per success and the best alone."""

    def __post_init__(self) -> None:
        check_positive(self, "folds", "points", "shortlist")
        if not self.penalties or min(self.penalties) <= 0:
            raise ConfigError(f"penalties = {self.penalties}; expected at least one number > 0")

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> IRTPolicy:
        """Fit to the outcomes of every arm alone on the training tasks; see `routegym.policies.algorithm.Algorithm`.

        Raises:
            ConfigError: the recording has steps that are no attempts of one arm.
            MissingExtraError: torch is not installed.
        """
        _check_kind(problem.recording)
        outcomes = _Outcomes.of(problem.recording)
        values = self._values(problem, outcomes, seed)
        penalty = self.penalties[int(np.argmax(values))]
        if training is not None:
            training.report({"step": len(problem.tasks), "seed": seed, "penalty": penalty, "value": float(max(values))})
        return self._policy(problem.recording, outcomes, problem.tasks, penalty)

    def _values(self, problem: Problem, outcomes: _Outcomes, seed: int) -> list[float]:
        """What each penalty is worth on tasks left out of the fit, over a range of prices."""
        tasks = np.random.default_rng(seed).permutation(problem.tasks)
        if len(self.penalties) == 1 or len(tasks) < 2 * self.folds:
            return [0.0] * len(self.penalties)
        values = []
        for penalty in self.penalties:
            total = 0.0
            for part in range(self.folds):
                held = np.arange(len(tasks)) % self.folds == part
                policy = self._policy(problem.recording, outcomes, tasks[~held], penalty)
                total += _value_of(policy, problem.recording, tasks[held], seed)
            values.append(total / len(tasks))
        return values

    def _policy(self, recording: Recording, outcomes: _Outcomes, tasks: Ints, penalty: float) -> IRTPolicy:
        graph, columns = recording.graph, outcomes.columns
        start = graph.task_start[tasks]
        seen = np.hstack([graph.node_signals[start], recording.tasks.embedding[tasks]]).astype(np.float64)[
            :, columns.task
        ]
        center = seen.mean(axis=0)
        points, weights = np.polynomial.hermite_e.hermegauss(self.points)
        weights = weights / weights.sum()
        ability, discrimination = _abilities(seen - center, outcomes.score[start], penalty, points, weights)
        cost = _log_costs(seen - center, outcomes.cost[start], 2 * penalty)
        known = _with_one(seen - center)
        going, left = _attempts_under_way(graph, outcomes, tasks, known @ ability, known @ cost, discrimination)
        model = _Model(center, ability, discrimination, going, cost, left, points, weights, _unit(graph, columns))
        retries = not recording.tells_success or _retries(graph, outcomes, model.unit, tasks)
        return IRTPolicy(recording, model._asdict(), outcomes.most, self.shortlist, columns._asdict(), retries)


def _value_of(policy: IRTPolicy, recording: Recording, tasks: Ints, seed: int) -> float:
    """Sum over tasks of score minus priced cost, mean over prices that span the range of a pool's costs."""
    env = RoutingVectorEnv(len(tasks) * len(_PRICES), recording, split="all", info="lean", autoreset_mode="SameStep")
    prices = np.repeat(_PRICES, len(tasks))
    table = rollout(policy, env, np.tile(tasks, len(_PRICES)), lambda_=prices, seed=seed)
    value = (table.score - prices * table.cost_usd / recording.cost_scale_usd) / (1.0 + prices)
    return float(value.sum() / len(_PRICES))


class _Outcomes(NamedTuple):
    """What comes of every arm from every situation, an attempt under way going on, (nodes, a); and where it is seen.

    NaN at the start of a task where the arm is masked.
    """

    score: Floats
    """Where the environment says when a task is solved, the chance of that."""
    cost: Floats
    """USD still to be paid."""
    columns: _Columns
    most: int
    """Attempts that an episode allows."""

    @classmethod
    def of(cls, recording: Recording) -> _Outcomes:
        graph = recording.graph
        worth = graph.node_score >= 1 if recording.tells_success else None
        found = [evaluate_choices(graph, always_arm_actions(graph, arm), worth) for arm in range(graph.n_arms)]
        score, cost = (np.stack(columns, axis=1) for columns in zip(*found, strict=True))
        start = graph.task_start
        recorded = recorded_alone(recording, np.arange(graph.n_tasks)).T  # elsewhere another arm stood in
        for outcome in (score, cost):
            outcome[start] = np.where(recorded, outcome[start], np.nan)
        return cls(score, cost, _columns(recording), most_attempts(graph))


def _columns(recording: Recording) -> _Columns:
    graph, names = recording.graph, recording.node_signal_names
    arms = [arm.name for arm in recording.arms]
    groups = arm_signals(names, arms)
    per_arm = {column for columns in groups.values() for column in columns}
    begun = [names.index(name) for name in _BEGUN if name in names]
    nodes = np.flatnonzero(graph.node_status == OPEN)
    signals = graph.node_signals[nodes]
    same = np.all(signals == graph.node_signals[graph.task_start[graph.node_task[nodes]]], axis=0)
    width = len(names)
    task = [column for column in range(width) if same[column] and column not in per_arm]
    attempt = [column for column in range(width) if not same[column] and column not in {*per_arm, *begun}]
    embedding = range(width, width + recording.tasks.embedding.shape[1])
    return _Columns(
        np.array([*task, *embedding], dtype=np.int64),
        np.array(attempt, dtype=np.int64),
        np.array(groups.get("tried", ()), dtype=np.int64),
        np.array(groups.get("running", ()), dtype=np.int64),
        np.array([column for column in begun if signals[:, column].any()][:1], dtype=np.int64),
    )


def _unit(graph: TransitionGraph, columns: _Columns) -> Floats:
    """What the first attempt adds to the signal that counts attempts, (1,) or, where none is shown, (0,)."""
    count = graph.node_signals[graph.node_status == OPEN][:, columns.begun].astype(np.float64)
    return np.asarray(np.where(count > 0, count, np.inf).min(axis=0))


def _retries(graph: TransitionGraph, outcomes: _Outcomes, unit: Floats, tasks: Ints) -> bool:
    """Whether an arm that has failed ever solves a task when it is begun again at once, or nothing is known of that."""
    columns, signals = outcomes.columns, graph.node_signals
    tried = signals[:, columns.tried] > 0.5
    after = (graph.node_status == OPEN) & (graph.node_running < 0) & (tried.sum(axis=1) == 1)
    after &= np.isin(graph.node_task, tasks)
    if len(columns.begun):  # one arm may have failed more than once, and one that is tried may have been abandoned
        after &= np.rint(signals[:, columns.begun[0]] / unit[0]) == 1
    source, action = graph.edge_sources()
    again = np.flatnonzero(after[source] & (action < graph.n_arms))
    again = again[tried[source[again], action[again]]]
    return not len(again) or bool((outcomes.score[graph.edges["next"][again], action[again]] > 0).any())


def _check_kind(recording: Recording) -> None:
    graph = recording.graph
    if not recording.controls and ((graph.node_status == OPEN) & (graph.node_step > 0)).any():
        raise ConfigError(
            f"irt plans whole attempts of one arm each, and {recording.name!r} (kind {recording.kind!r}) has tasks of "
            "several steps; take predict_then_plan or a learner"
        )


def _abilities(x: Floats, score: Floats, penalty: float, points: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Ability (d + 1, a) and discrimination (a,) of highest penalised marginal likelihood; a NaN is no datum."""
    try:
        import torch as th
    except ImportError as error:
        raise MissingExtraError("torch", "train") from error
    known = th.as_tensor(~np.isnan(score), dtype=th.float64)
    right, seen = th.as_tensor(np.nan_to_num(score)), th.as_tensor(x)
    mean = (right.sum(dim=0) / known.sum(dim=0).clamp(min=1.0)).clamp(0.02, 0.98)
    slope = th.zeros((x.shape[1], score.shape[1]), dtype=th.float64, requires_grad=True)
    level = th.log(mean / (1 - mean)).requires_grad_(True)
    factor = th.ones(score.shape[1], dtype=th.float64, requires_grad=True)
    grid, chance = th.as_tensor(points), th.as_tensor(np.log(weights))
    optimizer = th.optim.LBFGS([slope, level, factor], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Any:
        optimizer.zero_grad()
        logit = (seen @ slope + level)[:, :, None] + factor[:, None] * grid  # (n, a, q)
        log = th.nn.functional.logsigmoid
        terms = right[:, :, None] * log(logit) + (known - right)[:, :, None] * log(-logit)
        fit = th.logsumexp(terms.sum(dim=1) + chance, dim=1).sum()
        total = -fit + penalty * (slope**2).sum() + 0.5 * ((factor - 1) ** 2).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    ability = np.vstack([slope.detach().numpy(), level.detach().numpy()[None]])
    return ability, factor.detach().numpy()


def _log_costs(x: Floats, cost: Floats, penalty: float) -> Floats:
    """Ridge regression of the logarithm of each arm's cost, moved so that mean costs come out right; (d + 1, a).

    A cost of NaN is no datum; an arm without any is taken to cost as much as the dearest.
    """
    paid = cost[cost > 0]
    log = np.log(np.maximum(cost, paid.min() if len(paid) else _LEAST_COST))
    fitted = np.zeros((x.shape[1] + 1, cost.shape[1]))
    patterns, pattern = np.unique(~np.isnan(cost), axis=1, return_inverse=True)
    for number, rows in enumerate(patterns.T):  # arms with the same tasks share a matrix
        arms = np.flatnonzero(pattern.ravel() == number)
        if not rows.any():
            fitted[-1, arms] = np.log(max(np.nan_to_num(cost).max(), _LEAST_COST))
            continue
        seen, wanted = x[rows] - x[rows].mean(axis=0), log[np.ix_(rows, arms)]
        mean = wanted.mean(axis=0)
        slope = np.linalg.solve(seen.T @ seen + penalty * np.eye(x.shape[1]), seen.T @ (wanted - mean))
        met = np.exp(x[rows] @ slope + mean).mean(axis=0)
        fitted[:-1, arms] = slope
        fitted[-1, arms] = mean + np.log(
            np.maximum(cost[np.ix_(rows, arms)].mean(axis=0), _LEAST_COST) / np.maximum(met, 1e-300)
        )
    return fitted


def _attempts_under_way(
    graph: TransitionGraph, outcomes: _Outcomes, tasks: Ints, logit: Floats, log_cost: Floats, discrimination: Floats
) -> tuple[Floats, Floats]:
    """What the signals of an attempt under way add to the logit of its success, and to the logarithm of its cost.

    Args:
        logit, log_cost: of a fresh attempt of each arm at each of these tasks, (tasks, a).
    """
    columns = outcomes.columns
    width = len(columns.attempt) + 1
    place = np.full(graph.n_tasks, -1)
    place[tasks] = np.arange(len(tasks))
    first = ~(graph.node_signals[:, columns.tried] > 0.5).any(axis=1)
    nodes = np.flatnonzero((graph.node_running >= 0) & (place[graph.node_task] >= 0) & first)
    if not len(nodes) or not len(columns.running):
        return np.zeros(width), np.zeros(width)
    arm, task = graph.node_running[nodes].astype(np.int64), place[graph.node_task[nodes]]
    seen = _with_one(graph.node_signals[nodes][:, columns.attempt].astype(np.float64))
    right, whole, due = outcomes.score[nodes, arm], np.exp(log_cost[task, arm]), outcomes.cost[nodes, arm]
    # The hidden difficulty flattens the chance; for a normal one the logit shrinks by about this factor.
    flat = 1.0 / np.sqrt(1.0 + 0.346 * discrimination[arm] ** 2)
    going = _logistic(seen, right, logit[task, arm] * flat)
    share = np.log(np.clip(due / np.maximum(whole, 1e-300), 1e-4, None))
    left = np.linalg.solve(seen.T @ seen + np.eye(width), seen.T @ share)
    fitted = np.exp(np.minimum(seen @ left, 0.0)) * whole
    left[-1] += np.log(max(due.sum(), 1e-300) / max(fitted.sum(), 1e-300))
    return going, left


def _logistic(seen: Floats, right: Floats, offset: Floats, penalty: float = 1.0, steps: int = 30) -> Floats:
    """Weights of a logistic regression beside a known part of the logit, by Newton's method."""
    weights = np.zeros(seen.shape[1])
    for _ in range(steps):
        chance = sigmoid(offset + seen @ weights)
        slope = seen.T @ (right - chance) - penalty * weights
        curve = (seen * (chance * (1 - chance))[:, None]).T @ seen + penalty * np.eye(len(weights))
        change = np.linalg.solve(curve, slope)
        weights = weights + change
        if np.abs(change).max() < 1e-8:
            break
    return weights


def _plans(shortlist: int, most: int, goes_on: bool) -> Ints:
    """Ordered choices of up to `most` places of a short list, -1 where they end; int64 (plans, length).

    Args:
        goes_on: an attempt is under way, in the first place: it may come before them, or is abandoned for good.
    """
    chosen = [plan for length in range(1, most + 1) for plan in permutations(range(goes_on, shortlist), length)]
    if goes_on:
        chosen = [(0,), *((0, *plan) for plan in chosen), *chosen]
    length = max(map(len, chosen), default=0)
    rows = [(*plan, *(-1,) * (length - len(plan))) for plan in chosen]
    return np.array(rows, dtype=np.int64).reshape(len(rows), length)


def _tree(plans: Ints) -> list[tuple[Ints, Ints]]:
    """For each length the plans of that length, and where what they go on from stands among those one shorter."""
    ends = (plans >= 0).sum(axis=1)
    levels = [np.flatnonzero(ends == length + 1) for length in range(plans.shape[1])]
    place = {(): 0} | {
        tuple(plans[row, : length + 1].tolist()): number
        for length, rows in enumerate(levels)
        for number, row in enumerate(rows.tolist())
    }
    return [
        (rows, np.array([place[tuple(plans[row, :length].tolist())] for row in rows], dtype=np.int64))
        for length, rows in enumerate(levels)
    ]


def _ranks(values: Floats) -> Floats:
    """Place of each value in its row, from the smallest."""
    return np.argsort(np.argsort(values, axis=1, kind="stable"), axis=1).astype(np.float64)


def _with_one(rows: npt.NDArray[Any]) -> Floats:
    return np.hstack([rows, np.ones((len(rows), 1))])
