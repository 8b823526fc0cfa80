"""The report of an import says what was read, in numbers worked out by hand, and what is odd about it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from routegym.evaluation.import_report import ImportReport, arm_table, import_page, import_report, row_table
from routegym.graph.imports import RoutingData, to_recording

Rows = list[dict[str, Any]]


def data_of(rows: Rows, **options: Any) -> RoutingData:
    names = list(dict.fromkeys(row["query"] for row in rows))
    prompts = options.pop("prompts", [f"what about {name}?" for name in names])
    splits = options.pop("splits", ["train"] * (len(names) - 1) + ["test"])
    queries = pa.table({"query": names, "prompt": prompts, "split": splits})
    return RoutingData("theirs", pa.Table.from_pylist(rows), queries, **options)


def report_of(rows: Rows, missing: Any = "drop", **options: Any) -> ImportReport:
    return import_report(to_recording(data_of(rows, **options), missing=missing, text="none"))


def row(query: str, arm: str, score: float | None, cost_usd: float | None, **more: Any) -> dict[str, Any]:
    return {"query": query, "arm": arm, "score": score, "cost_usd": cost_usd, **more}


BY_HAND = [
    row("q1", "cheap", 1.0, 1.0), row("q1", "dear", 1.0, 9.0),
    row("q2", "cheap", 0.0, 2.0), row("q2", "dear", 1.0, 8.0),
    row("q3", "cheap", 0.0, 3.0), row("q3", "dear", 0.0, 7.0),
    row("q4", "cheap", 0.5, 6.0), row("q4", "dear", 0.5, 4.0),
]  # fmt: skip


def test_numbers_by_hand() -> None:
    report = report_of(BY_HAND)
    assert (report.cheapest_arm, report.best_arm) == ("cheap", "dear")
    assert [(arm.name, arm.rows, arm.score, arm.cost_usd) for arm in report.arms] == [
        ("cheap", 4, 0.375, 3.0),
        ("dear", 4, 0.625, 7.0),
    ]
    # q1: the cheap arm of two; q2: the only one; q3: none scores, the cheap one is charged; q4: dear is cheaper there
    assert (report.oracle_score, report.oracle_cost_usd) == (0.625, (1 + 8 + 3 + 4) / 4)
    assert (report.rows_read, report.rows_kept, report.queries_read, report.queries_kept) == (8, 8, 4, 4)
    assert (report.complete_arms, report.masked, report.moved, dict(report.dropped)) == (2, 0, 0, {})
    assert report.warnings == ()
    assert report.leaks == ()


def test_dropped_and_masked() -> None:
    rows = [*BY_HAND, row("q5", "cheap", 1.0, 5.0), row("q6", "dear", 1.0, None)]
    dropped = report_of(rows, dropped={"of a failed grader": 3})
    assert (dropped.rows_read, dropped.rows_kept, dropped.queries_read, dropped.queries_kept) == (13, 8, 6, 4)
    assert dropped.dropped == {
        "of a failed grader": 3,
        "without a cost": 1,
        "of queries that not every arm was recorded for": 1,
    }
    assert sum(dropped.dropped.values()) == dropped.rows_read - dropped.rows_kept
    assert dropped.complete_arms == 0
    assert dropped.oracle_cost_usd == 4.0
    masked = report_of(rows, "mask")
    assert (masked.rows_kept, masked.queries_kept, masked.masked) == (9, 5, 1)
    assert [arm.score for arm in masked.arms] == [0.5, 0.625]
    assert (masked.oracle_score, masked.oracle_cost_usd) == (0.7, (1 + 8 + 3 + 4 + 5) / 5)


def test_rows_that_cannot_be_used_complete_no_arm() -> None:
    rows = [row(f"q{n}", arm, 1, usd) for n in range(3) for arm, usd in (("a", 1.0), ("b", None if n == 1 else 2.0))]
    queries = pa.table({"query": [f"q{n}" for n in range(5)], "prompt": [f"prompt {n}" for n in range(5)]})
    report = import_report(to_recording(RoutingData("d", pa.Table.from_pylist(rows), queries), text="none"))
    assert [(arm.name, arm.rows, arm.queries) for arm in report.arms] == [("a", 3, 3), ("b", 3, 2)]
    assert (report.complete_arms, report.queries_read, report.rowless, report.queries_kept) == (1, 5, 2, 2)
    shown = dict(row_table(report).rows)
    assert shown["queries without any row"] == "2"
    assert shown["arms with a usable row for every query that has one"] == "1 of 2"


def test_small_costs_are_shown_with_three_digits() -> None:
    report = report_of([row("q", "a", 1, 6.874e-6), row("q", "b", 1, 0.0123456)])
    assert [cells[3] for cells in arm_table(report).rows] == ["6.87e-06", "1.23e-02", "6.87e-06"]


def test_queries_that_nobody_listed_complete_no_arm() -> None:
    rows = [row("q1", "a", 1, 1.0), row("q2", "a", 1, 1.0), row("other", "a", 1, 1.0), row("q1", "b", 1, 2.0)]
    queries = pa.table({"query": ["q1", "q2"], "prompt": ["one", "two"]})

    def complete(more: Rows) -> tuple[int, list[int]]:
        data = RoutingData("d", pa.Table.from_pylist([*rows, *more]), queries)
        report = import_report(to_recording(data, text="none"))
        return report.complete_arms, [arm.queries for arm in report.arms]

    assert complete([]) == (1, [2, 1])
    assert complete([row("other", "b", 1, 2.0)]) == (1, [2, 1])  # b has two queries, one of which is not listed
    assert complete([row("q2", "b", 1, 2.0)]) == (2, [2, 2])


def test_trials_count_with_their_mean() -> None:
    rows = [row("q", "a", score, cost, trial=trial) for trial, (score, cost) in enumerate([(1, 1.0), (0, 3.0)])]
    rows += [row("q", "b", 0.25, 1.0, trial=0), row("r", "a", 1, 2.0, trial=0), row("r", "b", 0.25, 1.0, trial=0)]
    report = report_of(rows)
    assert {arm.name: (arm.score, arm.cost_usd) for arm in report.arms} == {"a": (0.75, 2.0), "b": (0.25, 1.0)}
    assert (report.oracle_score, report.oracle_cost_usd) == (0.75, 2.0)


def priced(prices: dict[str, tuple[float, float]], unit: float = 1e-6, count: int = 40, **more: Any) -> Rows:
    """Rows whose costs follow prices per `unit` tokens."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        for place, (arm, (prompt, completion)) in enumerate(prices.items()):
            tokens = [int(count) for count in rng.integers(50, 900, 2)]
            paid = (tokens[0] * prompt + tokens[1] * completion) * unit
            score = float(rng.random() < 0.3 + 0.2 * place)
            rows.append(
                row(f"q{number}", arm, score, paid, prompt_tokens=tokens[0], completion_tokens=tokens[1], **more)
            )
    return rows


