"""Run folders, what a run reports while it goes on, and the services that show it."""

from routegym.tracking.run import Run, RunConfig, git_commit, versions
from routegym.tracking.tracking import Service, Tracking

__all__ = ["Run", "RunConfig", "Service", "Tracking", "git_commit", "versions"]
