"""``routegym report``."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from routegym.evaluation.outcomes import Grid
    from routegym.evaluation.page import Section
    from routegym.graph.recording import Recording
    from routegym.tracking.run import RunConfig

__all__ = ["Report"]


@dataclass(frozen=True)
class Report:
    """Write the results of runs as one HTML page that needs no network: open it, print it, send it.

    On it: the frontier with the numbers of every point, tables with intervals, who is called when, calibration, the
    routes on which the best learned policy gained and lost most against the best baseline, provenance and commands.

    examples:
      routegym report runs/agent_steps                      of `routegym train`: writes runs/agent_steps/report.html
      routegym report runs/bench-cascade --budget-usd 1e-4  of `routegym bench`; routes compared under another budget
      routegym report runs/bench-* --out report.html        several runs beside each other
    """

    run_folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders that `routegym train` or `routegym bench` wrote."""
    out: Path | None = None
    """The page; report.html in the first folder by default."""
    budget_usd: float | None = None
    """Hard budget under which routes are compared: the nearest one that was evaluated; the middle one by default."""
    routes: int = 20
    """How many of the largest gains to show, and of the largest losses."""
    recording: tuple[str, ...] = ()
    """Where recordings are that have moved; each run takes the one it was made with."""

    def run(self) -> None:
        """Read, work out, write."""
        from rich.console import Console

        from routegym.errors import ConfigError
        from routegym.evaluation.page import report_page
        from routegym.policies.training import write_atomically

        if not self.run_folders or self.routes < 1:
            raise ConfigError(
                f"{len(self.run_folders)} run folders, routes = {self.routes}; expected at least one of each"
            )
        if self.budget_usd is not None and not 0 < self.budget_usd < float("inf"):
            raise ConfigError(f"budget_usd = {self.budget_usd}; expected a number of USD above 0")
        sys.path.insert(0, os.getcwd())  # a policy of one's own beside the command
        folders = tuple(dict.fromkeys(self.run_folders))
        out = self.out or folders[0] / "report.html"
        command = shlex.join(["routegym", "report", *map(str, folders)])
        with Console(stderr=True).status("reading") as status:
            sections = [
                _section(folder, name, self.recording, self.budget_usd, command, status.update)
                for folder, name in zip(folders, _names(folders), strict=True)
            ]
            page = report_page(sections, self.routes, status.update)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, page.encode("utf-8", "replace"))
        print(f"report: {out}   ({out.stat().st_size / 1e6:.1f} MB)")


def _section(
    folder: Path,
    name: str,
    moved: Sequence[str],
    budget: float | None,
    command: str,
    tell: Callable[[str], None],
) -> Section:
    """A run folder, opened."""
    from routegym.errors import RunError

    def named(step: str) -> None:
        tell(f"{name}: {step}")

    if (folder / "config.yaml").is_file():
        return _of_train(folder, name, moved, budget, command, named)
    metrics = _metrics(folder)
    if "made" not in metrics:
        raise RunError(
            f"{folder}: neither config.yaml nor a metrics.json of `routegym bench`; expected a run folder of "
            "`routegym train` or `routegym bench`"
        )
    return _of_bench(folder, name, metrics, moved, budget, command, named)


def _of_train(
    folder: Path,
    name: str,
    moved: Sequence[str],
    budget: float | None,
    command: str,
    tell: Callable[[str], None],
) -> Section:
    """A run of `routegym train`: played again, as its last evaluation did."""
    from routegym.cli.evaluate import compare
    from routegym.evaluation.page import Section
    from routegym.policies.storage import load_policies
    from routegym.tracking.run import Run

    config = Run(folder).config
    former = _metrics(folder)
    recording = _recording(folder, config.recording, config.content_hash, moved)
    policies = load_policies(folder, recording)
    split = former.get("split", "test")
    names = [own for own, found in former.get("policies", {}).items() if not found["learned"]]
    comparison, found = compare(
        config,
        recording,
        policies,
        split,
        former.get("budgets_usd", ()),
        names if former else None,
        former.get("attainable") is not None,
        0,
        tell,
    )
    tell("intervals")
    return Section(
        name=name,
        env=config.env,
        comparison=comparison,
        played=comparison,
        metrics=comparison.metrics(),
        policy=lambda one: found[one][min(found[one])],
        commands=(_train_command(config, folder), shlex.join(["routegym", "evaluate", str(folder)]), command),
        seeds=tuple(config.seeds),
        machine=config.machine,
        versions=config.versions,
        cap=_cap(comparison.grid, budget),
    )


