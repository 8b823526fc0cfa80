"""A server in a process of its own, one in twenty of whose calls fails; prints its port, ends when its input does."""

from __future__ import annotations

import sys
import tempfile
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from routegym.pool.backend import Failure, Request, Response
from tests.serving.conftest import Backend, Ladder, served, service_of


class Faulty(Backend):
    """Fails for some prompts, as if an arm were broken."""

    def _answer(self, request: Request) -> Response | Failure:
        failing = zlib.crc32(f"{request.arm.name} {request.prompt}".encode()) % 20 == 0
        self.asked.clear()
        self.broken = {request.arm.name} if failing else set()
        return super()._answer(request)


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
