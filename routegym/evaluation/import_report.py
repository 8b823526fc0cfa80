"""What became of somebody else's table: rows, arms, oracle, units, and everything that looks odd."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from routegym.evaluation.card import plain_markdown, table_markdown
from routegym.evaluation.leaks import Leak, find_leaks
from routegym.evaluation.report import Table
from routegym.graph.imports.reading import listing

if TYPE_CHECKING:
    from routegym.graph.imports import Imported, RoutingData
    from routegym.graph.imports.convert import KeptRows

__all__ = ["ArmReport", "ImportReport", "arm_table", "import_page", "import_report", "row_table"]

_STATED = 0.005  # of accuracy that may differ from what the source says
_PLAUSIBLE = (1e-3, 1e3)  # USD per million tokens
_DEAREST = 0.1  # USD per million tokens: a choice of arms that has none dearer is a rare one
_PER_TOKEN = (1e-5, 1e5)  # beyond which a factor of a million explains a price better than one of a thousand
_FACTOR = 1e3  # from the other arms, at which a unit is doubted: it is the one between thousands and millions
_FITS = 0.9  # share of the variance of the costs that prices must explain to be believed
_FEW = 10  # rows in which something constant says nothing
_DEAR = 2.0  # times the cheapest call of the query in the middle
_BIDIRECTIONAL = "[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ArmReport:
    """One arm: in the source, and in the recording."""

    name: str
    rows: int
    """Rows of the source."""
    queries: int
    """Queries of the source's table of queries that it has a row for which can be used."""
    score_of_all_rows: float
    """Its mean score over all its rows, to be compared with what the source states."""
    stated: float | None
    """Its accuracy as the source states it."""
    score: float
    """Its mean score over the tasks of the recording that it was recorded for."""
    cost_usd: float
    """Its mean cost over them."""
    prompt_tokens: float | None
    """Mean over the rows that say it."""
    completion_tokens: float | None
    fitted: tuple[float, float] | None
    """USD per million prompt and completion tokens that its costs come to; None where costs do not follow tokens."""
    price: tuple[float, float] | None
    """The same as the price list of the source says it."""


