"""A server in a process of its own, one in twenty of whose calls fails; prints its port, ends when its input does."""

from __future__ import annotations

import sys
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from router_service import Backend, Ladder, served, service_of

from routegym.pool.backend import Failure, Request, Response


class Faulty(Backend):
    """Fails for some prompts, as if an arm were broken, and remembers nothing."""

    def generate(self, requests: Sequence[Request], on_result: Any = None) -> list[Response | Failure]:
        return [self._answer(request) for request in requests]

    def fails(self, request: Request) -> bool:
        return zlib.crc32(f"{request.arm.name} {request.prompt}".encode()) % 20 == 0


def main() -> None:
    """Serve."""
    with tempfile.TemporaryDirectory() as folder, service_of(Path(folder), Ladder(2), explore=0.1) as service:
        service.pool.backend = Faulty()  # type: ignore[misc]
        with served(service) as url:
            sys.stdout.write(url.rsplit(":", 1)[1] + "\n")
            sys.stdout.flush()
            sys.stdin.read()


if __name__ == "__main__":
    main()
