from __future__ import annotations

import io

import pytest
from rich.console import Console

from routegym.evaluation.report import budget_table, evaluation_table


def interval(estimate, low, high):
    return {
        "estimate": estimate,
        "low": low,
        "high": high,
        "level": 0.95,
        "excludes_zero": low > 0 or high < 0,
    }


@pytest.fixture
def metrics():
    return {
        "recording": "toy",
        "split": "test",
        "tasks": 7,
        "seeds": 5,
        "cost_range_usd": [1e-6, 7.25e-5],
        "policy": {
            "aiq": 0.61,
            "violations": 0,
            "budgets": [
                {
                    "budget_usd": 2.5e-5,
                    "score": 0.5,
                    "cost_usd": 1.25e-5,
                    "oracle_score": 0.875,
                    "oracle_cost_usd": 1e-5,
                    "shares": {"nano/direct": 0.25, "large/written": 0.75},
                }
            ],
        },
        "oracle": {"aiq": 0.9},
        "oracle_gap_closed": interval(0.123, 0.1, 0.15),
        "against": {
            "zero router": {"aiq": 0.55, "difference": interval(0.06, 0.05, 0.07)},
            "random": {"aiq": 0.2, "difference": interval(0.41, -0.01, 0.5)},
        },
    }


def text(table) -> list[str]:
    console = Console(file=io.StringIO(), width=140)
    console.print(table)
    return console.file.getvalue().splitlines()


def test_evaluation_table(metrics):
    lines = text(evaluation_table(metrics))
    order = [
        name for line in lines for name in ("oracle ", "policy ", "zero router ", "random ") if f"│ {name}" in line
    ]
    assert order == ["oracle ", "policy ", "zero router ", "random "]
    page = " ".join(" ".join(lines).split())
    assert "toy, 7 test tasks, 5 training seeds" in page
    assert "+0.0600 [+0.0500, +0.0700]*" in page
    assert "+0.4100 [-0.0100, +0.5000] │" in page
    assert "12.3% [10.0%, 15.0%]" in page
    assert "1e-06 to 7.25e-05 USD" in page


def test_budget_table(metrics):
    page = "\n".join(text(budget_table(metrics)))
    for cell in ("2.5e-05", "1.25e-05", "0.500", "0.875", "large/written (75%)"):
        assert cell in page
