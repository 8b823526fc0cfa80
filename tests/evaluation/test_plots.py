from __future__ import annotations

import builtins
import itertools

import numpy as np
import pytest

from routegym.errors import ConfigError, MissingExtraError
from routegym.evaluation.plots import Curve, frontier_figure

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
    assert figure.get_size_inches().tolist() == [8, 5.6]
    assert axes.get_title(loc="left") == "a title"
    assert "10$^{-6}$ USD" in axes.get_xlabel()
    named = {text.get_text() for text in figure.legends[0].get_texts()}
    assert named == {"oracle", "zero router", "random", "learned", "single arms"}
    assert {text.get_text() for text in axes.texts} == set(NAMES)


def test_mixtures_are_straight_in_cost_on_a_logarithmic_axis():
    figure = frontier_figure(CURVES)
    assert figure.axes[0].get_xscale() == "log"
    cost, score = lines(figure)["zero router"].get_data()
    assert len(cost) > 100
    assert score == pytest.approx(np.interp(cost, [1.1, 56], [0.04, 0.64]))
    assert lines(figure)["learned"].get_ydata().max() == pytest.approx(SCORES.max())


def test_linear_axis_where_arms_cost_alike():
    assert frontier_figure([Curve("a", 1.0, 0.2, "arm"), Curve("b", 3.0, 0.4, "arm")]).axes[0].get_xscale() == "linear"


def test_names_of_arms_do_not_cover_each_other():
    from matplotlib.text import Text

    crowd = [Curve(f"crowded/{k}", 1e-5 * (1 + 0.02 * k), 0.5 + 0.004 * k, "arm") for k in range(6)]
    figure = frontier_figure([*CURVES, *crowd])
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in figure.axes[0].texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


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
