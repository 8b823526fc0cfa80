"""The figures of the page, as what plotly.js draws: plain dicts.

Colours are names of the style sheet's variables (``"--series-1"``, with an opacity ``"--series-1/0.2"``). The page puts
them in when it draws, so that a figure follows the reader's light, dark or print theme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.core.render import format_usd
from routegym.evaluation.collapse import DIFFICULTIES
from routegym.evaluation.frontier import hull
from routegym.evaluation.page.text import label
from routegym.evaluation.plots import straight_in_cost
from routegym.evaluation.statistics import score_bands

if TYPE_CHECKING:
    from routegym.evaluation.calibration import Reliability
    from routegym.evaluation.comparison import Comparison
    from routegym.evaluation.shares import CallShares

__all__ = ["Figure", "action_colors", "budget_shares", "calibration", "difficulty_shares", "frontier"]

#: ``data`` and ``layout`` of plotly.
Figure = dict[str, Any]

_Floats = npt.NDArray[np.float64]

_SERIES = 10  # colours of the style sheet
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_MARKERS = ("circle", "square", "triangle-up", "diamond", "cross", "x", "star", "pentagon")
_DENSE = 90  # points of a curve between its own
_BANDS = 2  # more of them cover each other


def frontier(comparison: Comparison, named: Sequence[str]) -> Figure:
    """Mean score against mean cost; hovering tells score, interval, cost, budget and price of a point.

    Args:
        comparison: gives everything.
        named: the competitors that get a curve.
    """
    arm_costs, arm_scores = comparison.references.arms.points()
    logarithmic = bool(arm_costs.min() > 0 and arm_costs.max() > 8 * arm_costs.min())
    traces: list[dict[str, Any]] = []
    looks = {
        "oracle, mean budget": ("--reference", "solid"),
        "oracle, hard budget": ("--reference", "dot"),
        "attainable bound": ("--ink", "dashdot"),
        "zero router": ("--ink", "dash"),
    }
    for curve in comparison.curves(()):
        if curve.kind == "arm":
            continue
        color, dash = looks[curve.label]
        costs, scores = np.asarray(curve.costs, float), np.asarray(curve.scores, float)
        line = {"color": color, "dash": dash, "width": 1.6}
        traces += _curve(curve.label, costs, scores, logarithmic, line, None, _details(scores, costs))
    learned = [name for name in named if comparison.entries[name].learned]
    for number, name in enumerate(named):
        traces += _competitor(comparison, name, logarithmic, number, banded=name in learned[:_BANDS])
    names = comparison.recording.action_names
    traces.append(
        {
            "type": "scatter",
            "mode": "markers+text",
            "name": "single arms",
            "x": arm_costs.tolist(),
            "y": arm_scores.tolist(),
            "text": [label(name) for name, _ in zip(names, arm_costs, strict=False)],
            "textposition": ["top left" if cost > arm_costs.max() / 2 else "bottom right" for cost in arm_costs],
            "textfont": {"size": 11, "color": "--muted"},
            "marker": {"symbol": "diamond", "size": 9, "color": "--ink"},
            "customdata": [
                [label(name), text] for name, text in zip(names, _details(arm_scores, arm_costs), strict=False)
            ],
            "hovertemplate": "<b>%{customdata[0]}</b> alone<br>%{customdata[1]}<extra></extra>",
            "cliponaxis": False,
        }
    )
    highest = max(max(trace["x"], default=0.0) for trace in traces) or 1.0
    scale, unit = _unit(highest)
    x: dict[str, Any] = {"title": {"text": f"mean cost per task, {unit}"}, "range": [0, highest * 1.06]}
    if logarithmic:
        low, high = float(arm_costs.min()) / 1.5, highest * 1.7
        exponents = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)))
        ticks = np.outer(10.0**exponents, [1, 2, 5]).ravel()
        ticks = ticks[(ticks > low) & (ticks < high)]
        x |= {"type": "log", "range": [float(np.log10(low)), float(np.log10(high))], "tickvals": ticks.tolist()}
        x["ticktext"] = [f"{tick / scale:g}" for tick in ticks]
        seen = [score for trace in traces for cost, score in zip(trace["x"], trace["y"], strict=True) if cost >= low]
    else:
        step = 10 ** np.floor(np.log10(highest / 4))
        step *= next(factor for factor in (10, 5, 2, 1) if factor == 1 or factor * step <= highest / 4)
        ticks = np.arange(0, highest * 1.06, step)
        x |= {"tickvals": ticks.tolist(), "ticktext": [f"{tick / scale:.3g}" for tick in ticks]}
        seen = [score for trace in traces for score in trace["y"]]
    room = 0.05 * (max(seen) - min(seen)) or 0.05
    y = {"title": {"text": "mean score"}, "range": [max(min(seen) - room, -room), max(seen) + room]}
    return {"data": traces, "layout": _layout(x, y, legend=True)}


def budget_shares(points: Sequence[Mapping[str, Any]], actions: Sequence[str], colors: Mapping[str, str]) -> Figure:
    """Share of the calls that go to each action under each hard budget.

    Args:
        points: ``metrics["policies"][name]["budgets"]``.
        actions: their order, from the bottom.
        colors: from `action_colors`.
    """
    scale, unit = _unit(max(point["budget_usd"] for point in points))
    ticks = [f"{point['budget_usd'] / scale:.{2 if point['budget_usd'] < 100 * scale else 3}g}" for point in points]
    texts = [f"budget {format_usd(point['budget_usd'])}" for point in points]
    shares = np.array([[point["shares"][action] for action in actions] for point in points])
    return _stacked(shares, ticks, texts, actions, colors, f"hard budget per task, {unit}")


def difficulty_shares(calls: CallShares, colors: Mapping[str, str]) -> Figure:
    """Share of the calls that go to each action by difficulty of the task, over all hard budgets."""
    used = np.flatnonzero(calls.by_difficulty.any(axis=1))
    counts = calls.by_difficulty[used]
    shares = counts / counts.sum(axis=1, keepdims=True)
    ticks = [DIFFICULTIES[level] for level in used]
    texts = [f"{tick} tasks, {count:,} choices" for tick, count in zip(ticks, counts.sum(axis=1).tolist(), strict=True)]
    return _stacked(shares, ticks, texts, calls.actions, colors, "difficulty of the task")


def calibration(curves: Mapping[str, Reliability]) -> Figure:
    """Reliability diagrams: how often what was predicted came true; larger markers stand for more predictions."""
    line = {"color": "--reference", "dash": "dash", "width": 1.4}
    ideal = {"type": "scatter", "mode": "lines", "name": "calibrated", "x": [0, 1], "y": [0, 1], "line": line}
    traces: list[dict[str, Any]] = [ideal | {"hoverinfo": "skip"}]
    most = max(int(found.count.max()) for found in curves.values())
    for number, (name, found) in enumerate(curves.items()):
        color = f"--series-{number % _SERIES + 1}"
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": label(name),
                "x": found.predicted.tolist(),
                "y": found.observed.tolist(),
                "customdata": [[label(name), f"{count:,}"] for count in found.count.tolist()],
                "line": {"color": color, "width": 1.8},
                "marker": {"color": color, "size": (5 + 11 * np.sqrt(found.count / most)).tolist(), "opacity": 0.85},
                "hovertemplate": "<b>%{customdata[0]}</b><br>predicted %{x:.2f}, came %{y:.2f}<br>"
                "%{customdata[1]} predictions<extra></extra>",
                "cliponaxis": False,
            }
        )
    axis = {"range": [0, 1.02], "dtick": 0.25}
    layout = _layout(
        axis | {"title": {"text": "predicted score"}},
        axis | {"title": {"text": "mean score that came"}},
        legend=True,
    )
    return {"data": traces, "layout": layout}


def action_colors(actions: Sequence[str], n_arms: int) -> dict[str, str]:
    """A colour for each action: arms from cheap (light) to dear (dark), controls grey.

    Args:
        actions: arms from cheap to dear, then controls.
        n_arms: how many are arms.
    """
    ramp = np.rint(np.linspace(1, 9, n_arms)).astype(int) if n_arms > 1 else np.array([5])
    found = {name: f"--ramp-{step}" for name, step in zip(actions, ramp.tolist(), strict=False)}
    return found | {name: f"--control-{number % 2 + 1}" for number, name in enumerate(actions[n_arms:])}


def _competitor(
    comparison: Comparison, name: str, logarithmic: bool, number: int, banded: bool
) -> list[dict[str, Any]]:
    """A competitor through its chosen points; of a baseline those on its frontier."""
    entry = comparison.entries[name]
    costs, scores = entry.sweep.points()
    low, high = score_bands(entry.sweep, resamples=comparison.resamples)
    budgets, prices = (values[entry.chosen] for values in comparison.grid.points)
    if not entry.learned:
        line = hull(costs, scores)
        kept = [int(np.flatnonzero((costs == c) & (scores == s))[0]) for c, s in zip(*vars(line).values(), strict=True)]
    else:
        kept = np.argsort(costs, kind="stable").tolist()
    costs, scores, low, high, budgets, prices = (v[kept] for v in (costs, scores, low, high, budgets, prices))
    color = f"--series-{number % _SERIES + 1}"
    details = [
        f"{text}<br>95 % interval {a:.3f} to {b:.3f}<br>hard budget {format_usd(budget)}, price of cost {price:g}"
        for text, a, b, budget, price in zip(_details(scores, costs), low, high, budgets, prices, strict=True)
    ]
    dash = "solid" if entry.learned else _DASHES[1 + number % (len(_DASHES) - 1)]
    line_look = {"color": color, "width": 2.4 if entry.learned else 1.5, "dash": dash}
    marker = {"color": color, "symbol": _MARKERS[number % len(_MARKERS)], "size": 7 if entry.learned else 6}
    return _curve(name, costs, scores, logarithmic, line_look, marker, details, (low, high) if banded else None)


def _curve(
    name: str,
    costs: _Floats,
    scores: _Floats,
    logarithmic: bool,
    line: Mapping[str, Any],
    marker: Mapping[str, Any] | None,
    details: Sequence[str],
    band: tuple[_Floats, _Floats] | None = None,
) -> list[dict[str, Any]]:
    """A line that is straight in cost, its points with what hovering tells, and its band."""
    order = np.argsort(costs, kind="stable")
    costs, scores = costs[order], scores[order]
    dense = straight_in_cost(costs, logarithmic, _DENSE)
    dense = dense[dense > 0] if logarithmic else dense
    shared = {"type": "scatter", "legendgroup": label(name), "name": label(name)}
    traces: list[dict[str, Any]] = []
    if band is not None:
        low, high = (np.interp(dense, costs, end[order]) for end in band)
        traces.append(
            shared
            | {
                "mode": "lines",
                "x": np.concatenate([dense, dense[::-1]]).tolist(),
                "y": np.concatenate([high, low[::-1]]).tolist(),
                "fill": "toself",
                "fillcolor": f"{line['color']}/0.15",
                "line": {"width": 0, "color": line["color"]},
                "hoverinfo": "skip",
                "showlegend": False,
            }
        )
    drawn = {"mode": "lines", "x": dense.tolist(), "y": np.interp(dense, costs, scores).tolist(), "line": dict(line)}
    traces.append(shared | drawn | {"hoverinfo": "skip"})
    points = {
        "mode": "markers",
        "x": costs.tolist(),
        "y": scores.tolist(),
        "customdata": [[label(name), details[index]] for index in order.tolist()],
        "marker": marker or {"color": line["color"], "size": 8, "opacity": 0},  # met by the pointer only
        "hovertemplate": "<b>%{customdata[0]}</b><br>%{customdata[1]}<extra></extra>",
        "showlegend": False,
    }
    return [*traces, shared | points]


def _unit(largest: float) -> tuple[float, str]:
    """A unit in which the largest of some costs has few digits before the point, in USD, and its name."""
    for exponent in (0, -3, -6, -9):
        if largest >= 10.0**exponent:
            break
    return 10.0**exponent, f"10<sup>{exponent}</sup> USD" if exponent else "USD"


def _details(scores: _Floats, costs: _Floats) -> list[str]:
    return [f"score {score:.3f} at {format_usd(cost)}" for score, cost in zip(scores, costs, strict=True)]


def _stacked(
    shares: npt.NDArray[np.float64],
    ticks: Sequence[str],
    texts: Sequence[str],
    actions: Sequence[str],
    colors: Mapping[str, str],
    title: str,
) -> Figure:
    """One bar per row of `shares` (bars, actions)."""
    traces = [
        {
            "type": "bar",
            "name": label(action),
            "x": list(range(len(ticks))),
            "y": shares[:, number].tolist(),
            "customdata": [[label(action), text] for text in texts],
            "marker": {"color": colors[action], "line": {"color": "--paper", "width": 1}},
            "hovertemplate": "<b>%{customdata[0]}</b> %{y:.1%}<br>%{customdata[1]}<extra></extra>",
        }
        for number, action in enumerate(actions)
    ]
    layout = _layout(
        {"title": {"text": title}, "tickvals": list(range(len(ticks))), "ticktext": list(ticks), "ticks": ""},
        {"range": [0, 1], "tickformat": ".0%", "dtick": 0.5},
        False,
    )
    return {"data": traces, "layout": layout | {"barmode": "stack", "bargap": 0.12}}


def _layout(x: Mapping[str, Any], y: Mapping[str, Any], legend: bool) -> dict[str, Any]:
    axis = {
        "gridcolor": "--grid",
        "linecolor": "--rule",
        "zeroline": False,
        "automargin": True,
        "tickfont": {"color": "--muted"},
    }
    return {
        "paper_bgcolor": "--paper",
        "plot_bgcolor": "--paper",
        "font": {"color": "--ink", "size": 13},
        "margin": {"l": 8, "r": 8, "t": 12, "b": 8},
        "xaxis": axis | {"showgrid": False, "showline": True, "ticks": "outside", "tickcolor": "--rule"} | dict(x),
        "yaxis": axis | dict(y),
        "showlegend": legend,
        "hoverlabel": {"bgcolor": "--raised", "bordercolor": "--rule", "font": {"color": "--ink", "size": 13}},
        "hovermode": "closest",
        "dragmode": False,
    }
