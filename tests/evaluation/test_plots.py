from __future__ import annotations

import builtins
import itertools

import numpy as np
import pytest

from routegym.errors import ConfigError, MissingExtraError
from routegym.evaluation.plots import Curve, frontier_figure, shares_figure
from routegym.evaluation.shares import CallShares

pytest.importorskip("matplotlib")

BUDGETS = np.geomspace(3e-6, 7e-5, 10)
SCORES = 0.9 * (1 - np.exp(-BUDGETS / 1.5e-5))
NAMES = ("nano/direct", "nano/vote5", "small/direct", "product/direct", "medium/direct", "large/direct")
ARMS = [
    Curve(name, 1.1e-6 * 2.2**k, 0.04 + 0.12 * k, "arm")
    for k, name in enumerate(NAMES)
]  # fmt: skip
CURVES = [
    Curve("oracle", BUDGETS / 3, SCORES + 0.05, "oracle"),
    Curve("attainable", BUDGETS / 1.5, SCORES + 0.02, "bound"),
    Curve("zero router", [1.1e-6, 5.6e-5], [0.04, 0.64], "zero"),
    Curve("random", BUDGETS, SCORES / 2, "fixed"),
    Curve("learned", BUDGETS[::-1], SCORES[::-1], "policy", SCORES[::-1] - 0.03, SCORES[::-1] + 0.03),
    *ARMS,
]


def lines(figure):
    return {line.get_label(): line for line in figure.axes[0].lines}


