"""Recordings that the tests of this room share."""

from __future__ import annotations

from pathlib import Path

import helpers
import pytest


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small complete recordings by kind, see `helpers.saved`."""
    return helpers.saved(tmp_path_factory.getbasetemp() / "recordings")
