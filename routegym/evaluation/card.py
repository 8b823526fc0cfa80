"""The card of a recording: what it is, what is in it and what it is worth, as Markdown and as tables."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import yaml

from routegym.evaluation.report import Table
from routegym.evaluation.summary import RecordingSummary, summarize
from routegym.pool.arms import TOKEN_KINDS
from routegym.registration import ENV_IDS, kind_of
from routegym.tasks.taskset import SPLITS

if TYPE_CHECKING:
    from routegym.evaluation.statistics import Interval
    from routegym.graph.recording import Recording

__all__ = [
    "call_table",
    "kind_table",
    "outcome_table",
    "plain_markdown",
    "price_table",
    "provenance_text",
    "recording_card",
    "setting_table",
    "table_markdown",
    "task_table",
]

_EXAMPLES = 5
_PROMPT, _REFERENCE = 80, 30  # characters of an example that are shown


def recording_card(recording: Recording) -> str:
    """The card as Markdown; the same recording gives the same text."""
    found = summarize(recording)
    whole = "complete: every action is recorded in every situation" if found.complete else "not complete"
    parts = [
        f"# Recording `{found.name}`",
        f"A routegym recording of kind `{found.kind}`: "
        f"{len(recording.tasks):,} tasks, {len(found.arms)} arms, {found.situations:,} situations, "
        f"{found.calls:,} recorded calls; {whole}.",
        f"- content hash: `{found.content_hash or 'not saved yet'}`\n- licence: {plain_markdown(found.licence)}",
        "## Load it",
        _how_to_load(recording),
        "## Tasks",
        table_markdown(task_table(found)),
        _examples(recording),
        "## Arms",
        table_markdown(setting_table(recording)),
        table_markdown(price_table(recording)),
        "## What they bring",
        table_markdown(outcome_table(found)),
        _gap(found),
    ]
    if len(found.tasks) > 1:
        parts += ["Mean score by kind of task:", table_markdown(kind_table(found))]
    parts += ["## What a call takes", table_markdown(call_table(found))]
    parts += ["## How it was made", _made(found)]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def task_table(found: RecordingSummary) -> Table:
    """Number of tasks by kind and split."""
    splits = [split for split in SPLITS if any(split in counts for counts in found.tasks.values())]
    counted = {kind or "any": [counts.get(split, 0) for split in splits] for kind, counts in found.tasks.items()}
    if len(counted) > 1:
        counted["all"] = [sum(column) for column in zip(*counted.values(), strict=True)]
    rows = [(kind, *(f"{count:,}" for count in counts), f"{sum(counts):,}") for kind, counts in counted.items()]
    return Table("tasks", ("kind", *splits, "all"), rows)


def outcome_table(found: RecordingSummary) -> Table:
    """Mean score and cost of always calling one arm, and of the clairvoyant optimum."""
    rows = [
        (arm.name, _interval(arm.score, ".3f"), _interval(arm.cost_usd, ".2e"), f"{arm.tasks:,}") for arm in found.arms
    ]
    notes = ["Brackets: 95 % bootstrap over tasks. Cost: mean USD per task."]
    if best := found.oracle:
        for name, score, cost in (
            ("oracle", best.score, best.cost_usd),
            (f"oracle at the cost of {best.best_arm}", best.score_at_that_cost, best.best_arm_cost_usd),
            (f"oracle at the score of {best.best_arm}", best.best_arm_score, best.cost_of_that_score_usd),
        ):
            rows.append((name, f"{score:.3f}", f"{cost:.2e}", f"{best.tasks:,}"))
        notes.append("Oracle: the clairvoyant optimum over the recorded samples, an upper bound of every router.")
    return Table("always the same arm, and the best choices", ("", "score", "cost", "tasks"), rows, tuple(notes))


def kind_table(found: RecordingSummary) -> Table:
    """Mean score of each arm, always called, by kind of task."""
    columns = {arm.name: arm.score_by_kind for arm in found.arms}
    if found.oracle:
        columns["oracle"] = found.oracle.score_by_kind
    return Table(
        title="score by kind of task",
        header=("kind", "tasks", *columns),
        rows=[
            (
                kind or "any",
                f"{sum(counts.values()):,}",
                *(f"{scores[kind]:.3f}" if kind in scores else "" for scores in columns.values()),
            )
            for kind, counts in found.tasks.items()
        ],
    )


def call_table(found: RecordingSummary) -> Table:
    """What the recorded calls of each arm took."""
    kinds = [kind for kind in TOKEN_KINDS if any(arm.tokens[kind] for arm in found.arms)]
    faults = {
        "GPU s": lambda arm: f"{arm.gpu_s:,.1f}",
        "retries": lambda arm: f"{arm.retries:,}",
        "lost tokens": lambda arm: f"{arm.lost_tokens:,}",
        "answered by fallback": lambda arm: f"{arm.fallbacks:,}",
    }
    shown = {
        "GPU s": any(arm.gpu_s for arm in found.arms),
        "retries": any(arm.retries for arm in found.arms),
        "lost tokens": any(arm.lost_tokens for arm in found.arms),
        "answered by fallback": any(arm.fallbacks for arm in found.arms),
    }
    extra = [name for name in faults if shown[name]]
    return Table(
        title="recorded calls",
        header=("arm", "calls", *(f"{kind} tokens" for kind in kinds), "median ms", "95 % ms", *extra),
        rows=[
            (
                arm.name,
                f"{arm.calls:,}",
                *(f"{arm.tokens[kind]:,.1f}" for kind in kinds),
                *(f"{1000 * seconds:,.2f}" if arm.timed else "" for seconds in arm.latency_s),
                *(faults[name](arm) for name in extra),
            )
            for arm in found.arms
        ],
        notes=(
            "Tokens: mean per call, all its samples together. Milliseconds: as measured while recording"
            f"{'' if all(arm.timed for arm in found.arms if arm.calls) else ', blank where nobody measured them'}.",
        ),
    )


def setting_table(recording: Recording) -> Table:
    """What each arm may do."""
    rows = []
    for arm in recording.arms:
        rows.append(
            (
                arm.name,
                f"{arm.parameters:,}" if arm.parameters else "not known",
                "not known" if arm.max_completion_tokens is None else f"{arm.max_completion_tokens:,}",
                str(arm.charged_attempts),
                arm.fallback or "none",
            )
        )
    header = ("arm", "parameters", "most completion tokens", "charged attempts", "fallback")
    return Table("arms", header, rows)


def price_table(recording: Recording) -> Table:
    """Prices of the arms' models."""
    table = recording.prices
    models = list(dict.fromkeys(arm.model for arm in recording.arms))
    kinds: list[str] = list(TOKEN_KINDS)
    if any(table.prices[model].gpu_hour for model in models):
        kinds.append("gpu_hour")
    return Table(
        title="prices",
        header=("model", *(kind.replace("gpu_hour", "GPU-hour") for kind in kinds)),
        rows=[(model, *(f"{getattr(table.prices[model], kind):.6g}" for kind in kinds)) for model in models],
        notes=(f"USD per million tokens, {table.date}; {table.note}.",),
    )


