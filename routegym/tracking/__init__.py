"""Run folders and what a training run reports."""

from routegym.tracking.run import Run, RunConfig, versions

__all__ = ["Run", "RunConfig", "versions"]
