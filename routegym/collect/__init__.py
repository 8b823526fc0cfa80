"""Recording a pool: which calls are worth making, who makes them, and what comes of it."""

from routegym.collect.runners import LocalWorkers, RayTasks, Source
from routegym.collect.session import Collected, arm_rows, collect, share_of
from routegym.collect.strategies import (
    Strategy,
    boundary_arms,
    play_policy,
    record_all,
    record_always,
    record_boundary,
    record_random,
)

__all__ = [
    "Collected",
    "LocalWorkers",
    "RayTasks",
    "Source",
    "Strategy",
    "arm_rows",
    "boundary_arms",
    "collect",
    "play_policy",
    "record_all",
    "record_always",
    "record_boundary",
    "record_random",
    "share_of",
]
