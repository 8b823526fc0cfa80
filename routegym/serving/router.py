"""From a trained policy to decisions about tasks that no recording knows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.core.ledger import check_budget, check_lambda
from routegym.core.observation import ObservationLayout, situation_features, write_observation
from routegym.errors import ActionError, BudgetError, ConfigError, PoolError, RunError
from routegym.graph.graph import OPEN
from routegym.graph.pricing import edge_records, failure_cost_usd, worst_case_usd
from routegym.policies.route_logs import fingerprint_of
from routegym.pool.arms import Arm, PriceTable
from routegym.pool.backend import Failure, Request, Response
from routegym.tasks.embeddings import Embedder, settings_of
from routegym.tasks.taskset import TaskSet

if TYPE_CHECKING:
    from routegym.graph.growth import PoolLike
    from routegym.graph.recording import Recording
    from routegym.graph.workflow import Rules
    from routegym.policies.policy import Policy

__all__ = ["Decision", "Route", "Router", "load_router", "rules_of"]

_TEMPLATE_TOKENS = 256  # that a chat template may add to a prompt whose tokens nobody has counted
_FORMS = ("flat", "text")  # of observation, that can be made without a graph

_Count = Callable[[Sequence[Request]], Sequence[int]]


@dataclass(frozen=True)
class Decision:
    """What the policy saw and chose."""

    action: int
    """Index of the action."""
    name: str
    """Its name: an arm, or a control such as ``accept``."""
    propensity: float
    """Probability with which it was chosen; NaN of a policy that draws and does not say how likely."""
    observation: npt.NDArray[np.float32]
    """Flat observation, (width,)."""
    legal: npt.NDArray[np.bool_]
    """Which actions could be chosen, (n_actions,)."""
    reserve_usd: npt.NDArray[np.float64]
    """Worst case of each, (n_actions,); NaN = not legal under any budget."""


class Router:
    """Decides which arm answers next, step by step, as the policy was trained to. Threads may share it.

    Args:
        recording: what the policy was trained on: gives arms, prices, scales and what a router sees of a prompt. Its
            transitions are not looked at.
        policy: see `routegym.policies.policy.Policy`; of those that see flat observations or texts.
        workflow: of the recording's environment family; see `routegym.envs.workflow_of`.
        pool: who answers now, and at what price; an arm of the recording is the pool's arm of that name, or the only
            one of the model of that name. By default arms and prices are as they were recorded, and the tokens of a
            prompt are estimated, one for each byte and 256 for a chat template: a budget holds as far as that does.
        explore: share of the decisions that are drawn from all legal actions alike, so that what is logged can estimate
            other policies.
        seed: of that.

    Attributes:
        arms, kind, tells_success, cost_scale_usd: of the recording, see `routegym.graph.recording.Recording`.
        asked: who is called for each arm: the pool's arms, in the recording's order.
        layout: of the observations that the policy sees.
        fingerprint: digest of what decides how they are read; see `routegym.policies.route_logs.fingerprint_of`.
        explore: as given.

    Raises:
        ConfigError: the policy sees what cannot be shown here, or `explore` is not a share.
        PoolError: the pool lacks an arm or a price.
        RunError: the text features of the recording cannot be made again for other prompts.
    """

    def __init__(
        self,
        recording: Recording,
        policy: Policy,
        workflow: Rules,
        *,
        pool: PoolLike | None = None,
        explore: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._form = str(getattr(policy, "observation", "flat"))
        if self._form not in _FORMS:
            raise ConfigError(
                f"the policy sees observations of the form {self._form!r}; a router shows {' or '.join(_FORMS)}"
            )
        if not 0 <= explore <= 1:
            raise ConfigError(f"explore = {explore}; expected a share in [0, 1]")
        _check_rules(recording, workflow)
        self.layout = ObservationLayout.of(recording)
        self.arms, self.kind, self.tells_success = recording.arms, recording.kind, recording.tells_success
        self.cost_scale_usd = recording.cost_scale_usd
        self.explore = explore
        self.asked = recording.arms if pool is None else _served(recording, pool)
        self.fingerprint = fingerprint_of(recording)
        self._recording = _without_graph(recording, self.asked, recording.prices if pool is None else pool.prices)
        self._policy, self._workflow = policy, workflow
        self._embed = _embedder(recording)
        self._count: _Count = _most_tokens if pool is None else pool.backend.count_prompt_tokens
        self._draws = bool(getattr(policy, "draws", False))
        self._rng = np.random.default_rng(seed)
        self._lock = threading.Lock()

    def start(
        self,
        task: str,
        budget_usd: float | None = None,
        lambda_: float = 0.0,
        history: tuple[tuple[str, str], ...] = (),
    ) -> Route:
        """Begin to route a task.

        Args:
            task: the prompt.
            budget_usd: hard cap of what it may cost; None = none.
            lambda_: price of cost, as in training: what a point of score is worth in units of the recording's cost
                scale. 0 spends what the budget allows.
            history: what was said before the task, as (role, content) pairs: it is sent to the arms and paid for; the
                policy does not see it.

        Raises:
            BudgetError: the budget or the price cannot be used, or the budget pays for no arm.
        """
        budget = float(check_budget(np.inf if budget_usd is None else budget_usd))
        return Route(self, task, budget, float(check_lambda(lambda_)), history)

    def _worst_cases(self, tokens: Sequence[int]) -> npt.NDArray[np.float64]:
        """Worst case in USD of each action, for prompts of so many tokens."""
        recording = self._recording
        worst = np.zeros(len(self.layout.action_names))
        for row, (arm, number) in enumerate(zip(recording.arms, tokens, strict=True)):
            worst[row] = worst_case_usd(recording.prices, arm, np.array([number], dtype=np.float64), recording.arms)[0]
        return worst

    def _decide(
        self, observation: Any, state: Any, first: bool, legal: npt.NDArray[np.bool_]
    ) -> tuple[int, float, Any]:
        """Action, its propensity, and what the policy remembers.

        Raises:
            ActionError: the policy chose what is not legal; the environment would refuse it, too.
        """
        policy: Any = self._policy
        with self._lock:  # policies draw and remember: one at a time
            if self._draws and hasattr(policy, "probabilities"):
                chances = np.asarray(policy.probabilities(observation, legal[None])[0], dtype=np.float64)
                best = int(self._rng.choice(len(chances), p=chances / chances.sum()))
            else:
                chosen, state = policy.predict(observation, state, np.array([first]), True, legal[None])
                best = int(chosen[0])
                # of one that draws by itself, nobody knows how likely that was
                chances = np.full(len(legal), np.nan) if self._draws else np.eye(len(legal))[best]
            action = best
            if self.explore and self._rng.random() < self.explore:
                action = int(self._rng.choice(np.flatnonzero(legal)))
        if not legal[action]:
            name = self.layout.action_names[action]
            raise ActionError(f"the policy chose {name!r}, which is not legal now; it has to heed the action masks")
        return action, float(self.explore / legal.sum() + (1.0 - self.explore) * chances[action]), state


@dataclass(eq=False)
class Route:
    """One task on its way: ask `next`, call that arm with `request`, tell `observe`; until `next` is None.

    Made by `Router.start`. One thread at a time.
    """

    router: Router
    task: str
    budget_usd: float
    """Hard cap in USD; inf = none."""
    lambda_: float
    history: tuple[tuple[str, str], ...] = ()
    spent_usd: float = 0.0
    """What its calls have cost."""
    decisions: list[Decision] = field(default_factory=list)
    """Every decision so far."""
    costs_usd: list[float] = field(default_factory=list)
    """What each decision that was carried out has cost."""
    outcome: str = ""
    """Why it is over: ``done`` (the policy or the workflow ended it, or the task is solved), ``budget`` (nothing more
    can be paid) or ``failed`` (a call brought no answer); empty while it goes on."""

    def __post_init__(self) -> None:
        router = self.router
        self._tasks = TaskSet(("task",), (self.task,), ("",), ("test",))
        self._embedding = np.zeros((1, 0), np.float32) if router._embed is None else router._embed([self.task])
        (self._state,) = router._workflow.start(self._tasks, [0])
        self._seen = np.zeros((1, len(router._workflow.edge_signal_names)), np.float32)
        self._memory: Any = None
        self._decision: Decision | None = None
        self._counted: list[Request] = []
        self._look()
        floor = float(np.nanmin(self._reserve[: len(router.arms)], initial=np.inf))
        if floor > self.budget_usd:
            raise BudgetError(
                f"budget_usd = {self.budget_usd:.6g} is below the worst case of the cheapest arm; "
                f"give at least {floor:.6g}"
            )

    def next(self) -> str | None:
        """Name of the arm to call now; None where the route is over. Asking again gives the same answer."""
        router = self.router
        if self._decision is not None:
            return self._decision.name
        if self.outcome:
            return None
        legal = self.spent_usd + self._reserve <= self.budget_usd
        flat = np.empty((1, router.layout.width), dtype=np.float32)
        write_observation(
            flat,
            self._features,
            self._seen,
            legal[None],
            spent_usd=np.array([self.spent_usd]),
            budget_usd=np.array([self.budget_usd]),
            lambda_=np.array([self.lambda_]),
            scale_usd=router.cost_scale_usd,
        )
        observation = {"flat": flat, "text": self._text()} if router._form == "text" else flat
        action, propensity, self._memory = router._decide(observation, self._memory, not self.decisions, legal)
        name = router.layout.action_names[action]
        self._decision = Decision(action, name, propensity, flat[0], legal, self._reserve)
        self.decisions.append(self._decision)
        if action < len(router.arms):
            return name
        (self._state,) = router._workflow.advance([self._state], [name], [None])
        self._settle(0.0)
        self.outcome = "done"
        return None

    @property
    def request(self) -> Request:
        """What to ask of the arm that `next` has named: the prompt that the workflow gives it.

        Raises:
            ActionError: `next` has named none.
        """
        action = self._asked().action
        return self._requests(slice(action, action + 1))[0]

    def observe(self, response: Response, solved: bool | None = None, cost_usd: float | None = None) -> None:
        """Tell what the arm that `next` has named answered.

        Args:
            response: the answer.
            solved: whether the environment says that the task is solved, where it does say so
                (`Router.tells_success`).
            cost_usd: what the call was charged; by default its tokens at the recording's prices. Needed where those
                price no tokens, because the data stated dollars.

        Raises:
            ActionError: `next` has named no arm.
            BudgetError: `cost_usd` is no finite number >= 0.
            ConfigError: `solved` is missing, or given where no environment tells it.
        """
        router, decision = self.router, self._asked()
        if (solved is None) == router.tells_success:
            raise ConfigError(
                "solved is missing; this policy was trained where the environment says whether a task is solved: "
                "observe(response, solved=...)"
                if solved is None
                else "solved is given; this policy was trained where nobody says whether a task is solved, leave it out"
            )
        records = edge_records(
            router._recording, np.array([decision.action]), [response], router._workflow.response_signals
        )
        if cost_usd is None:
            cost_usd = float(records["cost_usd"][0])
        elif not (np.isfinite(cost_usd) and cost_usd >= 0):
            raise BudgetError(f"cost_usd = {cost_usd}; expected a finite number >= 0 in USD")
        if solved:
            self._settle(cost_usd)
            self.outcome = "done"
            return
        (after,) = router._workflow.advance([self._state], [router.arms[decision.action]], [response])
        status, _ = router._workflow.outcome([after], self._tasks)
        self._settle(cost_usd)
        self._state, self._seen = after, records["signals"].reshape(1, -1)
        if status[0] != OPEN:
            self.outcome = "done"
            return
        self._look()
        # as in the environment: where no arm can be paid any more, it is over, unless a control can be taken
        if not (self.spent_usd + self._reserve <= self.budget_usd).any():
            self.outcome = "budget"

    def fail(self, failure: Failure) -> None:
        """Tell that the arm brought no answer: the route is over, and charged for the attempts.

        Raises:
            ActionError: `next` has named no arm.
        """
        self._asked()
        recording = self.router._recording
        self._settle(failure_cost_usd(recording.prices, recording.arms, failure))
        self.outcome = "failed"

    def abandon(self) -> None:
        """End the route where nobody knows what came of the call under way: it is charged at its worst case."""
        if self._decision is not None:
            worst = float(self._decision.reserve_usd[self._decision.action])
            self._settle(worst if np.isfinite(worst) else 0.0)
        self.outcome = self.outcome or "failed"

    def _asked(self) -> Decision:
        if self._decision is None:
            raise ActionError("nothing was decided; ask next() first, and observe one response for each arm it names")
        return self._decision

    def _settle(self, cost_usd: float) -> None:
        self.spent_usd += cost_usd
        self.costs_usd.append(cost_usd)
        self._decision = None

    def _requests(self, which: slice) -> list[Request]:
        """What each of these arms is asked, as it is asked now."""
        arms, asked = self.router.arms[which], self.router.asked[which]
        requests = self.router._workflow.requests([self._state] * len(arms), arms)
        return [replace(request, arm=arm, history=self.history) for request, arm in zip(requests, asked, strict=True)]

    def _look(self) -> None:
        """What can be seen of the situation, and what each action may cost in it."""
        router, state = self.router, self._state
        requests = self._requests(slice(None))
        if requests != self._counted:  # most workflows ask the same again, and a server may have to count it
            self._counted, self._worst = requests, router._worst_cases(router._count(requests))
        self._reserve = self._worst.copy()
        self._reserve[list(getattr(state, "used", ()))] = np.nan
        if getattr(state, "last", False):  # nobody takes over from the attempt under way
            others = np.arange(len(router.arms)) != state.running
            self._reserve[: len(router.arms)][others] = np.nan
        self._features = situation_features(
            router._workflow.signals([state]),
            self._embedding,
            self._reserve[None],
            np.array([state.step]),
            router.cost_scale_usd,
        )

    def _text(self) -> npt.NDArray[np.object_]:
        (own,) = self.router._workflow.encode([self._state])
        return np.array([self.task if own == self.task else f"{self.task}\n{own}"], dtype=object)


def load_router(
    run: str | Path,
    *,
    recording: str | Path | None = None,
    seed: int | None = None,
    workflow: Rules | None = None,
    pool: PoolLike | None = None,
    explore: float = 0.0,
) -> Router:
    """The router of a run folder that `routegym train` wrote.

    Args:
        run: the folder.
        recording: where the run's recording is, if it has moved.
        seed: which of the trained policies; the first by default.
        workflow: of a recording of an environment family of your own.
        pool, explore: see `Router`.

    Raises:
        RunError: the folder or its policy cannot be used, or has no such seed.
        RecordingError: the recording cannot be read, or nobody knows its workflow.
        ConfigError, PoolError: see `Router`.
    """
    from routegym.policies.storage import load_policies
    from routegym.tracking.run import Run

    found = Run(run)
    source = found.recording(None if recording is None else str(recording))
    policies = load_policies(found.path, source)
    chosen = min(policies) if seed is None else seed
    if chosen not in policies:
        raise RunError(f"{found.path}: no policy of seed {chosen}; it has {', '.join(map(str, sorted(policies)))}")
    return Router(
        source,
        policies[chosen],
        workflow or rules_of(source),
        pool=pool,
        explore=explore,
        seed=chosen,
    )


def _check_rules(recording: Recording, rules: Rules) -> None:
    """See that these are the rules of a recording's situations.

    Raises:
        ConfigError: they show other signals or have other controls, or see a recorded situation otherwise.
    """
    for what, ours, theirs in (
        ("node signals", rules.node_signal_names, recording.node_signal_names),
        ("edge signals", rules.edge_signal_names, recording.edge_signal_names),
        ("controls", rules.controls, recording.controls),
    ):
        if tuple(ours) != theirs:
            odd = sorted(set(ours) ^ set(theirs))[:4]
            raise ConfigError(
                f"{recording.name}: its situations have other {what} than the workflow {rules.kind!r} (they differ in "
                f"{odd or 'their order'}); pass the workflow that it was recorded with"
            )
    decode = getattr(rules, "decode", None)
    graph = recording.graph
    some = np.flatnonzero(graph.node_status == OPEN)
    some = some[np.linspace(0, len(some) - 1, min(len(some), 64)).astype(np.int64)]
    if decode is None or not len(some):
        return
    tasks, steps = graph.node_task[some].tolist(), graph.node_step[some].tolist()
    shown = rules.signals(decode(recording.tasks, tasks, steps, recording.texts.take(some)))
    if not np.allclose(shown, graph.node_signals[some], atol=1e-5):
        column = int(np.argmax(np.abs(shown - graph.node_signals[some]).max(axis=0)))
        raise ConfigError(
            f"{recording.name}: the workflow {rules.kind!r} shows other numbers of its situations (such as "
            f"{recording.node_signal_names[column]!r}), so it has other limits; pass the workflow that it was recorded "
            "with"
        )


def rules_of(recording: Recording) -> Rules:
    """The rules of a recording's situations: of its environment family, or of imported data.

    Raises:
        RecordingError, ConfigError: nobody knows them.
    """
    if "imported" in recording.provenance:
        from routegym.graph.imports.workflow import imported_workflow

        return imported_workflow(recording)
    from routegym.envs import workflow_of

    made: Rules = workflow_of(recording.kind, [arm.name for arm in recording.arms], recording.tasks)
    return made


def _served(recording: Recording, pool: PoolLike) -> tuple[Arm, ...]:
    """The pool's arms that a recording's arms are."""
    found = []
    for name in (arm.name for arm in recording.arms):
        mine = [arm for arm in pool.arms if arm.name == name] or [arm for arm in pool.arms if arm.model == name]
        if len(mine) != 1:
            raise PoolError(
                f"the policy chooses among {', '.join(arm.name for arm in recording.arms)}, and the pool has "
                f"{'several arms' if mine else 'no arm'} for {name!r}, but {', '.join(arm.name for arm in pool.arms)}; "
                "name its models as the policy knows them (served_as says what an endpoint calls them)"
            )
        found.append(mine[0])
    names = {arm.name for arm in found}
    for arm in found:
        if arm.fallback is not None and arm.fallback not in names:
            raise PoolError(
                f"arm {arm.name} falls back to {arm.fallback}, which the policy does not know; take the fallback out "
                "of the pool file, or train with that arm"
            )
    return tuple(found)


def _without_graph(recording: Recording, arms: tuple[Arm, ...], prices: PriceTable) -> Recording:
    """What calls of these arms are charged by; transitions and tasks need not stay in memory."""
    from routegym.graph.recording import Recording

    return Recording.empty(
        name=recording.name,
        kind=recording.kind,
        arms=arms,
        controls=recording.controls,
        prices=prices,
        tasks=TaskSet((), (), (), ()),
        node_signal_names=recording.node_signal_names,
        edge_signal_names=recording.edge_signal_names,
    )


def _embedder(recording: Recording) -> Embedder | None:
    """What embeds further prompts as the recording's were; None where they are not embedded."""
    tasks = recording.tasks
    if not tasks.embedding.shape[1]:
        return None
    made = settings_of(tasks.embedder)
    remedy = "embed the tasks with tfidf, hashing or minilm, and train again"
    problem = f"{recording.name}: its prompts were embedded by {tasks.embedder!r}"
    if made is None:
        raise RunError(f"{problem}, which is not known here; {remedy}")
    train = tasks.in_split("train")
    embedder = Embedder.fit([tasks.prompts[row] for row in train.tolist()], *made)
    some = train[:64]
    again = embedder([tasks.prompts[row] for row in some.tolist()])
    if not np.allclose(again, tasks.embedding[some], atol=1e-3):
        raise RunError(
            f"{problem}, and what is installed here gives other numbers ({embedder.description}), or it is a part of "
            f"the recording that was embedded; {remedy}"
        )
    return embedder


def _most_tokens(requests: Sequence[Request]) -> list[int]:
    return [_most_tokens_of(request) for request in requests]


def _most_tokens_of(request: Request) -> int:
    said = [(request.prompt,), *request.history]
    return _TEMPLATE_TOKENS + sum(len(text.encode("utf-8", "surrogatepass")) for part in said for text in part)
