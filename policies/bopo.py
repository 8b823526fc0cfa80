"""BoPO-style training: boundary policies say how hard a task is, and keep the policy from always taking the small arm.

Paper: "Budget-Aware Agentic Routing via Boundary-Guided Training", arXiv 2602.21227.
This is a reconstruction: of the paper only the abstract and readers' notes were at hand, its constants and tables are
not known, and nothing here is a number of the paper.
Deviations: ours are every default value; the whole pool of arms as actions (the paper has two); a graded score in the
place of ``1[success]`` (the same for scores of 0 and 1); a boundary roll-out that costs more than the budget of the
group counts as failed; the deviation of the reference-guided advantage is taken over the group together with both
boundary rewards in both modes, so that a group of equal episodes has a finite advantage, and may be left out, as in
Dr. GRPO (``scale="none"``); groups come from every budget and price of cost, and the learner is that of
`routegym.policies.grpo`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from routegym.core.rollout import rollout
from routegym.errors import ConfigError, MissingExtraError
from routegym.policies.algorithm import Problem
from routegym.policies.baselines import AlwaysArm
from routegym.policies.checks import check_not_negative, check_positive
from routegym.policies.grpo import Episodes, GroupAlgorithm, Step, empty_episodes, play
from routegym.policies.network import NetworkPolicy
from routegym.policies.networks import Actor, make_actor
from routegym.policies.training import Training

try:
    import torch as th
except ImportError as error:
    raise MissingExtraError("torch", "train") from error

__all__ = ["EASY", "HARD", "INTRACTABLE", "BoPO", "Boundary", "cheapest_success", "difficulty", "guided_advantages"]

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]
Guidance = Literal["append", "floor", "none"]

#: Values of `difficulty`.
EASY, HARD, INTRACTABLE = 0, 1, 2

_EPS = 1e-4
_SLOTS = 1024


def difficulty(small: npt.ArrayLike, large: npt.ArrayLike, majority: float = 0.5) -> npt.NDArray[np.int8]:
    """`EASY` where the small arm alone succeeds, `HARD` where only the large one does, else `INTRACTABLE`; int8 (n,).

    Args:
        small, large: which boundary roll-outs of each task succeeded, bool (n, roll-outs).
        majority: an arm succeeds at a task if more than this share of its roll-outs does.
    """
    by_small, by_large = (np.asarray(ok).mean(axis=1) > majority for ok in (small, large))
    return np.select([by_small, by_large], [EASY, HARD], INTRACTABLE).astype(np.int8)


@dataclass(frozen=True)
class Boundary:
    """What always-small and always-large make of every task, without a budget."""

    small: int
    large: int
    """The two arms."""
    score: _Floats
    """(2, tasks of the recording, roll-outs), small first; NaN for tasks that were not played."""
    cost_usd: _Floats
    """Likewise."""
    difficulty: npt.NDArray[np.int8]
    """(tasks of the recording,), see `difficulty`."""

    @classmethod
    def measure(
        cls,
        problem: Problem,
        seed: int,
        rollouts: int = 5,
        small: str | None = None,
        large: str | None = None,
        success_at: float = 0.5,
        majority: float = 0.5,
    ) -> Boundary:
        """Play the boundary policies on the tasks of a problem.

        Args:
            problem: gives the tasks.
            seed: fixes the responses met.
            rollouts: episodes of each policy on each task.
            small, large: names of the arms; by default the ends of the zero router's frontier, that is the cheapest
                arm and the one of the others that scores best, by their means over the tasks.
            success_at: a roll-out succeeds if it scores at least this.
            majority: see `difficulty`.
        """
        recording, tasks = problem.recording, problem.tasks
        arms = [arm.name for arm in recording.arms]
        for name in (small, large):
            if name is not None and name not in arms:
                raise ConfigError(f"arm {name!r} is not in the pool of {recording.name!r}; expected one of {arms}")
        env = problem.env(min(_SLOTS, rollouts * len(tasks)), budget_usd=None, lambda_=0.0)
        played = {}
        for arm in range(len(arms)):
            if None in (small, large) or arms[arm] in (small, large):
                table = rollout(AlwaysArm(recording, arm), env, np.repeat(tasks, rollouts), seed=seed)
                played[arm] = (table.score.reshape(-1, rollouts), table.cost_usd.reshape(-1, rollouts))
        means = {arm: (score.mean(), cost.mean()) for arm, (score, cost) in played.items()}
        low = min(means, key=lambda arm: (means[arm][1], -means[arm][0])) if small is None else arms.index(small)
        others = [arm for arm in means if arm != low]
        if large in arms:
            high = arms.index(large)
        else:
            high = max(others, key=lambda arm: (means[arm][0], -means[arm][1]), default=low)
        if low == high:
            raise ConfigError(f"small and large are both {arms[low]!r} of {arms}; name two different arms")
        n = recording.graph.n_tasks
        score, cost = np.full((2, n, rollouts), np.nan), np.full((2, n, rollouts), np.nan)
        for end, arm in enumerate((low, high)):
            score[end, tasks], cost[end, tasks] = played[arm]
        kinds = difficulty(score[0] >= success_at, score[1] >= success_at, majority)
        return cls(low, high, score, cost, kinds)

    def cost_norm(self, task: _Ints, cost_usd: _Floats, c_max: float) -> _Floats:
        """``clip((C - C_small) / (C_large - C_small + eps), 0, c_max)`` with mean boundary costs of the task.

        Args:
            task: indices (n,).
            cost_usd: of episodes of these tasks, (n,) or (n, k).
            c_max: the most it can be.
        """
        c_small, c_large = self.cost_usd[:, task].mean(axis=-1).reshape(2, -1, *[1] * (cost_usd.ndim - 1))
        return np.asarray(np.clip((cost_usd - c_small) / (c_large - c_small + 1e-12), 0.0, c_max))

    def reward(
        self, task: _Ints, score: _Floats, cost_usd: _Floats, lambda_: _Floats, r_hard: float, c_max: float
    ) -> _Floats:
        """``score + r_hard * score * 1[hard] - lambda * C_norm``; shapes as for `cost_norm`, lambda and task (n,)."""
        shape = (-1, *[1] * (score.ndim - 1))
        bonus = 1.0 + r_hard * (self.difficulty[task] == HARD).reshape(shape)
        return np.asarray(score * bonus - lambda_.reshape(shape) * self.cost_norm(task, cost_usd, c_max))

    def references(
        self, task: _Ints, budget_usd: _Floats, lambda_: _Floats, r_hard: float, c_max: float
    ) -> tuple[_Floats, _Floats]:
        """Mean rewards of always-small and always-large on tasks at budgets and prices of cost, (n,) each.

        A roll-out that costs more than the budget has failed and has spent the budget.
        """
        cost = self.cost_usd[:, task]  # (2, n, roll-outs)
        paid = cost <= budget_usd[:, None]
        score, cost = np.where(paid, self.score[:, task], 0.0), np.minimum(cost, budget_usd[:, None])
        small, large = (
            self.reward(task, s, c, lambda_, r_hard, c_max).mean(axis=1) for s, c in zip(score, cost, strict=True)
        )
        return small, large


def guided_advantages(
    reward: npt.ArrayLike,
    small: npt.ArrayLike,
    large: npt.ArrayLike,
    guidance: Guidance = "append",
    scale: Literal["std", "none"] = "std",
) -> _Floats:
    """Reference-guided advantages ``(R - m) / (s + 1e-4)``, float64 (groups, G).

    - ``append``: m and s are mean and deviation of the group together with both boundary rewards,
    - ``floor``: m = max(group mean, best boundary reward), s as in ``append``,
    - ``none``: mean and deviation of the group alone, which is GRPO.

    Args:
        reward: of the episodes, (groups, G).
        small, large: boundary rewards of each group's task, (groups,).
        guidance: see above.
        scale: ``none`` leaves the division by ``s + 1e-4`` out.
    """
    reward = np.asarray(reward, dtype=np.float64)
    boundary = np.stack([small, large], axis=1).astype(np.float64)
    judged = reward if guidance == "none" else np.concatenate([reward, boundary], axis=1)
    if guidance == "floor":
        middle = np.maximum(reward.mean(axis=1), boundary.max(axis=1))[:, None]
    else:
        middle = judged.mean(axis=1, keepdims=True)
    spread = judged.std(axis=1, keepdims=True) + _EPS if scale == "std" else 1.0
    return np.asarray((reward - middle) / spread)


def cheapest_success(success: npt.NDArray[np.bool_], cost_usd: _Floats, hard: npt.NDArray[np.bool_]) -> _Ints:
    """Which roll-out of each group to imitate, int64 (groups,).

    The cheapest success on a hard task; the first, which is always-small, on other tasks and where none succeeds.

    Args:
        success, cost_usd: (groups, roll-outs).
        hard: (groups,).
    """
    cost = np.where(success, cost_usd, np.inf)
    return np.where(hard & success.any(axis=1), cost.argmin(axis=1), 0).astype(np.int64)


@dataclass(frozen=True)
class BoPO(GroupAlgorithm):
    """Boundary-guided policy optimisation (a reconstruction)."""

    guidance: Guidance = "append"
    """Mode of the reference-guided advantage, see `guided_advantages`."""
    scale: Literal["std", "none"] = "std"
    """Whether advantages are divided by their deviation in the group."""
    warm_start: bool = True
    """Whether to imitate first (BoSFT)."""
    small: str | None = None
    """Name of the small arm; by default the cheapest."""
    large: str | None = None
    """Name of the large arm; by default the one of the others that scores best."""
    rollouts: int = 5
    """Boundary roll-outs of each arm on each task."""
    success_at: float = 0.5
    """A roll-out succeeds if it scores at least this."""
    majority: float = 0.5
    """An arm succeeds at a task if more than this share of its roll-outs does."""
    r_hard: float = 0.5
    """Bonus for success at a hard task."""
    c_max: float = 2.0
    """Clip of the normalised cost."""
    sft_rollouts: int = 16
    """N of the warm start: roll-out k of a hard task takes the large arm with probability k / N."""
    sft_tasks: int = 2048
    """Tasks to imitate, drawn with budgets and prices of cost."""
    sft_epochs: int = 4
    """Passes over what is imitated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guidance not in ("append", "floor", "none"):
            raise ConfigError(f"guidance = {self.guidance!r}; expected 'append', 'floor' or 'none'")
        if self.scale not in ("std", "none"):
            raise ConfigError(f"scale = {self.scale!r}; expected 'std' or 'none'")
        check_positive(self, "rollouts", "c_max", "sft_rollouts", "sft_tasks", "sft_epochs")
        check_not_negative(self, "r_hard")
        if not 0 <= self.majority < 1:
            raise ConfigError(f"majority = {self.majority}; expected a share, 0 <= majority < 1")

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> NetworkPolicy:
        """Play the boundary policies, imitate, then train on the CPU; see `routegym.policies.algorithm.Algorithm`.

        What comes before the training is done again when a training goes on from a checkpoint.
        """
        boundary = Boundary.measure(
            problem, seed, self.rollouts, self.small, self.large, self.success_at, self.majority
        )

        def advantages(of: Episodes) -> _Floats:
            reward = boundary.reward(of.task, of.score, of.cost_usd, of.lambda_, self.r_hard, self.c_max)
            first = slice(None, None, self.group_size)
            small, large = boundary.references(
                of.task[first], of.budget_usd[first], of.lambda_[first], self.r_hard, self.c_max
            )
            return guided_advantages(
                reward.reshape(-1, self.group_size), small, large, self.guidance, self.scale
            ).reshape(-1)

        start = self.imitate(problem, boundary, seed) if self.warm_start else None
        return self.train(problem, seed, training, advantages, start)

    def demonstrations(self, problem: Problem, boundary: Boundary, seed: int) -> tuple[npt.NDArray[np.float32], _Ints]:
        """What the warm start imitates: observations (n, width) and the actions taken there (n,).

        For each drawn task, budget and price of cost N + 1 roll-outs side by side: always-small, and on hard tasks
        the large arm with probability k / N at every step, k = 1..N; `cheapest_success` chooses among them.
        """
        slots_each = self.sft_rollouts + 1
        groups = max(1, _SLOTS // slots_each)
        env = problem.env(groups * slots_each, embedding_prior=self.embedding_prior)
        rng = np.random.default_rng(np.random.SeedSequence((seed, 1)))
        small, large = (AlwaysArm(problem.recording, arm) for arm in (boundary.small, boundary.large))
        share = np.tile(np.arange(slots_each) / self.sft_rollouts, groups)  # (slots,)
        observations, actions = [], []
        for first in range(0, self.sft_tasks, groups):
            episodes = empty_episodes(env.num_envs)

            def act(observation: npt.NDArray[np.float32], slots: _Ints) -> tuple[_Ints, npt.NDArray[np.float32]]:
                hard = boundary.difficulty[episodes.task[slots]] == HARD  # noqa: B023 used at once
                wants_large = hard & (rng.random(len(slots)) < share[slots])
                choice = np.where(wants_large, large.predict(observation)[0], small.predict(observation)[0])
                return choice, np.zeros(len(slots), dtype=np.float32)

            steps: list[Step] = list(play(env, act, int(rng.integers(2**62)), slots_each, episodes))
            shape = (groups, slots_each)
            hard = boundary.difficulty[episodes.task[::slots_each]] == HARD
            best = cheapest_success(
                (episodes.score >= self.success_at).reshape(shape), episodes.cost_usd.reshape(shape), hard
            )
            wanted = np.zeros(shape, dtype=bool)
            wanted[np.arange(min(groups, self.sft_tasks - first)), best[: self.sft_tasks - first]] = True
            for step in steps:
                rows = wanted.reshape(-1)[step.slots]
                observations.append(step.observation[rows])
                actions.append(step.actions[rows])
        return np.concatenate(observations), np.concatenate(actions)

    def imitate(self, problem: Problem, boundary: Boundary, seed: int) -> Actor:
        """A fresh actor after the warm start (BoSFT): cross-entropy on the demonstrations."""
        observation, action = (th.as_tensor(a) for a in self.demonstrations(problem, boundary, seed))
        generator = th.Generator().manual_seed(seed)
        with th.random.fork_rng(devices=[]):
            th.manual_seed(seed)
            actor = make_actor(self.network, self.hidden, problem.recording)
        optimizer = th.optim.Adam(actor.parameters(), self.learning_rate)
        for _ in range(self.sft_epochs):
            order = th.randperm(len(action), generator=generator)
            for rows in order.tensor_split(max(1, round(len(action) / 256))):
                loss = th.nn.functional.cross_entropy(actor(observation[rows]), action[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return actor
