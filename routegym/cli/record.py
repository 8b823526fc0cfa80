"""``routegym record``."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from routegym.cli.connection import (
    Connected,
    Embedding,
    load_tasks_to_route,
    pool_file,
    progress,
    terminated_like_interrupted,
)

if TYPE_CHECKING:
    from routegym.collect import Collected, Strategy
    from routegym.graph.recording import Recording
    from routegym.pool.pool import Pool

__all__ = ["Record"]

#: Exit codes beside 0 (everything that was wanted is recorded) and 2 (a mistake in the command).
CALLS_MISSING, CAP_REACHED = 1, 3

_STRATEGIES = ("all", "boundary", "random", "on-demand", "policy=RUN")


@dataclass(frozen=True)
class Record:
    """Record a pool: make the calls that training needs, once, and keep every answer.

    Answers are stored as they come. The same command goes on where it was interrupted, and after a change of pool or
    tasks it asks only what is new. Exit code 1: calls brought no answer; 3: the spend cap was reached; in both cases
    what is there is written, and the same command tries the rest.

    examples:
      routegym record --tasks operations:200 --env routegym/Cascade-v0 --out recordings/arith
      routegym record --pool pool.yaml --tasks tasks.jsonl --spend-cap 5 --out recordings/mine
      routegym record --pool pool.yaml --tasks tasks.jsonl --strategy policy=runs/mine --out recordings/mine2
    """

    tasks: str
    """Task file, reasoning_gym:NAME:SIZE, arithmetic:SIZE (expressions) or operations:SIZE (single ones such as 58*7);
    several joined by +."""
    out: Path
    """Recording folder."""
    pool: str = "embedded"
    """Pool file; `embedded` is the pool of small arithmetic models."""
    env: str = "routegym/Cascade-v0"
    """Environment whose situations are recorded."""
    strategy: str = "all"
    """What is recorded: `all` that any choices can lead to; `boundary`: the cheapest and the dearest arm alone;
    `random` episodes; `policy=RUN`: what the policies of a run folder choose at every budget; `on-demand`: nothing
    but the start of each task, for an environment that grows the rest."""
    spend_cap: float | None = None
    """Most USD that all calls for OUT may cost together, earlier sessions included; no cap by default."""
    store: Path | None = None
    """Folder in which answers are kept; OUT.store by default. Recordings may share one."""
    rollouts: int = 1
    """Episodes per task (`random`, `policy`), or samples of each call (`boundary`)."""
    samples: tuple[str, ...] = ()
    """Recorded samples of an arm's calls, as ARM=K; 1 by default."""
    seed: int = 0
    """Draws generated tasks and random episodes."""
    workers: int = 1
    """Processes that make the calls; the limits of the pool file hold for each of them."""
    runner: Literal["local", "ray"] = "local"
    """Where they are: on this machine, or on a Ray cluster (RAY_ADDRESS; a local one without it)."""
    shard: str | None = None
    """I/N records share I (from 0) of N of the tasks into the store and writes no recording; for several machines."""
    passes: int = 2
    """How often a call that brings no answer is tried, each time with the retries of the pool file."""
    embed: Embedding | None = None
    """What a router sees of a prompt; tfidf by default, or none where all prompts are arithmetic."""
    validate: bool = True
    """Prove first that the reference of every task scores 1 with the task's own grader."""
    licence: str = ""
    """Licence of the recorded answers, kept with them."""

    def run(self) -> None:
        """Record, save, summarise.

        Raises:
            SystemExit: with code 1 or 3, see above.
        """
        from rich.console import Console

        from routegym.collect import collect, share_of
        from routegym.envs import workflow_of
        from routegym.pool.pool import load_pool
        from routegym.pool.spend import SpendCap
        from routegym.pool.store import ResponseStore

        share, samples = self._checked()
        pool = load_pool(pool_file(self.pool))
        tasks = load_tasks_to_route(self.tasks, self.seed, self.embed, self.validate)
        workflow = workflow_of(self.env, [arm.name for arm in pool.arms], tasks)
        strategy, prepare = self._chosen_strategy()
        console = Console(stderr=True)
        with ExitStack() as stack:
            stack.enter_context(terminated_like_interrupted())
            spend = stack.enter_context(SpendCap(self._store, self.spend_cap, self.out.name))
            store = stack.enter_context(ResponseStore(self._store))
            backend = self._backend(pool.connect(store, spend))
            stack.callback(backend.close)
            answers, spent = len(store), spend.spent_usd
            console.print(
                f"[bold]{self.env}[/], {len(tasks):,} tasks, {len(pool.arms)} arms, strategy {self.strategy}; "
                f"{answers:,} answers are in {self._store}",
                highlight=False,
                soft_wrap=True,
            )
            with progress(console, spend) as watch:
                collected = collect(
                    Connected(pool.arms, pool.prices, backend),
                    workflow,
                    tasks,
                    strategy,
                    name=self.out.name,
                    samples=samples,
                    share=None if share is None else share_of(tasks, *share),
                    prepare=prepare,
                    passes=self.passes,
                    watch=watch,
                )
            calls, cost, total = len(store) - answers, spend.spent_usd - spent, spend.spent_usd
        console.print(f"{calls:,} calls made now for ${cost:.6f}; ${total:.6f} in all sessions", highlight=False)
        if share is None:
            collected.recording.provenance |= self._provenance(collected.recording, pool, total)
            self._save(collected)
        self._report(collected, share)

    @property
    def _store(self) -> Path:
        return self.store or self.out.with_name(f"{self.out.name}.store")

    def _checked(self) -> tuple[tuple[int, int] | None, dict[str, int]]:
        """Share (None = everything) and samples as numbers, once all options are seen to make sense.

        Raises:
            ConfigError: one does not.
            RecordingError: something else is in the place of the recording.
        """
        from routegym.errors import ConfigError, RecordingError
        from routegym.graph.storage import read_meta
        from routegym.registration import kind_of

        kind = kind_of(self.env)
        for name in ("rollouts", "workers", "passes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}; expected at least 1")
        if self.seed < 0:
            raise ConfigError(f"seed = {self.seed}; expected an integer >= 0")
        name, _, run = self.strategy.partition("=")
        if self.strategy not in _STRATEGIES[:-1] and not (name == "policy" and run):
            raise ConfigError(f"strategy = {self.strategy!r}; expected one of {', '.join(_STRATEGIES)}")
        if self.out.exists():
            if not (self.out / "meta.json").is_file():
                raise RecordingError(f"{self.out}: exists and is not a recording; name another folder with --out")
            found = read_meta(self.out)
            if found.kind != kind or not str(found.provenance.get("made_by")).startswith("routegym record "):
                raise RecordingError(
                    f"{self.out}: holds a recording of kind {found.kind!r} that `routegym record --env {self.env}` "
                    "has not made; name another folder with --out"
                )
        return _share(self.shard), _samples(self.samples)

    def _chosen_strategy(self) -> tuple[Strategy, Callable[[Recording], None] | None]:
        """The strategy, and what it does to the fresh recording."""
        from routegym.collect import play_policy, record_all, record_boundary, record_random

        if self.strategy.startswith("policy="):
            from routegym.cli.evaluate import open_run
            from routegym.policies.storage import load_policies
            from routegym.tracking.run import Run

            run = Run(Path(self.strategy.partition("=")[2]))
            trained, _ = open_run(run)
            policies: list[Any] = []

            def prepare(recording: Recording) -> None:
                # What a policy sees is scaled as in its training.
                recording.cost_scale_usd = trained.cost_scale_usd
                recording.budget_range_usd = trained.budget_range_usd
                policies.extend(load_policies(run.path, recording).values())

            return partial(play_policy, policies=policies, rollouts=self.rollouts, seed=self.seed), prepare
        strategies: dict[str, Strategy] = {
            "all": record_all,
            "boundary": partial(record_boundary, rollouts=self.rollouts),
            "random": partial(record_random, rollouts=self.rollouts, seed=self.seed),
            "on-demand": lambda expander, tasks: None,
        }
        return strategies[self.strategy], None

    def _backend(self, here: Any) -> Any:
        """Who makes the calls."""
        from routegym.collect import LocalWorkers, RayTasks, Source

        if self.runner == "local" and self.workers == 1:
            return here
        pool = pool_file(self.pool)
        source = Source(pool and pool.resolve(), self._store.resolve(), self.spend_cap, self.out.name)
        return (RayTasks if self.runner == "ray" else LocalWorkers)(source, self.workers, here)

    def _provenance(self, recording: Recording, pool: Pool, spent_usd: float) -> dict[str, Any]:
        from routegym.tracking.run import versions

        rows = recording.tasks
        asked = json.dumps([rows.ids, rows.prompts, rows.references, rows.graders, rows.details])
        found = {
            "made_by": self._command(),
            "pool": {
                "name": pool.name,
                "sha256": hashlib.sha256(pool.path.read_bytes()).hexdigest(),
                "prices": pool.prices.note,
            },
            "tasks": {"source": _base_names(self.tasks), "sha256": hashlib.sha256(asked.encode()).hexdigest()},
            "strategy": self.strategy.partition("=")[0],
            "seed": self.seed,
            "spent_usd": spent_usd,
            "versions": versions(),
            "complete": recording.graph.complete,
        }
        return found | ({"licence": self.licence} if self.licence else {})

    def _command(self) -> str:
        """The command without what says nothing of the result and without folders of this machine."""
        name, _, run = self.strategy.partition("=")
        words = ["routegym", "record", "--pool", Path(self.pool).name, "--tasks", _base_names(self.tasks)]
        words += ["--env", self.env, "--strategy", f"{name}={Path(run).name}" if run else name]
        words += [] if self.rollouts == 1 else ["--rollouts", str(self.rollouts)]
        words += ["--samples", *self.samples] if self.samples else []
        words += ["--seed", str(self.seed)] if self.seed else []
        words += ["--embed", self.embed] if self.embed else []
        return shlex.join([*words, "--out", self.out.name])

    def _save(self, collected: Collected) -> None:
        """Write the recording, unless it lacks answers and the one that is there has more calls."""
        from routegym.graph.storage import read_meta

        if collected.failures and (self.out / "meta.json").is_file():
            there = read_meta(self.out).counts.edges
            if there > collected.recording.graph.n_edges:
                print(f"{self.out} holds {there:,} calls, more than could be recorded now, and is left as it is")
                return
        collected.recording.save(self.out)

    def _report(self, collected: Collected, share: tuple[int, int] | None) -> None:
        """Say what is recorded and what to do next.

        Raises:
            SystemExit: not everything is there.
        """
        from routegym.cli.evaluate import wide_console

        graph = collected.recording.graph
        console = wide_console()
        console.print(_table(collected))
        console.print(
            f"{graph.n_tasks:,} tasks, {graph.n_nodes:,} situations, {graph.n_edges:,} recorded choices, "
            f"{'complete' if graph.complete else 'not complete'}",
            highlight=False,
        )
        missing = len(collected.failures)
        if collected.refusal is not None:
            print(f"spend cap: {collected.refusal}; at least {missing:,} calls are missing")
            raise SystemExit(CAP_REACHED)
        if missing:
            kinds = Counter(type(failure.error).__name__ for failure in collected.failures.values())
            named = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
            first = " ".join(str(next(iter(collected.failures.values())).error).split())
            print(
                f"{missing:,} calls brought no answer ({named}; the first: {first}); the same command tries them again"
            )
            raise SystemExit(CALLS_MISSING)
        if share is not None:
            print(f"share {share[0]}/{share[1]} is in {self._store}; once all are, give the command without --shard")
            return
        print(f"next: routegym train --env {self.env} --recording {self.out}")


