"""Use an installed routegym as someone without any extra does: step every env, read the help, try to train.

Run it with an interpreter whose environment holds the built wheel and nothing else (`make minimal` does),
outside the checkout, so that the files come out of the wheel.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np

import routegym

EXTRAS = ("torch", "stable_baselines3", "sb3_contrib", "transformers", "matplotlib", "plotly", "numba")
STEPS = 200


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("routegym")
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=120)


def main() -> None:
    present = [name for name in EXTRAS if importlib.util.find_spec(name) is not None]
    assert not present, f"not a minimal environment: {present}"
    assert "site-packages" in routegym.__file__, f"not the wheel: {routegym.__file__}"

    ids = [name for name in gymnasium.registry if name.startswith("routegym/")]
    assert len(ids) >= 3, ids
    for name in ids:
        env = gymnasium.make(f"routegym:{name}")
        rng = np.random.default_rng(0)
        env.reset(seed=0)
        for _ in range(STEPS):
            mask = env.get_wrapper_attr("action_masks")()
            *_, terminated, truncated, _ = env.step(int(rng.choice(np.flatnonzero(mask))))
            if terminated or truncated:
                env.reset()
        env.close()
        print(f"{name}: {STEPS} steps")

    done = command("--help")
    assert done.returncode == 0, done.stderr
    done = command("train", "--out", "never-written")
    output = done.stdout + done.stderr
    assert done.returncode != 0, output
    assert 'pip install "routegym[train]"' in " ".join(output.split()), output
    assert "Traceback" not in output, output
    assert not Path("never-written").exists(), "a run folder without a run"
    print("routegym train names the missing extra")


if __name__ == "__main__":
    main()
