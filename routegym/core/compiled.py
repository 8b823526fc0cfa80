"""The kernels of `routegym.core.kernels` compiled by numba: one pass, no temporaries, the same bytes.

Floating-point operations keep their order (no fastmath), so results equal numpy's to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from routegym.core import streams
from routegym.core.tables import Fields, Floats, Outcome, Slots, Tables
from routegym.graph.graph import OPEN, TERMINATED, TRUNCATED

__all__ = ["NumbaKernel"]

Rows = npt.NDArray[np.int64]

_GOLDEN, _MIX_1, _MIX_2 = streams.GOLDEN, streams.MIX_1, streams.MIX_2
_S30, _S27, _S31, _S11, _S2, _ONE = (np.uint64(shift) for shift in (30, 27, 31, 11, 2, 1))
_SAMPLE = streams.SAMPLE


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call; keep the machine code on disk if there is a place for it."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # neither the package's folder nor the user's cache is writable
        return numba.njit(nogil=True, error_model="numpy")(function)


@_compiled
def _uniform(key: Any, purpose: Any, counter: Any) -> Any:
    word = key + _GOLDEN * ((np.uint64(counter) << _S2) + purpose + _ONE)
    word = (word ^ (word >> _S30)) * _MIX_1
    word = (word ^ (word >> _S27)) * _MIX_2
    word = word ^ (word >> _S31)
    return np.float64(word >> _S11) * 2.0**-53


def _prefetch(typing_context, array, row, offset):  # type: ignore[no-untyped-def]
    """Have the processor load what stands `offset` bytes into a row of an array, without waiting for it."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        made = context.make_array(signature.args[0])(context, builder, arguments[0])
        stride = builder.extract_value(made.strides, 0)
        place = builder.add(builder.mul(stride, arguments[1]), arguments[2])
        to_bytes = ir.IntType(8).as_pointer()
        address = cgutils.pointer_add(builder, made.data, place, to_bytes)  # type: ignore[no-untyped-call]
        i32 = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, i32, i32, i32])
        name = "llvm.prefetch.p0"
        prefetch = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]
        builder.call(prefetch, [address, i32(0), i32(3), i32(1)])  # for reading, into every cache, data
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp), generate


_fetch: Any = intrinsic(_prefetch)
_AHEAD = 24  # rows between asking for a row and reading it


# Bundles come as plain tuples, which numba unpacks six times faster than named ones.
# One loop per table: the processor then waits for many rows of it at once. Unsigned indices spare numba's test
# for negative ones.


@_compiled
def _look_up(f, s, many, actions, edge, cost, landing):  # type: ignore[no-untyped-def]
    """Edges, costs and landing nodes; False, with no harm done, if a step must not be taken."""
    f, s = Fields(*f), Slots(*s)
    n_actions = f.reserve_usd.shape[1]
    for j in range(len(actions)):
        i = np.uint64(j)
        if s.ended[i]:
            edge[i] = -1
            continue
        if actions[i] < 0 or actions[i] >= n_actions:
            return False
        action, node = np.uint64(actions[i]), np.uint64(s.node[i])
        if j + _AHEAD < len(actions):
            _fetch(f.reserve_usd, s.node[j + _AHEAD], 8 * actions[j + _AHEAD])
            _fetch(f.first, s.node[j + _AHEAD], 4 * actions[j + _AHEAD])
        worst = f.reserve_usd[node, action]
        first = f.first[node, action]
        if first < 0 or not s.spent_usd[i] + worst <= s.budget_usd[i]:
            return False
        edge[i] = first
        cost[i] = worst
        if many:
            edge[i] += np.int64(_uniform(s.key[i], _SAMPLE, s.draws[i]) * f.samples[node, action])
    reserved = True
    for j in range(len(actions)):
        i = np.uint64(j)
        if edge[i] < 0:
            cost[i] = 0.0
            landing[i] = s.node[i]
            continue
        at = np.uint64(edge[i])
        if j + _AHEAD < len(actions):
            _fetch(f.cost_usd, edge[j + _AHEAD], 0)
        reserved &= f.cost_usd[at] <= cost[i]
        cost[i] = f.cost_usd[at]
        landing[i] = f.next[at]
    return reserved


@_compiled
def _move(f, s, landing, edge, cost, score, terminated, truncated):  # type: ignore[no-untyped-def]
    f, s = Fields(*f), Slots(*s)
    for j in range(len(edge)):  # no branches: which episodes end cannot be predicted
        i = np.uint64(j)
        node = np.uint64(landing[i])
        if j + _AHEAD < len(edge):
            _fetch(f.floor_usd, landing[j + _AHEAD], 0)
        moved = edge[i] >= 0
        spent = s.spent_usd[i] + cost[i]
        s.spent_usd[i] = spent
        s.node[i] = landing[i]
        s.draws[i] += moved
        status, last = f.status[node], np.float64(f.score[node])
        goes_on = status == OPEN
        affords = spent + f.floor_usd[node] <= s.budget_usd[i]
        stops = moved & ((goes_on & (not affords)) | (status == TERMINATED))
        cut = moved & (status == TRUNCATED)
        score[i] = last if moved & (not goes_on) else 0.0
        terminated[i] = stops
        truncated[i] = cut
        s.ended[i] |= stops | cut
    for k in range(s.response_signals.shape[1]):
        for j in range(len(edge)):
            i = np.uint64(j)
            if j + _AHEAD < len(edge):
                _fetch(f.signals, edge[j + _AHEAD], 4 * k)
            if edge[i] >= 0:
                s.response_signals[i, k] = f.signals[np.uint64(edge[i]), k]


