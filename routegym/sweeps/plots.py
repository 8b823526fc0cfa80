"""The picture of a sweep: parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.errors import ConfigError, MissingExtraError
from routegym.sweeps.config import Objective, SweepConfig
from routegym.sweeps.outcomes import Outcome, best_first

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["parallel_coordinates_figure"]

_Ticks = list[tuple[float, str]]


@dataclass(frozen=True)
class _Axis:
    """A vertical line: where on it, from 0 to 1, a trial's line crosses, and what is written beside it."""

    label: str
    place: Callable[[Outcome], float]
    ticks: _Ticks


def parallel_coordinates_figure(
    config: SweepConfig, objectives: Sequence[Objective], outcomes: Sequence[Outcome]
) -> Figure:
    """Each finished trial is a line through its hyperparameters to what came of it; the better, the darker.

    Trials that were ended early are grey, and end before that.

    The figure belongs to no window; save it with ``figure.savefig(path)``.

    Args:
        config: of the sweep; hyperparameters that do not differ are left out.
        objectives: the first one gives the colours.
        outcomes: of its trials.

    Raises:
        ConfigError: no trial has finished.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "plots") from None

    finished = [outcome for outcome in best_first(outcomes, objectives) if outcome.state == "finished"]
    if not finished:
        raise ConfigError("parallel_coordinates_figure was given no finished trial; expected at least one")
    axes_of = [_of_parameter(name, config, finished) for name in config.parameters]
    lines = [axis for axis in axes_of if axis is not None]
    lines += [_of_objective(objective, finished) for objective in objectives]
    figure = Figure(figsize=(max(5.0, 1.55 * len(lines)), 4.2), dpi=100, layout="constrained")
    axes: Any = figure.add_subplot()
    axes.set_axis_off()
    axes.set(xlim=(-0.3, len(lines) - 0.55), ylim=(-0.06, 1.14))
    for outcome in outcomes:
        if outcome.state == "pruned":
            x, y = _curve([line.place(outcome) for line in lines[: -len(objectives)]])
            axes.plot(x, y, color="0.8", linewidth=0.9)
    first = objectives[0]
    goodness = _of_objective(first, finished)
    colours = colormaps["viridis_r"]
    for outcome in reversed(finished):  # the best on top
        good = goodness.place(outcome) if first.goal == "maximize" else 1 - goodness.place(outcome)
        x, y = _curve([line.place(outcome) for line in lines])
        best = outcome is finished[0]
        axes.plot(x, y, color=colours(good), linewidth=3.0 if best else 1.4, alpha=1.0 if best else 0.75)
    for place, line in enumerate(lines):
        axes.plot([place, place], [0, 1], color="0.25", linewidth=1.0, zorder=5)
        axes.text(place, 1.06, line.label, ha="center", va="bottom", fontsize=9, weight="bold")
        for height, text in line.ticks:
            axes.plot([place - 0.03, place], [height, height], color="0.25", linewidth=1.0, zorder=5)
            box = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
            axes.text(place - 0.05, height, text, ha="right", va="center", fontsize=7.5, zorder=6, bbox=box)
    return figure


def _curve(heights: Sequence[float]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """A smooth line through the crossings, level at each, so that lines that meet on an axis can be told apart."""
    if len(heights) < 2:
        return np.zeros(len(heights)), np.asarray(heights)
    x = np.linspace(0, len(heights) - 1, 40 * (len(heights) - 1) + 1)
    left = np.minimum(x.astype(int), len(heights) - 2)
    part = x - left
    ease = part * part * (3 - 2 * part)
    level = np.asarray(heights)
    return x, level[left] * (1 - ease) + level[left + 1] * ease


def _of_parameter(name: str, config: SweepConfig, finished: Sequence[Outcome]) -> _Axis | None:
    parameter = config.parameters[name]
    if parameter.min is None or parameter.max is None:
        choices = parameter.choices or ()
        if len(choices) < 2:
            return None
        height = {repr(value): number / (len(choices) - 1) for number, value in enumerate(choices)}
        ticks = [(height[repr(value)], str(value)) for value in choices]
        return _Axis(name, lambda outcome: height[repr(outcome.values[name])], ticks)
    return _numbers(name, float(parameter.min), float(parameter.max), parameter.logarithmic, _value_of(name))


def _of_objective(objective: Objective, finished: Sequence[Outcome]) -> _Axis:
    found = [outcome.summary[objective.name] for outcome in finished]
    low, high = min(found), max(found)
    if low == high:
        low, high = low - abs(low or 1) / 100, high + abs(high or 1) / 100
    return _numbers(objective.name, low, high, False, lambda outcome: outcome.summary[objective.name])


def _value_of(name: str) -> Callable[[Outcome], float]:
    def value(outcome: Outcome) -> float:
        found = outcome.values[name]
        assert isinstance(found, int | float)
        return float(found)

    return value


def _numbers(label: str, low: float, high: float, logarithmic: bool, value: Callable[[Outcome], float]) -> _Axis:
    scale: Callable[[float], float] = math.log if logarithmic else float
    start, length = scale(low), scale(high) - scale(low)

    def height(number: float) -> float:
        return (scale(number) - start) / length

    if logarithmic:
        inner = [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
        marks = [low, *(mark for mark in inner if 0.08 < height(mark) < 0.92), high]
    else:
        marks = np.linspace(low, high, 5).tolist()
    return _Axis(label, lambda outcome: height(value(outcome)), [(height(mark), f"{mark:.3g}") for mark in marks])
