from __future__ import annotations

import io

import pytest
from rich.console import Console

from routegym.evaluation.report import Table, arm_table, budget_table, comparison_table, decision_table, results_page


def interval(estimate, low, high):
    return {
        "estimate": estimate,
        "low": low,
        "high": high,
        "level": 0.95,
        "excludes_zero": low > 0 or high < 0,
    }


def policy(aiq, learned, score, rival):
    return {
        "learned": learned,
        "seeds": 5,
        "cpu_seconds": 12.34,
        "aiq": aiq,
        "over_zero_router": interval(0.06, 0.05, 0.07),
        "gap_closed_oracle": interval(0.123, 0.1, 0.15),
        "gap_closed_attainable": interval(0.5, 0.4, 0.6),
        "over_best_baseline": rival,
        "qnc": None,
        "violations": 0,
        "budgets": [
            {
                "budget_usd": 2.5e-5,
                "score": score,
                "score_low": score - 0.02,
                "score_high": score + 0.01,
                "cost_usd": 1.25e-5,
                "regret": 0.375,
                "collapse_index": 0.25,
                "largest_share": 0.75,
                "selection_entropy": 0.81,
                "shares": {"nano/direct": 0.25, "large/written": 0.75},
            }
        ],
    }


@pytest.fixture
def metrics():
    return {
        "recording": "toy",
        "split": "test",
        "tasks": 7,
        "cost_range_usd": [1e-6, 7.25e-5],
        "budgets_usd": [2.5e-5],
        "zero_router": {"aiq": 0.55},
        "oracle": {"aiq": 0.9, "budgets": [{"budget_usd": 2.5e-5, "score": 0.875, "cost_usd": 1e-5}]},
        "attainable": {"aiq": 0.8},
        "best_baseline": "random",
        "policies": {
            "random": policy(0.2, False, 0.4, None),
            "ppo": policy(0.61, True, 0.5, interval(0.41, -0.01, 0.5)),
        },
        "decisions": {"ppo": {"p50_s": 1e-4, "p99_s": 2.5e-4, "throughput_per_s": 123456.0, "brier": 0.1, "ece": 0.02}},
    }


def text(table: Table) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table.rich())
    return console.file.getvalue()


def test_rows_are_ordered_by_aiq_and_say_what_excludes_zero(metrics):
    table = comparison_table(metrics)
    assert [row[0] for row in table.rows] == [
        "oracle (clairvoyant)",
        "attainable bound",
        "ppo",
        "zero router",
        "random",
    ]
    assert table.rows[2] == (
        "ppo", "0.6100", "+0.060 [+0.050, +0.070]*", "50% [40%, 60%]", "12% [10%, 15%]", "+0.410 [-0.010, +0.500]", "",
        "0", "5", "12.3",
    )  # fmt: skip
    assert all(len(row) == len(table.header) for row in table.rows)
    assert "toy, 7 test tasks" in text(table)
    assert "1e-06 to 7.25e-05 USD" in text(table)


def test_without_a_bound_there_is_no_column_for_it(metrics):
    metrics["attainable"] = None
    table = comparison_table(metrics)
    assert "gap to bound closed" not in table.header
    assert all(len(row) == len(table.header) for row in table.rows)


def test_scores_by_budget_stand_beside_the_oracle(metrics):
    table = budget_table(metrics)
    assert table.header == ("policy", "2.50e-05")
    assert table.rows == [("oracle", "0.875"), ("ppo", "0.500"), ("random", "0.400")]
    assert "+-0.015" in table.notes[0]


def test_arms_by_budget(metrics):
    table = arm_table(metrics, "ppo")
    assert table.rows == [("2.50e-05", "1.25e-05", "0.500", "0.875", "25%", "75%")]


def test_decisions(metrics):
    table = decision_table(metrics)
    assert table.rows[0] == ("ppo", "0.100", "0.250", "123,456", "75%", "0.81", "0.25", "0.375", "0.100", "0.020")
    assert table.rows[1][:4] == ("random", "", "", "")


def test_markdown_sets_the_learned_off_and_keeps_the_notes(metrics):
    page = comparison_table(metrics).markdown()
    assert "| **ppo** | 0.6100 |" in page
    assert "| random | 0.2000 |" in page
    assert "| --- | ---: |" in page
    assert "Best baseline: random" in page


def test_with_folds_the_table_says_where_points_were_chosen(metrics):
    assert "other folds" not in comparison_table(metrics).markdown()
    assert "other folds" not in comparison_table(metrics | {"made": {"folds": 0}}).markdown()
    assert "on their validation tasks together" in comparison_table(metrics | {"made": {"folds": 5}}).markdown()


def test_with_folds_tables_say_so_and_what_is_of_the_first_one(metrics):
    versions = {"versions": {}, "command": "routegym bench", "seeds": [0], "machine": "Linux"}
    folded = metrics | {
        "split": "all",
        "content_hash": "0" * 64,
        "made": versions | {"folds": 5, "first_fold_tasks": 3},
    }
    assert comparison_table(folded).title == "toy, 7 tasks, 5-fold cross-validation"
    assert "7 tasks, 5-fold cross-validation, training seeds" in results_page(folded)
    assert decision_table(folded).notes[-1].endswith("at the start of a task; first fold, 3 tasks.")
    assert decision_table(metrics).notes[-1].endswith("at the start of a task.")


def test_it_is_said_where_an_arm_stands_in_for_another(metrics):
    assert "stands in" not in text(comparison_table(metrics)) + text(decision_table(metrics))
    metrics |= {"masked_pairs": 3, "arms": {"nano/direct": {}, "large/written": {}}}
    assert "for 3 of 14 (task, arm) pairs, which were not recorded" in text(comparison_table(metrics))
    assert "every arm alone that was recorded for it, at the start" in text(decision_table(metrics))


def test_few_validation_tasks_come_with_a_warning(metrics):
    def warned(**changed):
        return [note for note in comparison_table(metrics | changed).notes if note.startswith("Warning")]

    assert warned() == []  # of a bench that did not count them
    assert warned(validation_tasks=100) == []
    (note,) = warned(validation_tasks=16)
    assert "chosen on 16 validation tasks" in note
    assert "--folds 5" in note
    (note,) = warned(validation_tasks=99, made={"folds": 3})
    assert "--folds" not in note
    assert note in comparison_table(metrics | {"validation_tasks": 99, "made": {"folds": 3}}).markdown()


def test_where_there_is_no_gap_the_cell_is_empty(metrics):
    next(iter(metrics["policies"].values()))["gap_closed_oracle"] = None
    assert "nan" not in text(comparison_table(metrics))
