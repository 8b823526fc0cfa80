"""W&B as a service of `routegym.tracking.tracking.Tracking`."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routegym.errors import MissingExtraError, RunError
from routegym.policies.training import write_atomically
from routegym.tracking.results import PICTURE, scalars

try:
    import wandb
except ImportError as error:
    raise MissingExtraError("wandb", "track") from error

if TYPE_CHECKING:
    from routegym.tracking.results import Results

__all__ = ["WeightsAndBiases"]

_POLICY = ("policy.json", "policy.safetensors", "config.yaml")


class WeightsAndBiases:
    """One W&B run for a run folder; the curves of a seed are ``seed_N/...`` over ``seed_N/step``.

    What tells of the machine's user or of the command line is not recorded, nor is what the terminal shows: secrets
    may stand there. An offline run that is gone on with is written again as a whole, in a folder that takes the place
    of the former one: `wandb sync` would replace the former half by the latter.
    """

    def __init__(self, run_folder: Path, config: Mapping[str, Any], recording: Path | None) -> None:
        self._run_folder, self._recording = run_folder, recording
        identity = run_folder / "wandb.json"
        known = json.loads(identity.read_text(encoding="utf-8"))["id"] if identity.is_file() else None
        former = list((run_folder / "wandb").glob(f"offline-run-*-{known}")) if known else []
        try:
            self._run = wandb.init(
                dir=run_folder,
                id=os.environ.get("WANDB_RUN_ID") or known,
                name=os.environ.get("WANDB_NAME") or run_folder.name,
                project=os.environ.get("WANDB_PROJECT") or "routegym",
                resume="allow",
                config=dict(config),
                settings=wandb.Settings(
                    console="off",
                    disable_git=True,
                    save_code=False,
                    x_disable_meta=True,
                    x_transaction_log_flush_interval=1.0,
                ),
            )
        except wandb.Error as error:
            raise RunError(
                f"W&B does not begin a run: {error}; log in with `wandb login`, or set WANDB_MODE=offline and run "
                "`wandb sync` later"
            ) from None
        write_atomically(identity, f"{json.dumps({'id': self._run.id})}\n".encode())
        for folder in former:
            shutil.rmtree(folder)
        self._seeds: set[Any] = set()
        self._next = 0

    def log(self, number: int, record: Mapping[str, Any]) -> None:
        """Scalars at W&B's step ``number``; what the service has already is not sent again."""
        seed = record.get("seed")
        if seed not in self._seeds:
            self._run.define_metric(f"seed_{seed}/*", step_metric=f"seed_{seed}/step")
            self._seeds.add(seed)
        self._next = number + 1
        if number >= self._run.step:
            values = {f"seed_{seed}/{name}": value for name, value in scalars(record)}
            self._run.log({f"seed_{seed}/step": record.get("step"), **values}, step=number, commit=True)

    def results(self, results: Results) -> None:
        """Scalars, tables and the picture; the recording and the policies as artifacts with their hashes."""
        tables = {
            name: wandb.Table(list(table.columns), [list(row) for row in table.rows])
            for name, table in results.tables.items()
        }
        shown: dict[str, Any] = {**results.scalars, **tables}
        if (self._run_folder / PICTURE).is_file():
            shown["frontier"] = wandb.Image(str(self._run_folder / PICTURE))
        self._run.log(shown, step=max(self._next, self._run.step))
        if self._recording is not None:
            meta = json.loads((self._recording / "meta.json").read_text(encoding="utf-8"))
            self._keep("recording", meta["name"], sorted(self._recording.iterdir()))
        self._keep("policy", self._run_folder.name, [self._run_folder / name for name in _POLICY])

    def _keep(self, kind: str, name: str, files: Sequence[Path]) -> None:
        """Files as an artifact, with the sha256 of each."""
        files = [path for path in files if path.is_file()]
        hashes = {path.name: _sha256(path) for path in files}
        artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", f"{kind}-{name}")[:128], kind, metadata={"sha256": hashes})
        for path in files:
            artifact.add_file(str(path), policy="immutable")
        self._run.log_artifact(artifact)

    def close(self, failed: bool) -> None:
        """Send what is left; the run counts as crashed if it failed."""
        self._run.finish(exit_code=int(failed))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