PRICES = {"small": (0.2, 0.4), "middle": (1.5, 2.0), "large": (30.0, 60.0)}


def test_prices_are_fitted() -> None:
    report = report_of(priced(PRICES), prices=PRICES)
    for arm in report.arms:
        assert arm.fitted == pytest.approx(PRICES[arm.name])
        assert arm.price == PRICES[arm.name]
    assert report.warnings == ()


def test_a_price_of_completions_only_is_fitted() -> None:
    report = report_of(priced({"small": (0.0, 0.4), "large": (0.0, 4.0)}))
    assert report.arms[0].fitted == pytest.approx((0.0, 0.4))


def test_costs_that_do_not_follow_tokens_have_no_price() -> None:
    rng = np.random.default_rng(1)
    rows = [found | {"cost_usd": float(rng.random())} for found in priced(PRICES)]
    assert [arm.fitted for arm in report_of(rows).arms] == [None, None, None]


def warned(*parts: str, report: ImportReport) -> bool:
    return any(all(part in line for part in parts) for line in report.warnings)


@pytest.mark.parametrize(
    ("unit", "said"),  # a price list is per million tokens where the unit is 1e-6
    [
        (1e-3, "above 1000; they look like dollars per million tokens taken for dollars per thousand"),
        (1e0, "above 1000; they look like dollars per million tokens taken for dollars per token"),
        (1e-11, "below 0.001; they look like dollars per thousand tokens taken for dollars per million"),
        (1e-13, "below 0.001; they look like dollars per token taken for dollars per million"),
    ],
)
def test_units_of_all_arms(unit: float, said: str) -> None:
    report = report_of(priced({"one": (3.0, 6.0), "two": (10.0, 30.0)}, unit))
    assert warned("one", said, report=report)
    assert warned("two", said, report=report)


def test_units_of_one_arm() -> None:
    prices = {"small": (0.01, 0.02), "middle": (0.02, 0.02), "large": (50.0, 60.0)}
    report = report_of(priced(prices))
    assert warned("large", "the arm in the middle to 0.02", "same unit", report=report)
    assert len(report.warnings) == 1


