"""What the policy sees: one float32 row per episode, every column in [0, 1] and named."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from routegym.graph.recording import Recording

__all__ = ["ObservationLayout", "situation_features", "situation_texts", "static_features", "write_observation"]


@dataclass(frozen=True)
class ObservationLayout:
    """Names and places of the columns of a flat observation.

    ===============  =============================================================================
    group            columns
    ===============  =============================================================================
    ``node_signals``  what the workflow shows of the situation
    ``task``          the embedding of the task's prompt, where its task set has one
    ``arm_reserve``   per action: worst case / cost scale, at most 1
    ``edge_signals``  what is seen of the last response; 0 before the first call
    ``affordable``    per action: 1 where it is legal now
    ``remaining``     1 - scale / (scale + remaining budget), scale = cost scale; 1 without a budget
    ``lambda``        lambda / (1 + lambda)
    ``step``          calls made / (calls made + 4)
    ===============  =============================================================================
    """

    node_signal_names: tuple[str, ...]
    edge_signal_names: tuple[str, ...]
    action_names: tuple[str, ...]
    embedding_width: int = 0

    @classmethod
    def of(cls, recording: Recording) -> ObservationLayout:
        """The layout of a recording's observations."""
        width = recording.tasks.embedding.shape[1]
        return cls(recording.node_signal_names, recording.edge_signal_names, recording.action_names, width)

    @cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Column names of each group, in order."""
        return {
            "node_signals": self.node_signal_names,
            "task": tuple(f"embedding_{column}" for column in range(self.embedding_width)),
            "arm_reserve": self.action_names,
            "edge_signals": self.edge_signal_names,
            "affordable": self.action_names,
            "remaining": ("remaining",),
            "lambda": ("lambda",),
            "step": ("step",),
        }

    @cached_property
    def columns(self) -> dict[str, slice]:
        """Where each group stands in a flat observation."""
        places, low = {}, 0
        for group, names in self.groups.items():
            places[group] = slice(low, low + len(names))
            low += len(names)
        return places

    @cached_property
    def names(self) -> tuple[str, ...]:
        """One name per column, ``group/name``."""
        return tuple(f"{group}/{name}" for group, names in self.groups.items() for name in names)

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.names)

    def as_dict(self, flat: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        """The groups of flat observations (n, width), as views."""
        return {group: flat[..., place] for group, place in self.columns.items()}


def static_features(recording: Recording, nodes: slice) -> npt.NDArray[np.float32]:
    """`situation_features` of situations of a recording."""
    graph, embedding = recording.graph, recording.tasks.embedding
    rows = embedding[graph.node_task[nodes]] if embedding.shape[1] else embedding[:0]
    return situation_features(
        graph.node_signals[nodes], rows, graph.node_reserve[nodes], graph.node_step[nodes], recording.cost_scale_usd
    )


def situation_features(
    signals: npt.NDArray[np.float32],
    embedding: npt.NDArray[np.float32],
    reserve_usd: npt.NDArray[np.float64],
    step: npt.NDArray[Any],
    scale_usd: float,
) -> npt.NDArray[np.float32]:
    """Columns of `ObservationLayout` that depend on the situation alone: those that come first, and the last.

    Args:
        signals: of the workflow, float32 (n, k).
        embedding: of the task's prompt, float32 (n, d); of no use where d is 0.
        reserve_usd: worst case of each action, float64 (n, n_actions); NaN = not legal under any budget.
        step: how far along the episode is, (n,).
        scale_usd: cost scale of the recording.

    Returns:
        float32 (n, k + d + n_actions + 1).
    """
    own, n_actions = signals.shape[1], reserve_usd.shape[1]
    width = own + embedding.shape[1]
    rows = np.empty((len(signals), width + n_actions + 1), dtype=np.float32)
    rows[:, :own] = signals
    if width > own:
        rows[:, own:width] = embedding
    reserve = np.nan_to_num(reserve_usd / scale_usd, nan=0.0, posinf=1.0)
    rows[:, width : width + n_actions] = np.minimum(reserve, 1.0)
    rows[:, -1] = step / (step + 4.0)
    return rows


def write_observation(
    out: npt.NDArray[np.float32],
    features: npt.NDArray[np.float32],
    response_signals: npt.NDArray[np.float32],
    legal: npt.NDArray[np.bool_],
    *,
    spent_usd: npt.NDArray[np.float64],
    budget_usd: npt.NDArray[np.float64],
    lambda_: npt.NDArray[np.float64],
    scale_usd: float,
) -> None:
    """Fill flat observations (n, width) from `situation_features` and what an episode adds to them; (n,) or (n, k)."""
    static = features.shape[1] - 1
    n_actions, n_signals = legal.shape[1], response_signals.shape[1]
    out[:, :static] = features[:, :static]
    out[:, static : static + n_signals] = response_signals
    out[:, static + n_signals : static + n_signals + n_actions] = legal
    out[:, -3] = 1.0 - scale_usd / (scale_usd + (budget_usd - spent_usd))
    out[:, -2] = lambda_ / (1.0 + lambda_)
    out[:, -1] = features[:, -1]


def situation_texts(recording: Recording, nodes: npt.NDArray[Any]) -> npt.NDArray[np.object_]:
    """Text of each situation, str (n,): the task's prompt, and below it the situation's own where that differs."""
    prompts = recording.tasks.prompts
    tasks = recording.graph.node_task[nodes].tolist()
    texts = np.empty(len(nodes), dtype=object)
    texts[:] = [
        text if text == prompts[task] else f"{prompts[task]}\n{text}"
        for task, text in zip(tasks, recording.texts.take(nodes), strict=True)
    ]
    return texts
