"""What an import costs and refuses: `import routegym` is light, `envs` and `policies` have one name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: Distributions that only some uses need; each takes from a tenth of a second to several seconds to import.
HEAVY = (
    "matplotlib",
    "numba",
    "pandas",
    "pyarrow",
    "sb3_contrib",
    "scipy",
    "stable_baselines3",
    "torch",
    "transformers",
    "tensorboard",
    "wandb",
)


def run_python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60)


def heavy_modules_loaded_by(statements: str) -> list[str]:
    done = run_python("-c", f"import sys; {statements}; print([m for m in {HEAVY} if m in sys.modules])")
    assert done.returncode == 0, done.stderr
    return list(eval(done.stdout.splitlines()[-1]))


def test_import_loads_nothing_heavy() -> None:
    assert heavy_modules_loaded_by("import routegym") == []


def test_heavy_modules_are_noticed() -> None:
    assert heavy_modules_loaded_by("import routegym, pyarrow") == ["pyarrow"]


def test_command_line_module_loads_nothing_heavy() -> None:
    assert heavy_modules_loaded_by("import routegym.cli.main") == []


IMPORT_ALL_WITHOUT_EXTRAS = f"""
import importlib, pkgutil, sys
for name in {HEAVY}:
    if name != "pyarrow":
        sys.modules[name] = None  # makes `import name` raise ModuleNotFoundError
import routegym
from routegym.errors import MissingExtraError

for module in pkgutil.walk_packages(routegym.__path__, "routegym.", onerror=lambda name: None):
    try:
        importlib.import_module(module.name)
    except MissingExtraError as error:
        assert "pip install" in str(error)
    except ImportError as error:
        if module.name != "routegym.core.compiled":  # routegym.core.kernels asks for numba before
            print(module.name, repr(error))
"""


def test_without_extras_modules_import_or_name_the_extra() -> None:
    done = run_python("-c", IMPORT_ALL_WITHOUT_EXTRAS)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def children_seconds() -> float:
    """Processor time that finished child processes have used."""
    used = os.times()
    return used.children_user + used.children_system


def test_help_answers_within_a_second() -> None:
    """Processor seconds, the best of five: the bar is about what is imported, not about who else uses the machine."""
    command = Path(sys.executable).with_name("routegym")
    environment = {**os.environ, "COLUMNS": "110"}
    times = []
    for _ in range(5):
        start = children_seconds()
        done = subprocess.run([str(command), "--help"], capture_output=True, text=True, timeout=60, env=environment)
        times.append(children_seconds() - start)
        assert done.returncode == 0, done.stderr
        for name in ("train", "evaluate", "enjoy"):
            assert name in done.stdout
        if times[-1] < 1.0:
            return
    pytest.fail(f"routegym --help took at best {min(times):.2f} s")


@pytest.mark.parametrize("folder", ["envs", "policies"])
def test_folders_have_one_name_only(folder: str) -> None:
    done = run_python("-c", f"import {folder}")
    assert done.returncode != 0
    assert "ImportError" in done.stderr
    assert f"import routegym.{folder}" in done.stderr


@pytest.mark.parametrize("folder", ["envs", "policies"])
def test_folders_import_below_routegym(folder: str, tmp_path: Path) -> None:
    """Also where the user's own directory has a folder of that name."""
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "__init__.py").write_text("raise RuntimeError('the wrong folder')\n")
    done = run_python("-c", f"import routegym.{folder}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
