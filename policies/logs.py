"""Logged episodes: what some behaviour policy did and what came of it, and the same episodes under other budgets."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from routegym.core.ledger import check_budget, check_lambda
from routegym.core.observation import ObservationLayout
from routegym.core.streams import between
from routegym.errors import ConfigError, RunError
from routegym.graph.graph import OPEN
from routegym.policies.training import write_atomically

if TYPE_CHECKING:
    from routegym.graph.graph import TransitionGraph
    from routegym.policies.algorithm import Problem
    from routegym.policies.policy import Policy

__all__ = ["BANKRUPT", "CUT", "ENDED", "EpisodeLog", "collect", "draw_budgets", "draw_lambdas", "relabel"]

#: Values of `EpisodeLog.outcome`: the task came to its end and was graded; nothing more could be paid; the logged
#: action could not be paid but another could, so that what comes is not in the log.
ENDED, BANKRUPT, CUT = 0, 1, 2

_FORMAT = "routegym-log-1"
_NONE = -1
_BATCH = 1024  # episodes played side by side while logging

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EpisodeLog:
    """Situations of logged episodes, one row each, those of an episode together and in order.

    An episode that was not graded ends with a row in which no action was taken (``action`` -1): the situation that
    could not be paid for, or that the log does not go on from.

    Raises:
        ConfigError: arrays that do not fit together; the message names the first row that is wrong.
    """

    columns: tuple[str, ...]
    """Names of the observation's columns, as in `ObservationLayout.names`."""
    actions: tuple[str, ...]
    """Names of the actions."""
    cost_scale_usd: float
    """Cost scale of the recording the columns are scaled by."""
    observation: npt.NDArray[np.float32]
    """What the policy saw, float32 (n, width)."""
    action: Rows
    """What it chose, int64 (n,); -1 = nothing was."""
    propensity: Floats
    """Probability with which it chose that, float64 (n,); NaN where nothing was."""
    legal: npt.NDArray[np.bool_]
    """Which actions it could choose, bool (n, n_actions)."""
    reserve_usd: Floats
    """Worst case of each action, float64 (n, n_actions); NaN = not legal under any budget."""
    cost_usd: Floats
    """What the action cost, float64 (n,)."""
    episode: Rows
    """Which episode a row belongs to, int64 (n,), from 0 without gaps."""
    task: Rows
    """Index of each episode's task, int64 (episodes,)."""
    budget_usd: Floats
    """Its hard cap, inf = none, float64 (episodes,)."""
    lambda_: Floats
    """Its price of cost, float64 (episodes,)."""
    score: Floats
    """Graded score in [0, 1], float64 (episodes,); 0 where it was not graded."""
    outcome: npt.NDArray[np.uint8]
    """`ENDED`, `BANKRUPT` or `CUT`, uint8 (episodes,)."""

    def __post_init__(self) -> None:
        n, m, n_actions = len(self.action), len(self.task), len(self.actions)
        shapes: dict[str, tuple[int, ...]] = {
            "observation": (n, len(self.columns)),
            "legal": (n, n_actions),
            "reserve_usd": (n, n_actions),
        }
        shapes |= dict.fromkeys(("propensity", "cost_usd", "episode"), (n,))
        shapes |= dict.fromkeys(("budget_usd", "lambda_", "score", "outcome"), (m,))
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ConfigError(f"log: {name} has shape {getattr(self, name).shape}; expected {shape}")
        if not n or not m:
            raise ConfigError(f"log: {n} rows of {m} episodes; expected at least one")
        steps = np.diff(self.episode)
        if self.episode[0] != 0 or self.episode[-1] != m - 1 or ((steps != 0) & (steps != 1)).any():
            raise ConfigError(f"log: episode must count from 0 to {m - 1} without gaps, in order; sort the rows by it")
        taken = self.action != _NONE
        wrong = taken & ((self.action < 0) | (self.action >= n_actions))
        wrong[~wrong & taken] = ~self.legal[~wrong & taken, self.action[~wrong & taken]]
        self._refuse(wrong, "action is out of range or masked", self.action)
        chance = self.propensity
        self._refuse(taken & ~((chance > 0) & (chance <= 1)), "propensity must be in (0, 1]", chance)
        self._refuse(~(np.isfinite(self.cost_usd) & (self.cost_usd >= 0)), "cost_usd must be >= 0", self.cost_usd)
        last = np.append(steps == 1, True)
        self._refuse(~taken & ~last, "only the last row of an episode may have action -1", self.action)
        open_ = self.outcome[self.episode] != ENDED
        self._refuse(last & (taken == open_), "an episode has a last row with action -1 unless it ENDED", self.action)

    def _refuse(self, wrong: npt.NDArray[np.bool_], why: str, values: npt.NDArray[Any]) -> None:
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ConfigError(f"log: row {row} of episode {int(self.episode[row])}: {why}; got {values[row]}")

    def __len__(self) -> int:
        return len(self.task)

    @cached_property
    def taken(self) -> npt.NDArray[np.bool_]:
        """Rows in which an action was taken, bool (n,)."""
        return np.asarray(self.action != _NONE)

    @cached_property
    def next(self) -> Rows:
        """Row of the situation an action led to, int64 (n,); -1 where the episode was over then."""
        follows = np.append(self.episode[1:] == self.episode[:-1], False)
        return np.where(follows, np.arange(1, len(self.action) + 1), _NONE)

    @cached_property
    def done(self) -> npt.NDArray[np.bool_]:
        """Rows whose action was the last of its episode and was followed by the score or bankruptcy, bool (n,)."""
        last = np.append(self.taken[:-1] & (~self.taken[1:] | (self.next[:-1] == _NONE)), self.taken[-1])
        return np.asarray(last & (self.outcome[self.episode] != CUT))

    @cached_property
    def position(self) -> Rows:
        """Number of the row in its episode, int64 (n,)."""
        start = np.searchsorted(self.episode, np.arange(len(self)))
        return np.arange(len(self.episode)) - start[self.episode]

    @cached_property
    def spent_usd(self) -> Floats:
        """What the episode had spent before each row, float64 (n,): added up in the ledger's order."""
        spent = np.zeros(len(self.action))
        for k in range(1, int(self.position.max()) + 1):
            rows = np.flatnonzero(self.position == k)
            spent[rows] = spent[rows - 1] + self.cost_usd[rows - 1]
        return spent

    @cached_property
    def need_usd(self) -> Floats:
        """The least budget under which every action of an episode could have been paid, float64 (episodes,)."""
        need = np.zeros(len(self))
        rows = np.flatnonzero(self.taken)
        worst = self.spent_usd[rows] + self.reserve_usd[rows, self.action[rows]]
        np.maximum.at(need, self.episode[rows], worst)
        return need

    @property
    def total_cost_usd(self) -> Floats:
        """What each episode spent, float64 (episodes,)."""
        last = np.append(np.flatnonzero(np.diff(self.episode)), len(self.episode) - 1)
        return np.asarray(self.spent_usd[last] + self.cost_usd[last])

    def reward(self, penalty: float = 0.0) -> Floats:
        """``-lambda * cost / cost_scale`` of every row, with the score or -penalty at the end, (n,)."""
        reward = -self.lambda_[self.episode] * self.cost_usd / self.cost_scale_usd
        outcome = self.outcome[self.episode]
        reward += np.where(self.done & (outcome == ENDED), self.score[self.episode], 0.0)
        return np.asarray(reward - penalty * (self.done & (outcome == BANKRUPT)))

    def take(self, episodes: npt.ArrayLike) -> EpisodeLog:
        """The log of some episodes, in that order; one may occur several times."""
        chosen = np.asarray(episodes, dtype=np.int64)
        start = np.searchsorted(self.episode, np.arange(len(self) + 1))
        length = np.diff(start)[chosen]
        episode = np.repeat(np.arange(len(chosen)), length)
        inside = np.arange(len(episode)) - np.repeat(np.cumsum(length) - length, length)
        rows = start[chosen][episode] + inside
        changes: dict[str, Any] = {name: getattr(self, name)[rows] for name in _BY_ROW}
        changes |= {name: getattr(self, name)[chosen] for name in _BY_EPISODE}
        return replace(self, **(changes | {"episode": episode}))

    def with_cuts_as_bankrupt(self) -> EpisodeLog:
        """The log with every `CUT` taken for `BANKRUPT`, as SeqRoute does, which has no masks."""
        return replace(self, outcome=np.where(self.outcome == CUT, BANKRUPT, self.outcome).astype(np.uint8))

    def check_fits(self, problem: Problem) -> None:
        """See that a policy learned from this log can serve the problem.

        Raises:
            ConfigError: other columns, actions or scale than those of its recording.
        """
        layout = ObservationLayout.of(problem.recording)
        for what, mine, theirs in (
            ("columns", self.columns, layout.names),
            ("actions", self.actions, layout.action_names),
            ("cost_scale_usd", (self.cost_scale_usd,), (problem.recording.cost_scale_usd,)),
        ):
            if mine != theirs:
                odd = sorted(set(mine) ^ set(theirs), key=str)[:4]
                raise ConfigError(
                    f"the log has other {what} than recording {problem.recording.name!r} ({len(mine)} and "
                    f"{len(theirs)}; they differ in {odd or 'their order'}); log with the recording to be served"
                )

    # -- files -------------------------------------------------------------------------------
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one safetensors file, replaced as a whole."""
        meta = {"columns": self.columns, "actions": self.actions, "cost_scale_usd": self.cost_scale_usd}
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in (*_BY_ROW, *_BY_EPISODE)}
        write_atomically(Path(path), save(arrays, {"format": _FORMAT, "log": json.dumps(meta)}))
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> EpisodeLog:
        """Read what `save` wrote; nothing in the file is executed.

        Raises:
            RunError: it is missing, damaged or of another version.
            ConfigError: its arrays do not fit together.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                meta = file.metadata() or {}
                if meta.get("format") != _FORMAT:
                    raise RunError(f"{path}: format = {meta.get('format')!r}; expected {_FORMAT!r}; log again")
                facts = json.loads(meta["log"])
                arrays = {name: file.get_tensor(name) for name in (*_BY_ROW, *_BY_EPISODE)}
                return cls(
                    columns=tuple(facts["columns"]),
                    actions=tuple(facts["actions"]),
                    cost_scale_usd=float(facts["cost_scale_usd"]),
                    **arrays,
                )
        except (OSError, SafetensorError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise RunError(f"{path}: cannot be read as a log ({error}); copy it anew or log again") from None


_SETTINGS = ("columns", "actions", "cost_scale_usd")
_BY_EPISODE = ("task", "budget_usd", "lambda_", "score", "outcome")
_BY_ROW = tuple(f.name for f in fields(EpisodeLog) if f.name not in (*_SETTINGS, *_BY_EPISODE))


def relabel(log: EpisodeLog, budget_usd: npt.ArrayLike, lambda_: npt.ArrayLike | None = None) -> EpisodeLog:
    """The same episodes under other budgets and prices: hindsight budget relabelling (SeqRoute).

    What the observation and the masks show of budget and price is recomputed, to the byte as the environment would have
    shown it. An episode ends before its first action that cannot be paid under its new budget: `BANKRUPT` if nothing
    can be paid there, as in the environment, else `CUT`.

    Args:
        log: its episodes may have been played under any budgets.
        budget_usd: USD, inf = none, one for all or (episodes,).
        lambda_: price of cost, likewise; those of the log by default.

    Raises:
        BudgetError: a budget or price that cannot be used.
        ConfigError: arrays of another length.
    """
    budgets = _per_episode("budget_usd", check_budget(budget_usd), log)
    lambdas = log.lambda_ if lambda_ is None else _per_episode("lambda", check_lambda(lambda_, "lambda"), log)
    budget, spent = budgets[log.episode], log.spent_usd
    legal = log.reserve_usd + spent[:, None] <= budget[:, None]  # (n, A)
    stops = ~log.taken
    stops[log.taken] = ~legal[log.taken, log.action[log.taken]]
    stop = np.full(len(log), len(log.action))  # by episode: position of its first row without a payable action
    np.minimum.at(stop, log.episode[stops], log.position[stops])
    kept = log.position <= stop[log.episode]
    last = kept & stops
    outcome = np.full(len(log), ENDED, dtype=np.uint8)
    outcome[log.episode[last]] = np.where(legal[last].any(axis=1), CUT, BANKRUPT)

    observation = log.observation[kept]
    place = {name: column for column, name in enumerate(log.columns)}
    affordable = [place[f"affordable/{name}"] for name in log.actions]
    observation[:, affordable] = legal[kept]
    scale = log.cost_scale_usd
    observation[:, place["remaining/remaining"]] = (1.0 - scale / (scale + (budget - spent)))[kept]
    observation[:, place["lambda/lambda"]] = (lambdas / (1.0 + lambdas))[log.episode[kept]]
    return replace(
        log,
        observation=observation,
        action=np.where(last, _NONE, log.action)[kept],
        propensity=np.where(last, np.nan, log.propensity)[kept],
        legal=legal[kept],
        reserve_usd=log.reserve_usd[kept],
        cost_usd=np.where(last, 0.0, log.cost_usd)[kept],
        episode=log.episode[kept],
        budget_usd=budgets,
        lambda_=lambdas,
        score=np.where(outcome == ENDED, log.score, 0.0),
        outcome=outcome,
    )


def draw_budgets(problem: Problem, n: int, rng: np.random.Generator) -> Floats:
    """Budgets of n episodes of the problem, drawn as its environment draws them, USD (n,)."""
    budget = problem.budget_usd
    if budget is None:
        return np.full(n, np.inf)
    bounds = problem.recording.budget_range_usd if isinstance(budget, str) else np.atleast_1d(budget)
    return between(float(bounds[0]), float(bounds[-1]), rng.random(n))


def draw_lambdas(problem: Problem, n: int, rng: np.random.Generator) -> Floats:
    """Prices of cost of n episodes of the problem, drawn as its environment draws them, (n,)."""
    return between(*problem.lambda_range, rng.random(n))


def collect(
    problem: Problem, behaviour: str | Policy = "mixture", episodes: int = 10_000, seed: int = 0, epsilon: float = 0.2
) -> EpisodeLog:
    """Play a behaviour policy on the problem's tasks and log what it does.

    Args:
        problem: gives tasks, budgets and prices.
        behaviour: ``"random"`` (legal actions alike), ``"mixture"`` (each episode draws one of: random; one arm
            throughout; one arm for its first calls and another action after them), or a policy, asked for its
            deterministic choice.
        episodes: how many, >= 1.
        seed: fixes tasks, budgets, responses and draws.
        epsilon: share of uniformly random choices among the others. Propensities are given the episode's strategy;
            0 leaves most actions without any chance, and nothing can be estimated from such a log.

    Raises:
        ConfigError: an argument is out of range.
    """
    if episodes < 1:
        raise ConfigError(f"episodes = {episodes}; expected at least 1")
    if not 0 <= epsilon <= 1:
        raise ConfigError(f"epsilon = {epsilon}; expected a probability")
    if isinstance(behaviour, str) and behaviour not in ("random", "mixture"):
        raise ConfigError(f"behaviour = {behaviour!r}; expected 'random', 'mixture' or a policy")
    env = problem.env(min(episodes, _BATCH), autoreset_mode="Disabled")
    graph, affordable = problem.recording.graph, env.layout.columns["affordable"]
    root = np.random.SeedSequence(seed)
    seeds, rng = root.generate_state(episodes), np.random.default_rng(root.spawn(1)[0])
    rows: list[dict[str, npt.NDArray[Any]]] = []
    facts: list[dict[str, npt.NDArray[Any]]] = []
    for first in range(0, episodes, env.num_envs):
        number = first + np.arange(env.num_envs)
        logged = number < episodes  # slots left over play an episode that is not logged
        observation, info = env.reset(seed=seeds[np.minimum(number, episodes - 1)].tolist())
        about = {"task": graph.node_task[env.node], "budget_usd": info["budget_usd"], "lambda_": info["lambda"]}
        score, playing = np.zeros(env.num_envs), np.ones(env.num_envs, dtype=bool)
        player = _Player(behaviour, env.num_envs, graph, epsilon, rng)
        while playing.any():
            legal = env.action_masks()
            action, propensity = player.act(observation, legal)
            row = {"observation": observation, "legal": legal, "action": action, "propensity": propensity}
            row |= {"reserve_usd": graph.node_reserve[env.node], "episode": number}
            observation, _, terminated, truncated, info = env.step(action)
            row["cost_usd"] = info["cost_usd"]
            rows.append({name: column[playing & logged] for name, column in row.items()})
            ended = playing & (terminated | truncated)
            score[ended] = info["score"][ended]
            playing &= ~ended
        bankrupt = (graph.node_status[env.node] == OPEN) & logged
        seen = observation[bankrupt]
        seen[:, affordable] = 0.0  # an ended episode shows every action as legal
        rows.append(
            {
                "observation": seen,
                "legal": np.zeros((len(seen), graph.n_actions), dtype=bool),
                "action": np.full(len(seen), _NONE),
                "propensity": np.full(len(seen), np.nan),
                "reserve_usd": graph.node_reserve[env.node[bankrupt]],
                "episode": number[bankrupt],
                "cost_usd": np.zeros(len(seen)),
            }
        )
        about |= {"score": score, "outcome": np.where(bankrupt, BANKRUPT, ENDED).astype(np.uint8)}
        facts.append({name: column[logged] for name, column in about.items()})
    table = {name: np.concatenate([row[name] for row in rows]) for name in _BY_ROW}
    order = np.argsort(table["episode"], kind="stable")
    return EpisodeLog(
        columns=env.layout.names,
        actions=env.layout.action_names,
        cost_scale_usd=problem.recording.cost_scale_usd,
        **{name: column[order] for name, column in table.items()},
        **{name: np.concatenate([fact[name] for fact in facts]) for name in _BY_EPISODE},
    )


class _Player:
    """A behaviour policy in a batch of fresh episodes, and how likely its choices are."""

    def __init__(
        self, behaviour: str | Policy, size: int, graph: TransitionGraph, epsilon: float, rng: np.random.Generator
    ) -> None:
        self._policy = None if isinstance(behaviour, str) else behaviour
        self._state: Any = None
        self._rng, self._calls = rng, 0
        self._everyone = np.arange(size)
        # A strategy: action `first` for `k` calls, `then` after them, and how often at random.
        self._first = rng.integers(graph.n_arms, size=size)
        one_arm = rng.random(size) < (0.5 if graph.n_actions == graph.n_arms else 0.0)
        self._then = np.where(one_arm, self._first, rng.integers(graph.n_actions, size=size))
        self._k = rng.integers(1, max(int(graph.node_step.max()), 2), size=size)
        random = np.ones(size, dtype=bool) if behaviour == "random" else rng.random(size) < 1 / 3
        self._epsilon = np.where(random & (self._policy is None), 1.0, epsilon)

    def act(self, observation: npt.NDArray[np.float32], legal: npt.NDArray[np.bool_]) -> tuple[Rows, Floats]:
        """An action for every episode and its probability."""
        if self._policy is None:
            wanted = np.where(self._calls < self._k, self._first, self._then)
        else:
            start = np.full(len(legal), self._calls == 0)
            wanted, self._state = self._policy.predict(observation, self._state, start, True, legal)
        self._calls += 1
        epsilon = np.where(legal[self._everyone, wanted], self._epsilon, 1.0)
        drawn = np.where(legal, self._rng.random(legal.shape), -1.0).argmax(axis=1)
        action = np.where(self._rng.random(len(legal)) < epsilon, drawn, wanted)
        return action, epsilon / legal.sum(axis=1) + (1.0 - epsilon) * (action == wanted)


def _per_episode(name: str, values: Floats, log: EpisodeLog) -> Floats:
    if values.shape not in ((), (len(log),)):
        raise ConfigError(f"{name} has shape {values.shape}; expected one value or one for each of {len(log)} episodes")
    return np.broadcast_to(values, (len(log),)).copy()