@pytest.mark.parametrize(
    ("factor", "said"), [(1e3, "a factor of 1,000: one of them is per thousand tokens"), (1.5, "the price list says")]
)
def test_costs_beside_a_price_list(factor: float, said: str) -> None:
    listed = {arm: (prompt * factor, completion * factor) for arm, (prompt, completion) in PRICES.items()}
    report = report_of(priced(PRICES), prices=listed)
    assert warned("middle: its costs come to 1.5 and 2 USD", said, report=report)


@pytest.mark.parametrize(
    ("costs", "said"),
    [
        ({"a": (0, 0), "b": (0, 0)}, "all costs are 0"),
        ({"a": (1, 2)}, "there is one arm"),
        ({"a": (1, 2), "b": (2, 1)}, "all arms cost 1.5 USD on average"),
        ({"a": (0, 0), "b": (2, 1)}, ""),
        ({"a": (1, 2), "b": (2, 1.5)}, ""),
    ],
)
def test_nothing_to_trade_off(costs: dict[str, tuple[float, float]], said: str) -> None:
    report = report_of([row(f"q{n}", arm, n, usd) for arm, paid in costs.items() for n, usd in enumerate(paid)])
    assert report.no_trade_off == said
    assert warned(f"there is no cost to trade off: {said};", "train", "bench", report=report) == bool(said)


def test_no_test_split() -> None:
    report = report_of(BY_HAND, splits=["train"] * 4)
    assert warned("there is no test split", "--folds 5", report=report)
    assert not warned("there is no test split", report=report_of(BY_HAND))


def test_arms_that_look_odd() -> None:
    rows = [row(f"q{n}", arm, float(n % 4 < least), 0.1 * (1 + 2 * (arm != "wonder")) * (1 + n % 3))
            for n in range(20) for arm, least in (("wonder", 3), ("usual", 2), ("never", 0))]  # fmt: skip
    report = report_of(rows)
    assert warned("wonder is cheaper and better than every other arm", report=report)
    assert warned("never scores 0 in all its 20 rows", report=report)
    assert len(report.warnings) == 2


def test_columns_that_do_not_vary() -> None:
    rows = [found | {"prompt_tokens": 100} for found in priced(PRICES)]
    report = report_of(rows)
    assert warned("small has 100 prompt tokens in all its 40 rows", report=report)
    free = [found | {"cost_usd": 0.0} if found["arm"] == "small" else found for found in priced(PRICES)]
    assert warned("small costs 0 USD in all its 40 rows", report=report_of(free))


def test_what_the_source_states() -> None:
    found = {arm.name: arm.score_of_all_rows for arm in report_of(priced(PRICES)).arms}
    stated = {"small": found["small"] + 0.004, "large": found["large"] - 0.02, "huge": 0.9}
    report = report_of(priced(PRICES), stated=stated)
    assert warned(
        "large: the source states an accuracy of", f"{stated['large']:.4f}", f"{found['large']:.4f}", report=report
    )
    assert warned("huge", "no row of it", report=report)
    assert len(report.warnings) == 2
    assert "stated" in arm_table(report).header


def test_names_and_prompts_that_mislead() -> None:
    rows = [row("q", "GPT 4", 1, 1), row("q", "gpt4", 0, 2), row("q", "other", 0, 3)]
    report = report_of(rows, prompts=["say \u202eyes"])
    assert warned("'GPT 4', 'gpt4'", report=report)
    assert warned("1 prompt(s) have characters that turn the direction", report=report)


def test_duplicates_across_splits() -> None:
    words = "how many apples does the farmer have when he sells half of the harvest on the market"
    queries = pa.table(
        {
            "query": ["a", "b", "c", "d", "e", "f"],
            "prompt": ["same", "same", "Why so?", "why  so", words, f"{words} today"],
            "split": ["train", "test", "train", "test", "train", "test"],
        }
    )
    rows = [row(name, "arm", 1, 1) for name in "abcdef"]
    report = import_report(to_recording(RoutingData("d", pa.Table.from_pylist(rows), queries), text="none"))
    assert report.moved == 1
    assert {leak.kind: leak.tasks for leak in report.leaks} == {
        "duplicate": (("c", "d"),),
        "near_duplicate": (("e", "f"),),
    }


def test_it_can_be_kept_and_shown() -> None:
    rows = [found | {"query": found["query"] + "|<b>"} for found in priced({"a|b": (1.0, 2.0), "[red]": (2.0, 3.0)})]
    report = report_of(rows, notes=("tokens | estimated",))
    assert json.loads(json.dumps(report.as_dict()))["arms"][0]["name"] == "a|b"
    assert set(report.summary()) < {"oracle", *report.as_dict()}
    assert len(json.dumps(report.summary())) < 1000
    page = import_page(report)
    assert page.startswith("# Import of theirs\n")
    assert "a\\|b" in page
    assert "None found." in page
    assert row_table(report).rows[0] == ("rows read", "80")
    assert arm_table(report).rows[-1][0] == "oracle"


