"""Simple strategies that a learned router has to beat.

All read the flat observation through `ObservationLayout`, never choose a masked action, and know nothing of
the answers' correctness. Where the environment has a control action (``accept`` in a cascade), a strategy
that has no rule for it takes it after the first call: that is all it wants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.core.observation import ObservationLayout
from routegym.errors import ConfigError

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = ["AlwaysArm", "ConfidenceCascade", "FirstLargeK", "Random", "RandomMixture"]

_Actions = npt.NDArray[np.int64]
_Masks = npt.NDArray[np.bool_]
_Observation = npt.NDArray[np.float32]


class _Baseline:
    """Shared by the strategies: names, masks, memory, and what to do where an arm cannot be paid.

    Args:
        recording: gives names and prices; its transitions are not looked at.
    """

    def __init__(self, recording: Recording) -> None:
        self.layout = ObservationLayout.of(recording)
        self.n_arms = len(recording.arms)
        self.stop = self.n_arms if recording.controls else None
        self._names = tuple(arm.name for arm in recording.arms)
        starts = recording.graph.task_start
        worst = recording.graph.node_reserve[starts[starts >= 0], : self.n_arms]
        legal = ~np.isnan(worst)
        price = np.where(legal, worst, 0.0).sum(axis=0) / np.maximum(legal.sum(axis=0), 1)
        order = np.argsort(price, kind="stable")
        # Row a: arm a, then the cheaper arms from the dearest down, then the dearer ones from the cheapest
        # up.
        self._fallback = np.empty((self.n_arms, self.n_arms), dtype=np.int64)
        for place, arm in enumerate(order):
            self._fallback[arm] = np.concatenate([order[place::-1], order[place + 1 :]])

    def _arm(self, arm: int | str) -> int:
        """Index of an arm given by index or by name."""
        if isinstance(arm, str) and arm in self._names:
            return self._names.index(arm)
        if isinstance(arm, (int, np.integer)) and 0 <= arm < self.n_arms:
            return int(arm)
        raise ConfigError(f"arm {arm!r} is unknown; expected an index below {self.n_arms} or one of {self._names}")

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


def _begin(n: int, state: Any, episode_start: npt.NDArray[np.bool_] | None) -> tuple[_Actions, _Masks]:
    """Memory of N episodes (0 at their start) and which of them are at their start."""
    if state is None:
        return np.zeros(n, dtype=np.int64), np.ones(n, dtype=bool)
    start = np.zeros(n, dtype=bool) if episode_start is None else np.asarray(episode_start, dtype=bool)
    return np.where(start, 0, np.asarray(state, dtype=np.int64)), start


class Random(_Baseline):
    """Every legal action with equal probability, deterministic or not; `seed` fixes the draws."""

    def __init__(self, recording: Recording, seed: int = 0) -> None:
        super().__init__(recording)
        self._rng = np.random.default_rng(seed)

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


class AlwaysArm(_Baseline):
    """One arm at every step; where it is masked the dearest cheaper arm that is not, or else the cheapest.

    Args:
        recording: gives names and prices.
        arm: index or name of the arm.
    """

    def __init__(self, recording: Recording, arm: int | str) -> None:
        super().__init__(recording)
        self.arm = self._arm(arm)

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
        return self._pay(np.full(len(masks), self.arm), masks, self._may_stop(observation, masks)), state


class FirstLargeK(_Baseline):
    """A large arm for the first `k` calls of an episode, a small one for the rest.

    Args:
        recording: gives names and prices.
        k: calls of the large arm, >= 0.
        large, small: indices or names of the arms.
    """

    def __init__(self, recording: Recording, k: int, large: int | str, small: int | str) -> None:
        super().__init__(recording)
        if k < 0:
            raise ConfigError(f"k = {k}; expected the number of calls of the large arm, >= 0")
        self.k, self.large, self.small = k, self._arm(large), self._arm(small)

    def predict(
        self,
        observation: _Observation,
        state: Any = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: _Masks | None = None,
    ) -> tuple[_Actions, Any]:
        """See `Policy.predict`; the state is the number of calls made, int64 (N,)."""
        masks = self._masks(observation, action_masks)
        calls, _ = _begin(len(masks), state, episode_start)
        arms = np.where(calls < self.k, self.large, self.small)
        return self._pay(arms, masks, self._may_stop(observation, masks)), calls + 1


class ConfidenceCascade(_Baseline):
    """Starts on the first rung of a ladder; climbs one for good when an answer is not confident enough.

    Where the environment has ``accept``, it accepts a confident answer, and any answer of the last rung.

    Args:
        recording: gives names and prices; its edges carry the signal ``confidence``.
        ladder: indices or names of arms, usually from cheap to dear, at least one.
        threshold: an answer is confident if its signal is at least this.
    """

    def __init__(self, recording: Recording, ladder: Sequence[int | str], threshold: float) -> None:
        super().__init__(recording)
        if not ladder:
            raise ConfigError("ladder is empty; name at least one arm")
        if not np.isfinite(threshold):
            raise ConfigError(f"threshold = {threshold!r}; expected a number, usually between 0 and 1")
        signals = self.layout.edge_signal_names
        if "confidence" not in signals:
            raise ConfigError(
                f"recording {recording.name!r} shows {signals} of a response; a confidence cascade needs "
                "the signal 'confidence'"
            )
        self.ladder = np.array([self._arm(arm) for arm in ladder])
        self.threshold = threshold
        self._column = self.layout.columns["edge_signals"].start + signals.index("confidence")

    def predict(
        self,
        observation: _Observation,
        state: Any = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: _Masks | None = None,
    ) -> tuple[_Actions, Any]:
        """See `Policy.predict`; the state is the rung of each episode, int64 (N,)."""
        masks = self._masks(observation, action_masks)
        rung, start = _begin(len(masks), state, episode_start)
        doubt = ~start & (observation[:, self._column] < np.float32(self.threshold))
        last = rung == len(self.ladder) - 1
        accept = self._may_stop(observation, masks) & ~start & (~doubt | last)
        rung = np.where(doubt & ~last, rung + 1, rung)
        return self._pay(self.ladder[rung], masks, accept), rung


class RandomMixture(_Baseline):
    """One of two arms for a whole episode, drawn at its start: a point of the zero router, played out.

    Args:
        recording: gives names and prices.
        first, second: indices or names of the arms.
        share: probability of the second arm, see `share_at_cost`.
        seed: fixes the draws.
    """

    def __init__(self, recording: Recording, first: int | str, second: int | str, share: float, seed: int = 0) -> None:
        super().__init__(recording)
        if not 0 <= share <= 1:
            raise ConfigError(f"share = {share!r}; expected the probability of the second arm, 0 to 1")
        self.arms, self.share = np.array([self._arm(first), self._arm(second)]), share
        self._rng = np.random.default_rng(seed)

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

    def predict(
        self,
        observation: _Observation,
        state: Any = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: _Masks | None = None,
    ) -> tuple[_Actions, Any]:
        """See `Policy.predict`; the state says which arm each episode has drawn, int64 (N,)."""
        masks = self._masks(observation, action_masks)
        drawn, start = _begin(len(masks), state, episode_start)
        drawn = np.where(start, self._rng.random(len(masks)) < self.share, drawn).astype(np.int64)
        return self._pay(self.arms[drawn], masks, self._may_stop(observation, masks)), drawn
