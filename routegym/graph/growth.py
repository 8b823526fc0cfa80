"""Growing a graph: asking the pool for the edges that are missing, all of one step in one batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from routegym.errors import BudgetError, ConfigError, RecordingError
from routegym.graph.graph import OPEN
from routegym.graph.pricing import edge_costs, edge_records, repriced_models, worst_case_usd
from routegym.graph.recording import Recording
from routegym.graph.workflow import Workflow
from routegym.pool.arms import Arm, PriceTable
from routegym.pool.backend import Attempt, Backend, Failure, Request, Response

__all__ = ["Expander", "PoolLike", "explore", "start_recording"]

_MOST_SAMPLES = 255  # what `TransitionGraph.edge_count` can hold


class PoolLike(Protocol):
    """Arms with their prices and the backend that answers for them."""

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms, in the order of the actions."""
        ...

    @property
    def prices(self) -> PriceTable:
        """What their tokens cost."""
        ...

    @property
    def backend(self) -> Backend:
        """Who answers."""
        ...


class Expander:
    """Adds missing edges to a recording by calling a pool.

    A response is a function of (arm, prompt, sample): equal requests are sent once, and their seeds
    are derived from those three, so that what is recorded does not depend on the order of the calls.

    Args:
        workflow: the environment family of the recording.
        pool: answers for the recording's arms.
        recording: grown in place.
        samples: recorded samples for each arm name; 1 where an arm is not named.
        charged: recording of the same workflow and arms. What it was charged for a prompt, at the pool's prices, is
            the worst case of asking the same arm that prompt again: a pool may only bound it. By default every worst
            case is the pool's.

    Attributes:
        failures: calls that brought no answer when they were last tried, by (node, action). No edge is recorded for
            them; the next `expand` that names them tries again, but for one in the same `one_pass`.
        overcharged: recorded calls that cost more than `charged` had let expect, by (node, action), as the failures
            that they are to an episode that cannot pay for them. From then on their worst case is what they cost.

    Raises:
        RecordingError: the recording is closed, belongs to another workflow or another pool, or has other prices.
        ConfigError: `samples` names an arm that is not there, or a number that is not 1 to 255.
    """

    def __init__(
        self,
        workflow: Workflow,
        pool: PoolLike,
        recording: Recording,
        samples: Mapping[str, int] | None = None,
        charged: Recording | None = None,
    ) -> None:
        if recording.closed:
            raise RecordingError(
                f"{recording.name}: a closed recording cannot be grown: what is not in it was never legal there"
            )
        if recording.kind != workflow.kind:
            raise RecordingError(
                f"{recording.name}: a recording of kind {recording.kind!r} cannot be grown by a "
                f"{workflow.kind!r} workflow; use the workflow that made it"
            )
        if pool.arms != recording.arms:
            raise RecordingError(
                f"{recording.name}: its arms {[arm.name for arm in recording.arms]} are not the pool's "
                f"{[arm.name for arm in pool.arms]}; use the pool it was recorded with"
            )
        if changed := repriced_models(recording.prices, pool.prices, pool.arms):
            raise RecordingError(
                f"{recording.name}: the pool's prices of {', '.join(changed)} are not those that it has been grown "
                "with; give the pool the former ones, or begin another recording (what a store knows costs nothing)"
            )
        self.workflow, self.pool, self.recording = workflow, pool, recording
        names = [arm.name for arm in pool.arms]
        for name, count in (samples or {}).items():
            if name not in names or not 1 <= count <= _MOST_SAMPLES:
                raise ConfigError(
                    f"samples[{name!r}] = {count!r}; expected 1 to {_MOST_SAMPLES} for one of {', '.join(names)}"
                )
        self.samples = [(samples or {}).get(name, 1) for name in names]
        self.failures: dict[tuple[int, int], Failure] = {}
        self.overcharged: dict[tuple[int, int], Failure] = {}
        self._states: list[Any] = []
        self._node_of: dict[tuple[int, int, str], int] = {}
        self._answers: dict[tuple[str, str, int], Response] = {}
        self._failed: dict[tuple[str, str, int], Failure] | None = None  # of the pass under way
        self._charged = {} if charged is None else self._worst_charges(charged)
        self._read_nodes()

    def expand(self, nodes: npt.ArrayLike, actions: npt.ArrayLike) -> None:
        """Record every named (node, action) that is missing; integers (n,) each. One batch of calls.

        What the pool could not answer stays missing and stands in `failures`.
        """
        graph = self.recording.graph
        nodes, actions = np.asarray(nodes, dtype=np.int64), np.asarray(actions, dtype=np.int64)
        missing = (graph.edge_first[nodes, actions] < 0) & (graph.node_status[nodes] == OPEN)
        keys = np.unique(nodes[missing] * graph.n_actions + actions[missing])
        if not len(keys):
            return
        repeats = np.array([*self.samples, *([1] * len(self.workflow.controls))])[keys % graph.n_actions]
        sample = np.concatenate([np.arange(count) for count in repeats])
        keys = np.repeat(keys, repeats)
        nodes, actions = keys // graph.n_actions, keys % graph.n_actions
        arm_rows = np.flatnonzero(actions < graph.n_arms)
        arms = [self.pool.arms[action] for action in actions[arm_rows]]
        requests = self.workflow.requests([self._states[node] for node in nodes[arm_rows]], arms)
        responses: list[Response | Failure | None] = [None] * len(keys)
        for row, result in zip(arm_rows, self._answer(requests, sample[arm_rows]), strict=True):
            responses[row] = result
        answered = self._note_failures(nodes, actions, responses)
        nodes, actions = nodes[answered], actions[answered]
        self._record(nodes, actions, [responses[row] for row in np.flatnonzero(answered)])  # type: ignore[misc]

    @contextmanager
    def one_pass(self) -> Iterator[Mapping[tuple[str, str, int], Failure]]:
        """A pass, in which a call that fails is not made again, in however many situations it is wanted.

        A pass within another is part of that one.

        Yields:
            The calls that have failed in the pass so far, by (name of the arm, prompt, sample).
        """
        outer = self._failed
        self._failed = failed = {} if outer is None else outer
        try:
            yield failed
        finally:
            self._failed = outer

    def _note_failures(
        self, nodes: npt.NDArray[Any], actions: npt.NDArray[Any], responses: Sequence[Response | Failure | None]
    ) -> npt.NDArray[np.bool_]:
        """bool (n,): rows to record, all samples of a (node, action) or none; takes the others into `failures`."""
        pairs = list(zip(nodes.tolist(), actions.tolist(), strict=True))
        for pair in pairs:
            self.failures.pop(pair, None)
        for pair, response in zip(pairs, responses, strict=True):
            if isinstance(response, Failure):
                self.failures[pair] = response
        return np.array([pair not in self.failures for pair in pairs], dtype=bool)

    def _record(self, nodes: npt.NDArray[Any], actions: npt.NDArray[Any], responses: Sequence[Response | None]) -> None:
        """Append the edges of these responses and the nodes they lead to."""
        if not len(nodes):
            return
        graph = self.recording.graph
        names: list[Arm | str] = [*self.pool.arms, *self.workflow.controls]
        after = self.workflow.advance(
            [self._states[node] for node in nodes], [names[action] for action in actions], responses
        )
        records = edge_records(self.recording, actions, responses, self.workflow.response_signals)
        records["next"] = self._intern(after)
        graph.append_edges(nodes, actions, records)
        if self._charged:
            self._note_overcharges(nodes, actions, responses, records["cost_usd"])

    def _note_overcharges(
        self,
        nodes: npt.NDArray[Any],
        actions: npt.NDArray[Any],
        responses: Sequence[Response | None],
        cost_usd: npt.NDArray[np.float64],
    ) -> None:
        """Take what was charged beyond the expected worst case as the worst case, and into `overcharged`."""
        graph = self.recording.graph
        expected = graph.node_reserve[nodes, actions]
        for row in np.flatnonzero(cost_usd > expected).tolist():
            response = responses[row]
            assert response is not None  # a control costs nothing
            arm = self.pool.arms[actions[row]].name
            problem = (
                f"arm {arm}: a call was charged {cost_usd[row]:.6g} USD, and at most {expected[row]:.6g} USD were "
                "expected from the recording; record it anew"
            )
            charges = [(arm, response.lost_tokens), (response.served_by or arm, response.tokens)]
            attempts = tuple(Attempt(name, "BudgetError", problem, tokens) for name, tokens in charges)
            self.overcharged[int(nodes[row]), int(actions[row])] = Failure(BudgetError(problem), attempts)
        graph.raise_reserves(nodes, actions, cost_usd)

    def _answer(self, requests: Sequence[Request], samples: npt.NDArray[Any]) -> list[Response | Failure]:
        keys = [(r.arm.name, r.prompt, int(k)) for r, k in zip(requests, samples, strict=True)]
        failed = {} if self._failed is None else self._failed
        fresh = {k: r for k, r in zip(keys, requests, strict=True) if k not in self._answers and k not in failed}
        calls = [Request(r.arm, r.prompt, _seed(*key)) for key, r in fresh.items()]
        if calls:
            for key, result in zip(fresh, self.pool.backend.generate(calls), strict=True):
                if isinstance(result, Failure):
                    failed[key] = result
                else:
                    self._answers[key] = result
        return [failed[key] if key in failed else self._answers[key] for key in keys]

    def _intern(self, states: Sequence[Any]) -> npt.NDArray[np.int32]:
        """The node ids of the situations, adding those that are new."""
        texts = self.workflow.encode(states)
        keys = [(s.task, s.step, text) for s, text in zip(states, texts, strict=True)]
        fresh: dict[tuple[int, int, str], Any] = {}
        for key, state in zip(keys, states, strict=True):
            if key not in self._node_of:
                fresh.setdefault(key, state)
        if fresh:
            added = list(fresh.values())
            status, score = self.workflow.outcome(added, self.recording.tasks)
            ids = self.recording.graph.append_nodes(
                task=[s.task for s in added],
                step=[s.step for s in added],
                status=status,
                score=score,
                signals=self.workflow.signals(added),
                reserve_usd=self._reserve(added, status),
                running=[getattr(s, "running", -1) for s in added],
                last=[getattr(s, "last", False) for s in added],
            )
            self.recording.texts.extend(key[2] for key in fresh)
            self._states.extend(added)
            self._node_of.update(zip(fresh, ids.tolist(), strict=True))
        return np.array([self._node_of[key] for key in keys], dtype=np.int32)

    def _reserve(self, states: Sequence[Any], status: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        arms, n_actions = self.pool.arms, self.recording.graph.n_actions
        reserve = np.zeros((len(states), n_actions))
        live = [state for state, s in zip(states, status, strict=True) if s == OPEN]
        for column, arm in enumerate(arms):
            requests = self.workflow.requests(live, [arm] * len(live))
            prompt = np.array(self.pool.backend.count_prompt_tokens(requests), dtype=np.float64)
            worst = worst_case_usd(self.pool.prices, arm, prompt, arms)
            reserve[status == OPEN, column] = [
                self._charged.get((arm.name, request.prompt), bound)
                for request, bound in zip(requests, worst.tolist(), strict=True)
            ]
        reserve[status != OPEN] = np.nan
        return reserve

    def _worst_charges(self, recording: Recording) -> dict[tuple[str, str], float]:
        """Worst case in USD, at the pool's prices, of what a recording was charged for, by arm and prompt."""
        graph, arms = recording.graph, self.pool.arms
        node, action = graph.edge_sources()
        calls = np.flatnonzero(action < graph.n_arms)
        _, worst = edge_costs(self.pool.prices, arms, action[calls], graph.edges[calls])
        nodes, place = np.unique(node[calls], return_inverse=True)
        states = self.workflow.decode(
            recording.tasks,
            graph.node_task[nodes].tolist(),
            graph.node_step[nodes].tolist(),
            recording.texts.take(nodes),
        )
        requests = self.workflow.requests([states[row] for row in place], [arms[row] for row in action[calls]])
        found: dict[tuple[str, str], float] = {}
        for request, usd in zip(requests, worst.tolist(), strict=True):
            key = (request.arm.name, request.prompt)
            found[key] = max(usd, found.get(key, 0.0))
        return found

    def _read_nodes(self) -> None:
        """Take up the nodes that the recording has, or make the start nodes of an empty one."""
        recording = self.recording
        graph = recording.graph
        if graph.n_nodes:
            task, step = graph.node_task.tolist(), graph.node_step.tolist()
            texts = list(recording.texts)
            self._states = self.workflow.decode(recording.tasks, task, step, texts)
            self._node_of = {key: node for node, key in enumerate(zip(task, step, texts, strict=True))}
            # Files have no worst case of what was never recorded; the pool knows it.
            unknown = np.flatnonzero((graph.node_status == OPEN) & np.isinf(graph.node_reserve).any(axis=1))
            if len(unknown):
                known = self._reserve([self._states[node] for node in unknown], graph.node_status[unknown])
                graph.complete_reserves(unknown, known)
        else:
            states = self.workflow.start(recording.tasks, range(graph.n_tasks))
            graph.task_start[:] = self._intern(states)


def explore(
    expander: Expander,
    tasks: npt.NDArray[np.int64] | None = None,
    progress: Callable[[int, int], None] | None = None,
    batch: int = 65_536,
) -> None:
    """Record everything that any sequence of actions can reach, one step of the workflow at a time, as one pass.

    What the pool could not answer is asked for once: it stays missing and stands in `Expander.failures`; exploring
    again tries it again.

    Args:
        tasks: indices of those that are explored; all by default.
        progress: called with (edges recorded so far, edges known to be still missing).
        batch: most (node, action) pairs that are asked for at once.
    """
    graph = expander.recording.graph
    mine = np.zeros(graph.n_tasks, dtype=bool)
    mine[slice(None) if tasks is None else tasks] = True
    seen = 0
    with expander.one_pass():
        while seen < graph.n_nodes:
            new = np.arange(seen, graph.n_nodes)
            seen = graph.n_nodes
            nodes = new[(graph.node_status[new] == OPEN) & mine[graph.node_task[new]]]
            rows, actions = np.nonzero((graph.edge_first[nodes] < 0) & ~np.isnan(graph.node_reserve[nodes]))
            for low in range(0, len(rows), batch):
                part = slice(low, low + batch)
                expander.expand(nodes[rows[part]], actions[part])
                if progress is not None:
                    progress(graph.n_edges, len(rows) - min(low + batch, len(rows)))


def start_recording(
    name: str, workflow: Workflow, pool: PoolLike, tasks: Any, provenance: Mapping[str, Any] | None = None
) -> Recording:
    """An empty recording of a workflow, for an `Expander` to grow."""
    return Recording.empty(
        name=name,
        kind=workflow.kind,
        arms=pool.arms,
        controls=workflow.controls,
        prices=pool.prices,
        tasks=tasks,
        node_signal_names=workflow.node_signal_names,
        edge_signal_names=workflow.edge_signal_names,
        provenance=dict(provenance or {}),
    )


def _seed(arm: str, prompt: str, sample: int) -> int:
    digest = hashlib.sha256(f"{arm}\x00{prompt}\x00{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "little")
