"""Policies on disk: JSON and safetensors, from which only known classes are made; nothing in a file is executed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from routegym.core.observation import ObservationLayout
from routegym.errors import RunError
from routegym.policies.policy import Policy
from routegym.policies.training import Arrays, nested, pick, write_atomically

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = ["ENTRY_POINTS", "StoredPolicy", "load_policies", "policy_of", "save_policies", "state_of"]

#: Packages add policy classes of their own under this entry-point group, by their `kind`.
ENTRY_POINTS = "routegym.policies"

_FORMAT = "routegym-policy-2"
_HERE = "routegym.policies"
_KINDS = {
    "acar": f"{_HERE}.acar:ProbePolicy",
    "always_arm": f"{_HERE}.baselines:AlwaysArm",
    "bandit": f"{_HERE}.bandits:BanditPolicy",
    "confidence_cascade": f"{_HERE}.baselines:ConfidenceCascade",
    "fixed_cascade": f"{_HERE}.baselines:FixedCascade",
    "escalate": f"{_HERE}.baselines:Escalate",
    "first_large_k": f"{_HERE}.baselines:FirstLargeK",
    "plan": f"{_HERE}.planning:PlanningPolicy",
    "random": f"{_HERE}.baselines:Random",
    "random_mixture": f"{_HERE}.baselines:RandomMixture",
    "round_robin": f"{_HERE}.baselines:RoundRobin",
    "selected": f"{_HERE}.selection:Selected",
    "text_network": f"{_HERE}.text_ppo:TextPolicy",
    "success_prediction": f"{_HERE}.success:SuccessPredictor",
    "irt": f"{_HERE}.irt:IRTPolicy",
    "network": f"{_HERE}.network:NetworkPolicy",
    "recurrent": f"{_HERE}.recurrent:RecurrentPolicy",
}


class StoredPolicy(Policy, Protocol):
    """A policy that can be kept in a file."""

    kind: str
    """Names the class in files."""

    def to_state(self) -> tuple[dict[str, Any], Arrays]:
        """What makes the policy: settings that JSON can hold, and arrays by name."""
        ...

    @classmethod
    def from_state(cls, recording: Recording, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        """The policy again, on a recording with the same columns and actions."""
        ...


def save_policies(folder: Path, recording: Recording, policies: Mapping[int, StoredPolicy]) -> None:
    """Write the policies of one training, by seed, to ``policy.safetensors`` and ``policy.json``.

    Each file is replaced as a whole, so that an interruption leaves the former one.

    Raises:
        RunError: a policy holds a number that is not finite.
    """
    members: dict[str, Any] = {}
    arrays: Arrays = {}
    for seed, policy in policies.items():
        state, own = state_of(policy)
        _check_finite(own, f"the policy of seed {seed}")
        members[str(seed)] = state
        arrays |= nested(str(seed), own)
    layout = ObservationLayout.of(recording)
    meta = {
        "format": _FORMAT,
        "columns": layout.names,
        "actions": layout.action_names,
        "recording": {"name": recording.name, "content_hash": recording.content_hash},
        "embedder": recording.tasks.embedder,
        "policies": members,
    }
    write_atomically(folder / "policy.safetensors", save({k: np.ascontiguousarray(v) for k, v in arrays.items()}))
    write_atomically(folder / "policy.json", (json.dumps(meta, indent=1) + "\n").encode())


def load_policies(folder: Path, recording: Recording, adapt: bool = False) -> dict[int, Policy]:
    """Read what `save_policies` wrote.

    Args:
        folder: holds the two files.
        recording: what the policies are to be used on.
        adapt: take policies that were trained on another pool too, if their network does not belong to its pool
            (``network="attention"``); they then know the arms by the descriptors of `recording`.

    Raises:
        RunError: a file is missing, damaged or not finite, the two do not fit together, or the policies were made for
            other columns, actions or text features than those of the recording; the message names what differs.
    """
    path = folder / "policy.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        if meta["format"] != _FORMAT:
            raise RunError(f"{path}: format = {meta['format']!r}; expected {_FORMAT!r}; train again")
        members = {int(seed): dict(state) for seed, state in meta["policies"].items()}
        embedder = meta.get("embedder", recording.tasks.embedder)  # older files do not name it
        trained = {"actions": tuple(meta["actions"]), "columns": tuple(meta["columns"])}
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; is {folder} a run folder that was trained to the end?") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: damaged ({type(error).__name__}: {error}); train again or copy it anew") from None
    layout = ObservationLayout.of(recording)
    differs = [
        (what, theirs)
        for what, theirs in (("actions", layout.action_names), ("columns", layout.names))
        if trained[what] != theirs
    ]
    if differs and not adapt:
        what, theirs = differs[0]
        odd = sorted(set(trained[what]) ^ set(theirs))[:4]
        remedy = "evaluate it on the recording it was trained on, or train one for this recording"
        if all(state.get("network") == "attention" for state in members.values()):
            remedy += ", or adapt it: load_policies(folder, recording, adapt=True)"
        raise RunError(
            f"{folder}: the policy was trained with other {what} ({len(trained[what])}, recording "
            f"{recording.name!r} has {len(theirs)}; they differ in {odd or 'their order'}); {remedy}"
        )
    if embedder != recording.tasks.embedder:
        raise RunError(
            f"{folder}: the policy was trained with tasks embedded by {embedder!r}, and those of recording "
            f"{recording.name!r} are by {recording.tasks.embedder!r}; evaluate it on the recording it was trained on, "
            "or train one for this recording"
        )
    path = folder / "policy.safetensors"
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: cannot be read ({error}); train again or copy it anew") from None
    policies: dict[int, Policy] = {}
    for seed, state in members.items():
        own = pick(str(seed), arrays)
        _check_finite(own, f"{path}: the policy of seed {seed}")
        try:
            policies[seed] = policy_of(recording, state, own, adapt=bool(differs))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, RunError):
                raise
            raise RunError(f"{path}: does not fit policy.json ({error}); copy both files again") from None
    return policies


def state_of(policy: StoredPolicy) -> tuple[dict[str, Any], Arrays]:
    """A policy's kind and settings as one JSON-able dict, and its arrays."""
    settings, arrays = policy.to_state()
    return {"kind": policy.kind, **settings}, arrays


def policy_of(recording: Recording, state: Mapping[str, Any], arrays: Arrays, adapt: bool = False) -> Policy:
    """The inverse of `state_of`.

    Args:
        recording: what the policy is to be used on.
        state: kind and settings.
        arrays: everything else.
        adapt: the state is of another pool than the recording's.

    Raises:
        RunError: the kind is not known here, or cannot be adapted.
    """
    added = {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}
    settings = dict(state)
    kind = settings.pop("kind")
    place = (_KINDS | added).get(kind)
    if place is None:
        raise RunError(f"policy kind {kind!r} is not known here; install the package that brings it")
    module, _, name = place.partition(":")
    cls = getattr(import_module(module), name)
    if adapt and not hasattr(cls, "adapted"):
        raise RunError(
            f"a policy of kind {kind!r} belongs to its pool and cannot be adapted to that of "
            f"{recording.name!r}; train one for this recording"
        )
    made: Policy = (cls.adapted if adapt else cls.from_state)(recording, settings, arrays)
    return made


def _check_finite(arrays: Arrays, where: str) -> None:
    for name, array in arrays.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise RunError(f"{where}: {name} holds NaN or inf; train again, with a smaller learning rate")
