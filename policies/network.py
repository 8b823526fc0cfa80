"""A trained network as a policy, and the safe files it is kept in: safetensors and JSON, never pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from routegym.errors import MissingExtraError, RunError

try:
    import torch as th
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save
except ImportError as error:
    raise MissingExtraError("torch", "train") from error

__all__ = ["NetworkPolicy", "NetworkSpec", "load_networks", "save_networks"]

_FORMAT = "routegym-policy"


@dataclass(frozen=True)
class NetworkSpec:
    """What a network was trained to see and to choose from."""

    columns: tuple[str, ...]
    """Names of the observation's columns, in order."""
    actions: tuple[str, ...]
    """Names of the actions, in order."""
    hidden: tuple[int, ...]
    """Widths of the hidden layers."""

    def check(self, columns: Sequence[str], actions: Sequence[str], where: str) -> None:
        """Refuse an environment that shows or offers something else.

        Raises:
            RunError: naming what differs.
        """
        for what, mine, theirs in (("actions", self.actions, actions), ("columns", self.columns, columns)):
            if tuple(mine) != tuple(theirs):
                odd = sorted(set(mine) ^ set(theirs))[:4]
                raise RunError(
                    f"{where}: the policy was trained with other {what} ({len(mine)}, the environment has "
                    f"{len(theirs)}; they differ in {odd or 'their order'}); evaluate it on the recording it was "
                    "trained on, or train one for this recording"
                )


class NetworkPolicy(th.nn.Module):
    """A multi-layer perceptron with tanh units that gives a logit to every action.

    Args:
        spec: its inputs, outputs and widths.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        widths = [len(spec.columns), *spec.hidden]
        layers: list[th.nn.Module] = []
        for before, after in pairwise(widths):
            layers += [th.nn.Linear(before, after), th.nn.Tanh()]
        self.layers = th.nn.Sequential(*layers, th.nn.Linear(widths[-1], len(spec.actions)))
        self._generator = th.Generator().manual_seed(0)

    def logits(self, observation: npt.NDArray[np.float32], action_masks: npt.NDArray[Any] | None = None) -> th.Tensor:
        """Logits (n, n_actions), -inf where masked."""
        with th.inference_mode():
            logits: th.Tensor = self.layers(th.as_tensor(np.asarray(observation, dtype=np.float32)))
            if action_masks is not None:
                legal = th.as_tensor(np.asarray(action_masks, dtype=bool)).reshape(logits.shape)
                logits = logits.masked_fill(~legal, -th.inf)
        return logits

    def predict(
        self,
        observation: npt.NDArray[np.float32],
        state: Any = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = True,
        action_masks: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[npt.NDArray[np.int64], Any]:
        """Choose an action for every row; see `routegym.policies.Policy`."""
        logits = self.logits(observation, action_masks)
        if deterministic:
            chosen = logits.argmax(dim=-1)
        else:
            chosen = th.multinomial(logits.softmax(dim=-1), 1, generator=self._generator).squeeze(-1)
        return np.asarray(chosen.numpy(), dtype=np.int64), state

    def probabilities(
        self, observation: npt.NDArray[np.float32], action_masks: npt.NDArray[np.bool_] | None = None
    ) -> npt.NDArray[np.float32]:
        """How likely each action is, float32 (n, n_actions)."""
        return np.asarray(self.logits(observation, action_masks).softmax(dim=-1).numpy(), dtype=np.float32)


def save_networks(folder: Path, networks: dict[int, NetworkPolicy]) -> None:
    """Write the networks of one training, by seed, to ``policy.safetensors`` and ``policy.json``.

    Each file is replaced as a whole, so that an interruption leaves the former one.
    """
    spec = next(iter(networks.values())).spec
    tensors = {
        f"{seed}/{name}": tensor.contiguous()
        for seed, network in networks.items()
        for name, tensor in network.state_dict().items()
    }
    meta = {"format": _FORMAT, "seeds": sorted(networks), **asdict(spec)}
    _replace(folder / "policy.safetensors", save(tensors))
    _replace(folder / "policy.json", (json.dumps(meta, indent=1) + "\n").encode())


def load_networks(folder: Path) -> dict[int, NetworkPolicy]:
    """Read what `save_networks` wrote.

    Raises:
        RunError: a file is missing, damaged, or the two do not fit together.
    """
    path = folder / "policy.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        if meta["format"] != _FORMAT:
            raise RunError(f"{path}: format = {meta['format']!r}; expected {_FORMAT!r}; train again")
        spec = NetworkSpec(tuple(meta["columns"]), tuple(meta["actions"]), tuple(int(h) for h in meta["hidden"]))
        seeds = [int(seed) for seed in meta["seeds"]]
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; is {folder} a run folder that was trained to the end?") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: damaged ({type(error).__name__}: {error}); train again or copy it anew") from None
    path = folder / "policy.safetensors"
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: cannot be read ({error}); train again or copy it anew") from None
    networks = {}
    for seed in seeds:
        network = NetworkPolicy(spec)
        prefix = f"{seed}/"
        weights = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise RunError(f"{path}: does not fit policy.json ({error}); copy both files again") from None
        if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
            raise RunError(f"{path}: the weights of seed {seed} are not finite; train again")
        networks[seed] = network.eval()
    return networks


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(content)
    os.replace(draft, path)
