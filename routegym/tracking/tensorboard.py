"""TensorBoard as a service of `routegym.tracking.tracking.Tracking`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from routegym.errors import MissingExtraError
from routegym.tracking.results import PICTURE, scalars

try:
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter
except ImportError as error:
    raise MissingExtraError("tensorboard", "track") from error

if TYPE_CHECKING:
    from routegym.tracking.results import Results

__all__ = ["TensorBoard"]


class TensorBoard:
    """Event files in ``RUN/tensorboard``: a folder for every seed, so that they lie over each other, and ``results``.

    Written anew each time a run is gone on with.
    """

    def __init__(self, run_folder: Path, config: Mapping[str, Any], recording: Path | None) -> None:
        self._run_folder = run_folder
        self._folder = run_folder / "tensorboard"
        shutil.rmtree(self._folder, ignore_errors=True)
        self._writers: dict[str, Any] = {}
        self._writer("results").add_text("config", f"```json\n{json.dumps(config, indent=1, default=str)}\n```")

    def log(self, number: int, record: Mapping[str, Any]) -> None:
        """Scalars at the record's ``step``."""
        writer = self._writer(f"seed-{record.get('seed')}")
        for name, value in scalars(record):
            writer.add_scalar(name, value, record.get("step"))
        writer.flush()

    def results(self, results: Results) -> None:
        """Scalars under ``results/``, the picture, and tables as text."""
        writer = self._writer("results")
        for name, value in results.scalars.items():
            writer.add_scalar(f"results/{name}", value)
        for name, table in results.tables.items():
            lines = (
                f"| {' | '.join(map(str, row))} |" for row in (table.columns, ["---"] * len(table.columns), *table.rows)
            )
            writer.add_text(name, "\n".join(lines))
        picture = self._run_folder / PICTURE
        if picture.is_file():
            with Image.open(picture) as image:
                writer.add_image("frontier", np.asarray(image.convert("RGB")), dataformats="HWC")

    def close(self, failed: bool) -> None:
        """Write what is left."""
        for writer in self._writers.values():
            writer.close()

    def _writer(self, name: str) -> Any:
        if name not in self._writers:
            self._writers[name] = SummaryWriter(str(self._folder / name))
        return self._writers[name]