@pytest.mark.parametrize("kind", ["single_call", "cascade"])
def test_it_is_the_same_whatever_is_to_be_learned(kind: Any) -> None:
    data = data_of(BY_HAND, verdict=True)
    report = import_report(to_recording(data, kind, text="none"))
    assert (report.oracle_score, report.oracle_cost_usd) == (0.625, 4.0)
    assert report.kind == kind


def test_arms_in_the_order_that_was_asked_for_are_not_said_to_be_sorted() -> None:
    assert arm_table(report_of(BY_HAND)).title == "arms, the cheapest first"
    asked = import_report(to_recording(data_of(BY_HAND), arms=["dear", "cheap"], text="none"))
    assert [line[0] for line in arm_table(asked).rows] == ["dear", "cheap", "oracle"]
    assert arm_table(asked).title == "arms, in the order of their actions"


def test_queries_without_a_cheap_arm_set_the_lowest_budget() -> None:
    rows = [row(f"q{n}", arm, 1.0, usd) for n in range(20) for arm, usd in (("cheap", 0.001), ("dear", 0.1))]
    assert not any("hard budget" in warning for warning in report_of(rows, missing="mask").warnings)
    lacking = [one for one in rows if (one["query"], one["arm"]) not in (("q3", "cheap"), ("q5", "cheap"))]
    (said,) = [warning for warning in report_of(lacking, missing="mask").warnings if "hard budget" in warning]
    assert said.startswith("2 queries have no row of any cheap arm: a hard budget must pay for every query, so none is")
    assert "below 0.1 USD, where 0.001 would do" in said


def test_long_prompts_are_not_taken_for_queries_without_a_cheap_arm() -> None:
    rows = [
        {"query": f"q{n}", "arm": arm, "score": 1.0, "prompt_tokens": 10 if n < 17 else 1000, "completion_tokens": 10}
        for n in range(20)
        for arm in ("cheap", "dear")
    ][:-1]  # the last query lacks the dear arm
    report = report_of(rows, missing="mask", prices={"cheap": (1.0, 1.0), "dear": (100.0, 100.0)})
    assert report.masked == 1
    assert not any("hard budget" in warning for warning in report.warnings)


def test_what_a_router_sees_as_0_without_its_being_known() -> None:
    responses = [row(f"q{n}", arm, 1.0, usd) for n in range(4) for arm, usd in (("cheap", 0.1), ("dear", 1.0))]
    rewards = [-1.0, None, 0.5, 1.0, 0.0, -0.5, 0.5, 0.5]
    turns = pa.table(
        {
            "query": [one["query"] for one in responses],
            "arm": [one["arm"] for one in responses],
            "turn": [0] * 8,
            "feedback": ["ok"] * 8,
            "completion_tokens": [1, None, None, 1, None, 1, 1, 1],
            "reward": rewards,
        }
    )
    imported = to_recording(data_of(responses, turns=turns), kind="attempts", text="none")
    notes = import_report(imported).notes
    assert "3 turn(s) have no completion_tokens: a router sees 0 there" in notes
    assert "1 turn(s) have no reward: a router sees 0 there" in notes
    assert "2 turn(s) have a reward below 0: a router sees 0 there" in notes
    assert not any("sees 0" in note for note in report_of(responses).notes)
    dear = to_recording(data_of(responses, turns=turns), kind="attempts", text="none", arms=["dear"])
    found = [note for note in import_report(dear).notes if "sees 0" in note]  # turns that are there, no others
    assert found == [
        "1 turn(s) have no completion_tokens: a router sees 0 there",
        "1 turn(s) have no reward: a router sees 0 there",
        "1 turn(s) have a reward below 0: a router sees 0 there",
    ]


def test_a_list_of_which_even_the_dearest_price_is_low() -> None:
    def warned(*prices: float) -> bool:
        rows = [
            {"query": f"q{n}", "arm": f"arm{arm}", "score": float(n % 2), "prompt_tokens": 9, "completion_tokens": 9}
            for n in range(4)
            for arm in range(len(prices))
        ]
        listed = {f"arm{arm}": (price, 2 * price) for arm, price in enumerate(prices)}
        return any("even the dearest" in warning for warning in report_of(rows, prices=listed).warnings)

    assert warned(0.0015, 0.03)
    assert not warned(0.15, 3.0)
    assert not warned(0.03)
