"""W&B as a backend: its server chooses, and this process is an agent of it."""

from __future__ import annotations

from routegym.errors import MissingExtraError, RunError
from routegym.sweeps.config import SweepConfig

try:
    import wandb
except ImportError as error:
    raise MissingExtraError("wandb", "track") from error

__all__ = ["run_agent"]


def run_agent(config: SweepConfig, trials: int) -> None:
    """Register a sweep with W&B and run trials of it, one after the other, as `wandb agent` does.

    Raises:
        RunError: W&B has no API key, is offline, or refuses the sweep.
    """
    from routegym.tracking.weights_and_biases import check_settings

    check_settings()
    mode = wandb.setup().settings.mode
    if mode != "online":
        raise RunError(
            f"W&B is {mode}, and its server chooses what to try: set WANDB_MODE=online, or use --backend optuna"
        )
    project = config.project or wandb.setup().settings.project or "routegym"
    try:
        sweep = wandb.sweep(config.model_dump(mode="json", exclude_unset=True), project=project, entity=config.entity)
        wandb.agent(sweep, project=project, entity=config.entity, count=trials)
    except (wandb.Error, ValueError) as error:
        raise RunError(f"W&B does not run the sweep: {error}; look at its server's answer") from None
