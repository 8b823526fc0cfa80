"""All-action policy gradient on the graph: no action is sampled, because a recording knows what each would have led to.

Paper: Sutton et al., "Policy Gradient Methods for Reinforcement Learning with Function Approximation", NIPS 1999 (the
gradient as a sum over all actions); Allen, Asadi et al., "Mean Actor Critic", arXiv 1709.00503.
Deviations: Q is no learned critic but policy evaluation on the recorded graph, under the episode's hard budget and
price of cost, and never the oracle's; unlikely situations are drawn and not all followed, which leaves the gradient
unbiased (`routegym.policies.unrolling`). Several gradient steps on each evaluation (``passes``): only the first is the
policy's own gradient, the others take visits and values of the policy before them. With ``embedding_prior`` not even
the first is: visits and values are those of the policy that sees tasks as they are, and the gradient is taken where
some of their columns are swapped (`routegym.policies.training_env`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from routegym.errors import ConfigError, MissingExtraError
from routegym.policies.algorithm import Problem
from routegym.policies.checks import check_not_negative, check_positive, check_widths
from routegym.policies.network import NetworkPolicy
from routegym.policies.networks import Actor, make_actor
from routegym.policies.optimizers import optimizer_arrays, restore_optimizer
from routegym.policies.training import Arrays, Training, nested, pick
from routegym.policies.unrolling import Evaluation, Unroller

try:
    import torch as th
except ImportError as error:
    raise MissingExtraError("torch", "train") from error

__all__ = ["AllAction", "Learner", "objective"]


class Learner:
    """One training: an actor, its optimiser, and the episodes that it is improved in."""

    def __init__(
        self, settings: AllAction, problem: Problem, actor: Actor, seed: int, rng: np.random.Generator
    ) -> None:
        self._settings, self._actor, self._seed, self._rng = settings, actor, seed, rng
        self._optimizer = th.optim.Adam(actor.parameters(), lr=settings.learning_rate)
        # It draws the episodes and swaps what is to be swapped, and is never stepped.
        self.env = problem.env(settings.tasks_per_update, embedding_prior=settings.embedding_prior)
        self.env.reset(seed=seed)
        self._scale = problem.recording.cost_scale_usd
        self._unroller = Unroller(problem.recording, settings.width)
        self._update = 0

    def learn(self, training: Training) -> None:
        """Make the updates that are left."""
        found = training.latest()
        if found is not None:
            self._restore(*found)
        while self._update < self._settings.updates:
            if training.due and self._update:
                training.save(self._update, *self._state())
            training.report(self._improve())

    def evaluate(self) -> Evaluation:
        """Values of the present policy in the episodes at hand."""
        slots = self.env.state()
        return self._unroller.evaluate(self._act, slots["node"], slots["budget_usd"], slots["lambda_"], self._rng)

    def _improve(self) -> dict[str, Any]:
        settings, env = self._settings, self.env
        found = self.evaluate()
        left = 1.0 - self._update / settings.updates
        for group in self._optimizer.param_groups:
            group["lr"] = settings.learning_rate * left
        # A price changes how much there is to be gained, not how much the episode matters.
        alike = replace(found, weight=found.weight / (1.0 + env.lambda_[found.episode]))
        for _ in range(settings.passes):
            shown = replace(alike, observation=env.swap(found.observation.copy()))
            gain, entropy = objective(self._actor, shown)
            loss = -(gain + settings.ent_coef * left * entropy)
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            th.nn.utils.clip_grad_norm_(self._actor.parameters(), settings.max_grad_norm)
            self._optimizer.step()
        self._update += 1
        record = {
            "step": self._update,
            "seed": self._seed,
            "score": float(found.score.mean()),
            "cost_usd": float(found.cost_usd.mean()),
            "return": float((found.score - env.lambda_ * found.cost_usd / self._scale).mean()),
            "entropy": entropy.item(),
            "situations": len(found.weight),
        }
        env.reset()
        return record

    def _act(self, observation: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with th.inference_mode():
            return np.asarray(self._actor(th.from_numpy(observation)).softmax(dim=-1).numpy())

    def _state(self) -> tuple[dict[str, Any], Arrays]:
        arrays = {
            **nested("actor", {name: tensor.numpy() for name, tensor in self._actor.state_dict().items()}),
            **nested("optimizer", optimizer_arrays(self._optimizer)),
            **nested("env", self.env.state()),
        }
        return {"update": self._update, "generator": self._rng.bit_generator.state}, arrays

    def _restore(self, settings: dict[str, Any], arrays: Arrays) -> None:
        self._actor.load_state_dict({name: th.as_tensor(a) for name, a in pick("actor", arrays).items()})
        restore_optimizer(self._optimizer, pick("optimizer", arrays))
        self.env.restore(pick("env", arrays))
        self._update = int(settings["update"])
        self._rng.bit_generator.state = settings["generator"]


@dataclass(frozen=True)
class AllAction:
    """Gradient ascent on the expected objective, with every arm's value in every situation it looks at."""

    updates: int = 400
    """Policy evaluations."""
    tasks_per_update: int = 128
    """Episodes in each, with a task, a budget and a price of their own."""
    width: float = 1.0
    """Situations of an episode, after the same number of calls, in which every arm is tried: see `Unroller`."""
    passes: int = 4
    """Gradient steps on each evaluation; those after the first take visits and values of the policy before them."""
    learning_rate: float = 5e-3
    """Of Adam at the start; it falls linearly to zero."""
    ent_coef: float = 0.1
    """Weight of the entropy bonus at the start; it falls linearly to zero."""
    max_grad_norm: float = 0.5
    """Clip of the gradient's norm."""
    embedding_prior: float = 300.0
    """Tasks' worth of caution about the text, against learning few tasks by heart: see `TrainingEnv`."""
    network: str = "mlp"
    """A key of `routegym.policies.networks.NETWORKS`."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""

    learner: ClassVar[type[Learner]] = Learner
    """What trains: a subclass may value actions in another way."""

    def __post_init__(self) -> None:
        check_positive(self, "updates", "tasks_per_update", "passes", "learning_rate", "max_grad_norm")
        if not self.width >= 1:
            raise ConfigError(f"width = {self.width}; expected a number >= 1")
        check_not_negative(self, "ent_coef", "embedding_prior")
        check_widths(self.hidden)

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> NetworkPolicy:
        """Train on the CPU; see `routegym.policies.algorithm.Algorithm`.

        Raises:
            MissingEdgeError: the recording is not complete.
        """
        weights, draws = np.random.SeedSequence(seed).spawn(2)
        with th.random.fork_rng(devices=[]):
            th.manual_seed(int(weights.generate_state(1)[0]))
            actor = make_actor(self.network, self.hidden, problem.recording)
        learner = self.learner(self, problem, actor, seed, np.random.default_rng(draws))
        learner.learn(Training() if training is None else training)
        return NetworkPolicy(actor, self.network, self.hidden)


def objective(actor: th.nn.Module, found: Evaluation) -> tuple[th.Tensor, th.Tensor]:
    """What is ascended, each a mean over situations weighted by visits and divided by the number of episodes.

    Its gradient at the policy that was evaluated is that of the expected objective of an episode,
    ``sum_s d(s) sum_a pi(a|s) grad log pi(a|s) (Q(s, a) - V(s))``: V changes nothing but the rounding.

    Args:
        actor: gives masked logits.
        found: values of the policy to improve.

    Returns:
        (``sum_s d(s) sum_a pi(a|s) (Q(s, a) - V(s))``, ``sum_s d(s) entropy(s)``), per episode.
    """
    dtype = next(actor.parameters()).dtype
    logits = actor(th.as_tensor(found.observation, dtype=dtype))
    log_probability = logits.log_softmax(dim=-1)
    probability = log_probability.exp()
    weight = th.as_tensor(found.weight / len(found.score), dtype=dtype)
    advantage = th.as_tensor(found.q - found.value[:, None], dtype=dtype)
    gain = weight @ (probability * advantage).sum(dim=-1)
    entropy = -(weight @ (probability * log_probability).sum(dim=-1))
    return gain, entropy
