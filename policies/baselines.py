"""Simple strategies that a learned router has to beat.

All read the flat observation through `ObservationLayout`, never choose a masked action, and know nothing of
the answers' correctness but what the environment says. Where the environment has a control action (``accept`` in a
cascade), a strategy that has no rule for it takes it after the first call: that is all it wants. Where there are
attempts of several turns, a call is a whole attempt: what is under way goes on until it ends, see `Baseline.predict`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from routegym.core.observation import ObservationLayout
from routegym.errors import ConfigError
from routegym.evaluation.frontier import Frontier, hull
from routegym.evaluation.references import arms_alone
from routegym.graph.subset import arm_signals
from routegym.graph.workflow import STOP

if TYPE_CHECKING:
    from routegym.graph.recording import Recording
    from routegym.policies.training import Arrays

__all__ = [
    "AlwaysArm",
    "Baseline",
    "ConfidenceCascade",
    "Escalate",
    "FirstLargeK",
    "FixedCascade",
    "Random",
    "RandomMixture",
    "RoundRobin",
    "begin",
    "fallbacks",
    "ladder_of",
]

_Actions = npt.NDArray[np.int64]
_Masks = npt.NDArray[np.bool_]
_Observation = npt.NDArray[np.float32]


class Baseline:
    """Shared by the strategies: names, masks, memory, storage, and what to do where an arm cannot be paid.

    Args:
        recording: gives names and prices; its transitions are not looked at.
    """

    kind: str
    draws: bool = False
    """Whether `predict` draws although it is asked for the best action."""

    def settings(self) -> dict[str, Any]:
        """Arguments that make the strategy again, beside the recording; arms by name."""
        return {}

    def to_state(self) -> tuple[dict[str, Any], Arrays]:
        """See `routegym.policies.storage.StoredPolicy`; random draws start afresh when it is loaded."""
        return self.settings(), {}

    @classmethod
    def from_state(cls, recording: Recording, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        """See `routegym.policies.storage.StoredPolicy`."""
        return cls(recording, **settings)

    def __init__(self, recording: Recording) -> None:
        self.layout = ObservationLayout.of(recording)
        self.n_arms = len(recording.arms)
        self.stop = self.n_arms if recording.controls else None
        self._names = tuple(arm.name for arm in recording.arms)
        first = self.layout.columns["node_signals"].start
        running = arm_signals(recording.node_signal_names, self._names).get("running", ())
        self._running = [first + column for column in running]
        self._fallback = fallbacks(recording)

    def predict(
        self,
        observation: _Observation,
        state: Any = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: _Masks | None = None,
    ) -> tuple[_Actions, Any]:
        """See `Policy.predict`. An attempt under way goes on while it can be paid: a rule decides between attempts."""
        masks = self._masks(observation, action_masks)
        actions, after = self._choose(observation, state, episode_start, masks)
        if not self._running:  # no attempts are shown
            return actions, after
        goes_on = (observation[:, self._running] > 0.5) & masks[:, : self.n_arms]
        busy = goes_on.any(axis=1)
        if state is not None and busy.any():
            after = np.where(busy.reshape(-1, *[1] * (np.ndim(after) - 1)), state, after)
        return np.where(busy, goes_on.argmax(axis=1), actions), after

    def _choose(
        self, observation: _Observation, state: Any, episode_start: _Masks | None, masks: _Masks
    ) -> tuple[_Actions, Any]:
        """The rule where no attempt is under way: legal actions int64 (N,), and the memory after them."""
        raise NotImplementedError

    def _arm(self, arm: int | str) -> int:
        """Index of an arm given by index or by name."""
        if isinstance(arm, str) and arm in self._names:
            return self._names.index(arm)
        if isinstance(arm, (int, np.integer)) and 0 <= arm < self.n_arms:
            return int(arm)
        raise ConfigError(f"arm {arm!r} is unknown; expected an index below {self.n_arms} or one of {self._names}")

    def _rungs(self, ladder: Sequence[int | str]) -> _Actions:
        """Indices of the arms of a ladder."""
        if not len(ladder):
            raise ConfigError("ladder is empty; name at least one arm")
        return np.array([self._arm(arm) for arm in ladder])

    def _named(self, arms: npt.ArrayLike) -> list[str]:
        """Names of arms given by index."""
        return [self._names[arm] for arm in np.asarray(arms).tolist()]

    def _masks(self, observation: _Observation, action_masks: _Masks | None) -> _Masks:
        if action_masks is not None:
            return np.asarray(action_masks, dtype=bool)
        return np.asarray(observation[:, self.layout.columns["affordable"]] > 0.5)

    def _may_stop(self, observation: _Observation, masks: _Masks) -> _Masks:
        """Where the control action is legal and there is something to stop at: a call was made."""
        if self.stop is None:
            return np.zeros(len(masks), dtype=bool)
        return masks[:, self.stop] & (observation[:, self.layout.columns["step"].start] > 0)

    def _pay(self, arms: _Actions, masks: _Masks, stop: _Masks) -> _Actions:
        """The wanted arms or what can be paid instead; the control action if `stop` or no arm is legal."""
        wanted = self._fallback[arms]  # (N, n_arms)
        legal = np.take_along_axis(masks[:, : self.n_arms], wanted, axis=1)
        chosen = np.take_along_axis(wanted, legal.argmax(axis=1)[:, None], axis=1)[:, 0]
        if self.stop is not None:
            chosen = np.where(stop | ~legal.any(axis=1), self.stop, chosen)
        return chosen.astype(np.int64)


def ladder_of(recording: Recording, split: str = "train") -> tuple[tuple[str, ...], Frontier]:
    """The arms that the zero router mixes, from cheap to dear: their names, and mean cost and score alone.

    Args:
        recording: a complete one.
        split: tasks to take the means over.
    """
    costs, scores = arms_alone(recording, recording.split(split)).points()
    points = list(zip(costs.tolist(), scores.tolist(), strict=True))
    kept = hull(*zip(*points, strict=True))
    arms = [points.index(point) for point in zip(kept.costs.tolist(), kept.scores.tolist(), strict=True)]
    return tuple(recording.arms[arm].name for arm in arms), kept


def fallbacks(recording: Recording) -> _Actions:
    """Which arms are called in place of one that is masked, int64 (n_arms, n_arms), the first that is not.

    Row a: arm a, then the cheaper arms from the dearest down, then the dearer ones from the cheapest up.
    """
    starts, n_arms = recording.graph.task_start, len(recording.arms)
    worst = recording.graph.node_reserve[starts[starts >= 0], :n_arms]
    legal = ~np.isnan(worst)
    price = np.where(legal, worst, 0.0).sum(axis=0) / np.maximum(legal.sum(axis=0), 1)
    order = np.argsort(price, kind="stable")
    rows = np.empty((n_arms, n_arms), dtype=np.int64)
    for place, arm in enumerate(order):
        rows[arm] = np.concatenate([order[place::-1], order[place + 1 :]])
    return rows


def begin(n: int, state: Any, episode_start: npt.NDArray[np.bool_] | None) -> tuple[_Actions, _Masks]:
    """Memory of N episodes (0 at their start) and which of them are at their start."""
    if state is None:
        return np.zeros(n, dtype=np.int64), np.ones(n, dtype=bool)
    start = np.zeros(n, dtype=bool) if episode_start is None else np.asarray(episode_start, dtype=bool)
    return np.where(start, 0, np.asarray(state, dtype=np.int64)), start


class Random(Baseline):
    """Every legal action with equal probability, deterministic or not; `seed` fixes the draws."""

    kind = "random"
    draws = True

    def __init__(self, recording: Recording, seed: int = 0) -> None:
        super().__init__(recording)
        self.seed = seed
        self._rng = np.random.default_rng(seed)

    def settings(self) -> dict[str, Any]:
        """See `Baseline.settings`."""
        return {"seed": self.seed}

    def predict(
        self,
        observation: _Observation,
        state: Any = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: _Masks | None = None,
    ) -> tuple[_Actions, Any]:
        """See `Policy.predict`."""
        masks = self._masks(observation, action_masks)
        draws = np.where(masks, self._rng.random(masks.shape), -1.0)
        return draws.argmax(axis=1).astype(np.int64), state


class AlwaysArm(Baseline):
    """One arm at every step; where it is masked the dearest cheaper arm that is not, or else the cheapest.

    Args:
        recording: gives names and prices.
        arm: index or name of the arm.
    """

    kind = "always_arm"

    def __init__(self, recording: Recording, arm: int | str) -> None:
        super().__init__(recording)
        self.arm = self._arm(arm)

    def settings(self) -> dict[str, Any]:
        """See `Baseline.settings`."""
        return {"arm": self._names[self.arm]}

    def _choose(
        self, observation: _Observation, state: Any, episode_start: _Masks | None, masks: _Masks
    ) -> tuple[_Actions, Any]:
        """See `Baseline._choose`."""
        return self._pay(np.full(len(masks), self.arm), masks, self._may_stop(observation, masks)), state


class RoundRobin(Baseline):
    """The arms in turn, one call each.

    Args:
        recording: gives names and prices.
        arms: indices or names of the arms in their order; all in pool order by default.
        seed: fixes the arm that each episode starts with; None starts every episode with the first.
    """

    kind = "round_robin"
    draws = True

    def __init__(self, recording: Recording, arms: Sequence[int | str] | None = None, seed: int | None = 0) -> None:
        super().__init__(recording)
        self.arms = np.arange(self.n_arms) if arms is None else self._rungs(arms)
        self.seed = seed
        self._rng = np.random.default_rng(seed)

    def settings(self) -> dict[str, Any]:
        """See `Baseline.settings`."""
        return {"arms": self._named(self.arms), "seed": self.seed}

    def _choose(
        self, observation: _Observation, state: Any, episode_start: _Masks | None, masks: _Masks
    ) -> tuple[_Actions, Any]:
        """See `Baseline._choose`; the state is whose turn it is, int64 (N,)."""
        turn, start = begin(len(masks), state, episode_start)
        if self.seed is not None:
            turn = np.where(start, self._rng.integers(len(self.arms), size=len(masks)), turn)
        actions = self._pay(self.arms[turn], masks, self._may_stop(observation, masks))
        return actions, (turn + 1) % len(self.arms)


class FirstLargeK(Baseline):
    """A large arm for the first `k` calls of an episode, a small one for the rest.

    Args:
        recording: gives names and prices.
        k: calls of the large arm, >= 0.
        large, small: indices or names of the arms.
    """

    kind = "first_large_k"

    def __init__(self, recording: Recording, k: int, large: int | str, small: int | str) -> None:
        super().__init__(recording)
        if k < 0:
            raise ConfigError(f"k = {k}; expected the number of calls of the large arm, >= 0")
        self.k, self.large, self.small = k, self._arm(large), self._arm(small)

    def settings(self) -> dict[str, Any]:
        """See `Baseline.settings`."""
        return {"k": self.k, "large": self._names[self.large], "small": self._names[self.small]}

    def _choose(
        self, observation: _Observation, state: Any, episode_start: _Masks | None, masks: _Masks
    ) -> tuple[_Actions, Any]:
        """See `Baseline._choose`; the state is the number of calls made, int64 (N,)."""
        calls, _ = begin(len(masks), state, episode_start)
        arms = np.where(calls < self.k, self.large, self.small)
        return self._pay(arms, masks, self._may_stop(observation, masks)), calls + 1


class ConfidenceCascade(Baseline):
    """Starts on the first rung of a ladder; climbs one for good when an answer is not confident enough.

    Where the environment has ``accept``, it accepts a confident answer, and any answer of the last rung.

    Args:
        recording: gives names and prices; its edges carry the signal ``confidence``.
        ladder: indices or names of arms, usually from cheap to dear, at least one.
        threshold: an answer is confident if its signal is at least this.
    """

    kind = "confidence_cascade"

    def __init__(self, recording: Recording, ladder: Sequence[int | str], threshold: float) -> None:
        super().__init__(recording)
        self.ladder = self._rungs(ladder)
        if recording.tells_success:
            raise ConfigError(
                f"recording {recording.name!r} has the control {STOP!r}: its environment says when a task is solved, "
                "and no answer is accepted for its confidence; use fixed_cascade"
            )
        if not np.isfinite(threshold):
            raise ConfigError(f"threshold = {threshold!r}; expected a number, usually between 0 and 1")
        signals = self.layout.edge_signal_names
        if "confidence" not in signals:
            raise ConfigError(
                f"recording {recording.name!r} shows {signals} of a response; a confidence cascade needs "
                "the signal 'confidence'"
            )
        self.threshold = threshold
        self._column = self.layout.names.index("edge_signals/confidence")

    def settings(self) -> dict[str, Any]:
        """See `Baseline.settings`."""
        return {"ladder": self._named(self.ladder), "threshold": self.threshold}

    def _choose(
        self, observation: _Observation, state: Any, episode_start: _Masks | None, masks: _Masks
    ) -> tuple[_Actions, Any]:
        """See `Baseline._choose`; the state is the rung of each episode, int64 (N,)."""
        rung, start = begin(len(masks), state, episode_start)
        doubt = ~start & (observation[:, self._column] < np.float32(self.threshold))
        last = rung == len(self.ladder) - 1
        accept = self._may_stop(observation, masks) & ~start & (~doubt | last)
        rung = np.where(doubt & ~last, rung + 1, rung)
        return self._pay(self.ladder[rung], masks, accept), rung


#: Where a verdict on the last response may be seen, the most telling first.
_VERDICTS = ("node_signals/verdict_passed", "edge_signals/valid", "edge_signals/well_formed")


class Escalate(Baseline):
    """Starts on the first rung of a ladder; goes one up when the verdict on the last response is that it failed.

    Where the environment has ``accept``, it accepts a response that passed, and any response of the last rung. Where
    it says when a task is solved, whatever leaves a situation open failed, and it is a `FixedCascade`.

    Args:
        recording: gives names and prices; shows a verdict: the control ``stop``, the signal ``verdict_passed`` of a
            situation, or else ``valid`` or ``well_formed`` of a response. Below 0.5 it failed.
        ladder: indices or names of arms, usually from cheap to dear, at least one.
        for_good: whether it stays on the higher rung, or returns to the first as soon as a response passes.
    """

    kind = "escalate"

    def __init__(self, recording: Recording, ladder: Sequence[int | str], for_good: bool = True) -> None:
        super().__init__(recording)
        self.ladder, self.for_good = self._rungs(ladder), for_good
        shown = [name for name in _VERDICTS if name in self.layout.names]
        if not shown and not recording.tells_success:
            raise ConfigError(
                f"recording {recording.name!r} shows {self.layout.edge_signal_names} of a response and no verdict; "
                "escalating needs the signal 'verdict_passed', 'valid' or 'well_formed'"
            )
        self._column = None if recording.tells_success else self.layout.names.index(shown[0])

    def settings(self) -> dict[str, Any]:
        """See `Baseline.settings`."""
        return {"ladder": self._named(self.ladder), "for_good": self.for_good}

    def _choose(
        self, observation: _Observation, state: Any, episode_start: _Masks | None, masks: _Masks
    ) -> tuple[_Actions, Any]:
        """See `Baseline._choose`; the state is the rung of each episode, int64 (N,)."""
        rung, start = begin(len(masks), state, episode_start)
        failed = ~start if self._column is None else ~start & (observation[:, self._column] < 0.5)
        last = rung == len(self.ladder) - 1
        accept = self._may_stop(observation, masks) & ~start & (~failed | last)
        passed = rung if self.for_good else np.zeros_like(rung)
        rung = np.where(failed, np.where(last, rung, rung + 1), passed)
        return self._pay(self.ladder[rung], masks, accept), rung


class FixedCascade(Baseline):
    """Arms in a fixed order, the next one when the environment says that the last has failed; then it gives up.

    A rung that is masked is passed over. Where none of them can be paid at the start, what can be paid is called.

    Args:
        recording: gives names and prices; its environment says when a task is solved.
        ladder: indices or names of arms, at least one, usually from cheap to dear.

    Raises:
        ConfigError: the environment does not say that.
    """

    kind = "fixed_cascade"

    def __init__(self, recording: Recording, ladder: Sequence[int | str]) -> None:
        super().__init__(recording)
        self.ladder = self._rungs(ladder)
        if not recording.tells_success:
            raise ConfigError(
                f"recording {recording.name!r} has the controls {recording.controls} and does not say when a task is "
                f"solved; a fixed cascade needs the control {STOP!r}; use confidence_cascade or escalate"
            )

    def settings(self) -> dict[str, Any]:
        """See `Baseline.settings`."""
        return {"ladder": self._named(self.ladder)}

    def _choose(
        self, observation: _Observation, state: Any, episode_start: _Masks | None, masks: _Masks
    ) -> tuple[_Actions, Any]:
        """See `Baseline._choose`; the state is the next rung of each episode, int64 (N,)."""
        rung, start = begin(len(masks), state, episode_start)
        open_rungs = masks[:, self.ladder] & (np.arange(len(self.ladder)) >= rung[:, None])
        found = open_rungs.any(axis=1)
        rung = np.where(found, open_rungs.argmax(axis=1), rung)
        wanted = self.ladder[np.minimum(rung, len(self.ladder) - 1)]
        return self._pay(wanted, masks, ~found & ~start), rung + found


class RandomMixture(Baseline):
    """One of two arms for a whole episode, drawn at its start: a point of the zero router, played out.

    Args:
        recording: gives names and prices.
        first, second: indices or names of the arms.
        share: probability of the second arm, see `share_at_cost`.
        seed: fixes the draws.
    """

    kind = "random_mixture"
    draws = True

    def __init__(self, recording: Recording, first: int | str, second: int | str, share: float, seed: int = 0) -> None:
        super().__init__(recording)
        if not 0 <= share <= 1:
            raise ConfigError(f"share = {share!r}; expected the probability of the second arm, 0 to 1")
        self.arms, self.share, self.seed = np.array([self._arm(first), self._arm(second)]), share, seed
        self._rng = np.random.default_rng(seed)

    def settings(self) -> dict[str, Any]:
        """See `Baseline.settings`."""
        first, second = self._named(self.arms)
        return {"first": first, "second": second, "share": self.share, "seed": self.seed}

    @classmethod
    def at_cost(cls, recording: Recording, mean_usd: float, seed: int = 0) -> Self:
        """The mixture of neighbouring arms of the zero router that costs `mean_usd` an episode on the training tasks.

        Args:
            recording: a complete one.
            mean_usd: wanted mean cost of an episode without a cap.
            seed: fixes the draws.

        Raises:
            ConfigError: no mixture of arms has that mean cost.
        """
        arms, points = ladder_of(recording)
        low, high = float(points.costs[0]), float(points.costs[-1])
        if not low <= mean_usd <= high:
            raise ConfigError(
                f"mean_usd = {mean_usd!r}; expected a cost in the range of the arms, {low!r} ({arms[0]!r}) to {high!r} "
                f"({arms[-1]!r})"
            )
        if len(arms) == 1:
            return cls(recording, arms[0], arms[0], 0.0, seed)
        right = min(max(int(np.searchsorted(points.costs, mean_usd)), 1), len(arms) - 1)
        share = cls.share_at_cost(float(points.costs[right - 1]), float(points.costs[right]), mean_usd)
        return cls(recording, arms[right - 1], arms[right], share, seed)

    @staticmethod
    def share_at_cost(first_usd: float, second_usd: float, mean_usd: float) -> float:
        """Share of the second arm that makes the mean cost of an episode `mean_usd`.

        Args:
            first_usd, second_usd: mean cost of an episode with each arm alone.
            mean_usd: wanted mean, between the two.
        """
        low, high = sorted((first_usd, second_usd))
        if not low <= mean_usd <= high or low == high:
            raise ConfigError(
                f"mean_usd = {mean_usd!r}; expected a cost between those of two different arms, {low!r} and {high!r}"
            )
        return (mean_usd - first_usd) / (second_usd - first_usd)

    def _choose(
        self, observation: _Observation, state: Any, episode_start: _Masks | None, masks: _Masks
    ) -> tuple[_Actions, Any]:
        """See `Baseline._choose`; the state says which arm each episode has drawn, int64 (N,)."""
        drawn, start = begin(len(masks), state, episode_start)
        drawn = np.where(start, self._rng.random(len(masks)) < self.share, drawn).astype(np.int64)
        return self._pay(self.arms[drawn], masks, self._may_stop(observation, masks)), drawn