def _share(text: str | None) -> tuple[int, int] | None:
    from routegym.errors import ConfigError

    if text is None:
        return None
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ConfigError(f"shard = {text!r}; expected I/N with I from 0 to N - 1, such as 0/4")
    return None if int(count) == 1 else (int(index), int(count))


def _samples(pairs: tuple[str, ...]) -> dict[str, int]:
    from routegym.errors import ConfigError

    found = {}
    for pair in pairs:
        name, _, count = pair.rpartition("=")
        if not name or not count.isdecimal():
            raise ConfigError(f"samples = {pair!r}; expected ARM=K, such as small/vote5=3")
        found[name] = int(count)
    return found


def _base_names(tasks: str) -> str:
    """A task source without the folders of its files."""
    parts = [tasks] if Path(tasks).is_file() else tasks.split("+")
    return "+".join(Path(part).name if Path(part).is_file() else part for part in parts)


def _table(collected: Collected) -> Any:
    from rich.table import Table

    from routegym.collect import arm_rows
    from routegym.core.render import format_usd

    table = Table(title=collected.recording.name)
    table.add_column("arm")
    for name in ("recorded choices", "mean cost", "score of always", "failed calls"):
        table.add_column(name, justify="right")
    for row in arm_rows(collected):
        table.add_row(
            row["arm"],
            f"{row['choices']:,}",
            "-" if row["mean_cost_usd"] is None else format_usd(row["mean_cost_usd"]),
            "-" if row["score"] is None else f"{row['score']:.3f}",
            ", ".join(f"{count:,} {kind}" for kind, count in row["failures"].items()) or "0",
        )
    return table
