"""The pictures: cost against score, and who is called when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from routegym.errors import ConfigError, MissingExtraError
from routegym.evaluation.collapse import DIFFICULTIES
from routegym.evaluation.shares import REMAINING_EDGES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from routegym.evaluation.shares import CallShares

__all__ = ["Curve", "Kind", "frontier_figure", "shares_figure", "straight_in_cost"]

_Floats = npt.NDArray[np.float64]

# Colours that colour-blind readers can tell apart: those of Okabe and Ito (2008) for bold lines, those of Tol's muted
# scheme (2021) for thin ones; references are black and grey.
_BOLD = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_BOLD_MARKERS = "os^vPX"
_THIN = ("#882255", "#117733", "#332288", "#999933", "#AA4499", "#44AA99", "#CC6677", "#88CCEE", "#DDCC77")
_THIN_MARKERS = "s^ovp<>h"
_THIN_DASHES: tuple[Any, ...] = ((0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)))
_ORACLE_DASHES: tuple[Any, ...] = ("-", (0, (1, 1.5)), (0, (6, 2)))

Kind = Literal["policy", "fixed", "arm", "zero", "bound", "oracle"]

#: Kinds in the order of the legend.
_KINDS: tuple[Kind, ...] = ("oracle", "bound", "policy", "fixed", "zero", "arm")


@dataclass(frozen=True)
class Curve:
    """One strategy in the picture."""

    label: str
    """Name in the legend, or beside the marker of an arm."""
    costs: npt.ArrayLike
    """Mean cost in USD of each point, (p,); one point for an arm."""
    scores: npt.ArrayLike
    """Mean score of each point, (p,)."""
    kind: Kind = "policy"
    """What it is, which decides how it is drawn: ``bound`` is the attainable bound, ``zero`` the zero router."""
    low: npt.ArrayLike | None = None
    """Lower end of the 95 % interval of the scores, (p,)."""
    high: npt.ArrayLike | None = None
    """Upper end."""


def frontier_figure(curves: Sequence[Curve], title: str = "") -> Figure:
    """Mean score against mean cost: policies with 95 % bands, fixed strategies, arms, zero router, bound, oracles.

    Points are joined by straight lines in cost, which is what mixing two of them achieves (such lines bend
    on a logarithmic axis, which is used when the arms span more than a factor 8). The first six policies are bold with
    bands, further ones thin like fixed strategies. The figure belongs to no window; save it with
    ``figure.savefig(path)``, 1000 x 560 pixels at the default resolution.

    Args:
        curves: what to draw; up to about a dozen policies and fixed strategies stay readable.
        title: heading.

    Raises:
        ConfigError: no curves.
        MissingExtraError: matplotlib is not installed.
    """
    figure_class = _figure_class()
    from matplotlib.ticker import LogLocator, NullLocator

    if not curves:
        raise ConfigError("frontier_figure was given no curves; expected at least one")
    figure = figure_class(figsize=(10, 5.6), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    arms = np.concatenate([_points(curve)[0] for curve in curves if curve.kind == "arm"] or [np.empty(0)])
    costs = np.concatenate([_points(curve)[0] for curve in curves])
    scale, unit = _unit(float(costs.max()))
    logarithmic = bool(len(arms)) and arms.min() > 0 and arms.max() > 8 * arms.min()
    left = arms.min() / scale / 1.6 if logarithmic else -np.inf  # oracles begin at no cost, far from the rest
    for curve, style in _styled(curves):
        _draw(axes, curve, style, scale, left)

    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(left, max(float(costs.max()), arms.max()) / scale * 1.25)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(f"mean cost per task ({unit})")
    axes.set_ylabel("mean score")
    axes.set_title(title, loc="left", fontsize=12)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*_legend(axes), loc="outside right upper", frameon=False, fontsize=9, handlelength=3.2)
    figure.draw_without_rendering()
    _label_arms(axes, [curve for curve in curves if curve.kind == "arm"], scale)
    return figure


def shares_figure(shares: Mapping[str, CallShares], title: str = "") -> Figure:
    """Who is called when: the share of each action by difficulty of the task and by remaining budget.

    One row per policy. Arms go from cheap (light) to dear (dark), control actions are grey. The number of calls stands
    above each bar; bars of fewer than 20 calls are hatched, and groups in which nobody made a call are left out. Save
    with ``figure.savefig(path)``.

    Args:
        shares: from `call_shares`, by name of the policy, all over the same actions.
        title: heading.

    Raises:
        ConfigError: no policy, or policies over other actions.
        MissingExtraError: matplotlib is not installed.
    """
    figure_class = _figure_class()
    from matplotlib.patches import Patch

    actions = {(found.actions, found.n_arms) for found in shares.values()}
    if len(actions) != 1:
        raise ConfigError(
            f"shares_figure was given {len(shares)} policies over {len(actions)} sets of actions; "
            "expected at least one policy, all on the same recording"
        )
    names, n_arms = actions.pop()
    colors = _arm_colors(n_arms, len(names) - n_arms)
    levels = np.array([found.by_difficulty for found in shares.values()])  # (policies, groups, actions)
    bins = np.array([found.by_remaining for found in shares.values()])
    panels = []
    for calls, labels in ((levels, DIFFICULTIES), (bins, _remaining_labels())):
        used = np.flatnonzero(calls.any(axis=(0, 2)))
        panels.append((calls[:, used], [labels[group] for group in used]))
    figure = figure_class(figsize=(10, 1.1 + 2.1 * len(shares)), dpi=100, layout="constrained")
    widths = [len(labels) for _, labels in panels]
    grid = figure.subplots(len(shares), 2, sharex="col", sharey=True, squeeze=False, width_ratios=widths)
    for column, (calls, labels) in enumerate(panels):
        for row, name in enumerate(shares):
            _stack(grid[row, column], calls[row], labels, colors)
            grid[row, 0].set_ylabel(name)
    grid[-1, 0].set_xlabel("difficulty of the task")
    grid[-1, 1].set_xlabel("remaining budget at the decision / cost scale")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    handles = [Patch(color=color, label=label) for color, label in zip(colors, names, strict=True)]
    figure.legend(handles=handles[::-1], loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _stack(axes: Axes, calls: npt.NDArray[np.int64], ticks: Sequence[str], colors: Sequence[Any]) -> None:
    """One bar per row of `calls` (bars, actions)."""
    made = calls.sum(axis=1)
    share = calls / np.maximum(made, 1)[:, None]
    place = np.arange(len(made))
    base = np.zeros(len(made))
    for action, color in enumerate(colors):
        bars = axes.bar(place, share[:, action], 0.86, base, color=color, edgecolor="white", linewidth=0.6)
        for bar, few in zip(bars, made < 20, strict=True):
            bar.set_hatch("////" if few else None)
        base += share[:, action]
    for x, count in zip(place.tolist(), made.tolist(), strict=True):
        axes.annotate(_count(count), (x, 1), (0, 2), textcoords="offset points", ha="center", fontsize=7.5, color="0.3")
    axes.set_xticks(place, ticks, fontsize=8.5)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"], fontsize=8.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)


def _count(calls: int) -> str:
    return f"{calls}" if calls < 1000 else f"{calls / 1000:.1f}k" if calls < 100_000 else f"{calls / 1000:.0f}k"


def _remaining_labels() -> list[str]:
    ends = [f"{Fraction(edge)}" for edge in REMAINING_EDGES]
    between = [f"{low}\N{EN DASH}\n{high}" for low, high in pairwise(ends)]
    return [f"< {ends[0]}", *between, f"\N{GREATER-THAN OR EQUAL TO} {ends[-1]}"]


def _arm_colors(n_arms: int, n_controls: int) -> list[Any]:
    """Light to dark for arms from cheap to dear, greys for control actions."""
    from matplotlib import colormaps

    arms = colormaps["viridis_r"](np.linspace(0.04, 0.96, n_arms))
    return [*arms, *(str(grey) for grey in np.linspace(0.75, 0.45, n_controls))]


def _figure_class() -> type[Figure]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots") from error
    return Figure


def _styled(curves: Sequence[Curve]) -> Iterator[tuple[Curve, dict[str, Any]]]:
    """The curves in the order of the legend, each with how it looks."""
    bold = thin = oracles = 0
    for curve in sorted(curves, key=lambda curve: _KINDS.index(curve.kind)):
        style: dict[str, Any]
        if curve.kind == "policy" and bold < len(_BOLD):
            style = {"color": _BOLD[bold], "marker": _BOLD_MARKERS[bold], "linewidth": 2.2, "zorder": 6}
            bold += 1
        elif curve.kind in ("policy", "fixed"):
            curve = replace(curve, low=None, high=None)
            style = {
                "color": _THIN[thin % len(_THIN)],
                "marker": _THIN_MARKERS[thin % len(_THIN_MARKERS)],
                "linestyle": _THIN_DASHES[thin % len(_THIN_DASHES)],
                "linewidth": 1.2,
                "markerfacecolor": "white",
                "zorder": 4,
            }
            thin += 1
        elif curve.kind == "oracle":
            style = {"color": "0.62", "linewidth": 1.8, "linestyle": _ORACLE_DASHES[oracles % len(_ORACLE_DASHES)]}
            oracles += 1
        elif curve.kind == "bound":
            style = {"color": "black", "linewidth": 1.8, "linestyle": (0, (6, 1.5, 1, 1.5, 1, 1.5)), "zorder": 5}
        elif curve.kind == "zero":
            style = {"color": "black", "linewidth": 1.6, "linestyle": (0, (4, 2)), "zorder": 5}
        else:
            curve = replace(curve, label="single arms")
            style = {"color": "black", "marker": "D", "linestyle": "none", "zorder": 7}
        yield curve, style


def _points(curve: Curve) -> tuple[_Floats, _Floats]:
    return np.atleast_1d(np.asarray(curve.costs, float)), np.atleast_1d(np.asarray(curve.scores, float))


def _unit(largest: float) -> tuple[float, str]:
    for scale, unit in ((1.0, "USD"), (1e-3, "10$^{-3}$ USD"), (1e-6, "10$^{-6}$ USD")):
        if largest >= scale:
            return scale, unit
    return 1e-9, "10$^{-9}$ USD"


def _draw(axes: Axes, curve: Curve, style: dict[str, Any], scale: float, left: float) -> None:
    costs, scores = _points(curve)
    order = np.argsort(costs, kind="stable")
    costs, scores = costs[order] / scale, scores[order]
    dense = straight_in_cost(costs, logarithmic=bool(np.isfinite(left)))
    dense = dense[dense >= left]
    marked = np.flatnonzero(np.isin(dense, costs)).tolist()
    axes.plot(dense, np.interp(dense, costs, scores), label=curve.label, markersize=5, markevery=marked, **style)
    if curve.low is not None and curve.high is not None:
        low, high = (np.interp(dense, costs, np.asarray(end, float)[order]) for end in (curve.low, curve.high))
        axes.fill_between(dense, low, high, color=style["color"], alpha=0.16, linewidth=0, zorder=2)


def straight_in_cost(costs: _Floats, logarithmic: bool, count: int = 400) -> _Floats:
    """Costs through which to draw a curve so that its segments are straight in cost on a logarithmic axis too.

    Args:
        costs: of its points, ascending, (p,).
        logarithmic: whether the axis is; else the points themselves will do.
        count: points in between.
    """
    if not logarithmic or costs[-1] <= costs[0]:
        return costs
    inner = np.geomspace(max(costs[0], costs[-1] * 1e-4), costs[-1], count)
    return np.unique(np.concatenate([costs, inner]))


def _legend(axes: Axes) -> tuple[list[Any], list[str]]:
    """Handles and labels, each label once."""
    unique = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    return list(unique.values()), list(unique)


def _label_arms(axes: Axes, arms: Sequence[Curve], scale: float) -> None:
    """Name each arm near its marker, where the name covers no other name and as little else as may be."""
    from matplotlib.patheffects import withStroke
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
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
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
    if not len(corners):  # all of it is left of the axis
        return corners
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))])
    fine = np.arange(0.0, along[-1] + 1, 2.0)
    dots: _Floats = np.column_stack([np.interp(fine, along, corners[:, k]) for k in (0, 1)])
    if line.get_marker() not in ("None", None, ""):
        around = np.array([(dx, dy) for dx in (-4, -2, 0, 2, 4) for dy in (-4, -2, 0, 2, 4)])
        marked: Any = line.get_markevery()
        dots = np.concatenate([dots, (corners[marked, None] + around).reshape(-1, 2)])
    return dots
