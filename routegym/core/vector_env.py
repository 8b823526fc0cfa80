"""The environment: a batch of routing episodes stepped with array operations over a recording."""

from __future__ import annotations

import difflib
import inspect
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from routegym.core import kernels, streams
from routegym.core.ledger import Ledger, check_budget, check_lambda
from routegym.core.observation import ObservationLayout, situation_texts
from routegym.core.reward import Reward, reward_function, vector
from routegym.core.tables import Outcome, Slots, Tables, tables_of
from routegym.errors import ActionError, BudgetError, ConfigError, MissingEdgeError, TaskError
from routegym.graph.library import load_recording
from routegym.graph.pricing import failure_cost_usd
from routegym.pool.arms import TOKEN_KINDS

if TYPE_CHECKING:
    from routegym.graph.growth import Expander
    from routegym.graph.recording import Recording
    from routegym.pool.backend import Failure

__all__ = ["Budget", "RoutingVectorEnv"]

#: No cap, one cap, "sampled" (log-uniform over the recording's range) or (low, high), sampled likewise.
Budget = float | Sequence[float] | Literal["sampled"] | None

_RENDER_MODES = ("ansi", "human", "rgb_array")
_LONG_TEXT = 2**15  # characters that the text of a situation still to be grown may have
_OPTIONS = ("task_id", "budget_usd", "lambda", "group_size", "reset_mask")


