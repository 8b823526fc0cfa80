"""Searches for hyperparameters: files in W&B's schema, trials as processes, and backends that choose what to try."""

from routegym.sweeps.config import Objective, Parameter, SweepConfig, read_sweep
from routegym.sweeps.outcomes import Outcome, best_first

__all__ = ["Objective", "Outcome", "Parameter", "SweepConfig", "best_first", "read_sweep"]
