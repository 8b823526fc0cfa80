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

__all__ = ["WeightsAndBiases", "check_settings"]

_REMEDY = "log in with `wandb login`, or set WANDB_MODE=offline and give the run to `wandb sync` later"
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
        # W&B reads them itself, and complains of arguments beside those of its agent.
        told = {variable for variable, value in os.environ.items() if value}
        try:
            self._run = wandb.init(
                dir=run_folder,
                id=None if "WANDB_RUN_ID" in told else _known(identity),
                name=os.environ.get("WANDB_NAME") or run_folder.name,
                project=None if {"WANDB_PROJECT", "WANDB_SWEEP_ID"} & told else "routegym",
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
        except (wandb.Error, ValueError) as error:
            raise RunError(f"W&B does not begin a run: {error}; {_REMEDY}") from None
        if self._run.settings.mode in ("online", "offline"):
            write_atomically(identity, f"{json.dumps({'id': self._run.id})}\n".encode())
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
            self._run.log({f"seed_{seed}/step": record.get("step"), **values}, step=number)

    def results(self, results: Results) -> None:
        """Scalars, tables and the picture, in the row of the last record; not again what the service has already."""
        summary = dict(self._run.summary)
        if all(summary.get(name) == value for name, value in results.scalars.items()):
            return
        shown: dict[str, Any] = dict(results.scalars)
        for name, table in results.tables.items():
            shown[name] = wandb.Table(list(table.columns), [list(row) for row in table.rows])
        if (self._run_folder / PICTURE).is_file():
            shown["frontier"] = wandb.Image(str(self._run_folder / PICTURE))
        self._run.log(shown, step=max(self._next - 1, self._run.step))

    def close(self, failed: bool) -> None:
        """Keep recording and policies as artifacts, unless it failed, and send what is left."""
        if not failed:
            if self._recording is not None:
                meta = json.loads((self._recording / "meta.json").read_text(encoding="utf-8"))
                self._keep("recording", meta["name"], sorted(self._recording.iterdir()))
            self._keep("policy", self._run_folder.name, [self._run_folder / name for name in _POLICY])
        own = Path(self._run.dir).parent
        offline, folders = self._run.settings.mode == "offline", f"offline-run-*-{self._run.id}*"
        self._run.finish(exit_code=int(failed))
        for former in (self._run_folder / "wandb").glob(folders) if offline else ():
            if former.resolve() != own.resolve():  # all that was in it is in this one too
                shutil.rmtree(former)

    def _keep(self, kind: str, name: str, files: Sequence[Path]) -> None:
        """Files as an artifact, with the sha256 of each."""
        files = [path.resolve() for path in files if path.is_file()]
        hashes = {path.name: _sha256(path) for path in files}
        artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", f"{kind}-{name}")[:128], kind, metadata={"sha256": hashes})
        for path in files:
            artifact.add_file(str(path), policy="immutable")
        if files:
            self._run.log_artifact(artifact)


def check_settings() -> None:
    """Refuse what `wandb.init` would refuse once there is a run folder.

    Raises:
        RunError: W&B's settings are wrong, or there is no API key and the mode is not offline.
    """
    try:
        settings = wandb.setup().settings
    except (wandb.Error, ValueError) as error:
        raise RunError(f"W&B's settings are wrong: {error}; correct the environment variables WANDB_...") from None
    if settings.mode == "online" and not wandb.login(prompt=False, verify=False):
        raise RunError(f"W&B has no API key; {_REMEDY}")


def _known(identity: Path) -> str | None:
    """The id that the run has had at W&B; None where there is none that can be read."""
    try:
        return str(json.loads(identity.read_text(encoding="utf-8"))["id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