@dataclass(frozen=True)
class ImportReport:
    """See `import_report`."""

    name: str
    kind: str
    rows_read: int
    rows_kept: int
    dropped: Mapping[str, int]
    """Rows that are not in the recording, by reason."""
    lost_turns: int
    """Turns that are not in it because the source has no row of their attempt."""
    queries_read: int
    rowless: int
    """Of these, queries that no arm has a row for."""
    queries_kept: int
    tasks: Mapping[str, int]
    """Tasks of the recording by split."""
    complete_arms: int
    """Arms with a row that can be used for every query that has any row."""
    masked: int
    """(query, arm) pairs of the recording without a row, which are not legal there."""
    moved: int
    """Queries put into another split because the same prompt is held out there."""
    validated: int
    """Training queries put into the validation split, because the source names splits and has none."""
    costs: str
    """``stated`` dollars, or ``tokens`` at prices."""
    arms: tuple[ArmReport, ...]
    cheapest_arm: str
    best_arm: str
    oracle_score: float
    """Mean of the best score of each task."""
    oracle_cost_usd: float
    """Mean cost of the cheapest arm with that score there."""
    warnings: tuple[str, ...]
    leaks: tuple[Leak, ...]
    notes: tuple[str, ...]

    @property
    def no_trade_off(self) -> str:
        """Why no arm costs more than another on average; empty where one does."""
        paid = [arm.cost_usd for arm in self.arms]
        if not any(paid):
            return "all costs are 0"
        if len(paid) == 1:
            return "there is one arm"
        return f"all arms cost {paid[0]:.3g} USD on average" if math.isclose(min(paid), max(paid)) else ""

    def as_dict(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return {**asdict(self), "leaks": [{"kind": leak.kind, "what": str(leak)} for leak in self.leaks]}

    def summary(self) -> dict[str, Any]:
        """What is kept with the recording, JSON-able."""
        counts = ("rows_read", "rows_kept", "lost_turns", "complete_arms", "moved", "validated", "masked")
        return {
            **{name: getattr(self, name) for name in (*counts, "cheapest_arm", "best_arm")},
            "oracle": [self.oracle_score, self.oracle_cost_usd],
            "warnings": list(self.warnings),
            "leaks": [leak.what for leak in self.leaks],
        }


def import_report(imported: Imported) -> ImportReport:
    """Work out what there is to know of an import before anything is trained on it.

    The oracle takes the best score of each query, ties to the arm that is cheapest there, also where no arm scores.
    Trials of one (query, arm) count with their mean.
    """
    data, recording, kept = imported.data, imported.recording, imported.kept
    names = [arm.name for arm in recording.arms]
    score, cost = _matrices(kept, len(recording.tasks), len(names))
    means, paid = np.nanmean(score, axis=0), np.nanmean(cost, axis=0)
    top = np.nanmax(score, axis=1)
    best_cost = np.where(score == top[:, None], cost, np.inf).min(axis=1)
    rows = _rows_of(data, names)
    arms = tuple(
        _arm(data, name, rows[arm], imported.usable[arm], float(means[arm]), float(paid[arm]))
        for arm, name in enumerate(names)
    )
    asked = int(pc.sum(pc.is_in(data.queries["query"], data.responses["query"].unique())).as_py())
    splits = recording.tasks.splits
    report = ImportReport(
        name=recording.name,
        kind=recording.kind,
        rows_read=len(data.responses) + sum(data.dropped.values()),
        rows_kept=len(kept.score),
        dropped=dict(imported.dropped),
        lost_turns=imported.lost_turns,
        queries_read=len(data.queries),
        rowless=len(data.queries) - asked,
        queries_kept=len(recording.tasks),
        tasks={name: splits.count(name) for name in dict.fromkeys(splits)},
        complete_arms=sum(arm.queries == asked for arm in arms),
        masked=imported.masked,
        moved=imported.moved,
        validated=imported.validated,
        costs=recording.provenance["imported"]["costs"],
        arms=arms,
        cheapest_arm=names[int(np.argmin(paid))],
        best_arm=names[int(np.argmax(means))],
        oracle_score=float(top.mean()),
        oracle_cost_usd=float(best_cost.mean()),
        warnings=(*_lost(imported), *_dear(imported), *_warnings(data, arms, rows)),
        leaks=tuple(find_leaks(recording)),
        notes=(*data.notes, *_zeros(imported)),
    )
    return replace(report, warnings=(*_unplayable(report), *report.warnings))


# -- numbers -----------------------------------------------------------------------------------
def _matrices(kept: KeptRows, n_tasks: int, n_arms: int) -> tuple[Floats, Floats]:
    """Mean score and cost of each (task, arm), (n_tasks, n_arms), NaN where there is no row."""
    cell = kept.task * n_arms + kept.arm
    count = np.bincount(cell, minlength=n_tasks * n_arms)
    known = np.where(count > 0, count, np.nan)
    score, cost = (np.bincount(cell, values, n_tasks * n_arms) / known for values in (kept.score, kept.cost_usd))
    return score.reshape(n_tasks, n_arms), cost.reshape(n_tasks, n_arms)


def _rows_of(data: RoutingData, names: Sequence[str]) -> list[pa.Table]:
    """Rows of the source by arm."""
    code = pc.index_in(data.responses["arm"].combine_chunks(), value_set=pa.array(names))
    code = pc.fill_null(code, len(names)).to_numpy(zero_copy_only=False)
    ordered = data.responses.take(pa.array(np.argsort(code, kind="stable")))
    count = np.bincount(code, minlength=len(names) + 1)[: len(names)]
    first = np.cumsum(count) - count
    return [ordered.slice(start, many) for start, many in zip(first.tolist(), count.tolist(), strict=True)]


def _arm(data: RoutingData, name: str, rows: pa.Table, queries: int, score: float, cost_usd: float) -> ArmReport:
    return ArmReport(
        name=name,
        rows=len(rows),
        queries=queries,
        score_of_all_rows=float(pc.mean(rows["score"]).as_py()),
        stated=data.stated.get(name),
        score=score,
        cost_usd=cost_usd,
        prompt_tokens=_mean(rows, "prompt_tokens"),
        completion_tokens=_mean(rows, "completion_tokens"),
        fitted=_fitted_price(rows),
        price=data.prices.get(name),
    )


def _mean(rows: pa.Table, column: str) -> float | None:
    found = pc.mean(rows[column]).as_py() if column in rows.column_names else None
    return None if found is None else float(found)


def _fitted_price(rows: pa.Table) -> tuple[float, float] | None:
    """USD per million prompt and completion tokens, by least squares, none negative.

    None where costs or tokens are not known, or the costs do not follow the tokens.
    """
    columns = [name for name in ("prompt_tokens", "completion_tokens") if name in rows.column_names]
    if "cost_usd" not in rows.column_names or not columns:
        return None
    whole = rows.select(["cost_usd", *columns]).drop_null()
    if len(whole) < _FEW:
        return None
    cost = whole["cost_usd"].to_numpy()
    tokens = np.stack([whole[name].to_numpy() for name in columns], axis=1).astype(np.float64)
    best, least = np.zeros(len(columns)), math.inf
    for used in ([*range(len(columns))], *([number] for number in range(len(columns)))):
        price = np.zeros(len(columns))
        price[used] = np.linalg.lstsq(tokens[:, used], cost, rcond=None)[0]
        error = float(np.square(tokens @ price - cost).sum())
        if (price >= 0).all() and error < least:
            best, least = price, error
    if least > (1 - _FITS) * float(np.square(cost - cost.mean()).sum()) and least > 1e-6 * float(np.square(cost).sum()):
        return None
    found = dict(zip(columns, (best * 1e6).tolist(), strict=True))
    return found.get("prompt_tokens", 0.0), found.get("completion_tokens", 0.0)


# -- what looks odd ----------------------------------------------------------------------------
def _lost(imported: Imported) -> Iterator[str]:
    stated = imported.recording.provenance["imported"]["costs"] == "stated"
    needed = "a cost" if stated else "tokens and a price of its arm"
    lacking, unknown = imported.data.unpriced
    for name in imported.lost_arms:
        if name in lacking:
            yield f"{name} is not in the recording: the price list lacks it" + (
                f", and has {listing(unknown)}, which no row has" if unknown else ""
            )
        else:
            yield f"{name} is not in the recording: none of its rows has a known query, and {needed}"


def _unplayable(report: ImportReport) -> Iterator[str]:
    """What `routegym train` and `routegym bench` would refuse."""
    if report.no_trade_off:
        yield (
            f"there is no cost to trade off: {report.no_trade_off}; routegym train and routegym bench refuse such a "
            "recording"
        )
    if not report.tasks.get("test"):
        yield (
            "there is no test split, so there is nothing to compare routers on; routegym bench --folds 5 holds out "
            "every query once"
        )


def _dear(imported: Imported) -> Iterator[str]:
    """Queries that set the lowest hard budget, because their cheap arms are masked."""
    graph, kept = imported.recording.graph, imported.kept
    floor = graph.arm_floor(graph.task_start)
    usual = np.array([np.median(kept.cost_usd[kept.arm == arm]) for arm in range(len(imported.recording.arms))])
    cheapest = np.full(len(floor), np.inf)  # arm of a query, by what it usually costs
    np.minimum.at(cheapest, kept.task, usual[kept.arm])
    known = np.isfinite(floor)
    if not imported.masked or not known.any():
        return
    middle = float(np.median(floor[known]))
    dear = known & (floor > _DEAR * middle) & (cheapest > _DEAR * usual.min())
    if dear.any():
        yield (
            f"{int(dear.sum()):,} queries have no row of any cheap arm: a hard budget must pay for every query, so "
            f"none is below {floor[dear].max():.3g} USD, where {middle:.3g} would do for half of them; leave these "
            "queries out to train and compare under smaller ones"
        )


def _zeros(imported: Imported) -> Iterator[str]:
    """What a router is shown as 0 because it is not known, or below that."""
    watched = imported.recording.kind == "attempts" and imported.data.turns is not None
    for lack, count in imported.zeros.items():
        yield f"{count:,} {'turn' if watched else 'row'}(s) have {lack}: a router sees 0 there"


def _warnings(data: RoutingData, arms: Sequence[ArmReport], rows: Sequence[pa.Table]) -> Iterator[str]:
    yield from _suspicious(arms)
    for arm, mine in zip(arms, rows, strict=True):
        yield from _constants(arm, mine)
        if arm.stated is not None and abs(arm.stated - arm.score_of_all_rows) > _STATED:
            yield (
                f"{arm.name}: the source states an accuracy of {arm.stated:.4f}, and its {arm.rows:,} rows come to "
                f"{arm.score_of_all_rows:.4f}"
            )
    unknown = sorted(set(data.stated) - set(data.responses["arm"].unique().to_pylist()))
    if unknown:
        yield f"the source states an accuracy of {', '.join(unknown)}, and has no row of it"
    yield from _units(arms)
    alike: dict[str, list[str]] = {}
    for arm in arms:
        alike.setdefault("".join(arm.name.split()).casefold(), []).append(arm.name)
    for names in alike.values():
        if len(names) > 1:
            yield f"arms {', '.join(map(repr, names))} differ in case or white space only; are they one?"
    marked = int(pc.sum(pc.match_substring_regex(data.queries["prompt"], _BIDIRECTIONAL)).as_py() or 0)
    if marked:
        yield (
            f"{marked:,} prompt(s) have characters that turn the direction of writing: what is shown of them may not "
            "be what a model reads"
        )


def _suspicious(arms: Sequence[ArmReport]) -> Iterator[str]:
    if len(arms) < 2:
        return
    arm = max(arms, key=lambda one: one.score)
    if all(arm.score > other.score and arm.cost_usd < other.cost_usd for other in arms if other is not arm):
        yield (
            f"{arm.name} is cheaper and better than every other arm ({arm.score:.4f} at {arm.cost_usd:.3g} USD): "
            "there is nothing to route, or its costs or scores are wrong"
        )


def _constants(arm: ArmReport, rows: pa.Table) -> Iterator[str]:
    """Columns of an arm that do not vary and should."""
    if len(rows) < _FEW:
        return
    for column, what in (
        ("score", "scores {value:g} in all its {rows:,} rows; is it graded?"),
        ("prompt_tokens", "has {value:g} prompt tokens in all its {rows:,} rows: they were not counted"),
        ("completion_tokens", "has {value:g} completion tokens in all its {rows:,} rows: they were not counted"),
        ("cost_usd", "costs {value:g} USD in all its {rows:,} rows: a price for the call, or a missing one"),
    ):
        if column not in rows.column_names:
            continue
        low, high = pc.min_max(rows[column]).as_py().values()
        if low is not None and low == high:
            yield f"{arm.name} " + what.format(value=low, rows=len(rows))


def _units(arms: Sequence[ArmReport]) -> Iterator[str]:
    """Doubts about dollars per thousand, per million and per token."""
    shown = {arm.name: price for arm in arms if (price := arm.fitted or arm.price) is not None}
    middle = float(np.median([max(price) for price in shown.values()])) if shown else 0.0
    for arm in arms:
        if arm.name not in shown:
            continue
        largest = max(shown[arm.name])
        text = f"{arm.name}: its costs come to {_price(shown[arm.name])} USD per million prompt and completion tokens"
        low, high = _PLAUSIBLE
        if largest > high:
            unit = "token" if largest > _PER_TOKEN[1] else "thousand"
            yield f"{text}, above {high:g}; they look like dollars per million tokens taken for dollars per {unit}"
        elif 0 < largest < low:
            unit = "token" if largest < _PER_TOKEN[0] else "thousand tokens"
            yield f"{text}, below {low:g}; they look like dollars per {unit} taken for dollars per million"
        elif largest > 0 and middle > 0 and not 1 / _FACTOR < largest / middle < _FACTOR:
            yield f"{text}, and the arm in the middle to {middle:.3g}; are they in the same unit?"
    dearest = max((max(price) for price in shown.values()), default=0.0)
    if len(shown) > 1 and _PLAUSIBLE[0] <= dearest < _DEAREST:
        yield (
            f"even the dearest arm comes to {dearest:g} USD per million tokens; are the prices of the arms, or what "
            "was paid, dollars per thousand tokens?"
        )
    for arm in arms:
        if arm.fitted is None or arm.price is None:
            continue
        wrong = [
            (ours, theirs)
            for ours, theirs in zip(arm.fitted, arm.price, strict=True)
            if ours > 0 and abs(ours - theirs) > 0.05 * max(ours, theirs)
        ]
        if wrong:
            yield (
                f"{arm.name}: its costs come to {_price(arm.fitted)} USD per million prompt and completion tokens, and "
                f"the price list says {_price(arm.price)}{_unit(*wrong[0])}"
            )


def _unit(ours: float, theirs: float) -> str:
    """What the factor between two prices suggests."""
    ratio = ours / theirs if theirs > 0 else math.inf
    for factor, hint in ((1e3, "thousand"), (1e6, "single")):
        if any(abs(math.log10(one / factor)) < 0.05 for one in (ratio, 1 / ratio) if 0 < one < math.inf):
            return f", a factor of {factor:,.0f}: one of them is per {hint} token{'s' * (hint == 'thousand')}"
    return ""


def _price(price: tuple[float, float]) -> str:
    return " and ".join(f"{usd:.4g}" for usd in price)


# -- tables ------------------------------------------------------------------------------------
def row_table(report: ImportReport) -> Table:
    """What became of the rows."""
    splits = ", ".join(f"{name} {count:,}" for name, count in report.tasks.items())
    rows = [
        ("rows read", f"{report.rows_read:,}"),
        *((f"rows dropped: {reason}", f"{count:,}") for reason, count in report.dropped.items()),
        ("rows in the recording", f"{report.rows_kept:,}"),
        ("queries read", f"{report.queries_read:,}"),
        *([("queries without any row", f"{report.rowless:,}")] if report.rowless else ()),
        (f"queries in the recording: {splits}", f"{report.queries_kept:,}"),
        ("arms with a usable row for every query that has one", f"{report.complete_arms:,} of {len(report.arms):,}"),
    ]
    if report.lost_turns:
        rows.append(("turns dropped: of attempts that have no row", f"{report.lost_turns:,}"))
    if report.masked:
        rows.append(("(query, arm) pairs without a row, masked", f"{report.masked:,}"))
    if report.moved:
        rows.append(("queries moved to the split that holds out the same prompt", f"{report.moved:,}"))
    if report.validated:
        rows.append(("queries moved to validation, which the source lacks", f"{report.validated:,}"))
    costs = "dollars as the source states them" if report.costs == "stated" else "tokens at the prices of the source"
    return Table(f"{report.name}, kind {report.kind}", ("", "number"), rows, (f"Costs: {costs}.", *report.notes))


def arm_table(report: ImportReport) -> Table:
    """Accuracy, cost, tokens and price of each arm, in the order of their actions, and the oracle."""
    stated = any(arm.stated is not None for arm in report.arms)
    priced = any(arm.fitted or arm.price for arm in report.arms)
    extra = (("USD per million tokens",) if priced else ()) + (("stated",) if stated else ())
    header = ("arm", "rows", "score", "mean USD", "prompt tokens", "completion tokens", *extra)
    rows = []
    for arm in report.arms:
        price = arm.fitted or arm.price
        cells = [arm.name, f"{arm.rows:,}", f"{arm.score:.4f}", f"{arm.cost_usd:.2e}"]
        cells += ["" if count is None else f"{count:,.0f}" for count in (arm.prompt_tokens, arm.completion_tokens)]
        cells += [" / ".join(f"{usd:.4g}" for usd in price) if price else ""] if priced else []
        cells += ["" if arm.stated is None else f"{arm.stated:.4f}"] if stated else []
        rows.append(tuple(cells))
    blank = ("",) * (len(header) - 4)
    rows.append(("oracle", "", f"{report.oracle_score:.4f}", f"{report.oracle_cost_usd:.2e}", *blank))
    paid = [arm.cost_usd for arm in report.arms]
    return Table(
        title="arms, the cheapest first" if paid == sorted(paid) else "arms, in the order of their actions",
        header=header,
        rows=rows,
        notes=(
            "Score and mean USD per query in the recording; rows and tokens in the source.",
            "Oracle: the best score of each query, ties to the arm that is cheapest there.",
            *(
                ("Prices for prompt / completion tokens, fitted to the costs, or those of the source.",)
                if priced
                else ()
            ),
        ),
        strong=frozenset({report.best_arm}),
    )


def import_page(report: ImportReport) -> str:
    """The report as Markdown."""
    parts = [f"# Import of {plain_markdown(report.name)}"]
    parts += [table_markdown(table(report)) for table in (row_table, arm_table)]
    for title, lines in (("Warnings", report.warnings), ("Leaks", tuple(map(str, report.leaks)))):
        parts += [f"## {title}", "\n".join(f"- {plain_markdown(line)}" for line in lines) or "None found."]
    return "\n\n".join(part.strip() for part in parts) + "\n"
