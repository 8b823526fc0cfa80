"""Recordings that the tests of this room share, and every registered id over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helpers
import pytest

import routegym


@pytest.fixture(params=routegym.ENV_IDS)
def env_id(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["shipped", "small", "sampled"])
def source(request: pytest.FixtureRequest, env_id: str, recordings: dict[str, Path]) -> dict[str, Any]:
    """Keywords that choose the recording: the id's own, a small one, one with several samples per edge."""
    if request.param == "shipped":
        return {}
    kind = next(kind for kind, name in helpers.ID_OF_KIND.items() if name == env_id)
    return {"recording": str(recordings[kind if request.param == "small" else f"{kind}_sampled"])}
