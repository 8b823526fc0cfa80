"""A sweep's file: W&B's schema, as far as every backend can run it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, ValidationError, model_validator

from routegym.errors import ConfigError

__all__ = ["EarlyTerminate", "Metric", "Objective", "Parameter", "SweepConfig", "Value", "read_sweep", "steps_between"]

Value = bool | int | float | str | None
Goal = Literal["maximize", "minimize"]
Distribution = Literal[
    "constant", "categorical", "int_uniform", "uniform", "q_uniform", "log_uniform_values", "q_log_uniform_values"
]

#: Numbers of a run's summary of which less is better.
_LESS = frozenset({"collapse_index", "cost_usd", "largest_share", "qnc", "regret", "violations"})
_MACROS = ("env", "interpreter", "program", "args", "args_no_hyphens")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Metric(_Part):
    """What is to be large or small."""

    name: str
    """In the summary of a run: ``aiq``, ``score``, ``cost_usd``, ..."""
    goal: Goal = "minimize"
    """W&B's default, too."""


@dataclass(frozen=True)
class Objective:
    """A number of a run's summary, and where it is to go."""

    name: str
    goal: Goal

    @property
    def sign(self) -> float:
        """-1 where less is better, 1 elsewhere."""
        return 1.0 if self.goal == "maximize" else -1.0

    def better(self, one: float, other: float) -> bool:
        """Whether `one` is better than `other`."""
        return self.sign * one > self.sign * other


class EarlyTerminate(_Part):
    """Successive halving, which W&B calls hyperband: at each rung only the best 1/eta of all trials go on.

    Either `min_iter` (rungs at min_iter, min_iter * eta, ...) or `max_iter` and `s` (at max_iter / eta, ...,
    max_iter / eta**s). An iteration is a record of ``metrics.jsonl``, counted from 1.
    """

    type: Literal["hyperband"]
    min_iter: Annotated[int, Field(ge=1)] | None = None
    max_iter: Annotated[int, Field(ge=1)] | None = None
    s: Annotated[int, Field(ge=1)] | None = None
    eta: Annotated[int, Field(ge=2)] = 3
    strict: bool = True
    """For W&B; the local backends are strict."""

    @model_validator(mode="after")
    def _first_rung(self) -> EarlyTerminate:
        if (self.min_iter is None) == (self.max_iter is None) or (self.max_iter is None) != (self.s is None):
            raise ValueError("expected either min_iter, or max_iter and s")
        return self

    @property
    def first_rung(self) -> int:
        """The first iteration at which trials may end."""
        if self.min_iter is not None:
            return self.min_iter
        assert self.max_iter is not None
        assert self.s is not None
        return max(1, int(self.max_iter / self.eta**self.s))

    def looks_at(self, iteration: int) -> bool:
        """Whether a trial may still end by what it reports at this iteration."""
        return self.max_iter is None or iteration < self.max_iter


