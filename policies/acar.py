"""ACAR-style routing: how much a few cheap answers disagree decides how many more models are asked.

Paper: Kumaresan, "ACAR: Adaptive Complexity Routing for Multi-Model Ensembles with Auditable Decision Traces", arXiv
2602.21231: the disagreement sigma of N = 3 probe samples chooses a one-, two- or three-model mode.
Deviations: a reconstruction. The probes are answers of different arms, since a recorded arm that is asked again mostly
gives the same answer; where an episode has too few calls there are fewer probes, so that one call is left. Sigma is
(distinct answers - 1) / (N - 1), from the agreement that the workflow shows. A mode hands in its last answer: the
workflow counts no votes. Every probe is charged. Arms and thresholds are chosen on the validation split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.errors import ConfigError
from routegym.graph.graph import OPEN
from routegym.policies.baselines import Baseline, ladder_of
from routegym.policies.selection import Selected, select

if TYPE_CHECKING:
    from routegym.graph.recording import Recording
    from routegym.policies.algorithm import Problem
    from routegym.policies.training import Training

__all__ = ["ACAR", "ProbePolicy"]

_Actions = npt.NDArray[np.int64]
_Masks = npt.NDArray[np.bool_]
_Observation = npt.NDArray[np.float32]

_SIGNAL = "node_signals/agreement"
_NEVER = 2.0  # above every sigma


class ProbePolicy(Baseline):
    """Asks the probes in turn, then accepts the last answer, or asks one or two more arms and accepts theirs.

    Args:
        recording: gives names and prices; shows the signal ``agreement`` of a situation (the share of the answers that
            agree with the last one) and has a control action.
        probes: indices or names of at least two arms, the one whose answer may be accepted last.
        more: the arms of the two-model mode and, after it, of the three-model mode; where only one call is left, the
            three-model mode asks the second of them alone.
        thresholds: from which sigma on the two-model and the three-model mode are taken.
    """

    kind = "acar"

    def __init__(
        self,
        recording: Recording,
        probes: Sequence[int | str],
        more: Sequence[int | str],
        thresholds: Sequence[float] = (0.5, 1.0),
    ) -> None:
        super().__init__(recording)
        if _SIGNAL not in self.layout.names or self.stop is None or recording.tells_success:
            raise ConfigError(
                f"recording {recording.name!r} shows {self.layout.node_signal_names} of a situation and has the "
                f"controls {recording.controls}; ACAR needs the signal 'agreement' and a control that accepts"
            )
        self.probes, self.more, self.thresholds = self._rungs(probes), self._rungs(more), tuple(thresholds)
        n = len(self.probes)
        if n < 2:
            raise ConfigError(f"probes = {self._named(self.probes)}; expected at least two arms, to compare")
        if len(self.more) != 2:
            raise ConfigError(f"more = {self._named(self.more)}; expected two arms")
        if len(self.thresholds) != 2 or not 0 < self.thresholds[0] <= self.thresholds[1]:
            raise ConfigError(f"thresholds = {self.thresholds}; expected two numbers, 0 < first <= second")
        room = most_calls(recording) - n
        if room < 1:
            raise ConfigError(
                f"{n} probes, but an episode of recording {recording.name!r} has {most_calls(recording)} calls at "
                "most; expected fewer probes than that"
            )
        self._column = self.layout.names.index(_SIGNAL)
        # Row d - 1: the arms to ask after d distinct answers, -1 for none.
        self.plan = np.full((n, 2), -1)
        for distinct in range(1, n + 1):
            sigma = (distinct - 1) / (n - 1)
            further = self.more[: sum(sigma >= threshold for threshold in self.thresholds)][-room:]
            self.plan[distinct - 1, : len(further)] = further

    def settings(self) -> dict[str, Any]:
        """See `Baseline.settings`."""
        return {
            "probes": self._named(self.probes),
            "more": self._named(self.more),
            "thresholds": list(self.thresholds),
        }

    def _choose(
        self, observation: _Observation, state: Any, episode_start: _Masks | None, masks: _Masks
    ) -> tuple[_Actions, Any]:
        """See `Baseline._choose`; the state is calls made and distinct answers of the probes, int64 (N, 2)."""
        n_probes = len(self.probes)
        memory = np.zeros((len(masks), 2), dtype=np.int64)
        if state is not None:
            start = np.zeros(len(masks), dtype=bool) if episode_start is None else np.asarray(episode_start, dtype=bool)
            memory[~start] = np.asarray(state)[~start]
        calls, distinct = memory.T
        new = observation[:, self._column] * calls < 1.5  # nobody before gave this answer
        distinct = distinct + ((calls > 0) & (calls <= n_probes) & new)
        probing = calls < n_probes
        probe = self.probes[np.minimum(calls, n_probes - 1)]
        row, step = np.maximum(distinct - 1, 0), np.maximum(calls - n_probes, 0)
        further = np.where(step < 2, self.plan[row, np.minimum(step, 1)], -1)
        wanted = np.where(probing, probe, further)
        accept = ~probing & (further < 0) & self._may_stop(observation, masks)
        return self._pay(np.maximum(wanted, 0), masks, accept), np.column_stack([calls + 1, distinct])


@dataclass(frozen=True)
class ACAR:
    """ACAR-style: probes, modes and thresholds are chosen for each budget and price of cost."""

    probes: int = 3
    """Arms that are asked first; fewer where that leaves no call for another."""

    def __post_init__(self) -> None:
        if self.probes < 2:
            raise ConfigError(f"probes = {self.probes}; expected at least 2, to compare")

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> Selected:
        """See `routegym.policies.algorithm.Algorithm`.

        Raises:
            ConfigError: the recording shows no agreement, or has too few arms or calls.
        """
        recording = problem.recording
        arms, _ = ladder_of(recording)
        n = min(self.probes, max(2, most_calls(recording) - 1), max(2, len(arms)))
        levels = [number / (n - 1) for number in range(1, n)]
        thresholds = [(low, high) for low in levels for high in (*levels, _NEVER) if low <= high]
        probes = list(combinations(arms, n)) or [(arms[0],) * n]
        variants: dict[tuple[bytes, bytes], ProbePolicy] = {}
        for first in probes:
            for more in combinations_with_replacement(arms, 2):
                for pair in thresholds:
                    variant = ProbePolicy(recording, first, more, pair)
                    variants.setdefault((variant.probes.tobytes(), variant.plan.tobytes()), variant)
        return select(problem, list(variants.values()), seed)


def most_calls(recording: Recording) -> int:
    """Calls that an episode may have."""
    graph = recording.graph
    return int(graph.node_step[graph.node_status == OPEN].max()) + 1
