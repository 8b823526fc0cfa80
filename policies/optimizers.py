"""The memory of a torch optimiser as arrays, for checkpoints."""

from __future__ import annotations

import numpy as np

from routegym.errors import MissingExtraError
from routegym.policies.training import Arrays

try:
    import torch as th
except ImportError as error:
    raise MissingExtraError("torch", "train") from error

__all__ = ["optimizer_arrays", "restore_optimizer"]


def optimizer_arrays(optimizer: th.optim.Optimizer) -> Arrays:
    """What an optimiser remembers of each parameter, by ``parameter/name``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}/{name}": np.asarray(th.as_tensor(value).numpy())
        for index, values in state.items()
        for name, value in values.items()
    }


def restore_optimizer(optimizer: th.optim.Optimizer, arrays: Arrays) -> None:
    """The inverse of `optimizer_arrays`."""
    state: dict[int, dict[str, th.Tensor]] = {}
    for place, array in arrays.items():
        index, _, name = place.partition("/")
        state.setdefault(int(index), {})[name] = th.as_tensor(array)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