def provenance_text(found: RecordingSummary) -> str:
    """The provenance as YAML."""
    plain = json.loads(json.dumps(dict(found.provenance)))  # tuples and the like have no tags in the text then
    return str(yaml.safe_dump(plain, sort_keys=False, width=96)).strip() if plain else "none"


def _how_to_load(recording: Recording) -> str:
    families = {kind_of(env): env for env in ENV_IDS}
    lines = ["from routegym.graph.library import load_recording", "", f'recording = load_recording("{recording.name}")']
    if recording.kind in families:
        lines = ["import gymnasium", "import routegym", *lines]
        lines.append(f'env = gymnasium.make("{families[recording.kind]}", recording="{recording.name}")')
    note = "(a shipped recording's name, or the path of the folder)"
    return "\n".join(["```python", *lines, "```", note])


def _examples(recording: Recording) -> str:
    """The first task of each kind, or the first few where there is one kind."""
    tasks = recording.tasks
    kinds = list(dict.fromkeys(tasks.kinds))
    chosen = [tasks.kinds.index(kind) for kind in kinds] if len(kinds) > 1 else list(range(min(3, len(tasks))))
    lines = ["Examples, cut short:", "", "| id | prompt | reference |", "| --- | --- | --- |"]
    for task in chosen[:_EXAMPLES]:
        cells = tasks.ids[task], _cut(tasks.prompts[task], _PROMPT), _cut(tasks.references[task], _REFERENCE)
        lines.append(f"| {' | '.join(map(plain_markdown, cells))} |")
    return "\n".join(lines)


def _gap(found: RecordingSummary) -> str:
    best = found.oracle
    if best is None:
        return "No task is recorded completely, so the optimum is not known."
    free, same_cost = (max(score - best.best_arm_score, 0.0) for score in (best.score, best.score_at_that_cost))
    saved = 1 - best.cost_of_that_score_usd / best.best_arm_cost_usd if best.best_arm_cost_usd else 0.0
    return (
        f"The best single arm is {best.best_arm} (score {best.best_arm_score:.3f}). The best choices would score "
        f"{free:.3f} more without a cap, {same_cost:.3f} more "
        f"at its mean cost, and reach its score for {saved:.0%} less. A router that sees only prompts and "
        "answers gets a part of that: the optimum knows beforehand which answer will be right."
    )


def _made(found: RecordingSummary) -> str:
    made_by = found.provenance.get("made_by")
    command = f"```bash\n{made_by}\n```" if made_by else "The command that made it is not stated."
    return f"{command}\n\nProvenance:\n\n```yaml\n{provenance_text(found)}\n```"


def _interval(interval: Interval | None, form: str) -> str:
    if interval is None:
        return "not recorded"
    estimate, low, high = (f"{value:{form}}" for value in (interval.estimate, interval.low, interval.high))
    return estimate if estimate == low == high else f"{estimate} [{low}, {high}]"


def _cut(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def table_markdown(table: Table) -> str:
    """The table with cells that cannot break it."""
    cells = [
        tuple(" ".join(cell.split()).replace("|", "\\|").replace("<", "&lt;") for cell in row) for row in table.rows
    ]
    return replace(table, rows=cells).markdown()


def plain_markdown(text: str) -> str:
    """Text that means nothing to Markdown."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    for sign in "\\`*_[]|#~":
        text = text.replace(sign, f"\\{sign}")
    return text
