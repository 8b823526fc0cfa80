"""The environment: a batch of routing episodes stepped with array operations over a recording."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from routegym.core import streams
from routegym.core.ledger import Ledger, check_budget, check_lambda
from routegym.core.observation import ObservationLayout, static_features
from routegym.core.reward import Reward, reward_function, vector
from routegym.errors import ActionError, BudgetError, ConfigError, MissingEdgeError, TaskError
from routegym.graph.graph import OPEN, TERMINATED, TRUNCATED
from routegym.graph.library import load_recording
from routegym.pool.arms import TOKEN_KINDS

if TYPE_CHECKING:
    from routegym.graph.growth import Expander
    from routegym.graph.recording import Recording

__all__ = ["Budget", "RoutingVectorEnv"]

#: No cap, one cap, "sampled" (log-uniform over the recording's range) or (low, high), sampled likewise.
Budget = float | Sequence[float] | Literal["sampled"] | None

_OPTIONS = ("task_id", "budget_usd", "lambda", "group_size", "reset_mask")


class RoutingVectorEnv(VectorEnv[Any, Any, Any]):
    """N routing episodes over one recording, stepped together.

    Args:
        num_envs: episodes in the batch, N.
        recording: name of a shipped recording, path of a recording folder, or a `Recording`; None takes the
            shipped recording of the env's family.
        observation: ``"flat"`` (Box), ``"dict"`` (its named groups) or ``"index"`` (Discrete node id; look
            up features on the policy's device, and `ledger` for what is left).
        budget_usd: hard cap of every episode in USD: a number, None for no cap, ``(low, high)`` to draw one
            log-uniformly per episode, or ``"sampled"`` for the recording's own range.
        lambda_: price of cost in the reward: a number, or ``(low, high)`` to draw one uniformly per episode.
        reward: a name of `routegym.core.REWARDS` or a function of that form.
        split: which tasks are drawn: ``"train"``, ``"val"``, ``"test"`` or ``"all"``.
        autoreset_mode: gymnasium's; with DISABLED use ``reset(options={"reset_mask": ...})``.
        expander: grows the recording where an edge is missing; without one that is an error.
        info: ``"full"``, or ``"lean"`` to leave out what takes time to gather (task ids, text, tokens).
        copy: False hands out observations in a buffer that the next step overwrites.
        render_mode: None, ``"ansi"`` or ``"human"``.

    ``reset(options=...)`` takes ``task_id`` (id or index), ``budget_usd`` and ``lambda``, one value or one per
    episode, for the episodes it starts; and ``group_size``: blocks of that many slots get the same task, budget
    and lambda, also after autoresets, until the next reset.

    In ``info`` the facts of a step (``cost_usd``, ``cost_usd_total``, ``score``, ``arm``, tokens, ``latency_s``,
    ``flops``) are those of the step just taken, and those of a situation (``task_id``, ``text``, ``budget_usd``) of
    the one that the observation shows; with SAME_STEP, ``final_obs`` and ``final_info`` keep what an autoreset
    replaced (rows of episodes that did not end are zero; ``_final_obs`` tells which count).

    Raises:
        ConfigError, BudgetError, TaskError, RecordingError: an argument makes no sense; the message names it.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi", "human"], "render_fps": 4}  # type: ignore[misc]
    kind: ClassVar[str | None] = None
    """Environment family: the kind of recording it takes and the name of its shipped one."""

    def __init__(
        self,
        num_envs: int = 1,
        recording: str | Path | Recording | None = None,
        *,
        observation: Literal["flat", "dict", "index"] = "flat",
        budget_usd: Budget = None,
        lambda_: float | Sequence[float] = 0.0,
        reward: str | Reward = "score_minus_cost",
        split: str = "train",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        expander: Expander | None = None,
        info: Literal["full", "lean"] = "full",
        copy: bool = True,
        render_mode: Literal["ansi", "human"] | None = None,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs = {num_envs}; expected at least 1")
        _one_of("observation", observation, ("flat", "dict", "index"))
        _one_of("info", info, ("full", "lean"))
        _one_of("render_mode", render_mode, (None, "ansi", "human"))
        self.num_envs = num_envs
        self.recording = self._find(recording)
        self.layout = ObservationLayout.of(self.recording)
        self.observation, self.render_mode, self.expander = observation, render_mode, expander
        if expander is not None and expander.recording is not self.recording:
            raise ConfigError("expander grows another recording than this env's; pass the same Recording to both")
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = type(self).metadata | {"autoreset_mode": self.autoreset_mode}
        self._full, self._copy, self._reward = info == "full", copy, reward_function(reward)

        graph = self._graph = self.recording.graph
        self.tasks = self.recording.split(split)
        self._budget = _sampler(self._budget_range(budget_usd))
        self._lambda = _sampler(_bounds("lambda_", lambda_, check_lambda))
        self.single_action_space = gym.spaces.Discrete(graph.n_actions)
        self.single_observation_space = self._observation_space()
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        if self._reward is vector:
            low = np.array([0.0, -np.inf], dtype=np.float32)
            self.reward_space = gym.spaces.Box(low, np.array([1.0, 0.0], dtype=np.float32))

        self.ledger = Ledger(num_envs)
        self.node = graph.task_start[np.zeros(num_envs, dtype=np.int64)].astype(np.int64)
        self.lambda_ = np.zeros(num_envs)
        self._response_signals = np.zeros((num_envs, len(self.recording.edge_signal_names)), dtype=np.float32)
        self._ended = np.ones(num_envs, dtype=bool)
        self._episode = np.zeros(num_envs, dtype=np.int64)
        self._draws = np.zeros(num_envs, dtype=np.int64)
        self._keys: npt.NDArray[np.uint64] | None = None
        self._group = np.arange(num_envs)
        self.routes: list[list[tuple[int, int]]] = [[] for _ in range(num_envs)] if render_mode else []
        self._static = np.zeros((0, self.layout.static_width), dtype=np.float32)
        self._buffer = np.zeros((num_envs, self.layout.width), dtype=np.float32)
        self._version = -1

    # -- gymnasium ---------------------------------------------------------------------------
    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Start fresh episodes; see the class for the options.

        Args:
            seed: fixes tasks, budgets, lambdas and sampled responses of each slot. One integer gives every
                slot a stream of its own; a list of one per slot gives slot i what a single environment
                seeded with ``seed[i]`` has.
        """
        options = dict(options or {})
        for name in options:
            if name not in _OPTIONS:
                raise ConfigError(f"reset option {name!r} is not known{_did_you_mean(name, _OPTIONS)}")
        mask = self._reset_mask(options.pop("reset_mask", None))
        slots = np.flatnonzero(mask)
        group_size = int(options.get("group_size", 1))
        if group_size < 1 or self.num_envs % group_size:
            raise ConfigError(f"group_size = {group_size}; expected a divisor of num_envs = {self.num_envs}")
        choice = self._choices(options, slots)
        if seed is not None or self._keys is None:
            self._seed(seed, slots)
        if mask.all():
            self._group = np.arange(self.num_envs) // group_size * group_size
        self._start(slots, **choice)
        self._sync()
        return self._observe(), self._reset_info(mask)

    def step(self, actions: npt.ArrayLike) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take one action in every episode.

        Raises:
            ActionError: an action is out of range or masked, or an episode is over; nothing has changed then.
            MissingEdgeError: the recording has no such edge and there is no expander; nothing has changed.
        """
        graph, ledger = self._graph, self.ledger
        actions = np.asarray(actions)
        active = ~self._ended
        everyone = bool(active.all())
        self._check(actions, active, everyone)
        node = self.node
        action = actions if everyone else np.where(active, actions, 0)
        place = node * graph.n_actions + action
        refused = ledger.reserve(graph.node_reserve.reshape(-1).take(place), active)
        if refused.any():
            self._refuse(int(np.argmax(refused)), actions)
        edge = graph.edge_first.reshape(-1).take(place)
        if edge.min() < 0:
            edge = self._grow(edge, place, active)
            graph = self._graph
        if graph.max_samples > 1:
            edge = edge + self._sample(place)

        record = graph.edges.take(edge)
        cost = record["cost_usd"]
        landing = record["next"].astype(np.int64)
        if not everyone:
            cost, landing = np.where(active, cost, 0.0), np.where(active, landing, node)
        ledger.settle(cost)
        self.node = landing
        self._response_signals = record["signals"]
        self._draws += active
        after = graph.nodes.take(landing)
        status = after["status"]
        bankrupt = (status == OPEN) & ~ledger.admits(after["floor_usd"])
        terminated = ((status == TERMINATED) | bankrupt) & active
        truncated = (status == TRUNCATED) & active
        done = terminated | truncated
        score = np.where(done & ~bankrupt, np.nan_to_num(after["score"]), 0.0).astype(np.float64)
        reward = self._reward(score, cost, ledger.spent_usd, done, self.lambda_, self.recording.cost_scale_usd)
        if self.routes:
            for slot in np.flatnonzero(active):
                self.routes[slot].append((int(edge[slot]), int(actions[slot])))
        self._ended = done | ~active
        if self.autoreset_mode == AutoresetMode.NEXT_STEP and not everyone:
            self._start(np.flatnonzero(~active))
        info = self._step_info(cost, record, actions, score)
        if self.autoreset_mode == AutoresetMode.SAME_STEP and done.any():
            self._finish(np.flatnonzero(done), done, info)
        self._sync()
        return self._observe(), reward, terminated, truncated, info

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Which actions are legal now, bool (N, n_actions); all of them where an episode is over."""
        legal = self.ledger.admits(self._graph.node_reserve.take(self.node, axis=0))
        if self._ended.any():
            legal[self._ended] = True
        return legal

    def render(self) -> tuple[str, ...] | None:
        """The routes so far, one text per episode (``ansi``), or printed (``human``)."""
        from routegym.core.render import print_route, route_text

        if self.render_mode is None:
            raise ConfigError('render() needs render_mode="ansi" or "human"; pass it when making the env')
        routes = tuple(route_text(self, slot) for slot in range(self.num_envs))
        if self.render_mode == "ansi":
            return routes
        for route in routes:
            print_route(route)
        return None

    # -- episodes ----------------------------------------------------------------------------
    def _seed(self, seed: int | list[int | None] | None, slots: npt.NDArray[Any]) -> None:
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        if isinstance(seed, (int, np.integer)):
            if seed < 0:
                raise ConfigError(f"seed = {seed}; expected an integer >= 0")
            super().reset(seed=int(seed))
            keys = streams.batch_keys(int(seed), self.num_envs)
        else:
            if len(seed) != self.num_envs:
                raise ConfigError(f"{len(seed)} seeds for {self.num_envs} episodes; give one for each, or an integer")
            fresh = np.random.SeedSequence().generate_state(self.num_envs)
            keys = streams.batch_keys(
                [int(f) if s is None else s for s, f in zip(seed, fresh, strict=True)], self.num_envs
            )
        if self._keys is None:
            self._keys = keys
        self._keys[slots] = keys[slots]
        self._episode[slots] = 0
        self._draws[slots] = 0

    def _start(
        self,
        slots: npt.NDArray[Any],
        task: npt.NDArray[Any] | None = None,
        budget: npt.NDArray[Any] | None = None,
        lambda_: npt.NDArray[Any] | None = None,
    ) -> None:
        """Begin the next episode of these slots; what is not given is drawn."""
        if not len(slots):
            return
        assert self._keys is not None
        keys, episode = self._keys[self._group[slots]], self._episode[slots]
        if task is None:
            draw = streams.uniform(keys, streams.TASK, episode)
            task = self.tasks[(draw * len(self.tasks)).astype(np.int64)]
        if budget is None:
            budget = self._budget(keys, streams.BUDGET, episode)
        if lambda_ is None:
            lambda_ = self._lambda(keys, streams.LAMBDA, episode)
        node = self._graph.task_start[task].astype(np.int64)
        self._afford_start(task, node, budget)
        self.node[slots] = node
        self.ledger.open(slots, budget)
        self.lambda_[slots] = lambda_
        self._response_signals[slots] = 0.0
        self._ended[slots] = False
        self._episode[slots] += 1
        for slot in slots if self.routes else ():
            self.routes[slot] = []

    def _finish(self, slots: npt.NDArray[Any], done: npt.NDArray[Any], info: dict[str, Any]) -> None:
        """Hand out the last observation and info of finished episodes, then start the next ones."""
        self._sync()
        rows = self._rows(slots)
        if isinstance(rows, dict):
            final: Any = {name: _spread(part, slots, self.num_envs) for name, part in rows.items()}
        else:
            final = _spread(rows, slots, self.num_envs)
        ended = dict(info)
        self._start(slots)
        info.update(final_obs=final, _final_obs=done, final_info=ended, _final_info=done)
        if self._full:
            info.update(self._situation_info())

    def _sample(self, place: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Which recorded sample each slot meets: uniform, from the slot's own stream."""
        assert self._keys is not None
        count = self._graph.edge_count.reshape(-1).take(place)
        return (streams.uniform(self._keys, streams.SAMPLE, self._draws) * count).astype(np.int64)

    def _grow(
        self, edge: npt.NDArray[Any], place: npt.NDArray[Any], active: npt.NDArray[np.bool_]
    ) -> npt.NDArray[Any]:
        """Have missing edges recorded, all in one batch."""
        graph = self._graph
        missing = (edge < 0) & active
        if missing.any():
            node, action = place[missing] // graph.n_actions, place[missing] % graph.n_actions
            if self.expander is None:
                task = int(graph.node_task[node[0]])
                raise MissingEdgeError(
                    f"{self.recording.name}: nothing recorded for task {self.recording.tasks.ids[task]!r}, "
                    f"node {int(node[0])}, arm {self.recording.action_names[int(action[0])]!r}; "
                    "record it, or pass an expander with a live pool"
                )
            self.expander.expand(node, action)
            edge = graph.edge_first.reshape(-1).take(place)
        return np.maximum(edge, 0)  # slots whose episode is over look up anything; it is not used

    # -- checks ------------------------------------------------------------------------------
    def _check(self, actions: npt.NDArray[Any], active: npt.NDArray[np.bool_], everyone: bool) -> None:
        if self._keys is None:
            raise ActionError("step() before reset(); call reset() first")
        if actions.shape != (self.num_envs,) or not np.issubdtype(actions.dtype, np.integer):
            raise ActionError(
                f"actions have shape {actions.shape} and type {actions.dtype}; expected {self.num_envs} integers"
            )
        if not everyone:
            if self.autoreset_mode == AutoresetMode.DISABLED and not active.any():
                raise ActionError("the episode is over; call reset() before the next step")
            actions = actions[active]
        if len(actions) and (actions.min() < 0 or actions.max() >= self._graph.n_actions):
            bad = int(actions[(actions < 0) | (actions >= self._graph.n_actions)][0])
            raise ActionError(
                f"action {bad} is out of range; expected 0 to {self._graph.n_actions - 1}: "
                f"{', '.join(self.recording.action_names)}"
            )

    def _refuse(self, slot: int, actions: npt.NDArray[Any]) -> None:
        worst = self._graph.node_reserve[self.node[slot], actions[slot]]
        name = self.recording.action_names[int(actions[slot])]
        if np.isnan(worst):
            raise ActionError(f"slot {slot}: action {name!r} is masked: it is not legal in this situation")
        left = self.ledger.remaining_usd[slot]
        worst_text = "an unknown amount" if np.isinf(worst) else f"up to {worst:.6g} USD"
        raise ActionError(
            f"slot {slot}: action {name!r} is masked: it may cost {worst_text} and {left:.6g} USD of the budget are "
            "left; choose among action_masks()"
        )

    def _afford_start(self, task: npt.NDArray[Any], node: npt.NDArray[Any], budget: npt.NDArray[Any]) -> None:
        short = self._graph.node_floor[node] > budget
        if short.any():
            row = int(np.argmax(short))
            need = self._graph.node_floor[node[row]]
            remedy = "it has no arm with a known worst case" if np.isinf(need) else f"give it at least {need:.6g}"
            raise BudgetError(
                f"budget_usd = {budget[row]:.6g} is below the cheapest arm of task "
                f"{self.recording.tasks.ids[int(task[row])]!r}: {remedy}"
            )

    def _find(self, source: str | Path | Recording | None) -> Recording:
        if source is None:
            if self.kind is None:
                raise ConfigError(f"{type(self).__name__} needs a recording; name one")
            source = self.kind
        recording = load_recording(source)
        if self.kind is not None and recording.kind != self.kind:
            raise ConfigError(
                f"recording {recording.name!r} is of kind {recording.kind!r}; {type(self).__name__} takes "
                f"{self.kind!r}; use the environment of its kind"
            )
        return recording

    def _budget_range(self, budget: Budget) -> tuple[float, float]:
        if isinstance(budget, str):
            _one_of("budget_usd", budget, ("sampled",))
            low, high = self.recording.budget_range_usd
        elif budget is None:
            low = high = np.inf
        else:
            low, high = _bounds("budget_usd", budget, check_budget)
        starts = self._graph.task_start[self.tasks]
        self._afford_start(self.tasks, starts, np.full(len(starts), low))
        return low, high

    def _reset_mask(self, mask: Any) -> npt.NDArray[np.bool_]:
        if mask is None:
            return np.ones(self.num_envs, dtype=bool)
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ConfigError(f"reset_mask must be {self.num_envs} booleans with at least one True; got {mask!r}")
        if self._keys is None and not mask.all():
            raise ConfigError("the first reset must start every episode; leave reset_mask out")
        return mask

    def _choices(self, options: Mapping[str, Any], slots: npt.NDArray[Any]) -> dict[str, Any]:
        """Checked task, budget and lambda of the episodes to start, for those that are named."""
        chosen: dict[str, Any] = {}
        group = slots if options.get("group_size", 1) == 1 else None

        def spread(name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
            if values.ndim == 0:
                return np.full(len(slots), values)
            if values.shape == (self.num_envs,):
                return values[slots]
            if group is None and values.shape == (self.num_envs // int(options["group_size"]),):
                return np.repeat(values, int(options["group_size"]))[slots]
            raise ConfigError(
                f"reset option {name!r} has shape {values.shape}; expected one value or {self.num_envs}"
            )

        if options.get("task_id") is not None:
            chosen["task"] = spread("task_id", self._task_index(options["task_id"]))
        if options.get("budget_usd") is not None:
            chosen["budget"] = spread("budget_usd", check_budget(options["budget_usd"]))
        if options.get("lambda") is not None:
            chosen["lambda_"] = spread("lambda", check_lambda(options["lambda"], "lambda"))
        if "budget" in chosen and "task" in chosen:
            self._afford_start(chosen["task"], self._graph.task_start[chosen["task"]], chosen["budget"])
        return chosen

    def _task_index(self, value: Any) -> npt.NDArray[np.int64]:
        """Indices of tasks that are named by id or by index."""
        array = np.asarray(value)
        if np.issubdtype(array.dtype, np.integer):
            bad = (array < 0) | (array >= self._graph.n_tasks)
            if bad.any():
                raise TaskError(f"task {array[bad].flat[0]}; expected an index below {self._graph.n_tasks}")
            return array.astype(np.int64)
        index = self.recording.task_index
        try:
            return np.array([index[str(one)] for one in array.reshape(-1)], dtype=np.int64).reshape(array.shape)
        except KeyError as error:
            name = error.args[0]
            raise TaskError(
                f"task {name!r} is not in recording {self.recording.name!r}{_did_you_mean(name, tuple(index))}"
            ) from None

    # -- what is handed out ------------------------------------------------------------------
    def _observation_space(self) -> gym.Space[Any]:
        if self.observation == "index":
            return gym.spaces.Discrete(max(self._graph.n_nodes, 1) if self.expander is None else 2**31 - 1)
        if self.observation == "flat":
            return gym.spaces.Box(0.0, 1.0, (self.layout.width,), np.float32)
        return gym.spaces.Dict(
            {
                name: gym.spaces.Box(0.0, 1.0, (place.stop - place.start,), np.float32)
                for name, place in self.layout.columns.items()
                if place.stop > place.start
            }
        )

    def _sync(self) -> None:
        """Take up what the graph has grown by since the last look."""
        graph = self._graph
        if self._version != graph.version:
            self._version = graph.version
            if self.observation != "index":
                fresh = static_features(self.recording, slice(len(self._static), graph.n_nodes))
                self._static = np.concatenate([self._static, fresh]) if len(self._static) else fresh

    def _rows(self, slots: npt.NDArray[Any]) -> Any:
        """Observations of some slots."""
        if self.observation == "index":
            return self.node[slots]
        out = np.empty((len(slots), self.layout.width), dtype=np.float32)
        self._fill(out, slots)
        return self.layout.as_dict(out) if self.observation == "dict" else out

    def _observe(self) -> Any:
        if self.observation == "index":
            return self.node.copy()
        self._fill(self._buffer, slice(None))
        flat = self._buffer.copy() if self._copy else self._buffer
        if self.observation == "flat":
            return flat
        return {name: part for name, part in self.layout.as_dict(flat).items() if part.shape[1]}

    def _fill(self, out: npt.NDArray[np.float32], slots: Any) -> None:
        node = self.node[slots]
        out[:, : self.layout.static_width] = self._static.take(node, axis=0)
        self.layout.write_dynamic(
            out,
            legal=self.action_masks()[slots],
            response_signals=self._response_signals[slots],
            remaining_usd=self.ledger.remaining_usd[slots],
            lambda_=self.lambda_[slots],
            step=self._graph.nodes["step"].take(node),
            cost_scale_usd=self.recording.cost_scale_usd,
        )

    def _situation_info(self) -> dict[str, Any]:
        task = self._graph.node_task.take(self.node)
        texts = np.empty(self.num_envs, dtype=object)
        texts[:] = [self.recording.texts[node] for node in self.node]
        return {"task_id": self.recording.task_ids[task], "text": texts, "budget_usd": self.ledger.budget_usd.copy()}

    def _reset_info(self, mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
        info = self._situation_info() if self._full else {"budget_usd": self.ledger.budget_usd.copy()}
        info |= {"lambda": self.lambda_.copy(), "cost_usd_total": self.ledger.spent_usd.copy()}
        return info | {f"_{name}": mask for name in info}

    def _step_info(
        self, cost: npt.NDArray[Any], record: npt.NDArray[Any], actions: npt.NDArray[Any], score: npt.NDArray[Any]
    ) -> dict[str, Any]:
        info: dict[str, Any] = {
            "cost_usd": cost,
            "cost_usd_total": self.ledger.spent_usd.copy(),
            "score": score,
            "arm": actions.copy(),
        }
        if self._full:
            info |= self._situation_info()
            info |= {f"{kind}_tokens": record["tokens"][:, column] for column, kind in enumerate(TOKEN_KINDS)}
            info |= {"latency_s": record["latency_s"], "flops": record["flops"]}
        return info


def _spread(rows: npt.NDArray[Any], slots: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    full = np.zeros((size, *rows.shape[1:]), dtype=rows.dtype)
    full[slots] = rows
    return full


def _sampler(bounds: tuple[float, float]) -> Any:
    """Draws between the bounds: log-uniform where they are positive, else uniform."""
    low, high = bounds

    def draw(
        keys: npt.NDArray[np.uint64], purpose: np.uint64, counter: npt.NDArray[Any]
    ) -> npt.NDArray[np.float64]:
        if low == high:
            return np.full(len(keys), low)
        u = streams.uniform(keys, purpose, counter)
        return low * (high / low) ** u if purpose == streams.BUDGET else low + (high - low) * u

    return draw


def _bounds(name: str, value: Any, check: Any) -> tuple[float, float]:
    array = np.atleast_1d(check(value, name))
    if array.shape not in ((1,), (2,)):
        raise ConfigError(f"{name} = {value!r}; expected one number or (low, high)")
    low, high = float(array[0]), float(array[-1])
    if low > high or (low != high and np.isinf(high)):
        raise ConfigError(f"{name} = {value!r}; expected low <= high, both finite")
    return low, high


def _one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} = {value!r}; expected one of {allowed}")


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; expected one of {', '.join(known[:5])}, ..."
