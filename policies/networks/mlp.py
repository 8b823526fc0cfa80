"""Multi-layer perceptron with tanh units."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch as th

__all__ = ["mlp"]


def mlp(inputs: int, hidden: Sequence[int], outputs: int, last_gain: float = 0.01) -> th.nn.Sequential:
    """Linear layers with tanh between them, orthogonal weights (gain sqrt 2) and zero biases as in PPO's practice.

    Args:
        inputs, outputs: widths of the ends.
        hidden: widths between them.
        last_gain: gain of the last layer: 0.01 starts a policy near uniform, 1 suits values.
    """
    widths = [inputs, *hidden, outputs]
    layers: list[th.nn.Module] = []
    for before, after in pairwise(widths):
        linear = th.nn.Linear(before, after)
        last = len(layers) == 2 * len(hidden)
        th.nn.init.orthogonal_(linear.weight, last_gain if last else 2**0.5)
        th.nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, th.nn.Tanh()]
    return th.nn.Sequential(*layers)
