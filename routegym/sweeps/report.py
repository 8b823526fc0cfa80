"""A sweep's results: a table, a page, and files of them."""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from routegym.errors import ConfigError, MissingExtraError
from routegym.evaluation.report import Table
from routegym.policies.training import write_atomically
from routegym.sweeps.config import Objective, Parameter, SweepConfig, Value
from routegym.sweeps.outcomes import Outcome, best_first, pareto_front
from routegym.sweeps.plots import parallel_coordinates_figure

__all__ = ["command_of", "importances", "outcome_table", "write_results"]

#: Finished trials below which importances would be noise.
_ENOUGH = 10


def command_of(config: SweepConfig, outcome: Outcome) -> str:
    """What a shell runs a trial again with."""
    words = config.arguments(outcome.values, "python")
    if words[:2] == ["/usr/bin/env", "python"]:
        words = ["routegym", *words[4:]] if words[2:4] == ["-m", "routegym"] else words[1:]
    return shlex.join(words)


def outcome_table(config: SweepConfig, objectives: Sequence[Objective], outcomes: Sequence[Outcome]) -> Table:
    """Trials, best first; hyperparameters that are the same for all of them stand below."""
    varied = _varied(config)
    several = len(objectives) > 1
    front = {outcome.number for outcome in pareto_front(outcomes, objectives)}
    rows = []
    for outcome in best_first(outcomes, objectives):
        sought = [_number(outcome.summary.get(objective.name)) for objective in objectives]
        tried = [_shown(outcome.values.get(name)) for name in varied]
        made = [outcome.state, str(outcome.iterations), f"{outcome.seconds:.0f}"]
        rows.append((str(outcome.number), *sought, *tried, *made))
    fixed = [f"{name} = {_shown(one.value)}" for name, one in config.parameters.items() if name not in varied]
    notes = [f"The same for all: {', '.join(fixed)}."] if fixed else []
    if several:
        notes.append("Bold: on the Pareto front, no other trial is better in one number and not worse in another.")
    best = front if several else {outcome.number for outcome in best_first(outcomes, objectives)[:1]} & front
    return Table(
        "Trials, best first",
        ("trial", *(objective.name for objective in objectives), *varied, "state", "records", "s"),
        rows,
        tuple(notes),
        frozenset(map(str, best)),
    )


def importances(config: SweepConfig, objectives: Sequence[Objective], outcomes: Sequence[Outcome]) -> dict[str, float]:
    """How much of what sets the best tenth of the trials apart each hyperparameter tells (PED-ANOVA), in parts of 1.

    Paper: Watanabe, Bansal, Hutter, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
    Subspaces", 2304.10255; Optuna's implementation.

    Returns:
        The largest first; nothing where there are fewer than ten finished trials or several objectives.
    """
    finished = [outcome for outcome in outcomes if outcome.state == "finished"]
    varied = _varied(config)
    if len(objectives) > 1 or len(finished) < _ENOUGH or len(varied) < 2:
        return {}
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("optuna", "sweep") from None
    from routegym.sweeps.optuna_study import distribution

    space = {name: distribution(config.parameters[name]) for name in varied}
    study = optuna.create_study(direction=objectives[0].goal)
    for outcome in finished:
        values = {name: outcome.values[name] for name in varied}
        found = optuna.create_trial(params=values, distributions=space, value=outcome.summary[objectives[0].name])
        study.add_trial(found)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parameters that do not differ
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return optuna.importance.get_param_importances(study, evaluator=evaluator)


def write_results(
    folder: Path, config: SweepConfig, objectives: Sequence[Objective], outcomes: Sequence[Outcome], made: str
) -> list[str]:
    """Write ``trials.parquet``, ``sweep.md`` and, where there is matplotlib, ``parallel_coordinates.png``.

    Args:
        folder: of the sweep.
        config, objectives, outcomes: of it.
        made: how, for the page.

    Returns:
        Names of the files.
    """
    rows = [_row(config, outcome) for outcome in best_first(outcomes, objectives)]
    names = dict.fromkeys(name for row in rows for name in row)
    draft = folder / ".trials.draft"
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), draft)
    os.replace(draft, folder / "trials.parquet")
    files = ["trials.parquet", "sweep.md"]
    try:
        figure: Any = parallel_coordinates_figure(config, objectives, outcomes)
    except (MissingExtraError, ConfigError):
        pass  # no matplotlib, or nothing has finished
    else:
        figure.savefig(folder / "parallel_coordinates.png", dpi=150)
        files.append("parallel_coordinates.png")
    drawn = "parallel_coordinates.png" in files
    page = _page(config, objectives, outcomes, made, drawn)
    write_atomically(folder / "sweep.md", page.encode())
    return files


def _page(
    config: SweepConfig, objectives: Sequence[Objective], outcomes: Sequence[Outcome], made: str, drawn: bool
) -> str:
    goals = " and ".join(f"`{one.name}` ({one.goal})" for one in objectives)
    parts = [f"# {config.name or 'Sweep'}", f"{made}; method `{config.method}`, sought {goals}."]
    best = best_first(outcomes, objectives)[:1]
    if best and best[0].state == "finished":
        which = "The first of the front" if len(objectives) > 1 else "The best"
        parts.append(f"{which}, trial {best[0].number}:\n\n```bash\n{command_of(config, best[0])}\n```")
    parts.append(outcome_table(config, objectives, outcomes).markdown().rstrip())
    told = importances(config, objectives, outcomes)
    if told:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in told.items())
        parts.append(f"What sets the best trials apart (PED-ANOVA, parts of 1): {shares}.")
    if drawn:
        parts.append("![each trial a line: its hyperparameters and what came of it](parallel_coordinates.png)")
    for outcome in outcomes:
        if outcome.problem:
            parts.append(f"Trial {outcome.number} failed:\n\n```text\n{outcome.problem}\n```")
    return "\n\n".join(parts) + "\n"


def _row(config: SweepConfig, outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {"trial": outcome.number, "state": outcome.state}
    for name, parameter in config.parameters.items():
        value = outcome.values.get(name)
        row[f"set/{name}"] = value if _one_type(parameter) or value is None else str(value)
    row |= {f"summary/{name}": value for name, value in outcome.summary.items()}
    return row | {"records": outcome.iterations, "seconds": outcome.seconds, "problem": outcome.problem}


def _one_type(parameter: Parameter) -> bool:
    """Whether its values fit into a column; a choice among words and numbers makes a column of words."""
    types = {float if type(value) is int else type(value) for value in parameter.extremes}
    return len(types) == 1


def _varied(config: SweepConfig) -> list[str]:
    return [name for name, one in config.parameters.items() if one.choices is None or len(one.choices) > 1]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}" if abs(value) >= 0.01 or value == 0 else f"{value:.3g}"


def _shown(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
