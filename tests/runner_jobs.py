"""Jobs for the tests of runners; processes of a runner import them from here."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from routegym.errors import MissingExtraError


def add(a: int, b: int) -> int:
    return a + b


def threads() -> tuple[str, int]:
    import torch

    return os.environ["OMP_NUM_THREADS"], torch.get_num_threads()


def where() -> int:
    return os.getpid()


def refuse() -> None:
    raise MissingExtraError("numba", "fast")


def fail() -> None:
    raise KeyError("nothing of this name")


def die(folder: Path, times: int) -> int:
    """Dies so many times by SIGKILL, and then says how often it was begun."""
    begun = len(list(folder.iterdir()))
    (folder / str(begun)).touch()
    if begun < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return begun + 1


def hang(begun: Path) -> None:
    begun.write_text(str(os.getpid()))
    time.sleep(600)
