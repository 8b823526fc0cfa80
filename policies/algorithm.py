"""What an algorithm is: hyperparameters that can be fitted to a problem and give a policy."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from routegym.core.vector_env import Budget
from routegym.errors import ConfigError
from routegym.policies.training_env import TrainingEnv

if TYPE_CHECKING:
    from routegym.graph.growth import Expander
    from routegym.graph.recording import Recording
    from routegym.policies.policy import Policy
    from routegym.policies.training import Training

__all__ = [
    "ENTRY_POINTS",
    "Algorithm",
    "Family",
    "Problem",
    "algorithm_class",
    "algorithm_names",
    "family_of",
    "usual_lambdas",
]

#: Packages add algorithms of their own under this entry-point group.
ENTRY_POINTS = "routegym.algorithms"

_HERE = "routegym.policies"
Family = Literal["rule", "predictor", "bandit", "learner"]

_BUILT_IN: dict[Family, dict[str, str]] = {
    "rule": {
        "random": f"{_HERE}.rules:Random",
        "round_robin": f"{_HERE}.rules:RoundRobin",
        "always": f"{_HERE}.rules:Always",
        "random_mixture": f"{_HERE}.rules:RandomMixture",
        "first_large_k": f"{_HERE}.rules:FirstLargeK",
        "confidence_cascade": f"{_HERE}.rules:ConfidenceCascade",
        "escalate": f"{_HERE}.rules:Escalate",
        "fixed_cascade": f"{_HERE}.rules:FixedCascade",
        "acar": f"{_HERE}.acar:ACAR",
    },
    "predictor": {
        "knn": f"{_HERE}.success:KNN",
        "logistic": f"{_HERE}.success:Logistic",
        "boosting": f"{_HERE}.success:Boosting",
        "matrix_factorization": f"{_HERE}.success:MatrixFactorization",
        "predict_then_plan": f"{_HERE}.planning:PredictThenPlan",
        "irt": f"{_HERE}.irt:IRT",
    },
    "bandit": {
        "linucb": f"{_HERE}.bandits:LinUCB",
        "thompson": f"{_HERE}.bandits:Thompson",
        "pilot": f"{_HERE}.bandits:Pilot",
    },
    "learner": {
        "bc": f"{_HERE}.bc:BC",
        "cql": f"{_HERE}.cql:CQL",
        "masrouter": f"{_HERE}.masrouter:MasRouter",
        "ppo": f"{_HERE}.ppo:PPO",
        "maskable_ppo": f"{_HERE}.ppo:MaskablePPO",
        "recurrent_ppo": f"{_HERE}.ppo:RecurrentPPO",
        "ppo_lagrangian": f"{_HERE}.lagrangian:PPOLagrangian",
        "grpo": f"{_HERE}.grpo:GRPO",
        "rloo": f"{_HERE}.grpo:RLOO",
        "bopo": f"{_HERE}.bopo:BoPO",
        "all_action": f"{_HERE}.all_action:AllAction",
    },
}


def usual_lambdas(kind: str) -> tuple[float, float]:
    """Range of prices of cost that policies for recordings of this kind are trained for unless one is named.

    Where an episode is one call, a hard budget only says which arms can be paid, and what one is worth against another
    is for the price to say. Where there are several calls, budgets say it, too, and high prices teach to stop.
    """
    return (0.002, 8.0) if kind == "single_call" else (0.0, 0.2)


@dataclass(frozen=True)
class Problem:
    """What is to be learned: routing the tasks of a recording under budgets and prices of cost."""

    recording: Recording
    budget_usd: Budget = "sampled"
    """Hard cap of every training episode; by default drawn, so that one policy serves every budget."""
    lambda_: float | tuple[float, float] | None = None
    """Price of cost; a range is drawn from, so that one policy serves every price; None takes `usual_lambdas`."""
    split: str = "train"
    """Tasks to learn from."""
    expander: Expander | None = None
    """Grows the recording while learning, from a live pool; for algorithms that learn by playing."""

    def env(self, num_envs: int, embedding_prior: float = 0.0, **options: Any) -> TrainingEnv:
        """A batch environment of this problem for training; `options` are further arguments of it."""
        settings: dict[str, Any] = {
            "budget_usd": self.budget_usd,
            "lambda_": self.lambda_range,
            "reward": "weighted_sum",
            "split": self.split,
            "autoreset_mode": "SameStep",
            "info": "lean",
            "expander": self.expander,
        }
        return TrainingEnv(num_envs, self.recording, embedding_prior=embedding_prior, **settings | options)

    @property
    def lambda_range(self) -> tuple[float, float]:
        """The lowest and the highest price of cost."""
        if self.lambda_ is None:
            return usual_lambdas(self.recording.kind)
        return (self.lambda_, self.lambda_) if isinstance(self.lambda_, int | float) else self.lambda_

    @cached_property
    def tasks(self) -> npt.NDArray[np.int64]:
        """Indices of the tasks to learn from."""
        return self.recording.split(self.split)


class Algorithm(Protocol):
    """A frozen dataclass of hyperparameters with `fit`: a learner, something fitted to data, or a fixed rule."""

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> Policy:
        """Find a policy for the problem that serves every budget and every price it may meet.

        Args:
            problem: gives environments and recorded outcomes.
            seed: fixes everything random; same seed and number of threads, same policy.
            training: keeps checkpoints and passes on metrics; if it holds a checkpoint, `fit` goes on from it
                and ends with the very policy of an uninterrupted run.
        """
        ...


def algorithm_names(family: Family | None = None) -> tuple[str, ...]:
    """Every algorithm that can be named: ours, and those of installed packages, which count as learners."""
    added = {"learner": tuple(point.name for point in entry_points(group=ENTRY_POINTS))}
    chosen = _BUILT_IN if family is None else (family,)
    return tuple(name for one in chosen for name in (*_BUILT_IN[one], *added.get(one, ())))


def family_of(name: str) -> Family:
    """What sort of algorithm a name stands for: of other people's, those that are fitted count as learners."""
    for family, names in _BUILT_IN.items():
        if name in names:
            return family
    return "learner" if hasattr(algorithm_class(name), "fit") else "rule"


def algorithm_class(name: str) -> type[Algorithm]:
    """The class of a named algorithm.

    Args:
        name: one of `algorithm_names`, or ``package.module:Class`` of one of yours.

    Raises:
        ConfigError: there is no such algorithm.
        MissingExtraError: it needs a package that is not installed.
    """
    known = {own: place for names in _BUILT_IN.values() for own, place in names.items()}
    known |= {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}
    module, _, attribute = known.get(name, name).partition(":")
    if not attribute:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
        raise ConfigError(f"algo = {name!r}; {hint} or package.module:Class of your own")
    try:
        found: type[Algorithm] = getattr(import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ConfigError(f"algo = {name!r}: {error}; check the spelling and that the package is installed") from None
    return found