def _of_bench(
    folder: Path,
    name: str,
    metrics: Mapping[str, Any],
    moved: Sequence[str],
    budget: float | None,
    command: str,
    tell: Callable[[str], None],
) -> Section:
    """A run of `routegym bench`: its fits and outcomes are read from its cache."""
    from routegym.errors import RunError
    from routegym.evaluation.bench import open_bench
    from routegym.evaluation.page import Section

    try:
        made = metrics["made"]
        source, content_hash = made.get("recording", metrics["recording"]), metrics["content_hash"]
    except (KeyError, AttributeError) as error:
        raise RunError(f"{folder / 'metrics.json'}: damaged (no {error}); run the bench again") from None
    recording = _recording(folder, source, content_hash, moved)
    bench = open_bench(folder, metrics, recording, tell)
    return Section(
        name=name,
        env=metrics["env"],
        comparison=bench.comparison,
        played=bench.played,
        metrics=metrics,
        policy=bench.policy,
        commands=(made["command"], command),
        seeds=tuple(made["seeds"]),
        machine=made["machine"],
        versions=made["versions"],
        cap=_cap(bench.comparison.grid, budget),
    )


def _metrics(folder: Path) -> dict[str, Any]:
    """What ``metrics.json`` holds; nothing where there is none."""
    from routegym.errors import RunError

    path = folder / "metrics.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise RunError(f"{path}: not valid JSON ({error}); evaluate or run the bench again") from None
    if not isinstance(found, dict):
        raise RunError(f"{path}: holds no object; evaluate or run the bench again")
    return found


def _recording(folder: Path, source: str, content_hash: str, moved: Sequence[str]) -> Recording:
    """The recording a run was made with.

    Raises:
        RunError: it is gone or another one by now, or incomplete.
    """
    from routegym.errors import RecordingError, RunError
    from routegym.graph.library import load_recording

    tried = []
    for place in (source, *moved):
        try:
            recording = load_recording(place)
        except RecordingError as error:
            tried.append(str(error))
            continue
        if recording.content_hash != content_hash:
            tried.append(f"{place!r} has content hash {recording.content_hash[:12]}")
            continue
        if not recording.graph.complete:
            raise RunError(
                f"{folder}: its recording {place!r} is incomplete, and routes cannot be compared where nothing was "
                "recorded; complete it with `routegym record`, and train on that"
            )
        return recording
    raise RunError(
        f"{folder}: its recording, with content hash {content_hash[:12]}, was not found ({'; '.join(tried)}); say with "
        "--recording where it is"
    )


def _cap(grid: Grid, budget: float | None) -> int:
    """The number of the budget nearest to a wanted one by ratio, or of the middle one."""
    if budget is None:
        return len(grid.caps) // 2
    return min(range(len(grid.caps)), key=lambda number: max(grid.caps[number] / budget, budget / grid.caps[number]))


def _names(folders: Sequence[Path]) -> list[str]:
    """A heading for each run: its folder's name, the whole path where two are alike."""
    names = [folder.resolve().name for folder in folders]
    return [name if names.count(name) == 1 else str(folder) for name, folder in zip(names, folders, strict=True)]


def _train_command(config: RunConfig, folder: Path) -> str:
    """What trains the same again, whatever the tuned hyperparameters are by then."""
    import yaml

    parts = ["routegym", "train", "--env", config.env, "--algo", config.algo]
    if config.pool is None:
        parts += ["--recording", config.recording]
    else:
        parts += ["--live", "--pool", config.pool, "--tasks", str(config.tasks)]
    parts += ["--out", str(folder), "--seed", str(config.seeds[0]), "--seeds", str(len(config.seeds))]
    for option, value in (("--budget-usd", config.budget_usd), ("--lambda", config.lambda_)):
        if isinstance(value, (int, float)):
            parts += [option, str(value), str(value)]
        elif isinstance(value, tuple):
            parts += [option, *map(str, value)]
    parts += ["--threads", str(config.threads)]
    changes = [
        f"{name}={yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix('...' + chr(10)).strip()}"
        for name, value in config.hyperparameters.items()
    ]
    return shlex.join([*parts, "--set", *changes] if changes else parts)
