"""Roll-outs, references, metrics, confidence intervals, tables and pictures."""

from routegym.core.rollout import EpisodeTable, rollout
from routegym.evaluation.attainable import attainable_policy
from routegym.evaluation.calibration import (
    Reliability,
    brier,
    expected_calibration_error,
    predicted_success,
    reliability,
    success_calibration,
)
from routegym.evaluation.collapse import (
    DIFFICULTIES,
    difficulty,
    largest_share,
    routing_collapse_index,
    selection_entropy,
    shares_by_group,
)
from routegym.evaluation.comparison import Comparison, Entry
from routegym.evaluation.frontier import Frontier, aiq, gap_closed, hull, score_at, zero_router
from routegym.evaluation.latency import DecisionLatency, decision_latency
from routegym.evaluation.off_policy import LoggedRows, dm, dr, ips, snips
from routegym.evaluation.oracle import oracle_at_cap, oracle_at_lambda, oracle_frontier
from routegym.evaluation.outcomes import Grid, Outcomes, budget_grid, play
from routegym.evaluation.plots import Curve, frontier_figure, shares_figure
from routegym.evaluation.references import References, arms_alone, recorded_alone
from routegym.evaluation.regret import regret
from routegym.evaluation.report import Table, arm_table, budget_table, comparison_table
from routegym.evaluation.routes import Route, Step, largest_differences, trace_routes
from routegym.evaluation.shares import REMAINING_EDGES, CallShares, call_shares
from routegym.evaluation.statistics import Interval, Sweep, aiq_difference, bootstrap, gap_closed_interval, score_bands
from routegym.evaluation.strength import apgr, cpt, hypervolume, pgr, qnc

__all__ = [
    "DIFFICULTIES",
    "REMAINING_EDGES",
    "CallShares",
    "Comparison",
    "Curve",
    "DecisionLatency",
    "Entry",
    "EpisodeTable",
    "Frontier",
    "Grid",
    "Interval",
    "LoggedRows",
    "Outcomes",
    "References",
    "Reliability",
    "Route",
    "Step",
    "Sweep",
    "Table",
    "aiq",
    "aiq_difference",
    "apgr",
    "arm_table",
    "arms_alone",
    "attainable_policy",
    "bootstrap",
    "brier",
    "budget_grid",
    "budget_table",
    "call_shares",
    "comparison_table",
    "cpt",
    "decision_latency",
    "difficulty",
    "dm",
    "dr",
    "expected_calibration_error",
    "frontier_figure",
    "gap_closed",
    "gap_closed_interval",
    "hull",
    "hypervolume",
    "ips",
    "largest_differences",
    "largest_share",
    "oracle_at_cap",
    "oracle_at_lambda",
    "oracle_frontier",
    "pgr",
    "play",
    "predicted_success",
    "qnc",
    "recorded_alone",
    "regret",
    "reliability",
    "rollout",
    "routing_collapse_index",
    "score_at",
    "score_bands",
    "selection_entropy",
    "shares_by_group",
    "shares_figure",
    "snips",
    "success_calibration",
    "trace_routes",
    "zero_router",
]
