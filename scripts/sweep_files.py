"""Write sweeps/: a file in W&B's schema for every environment and learner, from the search spaces below.

example:
  python scripts/sweep_files.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from routegym.policies.algorithm import algorithm_names
from routegym.policies.config import hyperparameters, tuned
from routegym.registration import ENV_IDS, kind_of

_ROOT = Path(__file__).resolve().parents[1]
_TRIALS = 30

#: How long a learner learns: fixed, at what is shipped.
_LENGTHS = ("steps", "updates", "episodes")


def _log(low: float, high: float) -> dict[str, Any]:
    return {"distribution": "log_uniform_values", "min": low, "max": high}


def _range(low: float, high: float) -> dict[str, Any]:
    return {"distribution": "uniform", "min": low, "max": high}


def _of(*values: Any) -> dict[str, Any]:
    return {"values": list(values)}


_NETWORK = {"network": _of("mlp", "attention")}
_PLAYING = {"ent_coef": _log(0.0005, 0.5), "embedding_prior": _of(0.0, 100.0, 300.0, 1000.0)}
_PPO = {
    "learning_rate": _log(0.0003, 0.01),
    **_PLAYING,
    "batch_size": _of(512, 1024, 2048, 4096),
    "n_epochs": _of(2, 4, 8),
    "gae_lambda": _range(0.8, 1.0),
    "clip_range": _range(0.1, 0.4),
}
_GROUPS = {
    "learning_rate": _log(0.0003, 0.02),
    **_PLAYING,
    "group_size": _of(4, 8, 16),
    "batch_size": _of(1024, 2048, 4096),
    "n_epochs": _of(2, 4, 8),
    "clip_range": _range(0.1, 0.4),
    **_NETWORK,
}
_LOGGED = {"learning_rate": _log(0.0003, 0.01), "batch_size": _of(512, 1024, 2048), **_NETWORK}

#: Search space of each learner; what is not in it stays as it is shipped.
SPACES: dict[str, dict[str, Any]] = {
    "ppo": _PPO | _NETWORK,
    "maskable_ppo": _PPO | _NETWORK,
    "recurrent_ppo": _PPO | {"lstm_units": _of(16, 32, 64)},
    "ppo_lagrangian": _PPO | {"kp": _log(1.0, 20.0), "ki": _log(0.1, 2.0), "kd": _log(1.0, 20.0)} | _NETWORK,
    "grpo": _GROUPS | {"scale": _of("none", "per_term", "std")},
    "rloo": _GROUPS,
    "bopo": _GROUPS | {"guidance": _of("append", "floor", "none"), "scale": _of("none", "std")},
    "all_action": {
        "learning_rate": _log(0.0003, 0.02),
        "ent_coef": _log(0.005, 1.0),
        "embedding_prior": _of(0.0, 100.0, 300.0, 1000.0),
        "tasks_per_update": _of(64, 128, 256, 512),
        "width": _of(1.0, 2.0, 4.0),
        "passes": _of(1, 2, 4, 8),
        **_NETWORK,
    },
    "masrouter": {
        "learning_rate": _log(0.0005, 0.02),
        "ent_coef": _log(0.005, 0.5),
        "embedding_prior": _of(0.0, 100.0, 300.0, 1000.0),
        "decay": _range(0.5, 0.99),
        **_NETWORK,
    },
    "cql": _LOGGED | {"alpha": _log(0.005, 0.5), "trace": _range(0.5, 1.0)},
    "bc": _LOGGED | {"candidates": _of(4, 8, 16), "temperature": _log(0.02, 0.5), "failures": _of(False, True)},
}

#: Record after which trials may end early. Those that learn from logs report losses, which do not compare.
_FIRST_RUNG = {
    **dict.fromkeys(("ppo", "maskable_ppo", "recurrent_ppo", "ppo_lagrangian"), 10),
    **dict.fromkeys(("grpo", "rloo", "bopo", "masrouter"), 30),
    "all_action": 40,
}


def sweep_files() -> Iterator[tuple[str, str]]:
    """Names in sweeps/ and what is to stand there."""
    for env in ENV_IDS:
        for algo in algorithm_names("learner"):
            if algo in SPACES:  # installed packages may add learners
                yield f"{kind_of(env)}-{algo}.yaml", _text(env, algo)


def _text(env: str, algo: str) -> str:
    shipped = hyperparameters(tuned(algo, env))
    parameters = {name: {"value": shipped[name]} for name in _LENGTHS if name in shipped} | SPACES[algo]
    sweep: dict[str, Any] = {
        "name": f"{kind_of(env)}-{algo}",
        "description": f"{algo} on {env}, validation tasks",
        "program": "routegym",
        "method": "bayes",
        "metric": {"name": "aiq", "goal": "maximize"},
        "run_cap": _TRIALS,
    }
    if algo in _FIRST_RUNG:
        sweep["early_terminate"] = {"type": "hyperband", "min_iter": _FIRST_RUNG[algo], "eta": 3}
    lines = ["# Made by scripts/sweep_files.py. `routegym sweep` and `wandb agent` run it: docs/sweeps.md."]
    lines += [f"{name}: {_flow(value)}" for name, value in sweep.items()]
    lines += ["parameters:", *(f"  {name}: {_flow(one)}" for name, one in parameters.items())]
    program = ["${env}", "${interpreter}", "-m", "${program}", "train", "--env", env, "--algo", algo]
    words = [*program, "--seeds", "2", "--split", "val", "--set", "${args_no_hyphens}"]
    lines += [f"command: {_flow(words)}"]
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    """On one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000)
    return text.removesuffix("...\n").strip()


if __name__ == "__main__":
    for name, text in sweep_files():
        (_ROOT / "sweeps" / name).write_text(text, encoding="utf-8")
