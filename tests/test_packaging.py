"""The built wheel holds every module and data file of the project and nothing else."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]

#: Import names that differ from the names of their distributions by more than "_" for "-".
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}

#: Folder in the checkout -> folder in site-packages.
ROOMS = {"routegym": "routegym", "envs": "routegym/envs", "policies": "routegym/policies"}


def walk(folder: Path) -> Iterator[Path]:
    """Every file below `folder` that is not made by running Python; links are not followed."""
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink() or entry.name == "__pycache__":
            continue
        if entry.is_dir():
            yield from walk(entry)
        else:
            yield entry


def files_on_disk() -> dict[str, Path]:
    """Name in the wheel -> file in the checkout."""
    return {
        str(PurePosixPath(target) / path.relative_to(ROOT / source).as_posix()): path
        for source, target in ROOMS.items()
        for path in walk(ROOT / source)
    }


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by way of the sdist from a copy, so that nothing is left in the checkout."""
    copy = tmp_path_factory.mktemp("packaging") / "routegym"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    for name in ROOMS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(copy / "dist"), str(copy)],
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (copy / "dist").glob("*.whl")
    assert len(list((copy / "dist").glob("*.tar.gz"))) == 1
    return built


@pytest.fixture(scope="module")
def members(wheel: Path) -> dict[str, bytes]:
    """Every file of the wheel but its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}


def test_wheel_holds_every_file_and_nothing_else(members: dict[str, bytes]) -> None:
    expected = files_on_disk()
    assert sorted(set(expected) - set(members)) == [], "missing from the lists in pyproject.toml"
    assert sorted(set(members) - set(expected)) == [], "in the wheel, but not in the checkout"


def test_wheel_files_are_the_same_bytes(members: dict[str, bytes]) -> None:
    different = [name for name, path in files_on_disk().items() if members.get(name) != path.read_bytes()]
    assert different == []


def test_only_routegym_lands_in_site_packages(members: dict[str, bytes]) -> None:
    assert {name.split("/")[0] for name in members} == {"routegym"}


def test_wheel_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = {
            PurePosixPath(name).name: archive.read(name).decode()
            for name in archive.namelist()
            if ".dist-info/" in name
        }
    assert "routegym = routegym.cli.main:main" in text["entry_points.txt"]
    assert "License-Expression: Apache-2.0" in text["METADATA"]
    assert "Requires-Python: >=3.11" in text["METADATA"]
    assert "Apache License" in text["LICENSE"]


def test_version_has_one_source(wheel: Path) -> None:
    import routegym

    assert wheel.name == f"routegym-{routegym.__version__}-py3-none-any.whl"


def test_every_package_on_disk_is_listed(settings: dict[str, Any]) -> None:
    on_disk = {name.rpartition("/")[0].replace("/", ".") for name in files_on_disk() if name.endswith(".py")}
    assert sorted(settings["tool"]["setuptools"]["packages"]) == sorted(on_disk)


@pytest.mark.parametrize("folder", ["envs", "policies"])
def test_links_lead_to_the_real_folders(folder: str) -> None:
    """Without them type checkers see two empty packages and pass."""
    link = ROOT / "routegym" / folder
    assert link.is_symlink()
    assert link.resolve() == ROOT / folder


def test_no_packaged_file_is_ignored_by_git() -> None:
    """A file that git ignores is in this checkout's wheel and in nobody else's."""
    paths = [str(path.relative_to(ROOT)) for path in files_on_disk().values()]
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", "--stdin"],
        cwd=ROOT,
        input="\n".join(paths),
        capture_output=True,
        text=True,
    )
    if done.returncode == 128:
        pytest.skip("not a git checkout")
    assert done.stdout.split() == []


def distribution(module: str) -> str:
    top = module.partition(".")[0]
    return DISTRIBUTIONS.get(top, top.replace("_", "-")).lower()


def requirements(entries: list[str]) -> set[str]:
    """Names of the required distributions, without extras and versions."""
    return {re.split(r"[^A-Za-z0-9._-]", entry)[0].lower() for entry in entries}


def test_every_import_is_declared(settings: dict[str, Any]) -> None:
    """A third-party package that the project imports comes with the core or with an extra."""
    project = settings["project"]
    declared = requirements(project["dependencies"])
    for extra, entries in project["optional-dependencies"].items():
        if extra not in ("all", "dev"):
            declared |= requirements(entries)
    undeclared = set()
    for name, path in files_on_disk().items():
        if not name.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                modules = [node.module]
            for module in modules:
                top = module.partition(".")[0]
                ours = top == "routegym" or top in sys.stdlib_module_names
                if not ours and distribution(module) not in declared:
                    undeclared.add((name, module))
    assert sorted(undeclared) == []


def test_missing_extra_errors_name_an_extra_that_brings_the_package(settings: dict[str, Any]) -> None:
    extras = settings["project"]["optional-dependencies"]
    found = 0
    wrong = []
    for name, path in files_on_disk().items():
        if not name.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "MissingExtraError"):
                continue
            values = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            if len(values) != 2:
                continue  # computed: its own room tests it
            found += 1
            package, extra = values
            if extra not in extras or distribution(package) not in requirements(extras[extra]):
                wrong.append((name, package, extra))
    assert wrong == []
    assert found > 0


def test_the_lock_has_a_version_and_hashes_of_everything(settings: dict[str, Any]) -> None:
    """Of the core and the extra ``all``, but for PyTorch, whose build depends on the machine: `make lock` writes it."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    entries = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    locked: dict[str, set[str]] = {}
    for entry in entries:
        requirement, *hashes = entry.split("--hash=")
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", one) for one in hashes), entry
        assert hashes, entry
        found = Requirement(requirement)
        (pin,) = found.specifier
        assert pin.operator == "==", entry
        locked.setdefault(canonicalize_name(found.name), set()).add(pin.version)
    extras = settings["project"]["optional-dependencies"]
    (everything,) = [Requirement(entry) for entry in extras["all"]]
    wanted = settings["project"]["dependencies"] + [entry for extra in everything.extras for entry in extras[extra]]
    for one in map(Requirement, wanted):
        if one.name != "torch":
            versions = locked.get(canonicalize_name(one.name), set())
            fitting = {version for version in versions if version in one.specifier}
            assert versions == fitting != set(), f"{one}: {versions or 'nothing'} is locked; run `make lock`"
    assert "torch" not in locked


def test_core_dependencies_stay_light(settings: dict[str, Any]) -> None:
    """What is large or compiled for one use is an extra."""
    core = " ".join(settings["project"]["dependencies"]).lower()
    heavy = (
        "torch",
        "stable-baselines3",
        "sb3-contrib",
        "transformers",
        "matplotlib",
        "numba",
        "pandas",
        "scikit-learn",
        "skops",
        "reasoning-gym",
        "minari",
        "ray",
        "trl",
        "vllm",
        "wandb",
        "tensorboard",
        "optuna",
    )
    assert [name for name in heavy if name in core] == []
    extras = set(settings["project"]["optional-dependencies"])
    live = {"live", "tasks", "embeddings", "minari", "ray", "serve", "sweep", "trl", "vllm"}
    assert extras == {"train", "pool", "plots", "fast", "baselines", "report", "track", "all", "dev"} | live