def test_everything_is_in_the_picture(tmp_path):
    figure = frontier_figure(CURVES, "a title")
    axes = figure.axes[0]
    figure.savefig(tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert figure.get_size_inches().tolist() == [10, 5.6]
    assert axes.get_title(loc="left") == "a title"
    assert "10$^{-6}$ USD" in axes.get_xlabel()
    named = {text.get_text() for text in figure.legends[0].get_texts()}
    assert named == {"oracle", "attainable", "zero router", "random", "learned", "single arms"}
    assert {text.get_text() for text in axes.texts} == set(NAMES)


def test_mixtures_are_straight_in_cost_on_a_logarithmic_axis():
    figure = frontier_figure(CURVES)
    assert figure.axes[0].get_xscale() == "log"
    cost, score = lines(figure)["zero router"].get_data()
    assert len(cost) > 100
    assert score == pytest.approx(np.interp(cost, [1.1, 56], [0.04, 0.64]))
    assert lines(figure)["learned"].get_ydata().max() == pytest.approx(SCORES.max())


def test_what_costs_next_to_nothing_does_not_stretch_the_scores(tmp_path):
    nothing = Curve("gives up", [0.0, 1e-9], [0.0, 0.0], "policy", [0.0, 0.0], [0.0, 0.0])
    dear = [curve for curve in CURVES if curve.kind == "arm"][2:]  # from a score of 0.28 on
    clairvoyant = Curve("oracle", [0.0, 3e-6, 9e-6], [0.0, 0.4, 0.5], "oracle")
    figure = frontier_figure([nothing, clairvoyant, *dear])
    figure.savefig(tmp_path / "frontier.png")
    assert "gives up" in lines(figure)
    assert 0.1 < figure.axes[0].get_ylim()[0] < 0.28


def test_linear_axis_where_arms_cost_alike():
    assert frontier_figure([Curve("a", 1.0, 0.2, "arm"), Curve("b", 3.0, 0.4, "arm")]).axes[0].get_xscale() == "linear"


def test_names_of_arms_do_not_cover_each_other():
    from matplotlib.text import Text

    crowd = [Curve(f"crowded/{k}", 1e-5 * (1 + 0.02 * k), 0.5 + 0.004 * k, "arm") for k in range(6)]
    figure = frontier_figure([*CURVES, *crowd])
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in figure.axes[0].texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def crowd():
    """Eight policies with bands and ten fixed strategies."""
    policies = [Curve(f"policy {k}", BUDGETS, SCORES - k / 50, "policy", SCORES - k / 45, SCORES) for k in range(8)]
    fixed = [Curve(f"fixed {k}", BUDGETS[::3], SCORES[::3] / 2 - k / 50, "fixed") for k in range(10)]
    return [*fixed, *policies, *CURVES]


def test_many_curves_can_be_told_apart():
    figure = frontier_figure(crowd())
    found = lines(figure)
    looks = {(line.get_color(), str(line.get_marker()), str(line.get_linestyle())) for line in found.values()}
    assert len(found) == 24
    assert len(looks) >= len(found) - 1  # bound and zero router differ in their dashes only
    bold = [label for label, line in found.items() if line.get_linewidth() > 2]
    assert bold == [f"policy {k}" for k in range(6)]
    assert len(figure.axes[0].collections) == 6  # their bands


def test_the_legend_lies_beside_the_axes_and_inside_the_figure():
    figure = frontier_figure(crowd())
    figure.draw_without_rendering()
    legend, axes = figure.legends[0].get_window_extent(), figure.axes[0].get_window_extent()
    assert not legend.overlaps(axes)
    assert figure.bbox.x0 <= legend.x0
    assert legend.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= legend.y0
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named[:3] == ["oracle", "attainable", "policy 0"]
    assert named[-1] == "single arms"


SHARES = CallShares(
    actions=("cheap", "dear", "accept"),
    n_arms=2,
    by_difficulty=np.array([[30, 10, 0], [5, 0, 5], [0, 0, 0], [0, 0, 0]]),
    by_remaining=np.array([[25, 0, 0], *[[0, 0, 0]] * 6, [0, 20, 5]]),
    by_step=np.array([[35, 10, 5]]),
)


def bars(axes):
    """(bottom, height, colour) of every bar that is there, by place."""
    found = {}
    for bar in axes.patches:
        if bar.get_height() > 0:
            place = round(bar.get_x() + bar.get_width() / 2)
            found.setdefault(place, []).append((bar.get_y(), bar.get_height(), bar.get_facecolor()))
    return found


def test_shares_by_hand(tmp_path):
    figure = shares_figure({"one": SHARES, "two": SHARES}, "a title")
    figure.savefig(tmp_path / "shares.png")
    assert (tmp_path / "shares.png").read_bytes().startswith(b"\x89PNG")
    easy, left = figure.axes[0], figure.axes[1]
    assert [label.get_text() for label in figure.axes[2].get_xticklabels()] == ["easy", "medium"]
    assert [label.get_text() for label in figure.axes[3].get_xticklabels()] == [
        "< 1/64",
        "\N{GREATER-THAN OR EQUAL TO} 1",
    ]
    heights = {place: [(low, height) for low, height, _ in stack] for place, stack in bars(easy).items()}
    assert heights == {0: [(0, 0.75), (0.75, 0.25)], 1: [(0, 0.5), (0.5, 0.5)]}
    heights = {place: [(low, height) for low, height, _ in stack] for place, stack in bars(left).items()}
    assert heights == {0: [(0, 1)], 1: [(0, pytest.approx(0.8)), (pytest.approx(0.8), pytest.approx(0.2))]}
    assert {text.get_text() for text in easy.texts} == {"40", "10"}
    assert [bool(bar.get_hatch()) for bar in easy.patches if bar.get_height()] == [False, True, False, True]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["accept", "dear", "cheap"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["one", "", "two", ""]


def test_arms_darken_with_their_cost_and_controls_are_grey():
    names = ("a", "b", "c", "d", "e", "accept")
    calls = np.ones((1, 6), dtype=int)
    figure = shares_figure({"p": CallShares(names, 5, np.tile(calls, (4, 1)), np.tile(calls, (8, 1)), calls)})
    colors = np.array([color for _, _, color in bars(figure.axes[0])[0]])[:, :3]
    light = colors @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light[:5]) < -0.05).all()
    assert np.ptp(colors[5]) == 0


def test_bad_shares():
    with pytest.raises(ConfigError, match="0 policies"):
        shares_figure({})
    other = CallShares(("dear", "cheap", "accept"), 2, SHARES.by_difficulty, SHARES.by_remaining, SHARES.by_step)
    with pytest.raises(ConfigError, match="2 sets of actions"):
        shares_figure({"one": SHARES, "two": other})


def test_bad_input(monkeypatch):
    with pytest.raises(ConfigError, match="no curves"):
        frontier_figure([])
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"routegym\[plots\]"):
        frontier_figure(CURVES)
    with pytest.raises(MissingExtraError, match=r"routegym\[plots\]"):
        shares_figure({"one": SHARES})
