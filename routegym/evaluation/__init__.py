"""Roll-outs, the exact oracle, frontier metrics, confidence intervals, tables and pictures."""

from routegym.evaluation.frontier import Frontier, aiq, gap_closed, hull, score_at, zero_router
from routegym.evaluation.oracle import oracle_at_cap, oracle_at_lambda, oracle_frontier
from routegym.evaluation.plots import Curve, frontier_figure
from routegym.evaluation.report import budget_table, evaluation_table
from routegym.evaluation.rollout import EpisodeTable, rollout
from routegym.evaluation.statistics import (
    Interval,
    Sweep,
    aiq_difference,
    bootstrap,
    gap_closed_interval,
    score_bands,
)

__all__ = [
    "Curve",
    "EpisodeTable",
    "Frontier",
    "Interval",
    "Sweep",
    "aiq",
    "aiq_difference",
    "bootstrap",
    "budget_table",
    "evaluation_table",
    "frontier_figure",
    "gap_closed",
    "gap_closed_interval",
    "hull",
    "oracle_at_cap",
    "oracle_at_lambda",
    "oracle_frontier",
    "rollout",
    "score_at",
    "score_bands",
    "zero_router",
]