class Parameter(_Part):
    """What a hyperparameter may be: one `value`, one of `values`, or a number from `min` to `max`."""

    distribution: Distribution
    """Filled in as W&B does where it is left out."""
    value: Value = None
    values: Annotated[tuple[Value, ...], Field(min_length=1)] | None = None
    min: StrictInt | StrictFloat | None = None
    max: StrictInt | StrictFloat | None = None
    q: StrictInt | StrictFloat | None = None
    """Numbers are multiples of it, counted from `min`; with ``q_uniform`` and ``q_log_uniform_values``."""

    @model_validator(mode="before")
    @classmethod
    def _usual_distribution(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or "distribution" in given:
            return given
        bounds = [given.get(name) for name in ("min", "max")]
        if "value" in given:
            usual = "constant"
        elif "values" in given:
            usual = "categorical"
        else:
            usual = "int_uniform" if all(isinstance(bound, int) for bound in bounds) else "uniform"
        return {"distribution": usual, **given}

    @model_validator(mode="after")
    def _complete(self) -> Parameter:
        takes = {"constant": {"value"}, "categorical": {"values"}}.get(self.distribution, {"min", "max"})
        may = takes | ({"q"} if self.distribution.startswith("q_") else set())
        given = self.model_fields_set - {"distribution"}
        if not takes <= given <= may:
            raise ValueError(
                f"distribution {self.distribution} takes {' and '.join(sorted(takes))}, not {given or '-'}"
            )
        if self.min is None or self.max is None:
            return self
        low = self.min
        if not (math.isfinite(low) and math.isfinite(self.max) and low < self.max):
            raise ValueError(f"min = {low}, max = {self.max}; expected finite numbers, min < max")
        if self.logarithmic and low <= 0:
            raise ValueError(f"min = {low}; expected a number above 0, as the distribution is logarithmic")
        if self.distribution == "int_uniform" and not self.whole:
            raise ValueError("int_uniform takes whole numbers")
        if self.q is not None and self.q <= 0:
            raise ValueError(f"q = {self.q}; expected a number above 0")
        if self.distribution == "q_log_uniform_values" and not (self.whole and (self.q or 1) == 1):
            raise ValueError("q_log_uniform_values takes whole numbers and q = 1; use values otherwise")
        return self

    @property
    def logarithmic(self) -> bool:
        """Whether small numbers are tried as often as large ones."""
        return "log" in self.distribution

    @property
    def whole(self) -> bool:
        """Whether all numbers are integers."""
        bounds = (self.min, self.max, *(() if self.q is None else (self.q,)))
        return self.distribution not in ("uniform", "log_uniform_values") and all(
            isinstance(bound, int) for bound in bounds
        )

    @property
    def step(self) -> float | None:
        """Distance of neighbouring numbers; None where there are none."""
        if self.distribution in ("int_uniform", "q_log_uniform_values"):
            return 1
        return (self.q or 1) if self.distribution == "q_uniform" else None

    @property
    def choices(self) -> tuple[Value, ...] | None:
        """Everything it may be; None where that is a range without steps."""
        if self.distribution == "constant":
            return (self.value,)
        if self.values is not None:
            return self.values
        if self.step is None or self.logarithmic:
            return None
        assert self.min is not None
        assert self.max is not None
        last = steps_between(self.min, self.max, self.step)
        return tuple(self.min + self.step * number for number in range(last + 1))

    @property
    def extremes(self) -> tuple[Value, ...]:
        """Every value, or the least and the largest."""
        return self.choices or (self.min, self.max)

    def admits(self, value: Any) -> bool:
        """Whether it may be that."""
        if self.choices is not None:
            near = self.step is not None and isinstance(value, int | float)
            return any(math.isclose(value, one) for one in self.choices) if near else value in self.choices  # type: ignore[arg-type]
        assert self.min is not None
        assert self.max is not None
        return isinstance(value, int | float) and self.min <= value <= self.max


def steps_between(low: float, high: float, step: float) -> int:
    """How many whole steps there are from one number to another, whatever their last digits are."""
    return math.floor((high - low) / step + 1e-9)


class SweepConfig(_Part):
    """A sweep; fields that only W&B's server has a use for are kept for it."""

    program: str | None = None
    """What ``${program}`` stands for."""
    name: str | None = None
    description: str | None = None
    project: str | None = None
    entity: str | None = None
    method: Literal["grid", "random", "bayes"]
    metric: Metric
    parameters: Annotated[dict[str, Parameter], Field(min_length=1)]
    early_terminate: EarlyTerminate | None = None
    run_cap: Annotated[int, Field(ge=1)] | None = None
    """How many trials there are to be."""
    command: Annotated[list[str], Field(min_length=1)]
    """A trial: a program and its arguments, with W&B's macros."""

    @model_validator(mode="after")
    def _runnable(self) -> SweepConfig:
        macros = [part[2:-1] for part in self.command if part.startswith("${") and part.endswith("}")]
        odd = [name for name in macros if name not in _MACROS]
        if odd:
            known = ", ".join(f"${{{name}}}" for name in _MACROS)
            raise ValueError(f"command has the macro ${{{odd[0]}}}; expected one of {known}")
        if not {"args", "args_no_hyphens"} & set(macros):
            raise ValueError("command passes no hyperparameter on; expected ${args_no_hyphens} or ${args} in it")
        if "program" in macros and self.program is None:
            raise ValueError("command has the macro ${program}, and there is no program")
        if self.method == "grid":
            for name, parameter in self.parameters.items():
                if parameter.choices is None:
                    raise ValueError(f"parameters.{name} is a range, and method grid takes value, values or steps")
        return self

    def fixed(self, values: Mapping[str, Any]) -> SweepConfig:
        """The same sweep with some parameters fixed; those that it does not have are added. A list becomes text."""
        plain = {name: value if isinstance(value, Value) else str(value) for name, value in values.items()}
        constants = {name: Parameter(distribution="constant", value=value) for name, value in plain.items()}
        return self.model_copy(update={"parameters": {**self.parameters, **constants}})

    def objectives(self, names: Sequence[str] = ()) -> tuple[Objective, ...]:
        """What is sought: the file's metric, or numbers of the summary that are named instead."""
        goals: dict[str, Goal] = dict.fromkeys(_LESS, "minimize")
        goals[self.metric.name] = self.metric.goal
        return tuple(Objective(name, goals.get(name, "maximize")) for name in names or (self.metric.name,))

    def arguments(self, values: Mapping[str, Value], interpreter: str) -> list[str]:
        """The command with its macros filled in, as `wandb agent` does it."""
        pairs = [f"{name}={values[name]}" for name in self.parameters if name in values]
        stands = {
            "env": ["/usr/bin/env"],
            "interpreter": [interpreter],
            "program": [self.program or ""],
            "args": [f"--{pair}" for pair in pairs],
            "args_no_hyphens": pairs,
        }
        found: list[str] = []
        for part in self.command:
            found += stands[part[2:-1]] if part.startswith("${") and part.endswith("}") else [part]
        return found

    def grid(self) -> list[dict[str, Value]]:
        """All combinations, the last parameter changing fastest; only for method grid."""
        columns = [parameter.choices or () for parameter in self.parameters.values()]
        return [dict(zip(self.parameters, row, strict=True)) for row in itertools.product(*columns)]


def read_sweep(path: Path) -> SweepConfig:
    """The checked sweep of a YAML file.

    Raises:
        ConfigError: there is no such file, or a field is wrong.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))  # as W&B reads it
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected a sweep's YAML file, such as those in sweeps/") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML ({error}); correct it") from None
    try:
        return SweepConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_said(error)}") from None


def _said(error: ValidationError) -> str:
    first = error.errors()[0]
    # Which member of a union it was is nothing that the file says.
    field = ".".join(str(part) for part in first["loc"] if part not in ("int", "float", "bool", "str")) or "the file"
    given = first["input"]
    shown = f" = {given!r}" if isinstance(given, bool | int | float | str) else ""
    message = first["msg"].removeprefix("Value error, ")
    hint = ""
    if first["type"] == "missing":
        return f"{field}: missing; W&B's schema and routegym need it"
    if first["type"] in ("int_type", "float_type") and isinstance(given, str):
        hint = "; YAML reads 1e-4 as text, write 1.0e-4"
    elif {"value", "values"} & set(first["loc"]):
        hint = '; write a list as text: "[64, 64]"'
    elif first["type"] == "extra_forbidden":
        hint = "; local sweeps do not know it, leave it out"
    elif field == "command":
        hint = "; expected a list: a program and its arguments"
    return f"{field}{shown}: {message}{hint}"
