"""A pool of one's own: arms, prices and a backend in Python, where a pool file has no word for what answers.

Here three functions answer: anything does that turns a text into a text, such as a search service, a queue that people
work through, or models behind a protocol of their own.

    python docs/examples/my_pool.py 500 300
"""

import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from routegym.collect import arm_rows, collect, record_all
from routegym.envs.cascade import CascadeWorkflow
from routegym.errors import CallError
from routegym.evaluation.outcomes import Grid, play
from routegym.policies.algorithm import Problem
from routegym.policies.all_action import AllAction
from routegym.pool import Arm, Failure, Price, PriceTable, Request, Response
from routegym.tasks import load_tasks, next_operation


def table(question: str) -> tuple[str, float]:
    """Knows sums of small numbers by heart, and how sure it is."""
    a, plus, b = question.partition("+")
    return (str(int(a) + int(b)), 0.99) if plus and len(a + b) <= 3 else ("", 0.05)


def abacus(question: str) -> tuple[str, float]:
    """Adds and subtracts; of a product it gets the last digit only, and is as sure."""
    value = next_operation(f"({question})").value
    return str(value % 10 if "*" in question else value), 0.9


asked: set[str] = set()


def expert(question: str) -> tuple[str, float]:
    """Always right; one question in ten it does not answer when it is asked for the first time."""
    if question not in asked and zlib.crc32(question.encode()) % 10 == 0:
        asked.add(question)
        raise TimeoutError("no answer within a day")
    return str(next_operation(f"({question})").value), 0.97


@dataclass(frozen=True)
class Functions:
    """A backend: one result for each request, in order; what brings no answer is a failure and no wrong answer."""

    answers: dict[str, Callable[[str], tuple[str, float]]]

    def generate(self, requests: Sequence[Request], on_result=None) -> list[Response | Failure]:
        results = [self._ask(request) for request in requests]  # all calls of a step at once: a place for a batch
        for index, result in enumerate(results if on_result else []):
            on_result(index, result)
        return results

    def count_prompt_tokens(self, requests: Sequence[Request]) -> list[int]:  # before the call: what it may cost
        return [len(request.prompt) for request in requests]

    def _ask(self, request: Request) -> Response | Failure:
        try:
            text, sure = self.answers[request.arm.name](request.prompt)
        except TimeoutError as error:
            return Failure(CallError(f"{request.arm.name}: {error}"))
        tokens = (len(request.prompt), 0, len(text), 0)  # prompt, cached, completion, reasoning; here letters
        return Response(text, tokens, latency_s=0.0, flops=0.0, logprob=0.0, agreement=sure)


@dataclass(frozen=True)
class OfficePool:
    arms: tuple[Arm, ...]
    prices: PriceTable
    backend: Functions


answers = {"table": table, "abacus": abacus, "expert": expert}
usd_per_letter = {"table": 0.00001, "abacus": 0.0001, "expert": 0.01}
pool = OfficePool(
    arms=tuple(Arm(name, tier="", parameters=0, max_completion_tokens=3) for name in answers),
    prices=PriceTable("2026-11-23", "made up", {n: Price(1e6 * p, 0, 1e6 * p, 0) for n, p in usd_per_letter.items()}),
    backend=Functions(answers),
)

if __name__ == "__main__":
    count, updates = (int(word) for word in (sys.argv[1:] or ["500", "300"]))
    tasks = load_tasks(f"operations:{count}")
    workflow = CascadeWorkflow(list(answers))
    collected = collect(pool, workflow, tasks, record_all, name="office", passes=2, pause_s=0)
    recording = collected.recording
    for row in arm_rows(collected):
        print(f"always {row['arm']:<7} score {row['score']:.3f}, {row['choices']} recorded choices")
    print(f"{len(asked)} calls brought no answer at first, {len(collected.failures)} in the end")

    policy = AllAction(updates=updates).fit(Problem(recording), seed=0)
    grid = Grid.of(recording, lambdas=[0.0])
    outcomes = play(policy, recording, "test", grid)
    for budget, score, cost in zip(grid.budgets, outcomes.scores.mean(1), outcomes.costs.mean(1), strict=True):
        print(f"budget {budget:.6f} USD: score {score:.3f} at {cost:.6f} USD")

    folder = recording.save(tempfile.mkdtemp() + "/office")
    print(f"next: routegym train --env routegym/Cascade-v0 --recording {folder}")
