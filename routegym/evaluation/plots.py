"""The cost-accuracy picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from routegym.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = ["Curve", "frontier_figure"]

_Floats = npt.NDArray[np.float64]

# Colours of Okabe and Ito (2008), distinct also for colour-blind readers; references are black and grey.
_POLICY = ("#0072B2", "#D55E00", "#009E73")
_FIXED = ("#CC79A7", "#E69F00", "#009E73", "#56B4E9", "#8C6D31", "#D55E00")
_FIXED_DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1, 1.2)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (8, 2)),
)
_ORACLE_DASHES: tuple[Any, ...] = ("-", (0, (1, 1.5)), (0, (6, 2)))


@dataclass(frozen=True)
class Curve:
    """One strategy in the picture."""

    label: str
    """Name in the legend, or beside the marker of an arm."""
    costs: npt.ArrayLike
    """Mean cost in USD of each point, (p,); one point for an arm."""
    scores: npt.ArrayLike
    """Mean score of each point, (p,)."""
    kind: Literal["policy", "fixed", "arm", "zero", "oracle"] = "policy"
    """What it is, which decides how it is drawn."""
    low: npt.ArrayLike | None = None
    """Lower end of the 95 % interval of the scores, (p,)."""
    high: npt.ArrayLike | None = None
    """Upper end."""


def frontier_figure(curves: Sequence[Curve], title: str = "") -> Figure:
    """Mean score against mean cost: policies with 95 % bands, fixed strategies, arms, zero router, oracles.

    Points are joined by straight lines in cost, which is what mixing two of them achieves (such lines bend
    where the cost axis is logarithmic, as it is for arms whose costs differ by more than a factor of 8). The
    figure belongs to no window; save it with ``figure.savefig(path)``, 800 x 560 pixels at the default
    resolution.

    Args:
        curves: what to draw.
        title: heading.

    Raises:
        ConfigError: no curves.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, NullLocator
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots") from error
    if not curves:
        raise ConfigError("frontier_figure was given no curves; expected at least one")
    figure = Figure(figsize=(8, 5.6), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    arms = np.concatenate([_points(curve)[0] for curve in curves if curve.kind == "arm"] or [np.empty(0)])
    costs = np.concatenate([_points(curve)[0] for curve in curves])
    scale, unit = _unit(float(costs.max()))
    logarithmic = bool(len(arms)) and arms.min() > 0 and arms.max() > 8 * arms.min()
    counts = dict.fromkeys(("policy", "fixed", "arm", "zero", "oracle"), 0)
    for curve in curves:
        _draw(axes, curve, counts[curve.kind], scale, logarithmic)
        counts[curve.kind] += 1

    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(arms.min() / scale / 1.6, max(float(costs.max()), arms.max()) / scale * 1.25)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(f"mean cost per task ({unit})")
    axes.set_ylabel("mean score")
    axes.set_title(title, loc="left", fontsize=12)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*_legend(axes), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.draw_without_rendering()
    _label_arms(axes, [curve for curve in curves if curve.kind == "arm"], scale)
    return figure


def _points(curve: Curve) -> tuple[_Floats, _Floats]:
    return np.atleast_1d(np.asarray(curve.costs, float)), np.atleast_1d(np.asarray(curve.scores, float))


def _unit(largest: float) -> tuple[float, str]:
    for scale, unit in ((1.0, "USD"), (1e-3, "10$^{-3}$ USD"), (1e-6, "10$^{-6}$ USD")):
        if largest >= scale:
            return scale, unit
    return 1e-9, "10$^{-9}$ USD"


def _draw(axes: Axes, curve: Curve, number: int, scale: float, logarithmic: bool) -> None:
    costs, scores = _points(curve)
    order = np.argsort(costs, kind="stable")
    costs, scores = costs[order] / scale, scores[order]
    if curve.kind == "arm":
        axes.plot(costs, scores, "D", color="black", markersize=5, zorder=5, label="single arms")
        return
    # Straight in cost also on a logarithmic axis, so draw each segment through many points.
    dense = costs
    if logarithmic and costs[-1] > costs[0]:
        inner = np.geomspace(max(costs[0], costs[-1] * 1e-4), costs[-1], 400)
        dense = np.unique(np.concatenate([costs, inner]))
    line = np.interp(dense, costs, scores)
    style: dict[str, Any] = {"label": curve.label}
    if curve.kind == "policy":
        color = _POLICY[number % len(_POLICY)]
        style |= {"color": color, "linewidth": 2.4, "zorder": 6}
        axes.plot(costs, scores, "o", color=color, markersize=5, zorder=7)
        if curve.low is not None and curve.high is not None:
            low, high = (np.asarray(end, float)[order] for end in (curve.low, curve.high))
            low, high = np.interp(dense, costs, low), np.interp(dense, costs, high)
            axes.fill_between(dense, low, high, color=color, alpha=0.2, linewidth=0, zorder=2)
    elif curve.kind == "zero":
        style |= {"color": "black", "linewidth": 1.6, "linestyle": (0, (4, 2)), "zorder": 4}
    elif curve.kind == "oracle":
        dashes = _ORACLE_DASHES[number % len(_ORACLE_DASHES)]
        style |= {"color": "0.55", "linewidth": 1.8, "linestyle": dashes, "zorder": 3}
    else:
        dashes = _FIXED_DASHES[number % len(_FIXED_DASHES)]
        style |= {"color": _FIXED[number % len(_FIXED)], "linewidth": 1.3, "linestyle": dashes, "zorder": 3}
        if len(costs) == 1:
            style |= {"marker": "s", "markersize": 4}
    axes.plot(dense, line, **style)


def _legend(axes: Axes) -> tuple[list[Any], list[str]]:
    """Handles and labels, each label once."""
    unique = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    return list(unique.values()), list(unique)


def _label_arms(axes: Axes, arms: Sequence[Curve], scale: float) -> None:
    """Name each arm near its marker, where the name covers no other name and as little else as may be."""
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    covered = np.concatenate([_pixels(axes, line) for line in axes.lines] or [np.empty((0, 2))])
    taken: list[Bbox] = []
    steps = [(dx, dy) for dx in (1, 0, -1) for dy in (-1, 0, 1) if dx or dy]
    spots = np.array([(r * dx, r * dy) for r in (6, 11, 17, 24, 32) for dx, dy in steps], dtype=float)
    for curve in arms:
        costs, scores = _points(curve)
        point = (float(costs[0]) / scale, float(scores[0]))
        text = axes.annotate(
            curve.label,
            point,
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=8.5,
            zorder=8,
            arrowprops={"arrowstyle": "-", "color": "0.35", "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3},
        )
        text.set_in_layout(False)
        size = np.array(Text.get_window_extent(text).size)
        # The name stands to the side of the spot that is away from the marker.
        low = axes.transData.transform(point) + spots * axes.figure.dpi / 72 + (np.sign(spots) - 1) / 2 * size
        found = []
        for number, corner in enumerate(low):
            box = Bbox([corner - 1, corner + size + 1])
            hidden = int(((covered > box.min) & (covered < box.max)).all(axis=1).sum())
            inside = all(axes.bbox.contains(*end) for end in (box.min, box.max))
            clash = sum(box.overlaps(other) for other in taken) + (not inside)
            found.append((1000.0 * clash + hidden + 0.8 * float(np.hypot(*spots[number])), number, box))
        _, number, box = min(found, key=lambda item: item[:2])
        dx, dy = spots[number]
        text.set_horizontalalignment("left" if dx > 0 else "right" if dx < 0 else "center")
        text.set_verticalalignment("bottom" if dy > 0 else "top" if dy < 0 else "center")
        text.xyann = (dx, dy)
        taken.append(box)


def _pixels(axes: Axes, line: Line2D) -> _Floats:
    """Points along a line, about two pixels apart and so that markers weigh more, float (n, 2)."""
    corners = axes.transData.transform(np.column_stack([line.get_xdata(), line.get_ydata()]))
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))])
    fine = np.arange(0.0, along[-1] + 1, 2.0)
    dots: _Floats = np.column_stack([np.interp(fine, along, corners[:, k]) for k in (0, 1)])
    if line.get_marker() not in ("None", None, ""):
        around = np.array([(dx, dy) for dx in (-4, -2, 0, 2, 4) for dy in (-4, -2, 0, 2, 4)])
        dots = (corners[:, None] + around).reshape(-1, 2)
    return dots