@_compiled
def _observe(f, s, scale, rows, out):  # type: ignore[no-untyped-def]
    f, s = Fields(*f), Slots(*s)
    static = f.features.shape[1] - 1
    n_signals, n_actions = s.response_signals.shape[1], f.reserve_usd.shape[1]
    legal = static + n_signals
    for j in range(len(rows)):
        i = np.uint64(rows[j])
        node = np.uint64(s.node[i])
        if j + _AHEAD < len(rows):
            soon = s.node[rows[j + _AHEAD]]
            for low in range(0, min(4 * static, 192), 64):  # the processor itself sees a longer row coming
                _fetch(f.features, soon, low)
            _fetch(f.features, soon, 4 * static)
            for low in range(0, 8 * n_actions, 64):
                _fetch(f.reserve_usd, soon, low)
            _fetch(f.reserve_usd, soon, 8 * n_actions - 1)
        spent, budget, lambda_ = s.spent_usd[i], s.budget_usd[i], s.lambda_[i]
        for k in range(static):
            out[i, k] = f.features[node, k]
        for k in range(n_signals):
            out[i, static + k] = s.response_signals[i, k]
        if s.ended[i]:
            for k in range(n_actions):
                out[i, legal + k] = np.float32(1.0)
        else:
            for k in range(n_actions):
                fits = spent + f.reserve_usd[node, k] <= budget
                out[i, legal + k] = np.float32(1.0) if fits else np.float32(0.0)
        out[i, legal + n_actions] = 1.0 - scale / (scale + (budget - spent))
        out[i, legal + n_actions + 1] = lambda_ / (1.0 + lambda_)
        out[i, legal + n_actions + 2] = f.features[node, static]


@_compiled
def _legal(f, s, out):  # type: ignore[no-untyped-def]
    f, s = Fields(*f), Slots(*s)
    for i in range(len(out)):
        node, spent, budget, ended = s.node[i], s.spent_usd[i], s.budget_usd[i], s.ended[i]
        for k in range(out.shape[1]):
            out[i, k] = ended or spent + f.reserve_usd[node, k] <= budget


@_compiled
def _draw(s, purpose, rows, out):  # type: ignore[no-untyped-def]
    s = Slots(*s)
    for j in range(len(rows)):
        i = rows[j]
        out[j] = _uniform(s.key[s.group[i]], purpose, s.episode[i])


@_compiled
def _begin(s, rows, node, budget, lambda_):  # type: ignore[no-untyped-def]
    s = Slots(*s)
    for j in range(len(rows)):
        i = rows[j]
        s.node[i], s.budget_usd[i], s.lambda_[i] = node[j], budget[j], lambda_[j]
        s.spent_usd[i] = 0.0
        s.response_signals[i] = np.float32(0.0)
        s.ended[i] = False
        s.episode[i] += 1


class NumbaKernel:
    """See `routegym.core.kernels.Kernel`."""

    def step(self, tables: Tables, slots: Slots, actions: npt.NDArray[np.int64]) -> Outcome | None:
        """See `Kernel`."""
        outcome = Outcome.empty(len(actions))
        landing = np.empty(len(actions), dtype=np.int32)
        if not _look_up(
            tuple(tables.fields), tuple(slots), tables.many, actions, outcome.edge, outcome.cost_usd, landing
        ):
            return None
        _move(tuple(tables.fields), tuple(slots), landing, *outcome)
        return outcome

    def observe(self, tables: Tables, slots: Slots, rows: Rows, out: npt.NDArray[np.float32]) -> None:
        """See `Kernel`."""
        _observe(tuple(tables.fields), tuple(slots), tables.scale_usd, rows, out)

    def legal(self, tables: Tables, slots: Slots) -> npt.NDArray[np.bool_]:
        """See `Kernel`."""
        out = np.empty((len(slots.node), tables.fields.reserve_usd.shape[1]), dtype=bool)
        _legal(tuple(tables.fields), tuple(slots), out)
        return out

    def uniform(self, slots: Slots, purpose: np.uint64, rows: Rows) -> Floats:
        """See `Kernel`."""
        out = np.empty(len(rows))
        _draw(tuple(slots), purpose, rows, out)
        return out

    def begin(self, slots: Slots, rows: Rows, node: npt.NDArray[np.int64], budget_usd: Floats, lambda_: Floats) -> None:
        """See `Kernel`."""
        _begin(tuple(slots), rows, node, budget_usd, lambda_)