class RoutingVectorEnv(VectorEnv[Any, Any, Any]):
    """N routing episodes over one recording, stepped together.

    Args:
        num_envs: episodes in the batch, N.
        recording: name of a shipped recording, path of a recording folder, or a `Recording`; None takes the
            shipped recording of the env's family.
        observation: ``"flat"`` (Box), ``"dict"`` (its named groups), ``"index"`` (Discrete node id; look
            up features on the policy's device, and `ledger` for what is left) or ``"text"``: a Dict of ``flat``
            and ``text``, an object array (N,) of str with the task's prompt and, on the lines below it, the text of
            the situation where that is another one.
        budget_usd: hard cap of every episode in USD: a number, None for no cap, ``(low, high)`` to draw one
            log-uniformly per episode, or ``"sampled"`` for the recording's own range.
        lambda_: price of cost in the reward: a number, or ``(low, high)`` to draw one per episode, uniformly if low
            is 0 and log-uniformly otherwise.
        reward: a name of `routegym.core.REWARDS` or a function of that form.
        split: which tasks are drawn: ``"train"``, ``"val"``, ``"test"`` or ``"all"``.
        autoreset_mode: gymnasium's; with DISABLED use ``reset(options={"reset_mask": ...})``.
        expander: grows the recording where an edge is missing; without one that is an error.
        info: ``"full"``, or ``"lean"`` to leave out what takes time to gather (task ids, text, tokens).
        copy: False hands out observations (final ones too) in buffers that the next step overwrites; rows of
            ``final_obs`` that do not count are then left over from earlier steps instead of zero.
        render_mode: None, ``"ansi"``, ``"human"`` or ``"rgb_array"``.

    ``reset(options=...)`` takes ``task_id`` (id or index), ``budget_usd`` and ``lambda``, one value or one per
    episode, for the episodes it starts; and ``group_size``: blocks of that many slots get the same task, budget
    and lambda, also after autoresets, until the next reset.

    In ``info`` the facts of a step (``cost_usd``, ``cost_usd_total``, ``score``, ``arm``, tokens by kind and
    ``lost_tokens`` of failed attempts, ``retries``, ``served_by``, ``latency_s``, ``gpu_s``, ``flops``) are those of
    the step just taken, and those of a situation (``task_id``, ``text``, ``budget_usd``) of the one that the
    observation shows; with SAME_STEP, ``final_obs`` and ``final_info`` keep what an autoreset replaced (rows of
    episodes that did not end are zero; ``_final_obs`` tells which count).

    With an expander, a call that brings no answer is an infrastructure failure: its episode is *truncated*, charged
    for the failed attempts, ``info["score"]`` is NaN (not 0: nobody was wrong) and ``info["failure"]`` names the
    error; "" everywhere else. So is a call that was charged more than its expected worst case, where that is more than
    the budget had left.

    Raises:
        ConfigError, BudgetError, TaskError, RecordingError: an argument makes no sense; the message names it.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": list(_RENDER_MODES), "render_fps": 4}  # type: ignore[misc]
    kind: ClassVar[str | None] = None
    """Environment family: the kind of recording it takes and the name of its shipped one."""

    def __init__(
        self,
        num_envs: int = 1,
        recording: str | Path | Recording | None = None,
        *,
        observation: Literal["flat", "dict", "index", "text"] = "flat",
        budget_usd: Budget = None,
        lambda_: float | Sequence[float] = 0.0,
        reward: str | Reward = "score_minus_cost",
        split: str = "train",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        expander: Expander | None = None,
        info: Literal["full", "lean"] = "full",
        copy: bool = True,
        render_mode: Literal["ansi", "human", "rgb_array"] | None = None,
        **unknown: Any,
    ) -> None:
        for name in unknown:
            known = tuple(inspect.signature(RoutingVectorEnv.__init__).parameters)[2:-1]
            raise ConfigError(f"keyword {name!r} is not known{_did_you_mean(name, known)}")
        if not _is_whole(num_envs) or num_envs < 1:
            raise ConfigError(f"num_envs = {num_envs!r}; expected an integer of at least 1")
        _one_of("autoreset_mode", autoreset_mode, (*AutoresetMode, *(mode.value for mode in AutoresetMode)))
        _one_of("observation", observation, ("flat", "dict", "index", "text"))
        _one_of("info", info, ("full", "lean"))
        _one_of("render_mode", render_mode, (None, *_RENDER_MODES))
        self.num_envs = num_envs
        self.recording = self._find(recording)
        self.layout = ObservationLayout.of(self.recording)
        self.observation, self.render_mode, self.expander = observation, render_mode, expander
        if expander is not None and getattr(expander, "recording", None) is not self.recording:
            raise ConfigError("expander grows another recording than this env's; pass the same Recording to both")
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = type(self).metadata | {"autoreset_mode": self.autoreset_mode}  # type: ignore[misc]
        self._full, self._reward = info == "full", reward_function(reward)

        graph = self._graph = self.recording.graph
        self.tasks = self.recording.split(split)
        self._budget_bounds = self._budget_range(budget_usd)
        self._lambda_bounds = _bounds("lambda_", lambda_, check_lambda)
        self.single_action_space = gym.spaces.Discrete(graph.n_actions)
        self.single_observation_space = self._observation_space()
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        if self._reward is vector:
            self.reward_space = gym.spaces.Box(np.array([0.0, -np.inf]), np.array([1.0, 0.0]), dtype=np.float64)

        self.ledger = Ledger(num_envs)
        self.node = graph.task_start[np.zeros(num_envs, dtype=np.int64)].astype(np.int64)
        self.lambda_ = np.zeros(num_envs)
        self.routes: list[list[tuple[int, int]]] = [[] for _ in range(num_envs)] if render_mode else []
        seen = 0 if observation == "index" else len(self.recording.edge_signal_names)
        self._slots = Slots(
            node=self.node,
            ended=np.ones(num_envs, dtype=bool),
            spent_usd=self.ledger.spent_usd,
            budget_usd=self.ledger.budget_usd,
            lambda_=self.lambda_,
            response_signals=np.zeros((num_envs, seen), dtype=np.float32),
            key=np.zeros(num_envs, dtype=np.uint64),
            group=np.arange(num_envs),
            episode=np.zeros(num_envs, dtype=np.int64),
            draws=np.zeros(num_envs, dtype=np.int64),
        )
        self._seeded = False
        self._everyone = np.arange(num_envs)
        self._starts = graph.task_start[self.tasks].astype(np.int64)
        self._kernel = kernels.choose()
        self._tables: Tables | None = None
        self._buffers = None if copy else (self._blank(), self._blank())

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
        group_size = options.setdefault("group_size", 1)
        if not _is_whole(group_size) or group_size < 1 or self.num_envs % group_size:
            raise ConfigError(f"group_size = {group_size!r}; expected a divisor of num_envs = {self.num_envs}")
        keys = self._keys_of(seed) if seed is not None or not self._seeded else None
        choice = self._choices(options, slots)
        if keys is not None:
            self._slots.key[slots] = keys[slots]
            self._slots.episode[slots] = 0
            self._slots.draws[slots] = 0
            self._seeded = True
        if mask.all():
            self._slots.group[:] = self._everyone // group_size * group_size
            blocks = self._slots.episode.reshape(-1, group_size)  # slots that reset themselves are apart by now
            blocks[:] = blocks.max(axis=1, keepdims=True)
        self._start(slots, **choice)
        return self._observe(), self._reset_info(mask)

    def step(self, actions: npt.ArrayLike) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take one action in every episode.

        Raises:
            ActionError: an action is out of range or masked, or an episode is over; nothing has changed then.
            MissingEdgeError: the recording has no such edge and there is no expander; nothing has changed.
        """
        try:
            actions = np.asarray(actions)
        except ValueError:  # rows of different lengths
            raise ActionError(f"actions = {actions!r}; expected {self.num_envs} integers") from None
        self._check_form(actions)
        ended = self._slots.ended
        fresh = np.flatnonzero(ended) if self.autoreset_mode == AutoresetMode.NEXT_STEP else None
        outcome, failed = self._advance(actions)
        terminated, truncated = outcome.terminated, outcome.truncated
        done = terminated | truncated
        reward = self._reward(
            outcome.score,
            outcome.cost_usd,
            self.ledger.spent_usd,
            done,
            self.lambda_,
            self.recording.cost_scale_usd,
        )
        if self.routes:
            for slot in np.flatnonzero(outcome.edge >= 0):
                self.routes[slot].append((int(outcome.edge[slot]), int(actions[slot])))
        if fresh is not None and len(fresh):
            self._start(fresh)
        info = self._step_info(outcome, actions, failed)
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            finished = np.flatnonzero(done)
            if len(finished):
                self._finish(finished, done, info)
        return self._observe(), reward, terminated, truncated, info

    @property
    def reuses_buffers(self) -> bool:
        """Whether the next step overwrites the observations handed out (``copy=False``)."""
        return self._buffers is not None

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Which actions are legal now, bool (N, n_actions); all of them where an episode is over."""
        return kernels.load(self._kernel).legal(self._sync(), self._slots)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything that decides how the present episodes and those after them go on, as arrays (N, ...)."""
        return {name: array.copy() for name, array in self._slots._asdict().items()}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> Any:
        """Go on where `state` was taken, and return the observation.

        Args:
            state: from an environment of the same recording, arguments and number of episodes.

        Raises:
            ConfigError: it is of another number of episodes or of another version.
        """
        ours = self._slots._asdict()
        if ours.keys() != state.keys() or any(state[name].shape != array.shape for name, array in ours.items()):
            shapes = {name: array.shape for name, array in state.items()}
            raise ConfigError(f"state with {shapes}; expected one that an env with {self.num_envs} episodes gave")
        for name, array in ours.items():
            array[:] = state[name]
        self._seeded = True
        return self._observe()

    def render(self) -> tuple[Any, ...] | None:
        """The routes so far, one per episode: a text (``ansi``), a picture (``rgb_array``), or printed (``human``)."""
        from routegym.core.render import draw_route, print_route, route_text

        if self.render_mode is None:
            raise ConfigError(f"render() needs a render_mode; pass one of {_RENDER_MODES} when making the env")
        routes = tuple(route_text(self, slot) for slot in range(self.num_envs))
        if self.render_mode == "ansi":
            return routes
        if self.render_mode == "rgb_array":
            return tuple(draw_route(route) for route in routes)
        for route in routes:
            print_route(route)
        return None

    # -- episodes ----------------------------------------------------------------------------
    def _keys_of(self, seed: Any) -> npt.NDArray[np.uint64]:
        """Key of every slot's streams."""
        several = isinstance(seed, (list, tuple, np.ndarray))
        seeds = list(seed) if several else [seed]
        for one in seeds:
            if one is not None and (not _is_whole(one) or one < 0):
                raise ConfigError(f"seed = {one!r}; expected an integer >= 0")
        if several and len(seeds) != self.num_envs:
            raise ConfigError(f"{len(seeds)} seeds for {self.num_envs} episodes; give one for each, or an integer")
        fresh = np.random.SeedSequence().generate_state(len(seeds))
        known = [int(f if one is None else one) for one, f in zip(seeds, fresh, strict=True)]
        if several:
            return streams.batch_keys(known, self.num_envs)
        super().reset(seed=known[0])
        return streams.batch_keys(known[0], self.num_envs)

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
        kernel = kernels.load(self._kernel)
        if task is None:
            u = kernel.uniform(self._slots, streams.TASK, slots)
            node = self._starts.take((u * len(self._starts)).astype(np.int64))
        else:
            node = self._graph.task_start[task].astype(np.int64)
        if budget is None:
            budget = self._draw(self._budget_bounds, streams.BUDGET, slots)
        if lambda_ is None:
            lambda_ = self._draw(self._lambda_bounds, streams.LAMBDA, slots)
        kernel.begin(self._slots, slots, node, budget, lambda_)
        for slot in slots if self.routes else ():
            self.routes[slot] = []

    def _draw(
        self, bounds: tuple[float, float], purpose: np.uint64, slots: npt.NDArray[Any]
    ) -> npt.NDArray[np.float64]:
        """Numbers between the bounds: log-uniform, from 0 upwards uniform."""
        if bounds[0] == bounds[1]:
            return np.full(len(slots), bounds[0])
        return streams.between(*bounds, kernels.load(self._kernel).uniform(self._slots, purpose, slots))

    def _finish(self, slots: npt.NDArray[Any], done: npt.NDArray[Any], info: dict[str, Any]) -> None:
        """Hand out the last observation and info of finished episodes, then start the next ones."""
        final = self._write(slots, self._blank() if self._buffers is None else self._buffers[1])
        ended = dict(info)
        self._start(slots)
        info.update(final_obs=final, _final_obs=done, final_info=ended, _final_info=done)
        if self._full:
            info.update(self._situation_info())

    def _advance(self, actions: npt.NDArray[Any]) -> tuple[Outcome, dict[int, Failure]]:
        """Step all episodes that go on, or none; grow the recording where edges are missing.

        Returns:
            What came of it, and the calls that brought no answer, by slot: those episodes are truncated.
        """
        kernel = kernels.load(self._kernel)
        wanted = np.ascontiguousarray(actions, dtype=np.int64)
        failed: dict[int, Failure] = {}
        try:
            while (outcome := kernel.step(self._sync(), self._slots, wanted)) is None:
                found = self._remove_obstacle(actions)
                self._slots.ended[list(found)] = True  # the kernel passes over them
                failed |= found
        except BaseException:
            self._slots.ended[list(failed)] = False
            raise
        for slot, failure in failed.items():
            cost = failure_cost_usd(self.recording.prices, self.recording.arms, failure)
            self.ledger.spent_usd[slot] += cost
            outcome.cost_usd[slot], outcome.truncated[slot] = cost, True
        return outcome, failed

    def _remove_obstacle(self, actions: npt.NDArray[Any]) -> dict[int, Failure]:
        """Have missing edges recorded, all in one batch; raise if it is something else that forbids the step.

        Returns:
            The calls that brought no answer, by slot.
        """
        graph, ledger = self._graph, self.ledger
        slots = np.flatnonzero(~self._slots.ended)
        self._check_range(actions[slots])
        node, action = self.node[slots], actions[slots].astype(np.int64)
        worst = np.zeros(self.num_envs)
        worst[slots] = graph.node_reserve[node, action]
        refused = ledger.reserve(worst, ~self._slots.ended)
        if refused.any():
            self._refuse(int(np.argmax(refused)), actions)
        missing = graph.edge_first[node, action] < 0
        if missing.any():
            node, action, slots = node[missing], action[missing], slots[missing]
            failures: Mapping[tuple[int, int], Failure] = {}
            if self.expander is not None:
                self.expander.expand(node, action)
                failures = self.expander.failures
            failed = {}
            for slot, *pair in zip(slots.tolist(), node.tolist(), action.tolist(), strict=True):
                if graph.edge_first[pair[0], pair[1]] >= 0:
                    if ledger.spent_usd[slot] + graph.node_reserve[pair[0], pair[1]] > ledger.budget_usd[slot]:
                        failed[slot] = self.expander.overcharged[pair[0], pair[1]]  # type: ignore[union-attr]
                    continue
                if (pair[0], pair[1]) not in failures:
                    task = int(graph.node_task[pair[0]])
                    raise MissingEdgeError(
                        f"{self.recording.name}: nothing recorded for task {self.recording.tasks.ids[task]!r}, "
                        f"node {pair[0]}, arm {self.recording.action_names[pair[1]]!r}; "
                        "record it, or pass an expander with a live pool"
                    )
                failed[slot] = failures[pair[0], pair[1]]
            return failed
        sample = streams.uniform(self._slots.key, streams.SAMPLE, self._slots.draws)[slots]
        edge = graph.edge_first[node, action] + (sample * graph.edge_count[node, action]).astype(np.int64)
        cost = np.zeros(self.num_envs)
        cost[slots] = graph.edges["cost_usd"][edge]
        ledger.settle(cost)  # raises: nothing else is left that forbids a step
        return {}

    # -- checks ------------------------------------------------------------------------------
    def _check_form(self, actions: npt.NDArray[Any]) -> None:
        if not self._seeded:
            raise ActionError("step() before reset(); call reset() first")
        if actions.shape != (self.num_envs,) or not np.issubdtype(actions.dtype, np.integer):
            raise ActionError(
                f"actions have shape {actions.shape} and type {actions.dtype}; expected {self.num_envs} integers"
            )
        if self.autoreset_mode == AutoresetMode.DISABLED and self._slots.ended.all():
            raise ActionError("the episode is over; call reset() before the next step")

    def _check_range(self, actions: npt.NDArray[Any]) -> None:
        bad = (actions < 0) | (actions >= self._graph.n_actions)
        if bad.any():
            raise ActionError(
                f"action {actions[bad][0]} is out of range; expected 0 to {self._graph.n_actions - 1}: "
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

    def _afford_start(self, node: npt.NDArray[Any], budget: npt.NDArray[Any]) -> None:
        floor = self._graph.arm_floor(node)
        short = floor > budget
        if short.any():
            row = int(np.argmax(short))
            need = floor[row]
            remedy = "it has no arm with a known worst case" if np.isinf(need) else f"give it at least {need:.6g}"
            raise BudgetError(
                f"budget_usd = {budget[row]:.6g} is below the cheapest arm of task "
                f"{self.recording.tasks.ids[int(self._graph.node_task[node[row]])]!r}: {remedy}"
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
        self._afford_start(starts, np.full(len(starts), low))
        return low, high

    def _reset_mask(self, mask: Any) -> npt.NDArray[np.bool_]:
        if mask is None:
            return np.ones(self.num_envs, dtype=bool)
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ConfigError(f"reset_mask must be {self.num_envs} booleans with at least one True; got {mask!r}")
        if not self._seeded and not mask.all():
            raise ConfigError("the first reset must start every episode; leave reset_mask out")
        return np.asarray(mask)

    def _choices(self, options: Mapping[str, Any], slots: npt.NDArray[Any]) -> dict[str, Any]:
        """Checked task, budget and lambda of the episodes to start, for those that are named."""
        chosen: dict[str, Any] = {}
        group = slots if options.get("group_size", 1) == 1 else None

        def spread(name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
            if values.ndim == 0:
                return np.full(len(slots), values)
            if values.shape == (self.num_envs,):
                return np.asarray(values[slots])
            if group is None and values.shape == (self.num_envs // int(options["group_size"]),):
                return np.asarray(np.repeat(values, int(options["group_size"]))[slots])
            raise ConfigError(f"reset option {name!r} has shape {values.shape}; expected one value or {self.num_envs}")

        if options.get("task_id") is not None:
            chosen["task"] = spread("task_id", self._task_index(options["task_id"]))
        if options.get("budget_usd") is not None:
            chosen["budget"] = spread("budget_usd", check_budget(options["budget_usd"]))
        if options.get("lambda") is not None:
            chosen["lambda_"] = spread("lambda", check_lambda(options["lambda"], "lambda"))
        if "task" in chosen:
            low = chosen.get("budget", np.full(len(slots), self._budget_bounds[0]))
            self._afford_start(self._graph.task_start[chosen["task"]], low)
        elif "budget" in chosen:  # whichever task is drawn
            self._afford_start(self._starts, np.full(len(self._starts), chosen["budget"].min()))
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
        flat = gym.spaces.Box(0.0, 1.0, (self.layout.width,), np.float32)
        if self.observation == "flat":
            return flat
        if self.observation == "text":
            return gym.spaces.Dict({"flat": flat, "text": self._text_space()})
        return gym.spaces.Dict(
            {
                name: gym.spaces.Box(0.0, 1.0, (place.stop - place.start,), np.float32)
                for name, place in self.layout.columns.items()
                if place.stop > place.start
            }
        )

    def _text_space(self) -> gym.spaces.Text:
        """Room for every text of the recording, and with an expander for longer ones in printable ASCII."""
        prompts, texts = self.recording.tasks.prompts, self.recording.texts.arrow().to_pylist()
        longest = max(map(len, prompts)) + 1 + max(map(len, texts), default=0)
        if self.expander is not None:
            longest = max(longest, _LONG_TEXT)
        charset = frozenset("".join((*prompts, *texts, string.printable)))
        return gym.spaces.Text(longest, min_length=0, charset=charset)

    def _sync(self) -> Tables:
        """The arrays to look things up in, with what the graph has grown by since the last look."""
        if self._tables is None:
            self._tables = tables_of(self.recording)
        self._tables.refresh(self.recording, features=self.observation != "index")
        return self._tables

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tables": None}  # views of the recording: found again at the next step

    def _blank(self) -> Any:
        """Observations of all slots, zero."""
        if self.observation == "index":
            return np.zeros(self.num_envs, dtype=np.int64)
        flat = np.zeros((self.num_envs, self.layout.width), dtype=np.float32)
        return {"flat": flat, "text": np.full(self.num_envs, "", dtype=object)} if self.observation == "text" else flat

    def _observe(self) -> Any:
        return self._write(self._everyone, self._blank() if self._buffers is None else self._buffers[0])

    def _write(self, slots: npt.NDArray[Any], out: Any) -> Any:
        """Put the observations of some slots into their rows of `out`."""
        if self.observation == "index":
            out[slots] = self.node[slots]
            return out
        if self.observation == "text":
            kernels.load(self._kernel).observe(self._sync(), self._slots, slots, out["flat"])
            out["text"][slots] = situation_texts(self.recording, self.node[slots])
            return out
        kernels.load(self._kernel).observe(self._sync(), self._slots, slots, out)
        if self.observation == "flat":
            return out
        return {name: part for name, part in self.layout.as_dict(out).items() if part.shape[1]}

    def _situation_info(self) -> dict[str, Any]:
        task = self._graph.node_task[self.node]
        texts = np.empty(self.num_envs, dtype=object)
        texts[:] = self.recording.texts.take(self.node)
        return {"task_id": self.recording.task_ids[task], "text": texts, "budget_usd": self.ledger.budget_usd.copy()}

    def _reset_info(self, mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
        info = self._situation_info() if self._full else {"budget_usd": self.ledger.budget_usd.copy()}
        info |= {"lambda": self.lambda_.copy(), "cost_usd_total": self.ledger.spent_usd.copy()}
        return info | {f"_{name}": mask for name in info}

    def _step_info(self, outcome: Outcome, actions: npt.NDArray[Any], failed: Mapping[int, Failure]) -> dict[str, Any]:
        info: dict[str, Any] = {
            "cost_usd": outcome.cost_usd,
            "cost_usd_total": self.ledger.spent_usd.copy(),
            "score": outcome.score,
            "arm": np.where(outcome.edge < 0, -1, actions),
        }
        if self._full or self.expander is not None:
            info["failure"] = np.full(self.num_envs, "", dtype=object)
            slots = list(failed)
            info["failure"][slots] = [type(failure.error).__name__ for failure in failed.values()]
            info["arm"][slots] = actions[slots]
            if slots:
                info["score"] = outcome.score.copy()
                info["score"][slots] = np.nan  # not answered is not wrong
        if self._full:
            took = outcome.edge >= 0
            records = np.zeros(self.num_envs, dtype=self._graph.edges.dtype)
            records[took] = self._graph.edges[outcome.edge[took]]
            info |= self._situation_info()
            info |= {f"{kind}_tokens": records["tokens"][:, column] for column, kind in enumerate(TOKEN_KINDS)}
            info |= {"lost_tokens": records["lost"].sum(axis=1), "retries": records["retries"]}
            info |= {name: records[name] for name in ("latency_s", "gpu_s", "flops")}
            info["served_by"] = np.where(records["fallback"] > 0, records["fallback"] - 1, info["arm"])
        return info


def _bounds(name: str, value: Any, check: Any) -> tuple[float, float]:
    array = np.atleast_1d(check(value, name))
    if array.shape not in ((1,), (2,)):
        raise ConfigError(f"{name} = {value!r}; expected one number or (low, high)")
    low, high = float(array[0]), float(array[-1])
    if low > high or (low != high and np.isinf(high)):
        raise ConfigError(f"{name} = {value!r}; expected low <= high, both finite")
    return low, high


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer))


def _one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} = {value!r}; expected one of {allowed}")


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; expected one of {', '.join(known[:5])}, ..."
