"""A small trained run that the tests of the command line share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from routegym.cli.main import main


@pytest.fixture(scope="session")
def recording(recordings: dict[str, Path]) -> Path:
    """A small complete agent_steps recording."""
    return recordings["agent_steps"]


@pytest.fixture(scope="session")
def trained(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of two seeds, evaluated; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    main(["train", "--recording", str(recording), "--out", str(folder), "--seeds", "2", "--steps", "16384"])
    return folder


@pytest.fixture
def run_folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "run"))
