"""``routegym pool``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from collections.abc import Sequence

    from routegym.pool import pool as pools
    from routegym.pool.arms import Arm
    from routegym.pool.backend import Failure, Response

__all__ = ["Check", "Pool", "Schema"]


@dataclass(frozen=True)
class Check:
    """Ask every arm of a pool one question: is it alive, how long does it take, what does it cost, what does it say?

    These are real calls: the table's last line says what they cost. Nothing is stored, retries are those of the pool
    file, fallbacks are not taken. The exit code is 1 if an arm is dead and 2 if the pool file is wrong.

    examples:
      routegym pool check                                    the embedded pool
      routegym pool check pool.yaml
      routegym pool check pool.yaml --arm smol/direct smol/vote5 --prompt "What is the capital of France?"
    """

    pool: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[POOL.yaml]")] = "embedded"
    """Pool file; `embedded` is the pool of small arithmetic models."""
    arm: tuple[str, ...] = ()
    """Arms to ask; all by default."""
    prompt: str = "58+7"
    """What each is asked."""

    def run(self) -> None:
        """Ask and print."""
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        from routegym.cli.connection import pool_file
        from routegym.pool.backend import Failure
        from routegym.pool.pool import load_pool
        from routegym.pool.prices import attempt_usd, call_usd

        pool = load_pool(pool_file(self.pool))
        arms = [pool.arm(name) for name in self.arm] or list(pool.arms)
        console = Console()
        if not console.is_terminal:
            console = Console(width=160)  # files and pipes have no width of their own
        table = Table("arm", "state", box=None, pad_edge=False)
        for column in ("latency", "prompt / cached / completion / reasoning", "worst case"):
            table.add_column(column, justify="right")
        table.add_column("answer", overflow="fold")
        dead, spent = 0, 0.0
        try:
            for arm, result, worst in _ask(pool, arms, self.prompt):
                price = pool.prices.price_of(arm)
                listed = " / ".join(
                    f"{usd:g}" for usd in (price.prompt, price.cached, price.completion, price.reasoning)
                )
                if price.gpu_hour:
                    listed = f"{price.gpu_hour:g} per GPU-hour"
                if isinstance(result, Failure):
                    dead += 1
                    spent += sum(attempt_usd(price, arm, attempt) for attempt in result.attempts)
                    state, took = "[bold red]dead[/]", result.latency_s
                    said = f"{type(result.error).__name__}: {result.error}"
                else:
                    spent += call_usd(price, result.tokens, result.gpu_s) + call_usd(price, result.lost_tokens)
                    state, took, said = "[green]alive[/]", result.latency_s, repr(result.text)
                table.add_row(
                    arm.name,
                    state,
                    f"{took:.3f} s",
                    listed,
                    f"{worst:.3g} USD" if worst is not None else "",
                    escape(said),
                )
        finally:
            pool.backend.close()
        console.print(f"pool {pool.name}: USD per million tokens, {escape(pool.prices.note)} ({pool.prices.date})")
        console.print(table)
        console.print(f"{len(arms) - dead} of {len(arms)} arms alive; this check cost {spent:.3g} USD", highlight=False)
        if dead:
            raise SystemExit(1)


@dataclass(frozen=True)
class Schema:
    """Print the JSON schema of the pool file, for editors and other programs."""

    def run(self) -> None:
        """Print it."""
        import json

        from routegym.pool.config import pool_schema

        print(json.dumps(pool_schema(), indent=2))


@dataclass(frozen=True)
class Pool:
    """Check a pool of models, or print the schema of its file.

    examples:
      routegym pool check                     the embedded pool
      routegym pool check pool.yaml           every arm of your own: alive, latency, price, sample answer
      routegym pool schema > pool.schema.json
    """

    command: Annotated[Check, tyro.conf.subcommand("check")] | Annotated[Schema, tyro.conf.subcommand("schema")]

    def run(self) -> None:
        """Run the chosen command."""
        self.command.run()


def _ask(pool: pools.Pool, arms: Sequence[Arm], prompt: str) -> list[tuple[Arm, Response | Failure, float | None]]:
    """One result for each arm and the most that it could have cost; an endpoint that cannot be used fails its arms."""
    from dataclasses import replace

    from routegym.errors import CallError, RoutegymError
    from routegym.pool.backend import Failure, Request
    from routegym.pool.prices import worst_usd

    asked: dict[str, tuple[Arm, Response | Failure, float | None]] = {}
    for endpoint in dict.fromkeys(pool.tiers[arm.name].endpoint for arm in arms):
        mine = [arm for arm in arms if pool.tiers[arm.name].endpoint == endpoint]
        requests = [Request(replace(arm, fallback=None), prompt) for arm in mine]
        worst: list[float | None] = [None] * len(mine)
        results: list[Response | Failure]
        try:
            counts = pool.backend.count_prompt_tokens(requests)
            worst = [worst_usd(pool.prices.price_of(arm), arm, count) for arm, count in zip(mine, counts, strict=True)]
            results = pool.backend.generate(requests)
        except RoutegymError as error:
            results = [Failure(CallError(" ".join(str(error).split())))] * len(mine)
        for arm, result, most in zip(mine, results, worst, strict=True):
            asked[arm.name] = (arm, result, most)
    return [asked[arm.name] for arm in arms]
