"""A service around a simulated pool, and its server on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from router_service import served, service_of

from routegym.serving.service import Service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with service_of(tmp_path) as made:
        yield made


@pytest.fixture
def url(service: Service) -> Iterator[str]:
    with served(service) as address:
        yield address
