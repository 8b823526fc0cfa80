"""The inner loops of the environment as array operations, and the choice between them and compiled ones.

`routegym.core.compiled` has the same functions for numba and is taken where numba is installed (the extra
``fast``). Both give the same bytes. Set the environment variable ``ROUTEGYM_KERNEL`` to ``numpy`` to do
without, to ``numba`` to make a missing numba an error; it is read when an environment is made.
"""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.util import find_spec
from typing import Protocol

import numpy as np
import numpy.typing as npt

from routegym.core import streams
from routegym.core.observation import write_observation
from routegym.core.tables import Floats, Outcome, Slots, Tables
from routegym.errors import ConfigError, MissingExtraError
from routegym.graph.graph import OPEN, TERMINATED, TRUNCATED

__all__ = ["Kernel", "NumpyKernel", "choose", "load"]

Rows = npt.NDArray[np.int64]


class Kernel(Protocol):
    """What an environment does for all its episodes at once."""

    def step(self, tables: Tables, slots: Slots, actions: npt.NDArray[np.int64]) -> Outcome | None:
        """Take an action in every episode that goes on.

        Returns:
            What came of it; None, and nothing has changed, if any action is out of range or not legal, an edge is
            missing, or one costs more than was reserved.
        """
        ...

    def observe(self, tables: Tables, slots: Slots, rows: Rows, out: npt.NDArray[np.float32]) -> None:
        """Write the flat observations of some slots into the same rows of `out` (N, width)."""
        ...

    def legal(self, tables: Tables, slots: Slots) -> npt.NDArray[np.bool_]:
        """Which actions are legal, bool (N, n_actions); all of them where an episode is over."""
        ...

    def uniform(self, slots: Slots, purpose: np.uint64, rows: Rows) -> Floats:
        """Numbers in [0, 1) for the next episode of some slots, float64 (rows,)."""
        ...

    def begin(self, slots: Slots, rows: Rows, node: npt.NDArray[np.int64], budget_usd: Floats, lambda_: Floats) -> None:
        """Start fresh episodes in some slots; all arguments (rows,)."""
        ...


class NumpyKernel:
    """See `Kernel`."""

    def step(self, tables: Tables, slots: Slots, actions: npt.NDArray[np.int64]) -> Outcome | None:
        """See `Kernel`."""
        fields = tables.fields
        n_actions = fields.reserve_usd.shape[1]
        over = slots.ended.copy()
        some_over = bool(over.any())
        if some_over:
            actions = np.where(over, 0, actions)
        if actions.min() < 0 or actions.max() >= n_actions:
            return None
        place = slots.node * n_actions
        place += actions
        worst = fields.reserve_usd.reshape(-1).take(place)
        admitted = slots.spent_usd + worst <= slots.budget_usd
        edge: npt.NDArray[np.int64] = fields.first.reshape(-1).take(place).astype(np.int64)
        if some_over:
            admitted |= over
            edge[over] = 0  # anything that exists: it is looked up and not used
        if edge.min() < 0 or not admitted.all():
            return None
        if tables.many:
            count = fields.samples.reshape(-1).take(place)
            edge += (streams.uniform(slots.key, streams.SAMPLE, slots.draws) * count).astype(np.int64)
        record = tables.edges.take(edge)
        cost, landing = record["cost_usd"].copy(), record["next"]
        if some_over:
            edge[over], cost[over] = -1, 0.0
            landing = np.where(over, slots.node, landing)
            worst[over] = 0.0
        if (cost > worst).any():
            return None

        slots.spent_usd[:] += cost
        slots.node[:] = landing
        if slots.response_signals.shape[1]:
            np.copyto(slots.response_signals, record["signals"], where=~over[:, None])
        after = tables.nodes.take(landing)
        status = after["status"]
        goes_on = status == OPEN
        bankrupt = goes_on & ~(slots.spent_usd + after["floor_usd"] <= slots.budget_usd)
        terminated = bankrupt | (status == TERMINATED)
        truncated = status == TRUNCATED
        score = np.where(goes_on, 0.0, after["score"]).astype(np.float64)
        if some_over:
            terminated[over] = truncated[over] = False
            score[over] = 0.0
        slots.draws[:] += edge >= 0
        slots.ended[:] |= terminated | truncated
        return Outcome(edge, cost, score, terminated, truncated)

    def observe(self, tables: Tables, slots: Slots, rows: Rows, out: npt.NDArray[np.float32]) -> None:
        """See `Kernel`."""
        everyone = len(rows) == len(slots.node)
        part = out if everyone else np.empty((len(rows), out.shape[1]), dtype=np.float32)
        own = slots if everyone else Slots._make(column[rows] for column in slots)
        write_observation(
            part,
            tables.fields.features.take(own.node, axis=0),
            own.response_signals,
            self.legal(tables, own),
            spent_usd=own.spent_usd,
            budget_usd=own.budget_usd,
            lambda_=own.lambda_,
            scale_usd=tables.scale_usd,
        )
        if not everyone:
            out[rows] = part

    def legal(self, tables: Tables, slots: Slots) -> npt.NDArray[np.bool_]:
        """See `Kernel`."""
        worst = tables.fields.reserve_usd.take(slots.node, axis=0)
        worst += slots.spent_usd[:, None]
        legal: npt.NDArray[np.bool_] = worst <= slots.budget_usd[:, None]
        if slots.ended.any():
            legal[slots.ended] = True
        return legal

    def uniform(self, slots: Slots, purpose: np.uint64, rows: Rows) -> Floats:
        """See `Kernel`."""
        return streams.uniform(slots.key[slots.group[rows]], purpose, slots.episode[rows])

    def begin(self, slots: Slots, rows: Rows, node: npt.NDArray[np.int64], budget_usd: Floats, lambda_: Floats) -> None:
        """See `Kernel`."""
        slots.node[rows] = node
        slots.budget_usd[rows] = budget_usd
        slots.lambda_[rows] = lambda_
        slots.spent_usd[rows] = 0.0
        slots.response_signals[rows] = 0.0
        slots.ended[rows] = False
        slots.episode[rows] += 1


def choose() -> str:
    """Name of the kernel for a fresh environment, ``numpy`` or ``numba``; loads nothing.

    Raises:
        ConfigError: the environment variable has another value.
        MissingExtraError: it asks for numba, which is not installed.
    """
    wanted = os.environ.get("ROUTEGYM_KERNEL", "auto")
    if wanted not in ("auto", "numpy", "numba"):
        raise ConfigError(f"ROUTEGYM_KERNEL = {wanted!r}; expected 'numpy', 'numba' or 'auto'")
    if wanted == "numpy":
        return "numpy"
    installed = find_spec("numba") is not None
    if wanted == "numba" and not installed:
        raise MissingExtraError("numba", "fast")
    return "numba" if installed else "numpy"


@lru_cache(maxsize=2)
def load(name: str) -> Kernel:
    """The kernel of this name."""
    if name == "numpy":
        return NumpyKernel()
    from routegym.core.compiled import NumbaKernel

    return NumbaKernel()
