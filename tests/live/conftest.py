"""A model server for the live tests; without one they are skipped.

scripts/serve_smol.sh
python -m pytest tests/live -m live        # make test-live does both
"""

from __future__ import annotations

import json
import os
import urllib.request

import pytest

#: Where SmolLM2 is served; any OpenAI-compatible vLLM server will do.
URL = os.environ.get("ROUTEGYM_LIVE_URL", "http://127.0.0.1:8000").rstrip("/")
_LOCAL = pytest.mark.allow_hosts(["127.0.0.1", "::1", "localhost"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "live" in item.path.parts:
            item.add_marker(pytest.mark.live)
            item.add_marker(_LOCAL)
            item.add_marker(pytest.mark.timeout(900))  # a busy machine answers slowly


@pytest.fixture(scope="session")
def url() -> str:
    """Address of the server up to and including the version."""
    return f"{URL}/v1"


@pytest.fixture(scope="session")
def model(url: str) -> str:
    """Name of the model that is served first."""
    try:
        with urllib.request.urlopen(f"{url}/models", timeout=20) as response:
            return str(json.load(response)["data"][0]["id"])
    except OSError as error:
        pytest.skip(
            f"no model server at {URL} ({error}); start one with scripts/serve_smol.sh or set ROUTEGYM_LIVE_URL"
        )
