"""Routers that predict how well and how dearly each arm would do, and take the best.

Papers: Somerstep et al., "CARROT: A Cost Aware Rate Optimal Router", arXiv 2502.03261 (predicted score and cost per
model, argmax of score - lambda cost; kNN and others); Hari and Thomson, "Tryage", arXiv 2308.11601 (predicted
performance minus a user's price); Hu et al., "RouterBench", arXiv 2403.12031 (kNN router); Ong et al., "RouteLLM",
arXiv 2406.18665 (matrix factorisation).
Deviations: they route one query once. Here the choice comes up at every step, and what is predicted is what would come
of taking the arm now and at all steps after it. Inputs are the router's own observation of the situation or TF-IDF of
its text instead of a language model's embedding; scores are graded by the task's reference and not by human preference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from routegym.core.observation import ObservationLayout, situation_texts
from routegym.errors import ConfigError, MissingExtraError, RunError
from routegym.graph.graph import OPEN, TransitionGraph
from routegym.graph.values import always_arm_actions, evaluate_choices
from routegym.policies.algorithm import Problem
from routegym.policies.checks import check_positive
from routegym.policies.training import Arrays, Training, nested, pick

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = [
    "KNN",
    "Boosting",
    "Logistic",
    "MatrixFactorization",
    "SuccessPredictor",
    "arm_outcomes",
    "price_of",
    "sigmoid",
    "signal_columns",
]

_Floats = npt.NDArray[np.floating[Any]]

#: Signals are rounded to multiples of 1 / _GRID, so that situations that look alike are one.
_GRID = 64
#: The lambda column stands for an infinite price at 1; this is 1e9.
_LARGEST_PRICE_COLUMN = 1 - 1e-9
#: The least price: among equal scores the cheaper arm is taken.
_TIE = 1e-6
#: What scikit-learn's boosting holds beside what skops trusts by itself.
_TRUSTED = (
    "sklearn._loss.link.IdentityLink",
    "sklearn._loss.link.Interval",
    "sklearn._loss.loss.HalfSquaredError",
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
)


# -- labels ------------------------------------------------------------------------------------
def arm_outcomes(graph: TransitionGraph) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What comes of an action now and the same arm at all later steps, in every situation.

    After an arm the episode goes on as `always_arm_actions` says: the same arm again or, where there is a control,
    the first one. A control is followed by the arm that scores best from there, where it does not end the episode.

    Args:
        graph: a complete graph.

    Returns:
        Final score and remaining cost in USD, float64 (n_nodes, n_actions) each; NaN where an action is not recorded
        and in ended situations.

    Raises:
        MissingEdgeError: an arm was never recorded in an open situation.
    """
    after = [evaluate_choices(graph, always_arm_actions(graph, arm)) for arm in range(graph.n_arms)]
    score, cost = (np.stack(columns, axis=1) for columns in zip(*after, strict=True))  # (n_nodes, n_arms)
    best = score.argmax(axis=1)[:, None]
    controls = ((0, 0), (0, graph.n_actions - graph.n_arms))
    later_score, later_cost = np.pad(score, controls), np.pad(cost, controls)
    later_score[:, graph.n_arms :] = np.take_along_axis(score, best, axis=1)
    later_cost[:, graph.n_arms :] = np.take_along_axis(cost, best, axis=1)
    node, action = graph.edge_sources()
    place, landing = node.astype(np.int64) * graph.n_actions + action, graph.edges["next"]
    size, count = graph.n_nodes * graph.n_actions, graph.edge_count.reshape(-1).astype(np.float64)
    count[count == 0] = np.nan
    paid = graph.edges["cost_usd"] + later_cost[landing, action]
    return (
        (np.bincount(place, later_score[landing, action], size) / count).reshape(graph.n_nodes, -1),
        (np.bincount(place, paid, size) / count).reshape(graph.n_nodes, -1),
    )


def near_arm_visits(
    graph: TransitionGraph, tasks: npt.NDArray[np.int64], random_share: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """How often one comes to each open situation of some tasks, and by which edge, with each arm in turn.

    Every arm is played always, in as many episodes, but for a uniformly random action at `random_share` of the steps.

    Returns:
        Node and edge (-1: the start of an episode), int64 (n,), and visits per episode of its task, float64 (n,).
    """
    source, action = graph.edge_sources()
    landing = graph.edges["next"].astype(np.int64)
    choices = np.maximum((graph.edge_count > 0).sum(axis=1), 1)
    starts = graph.task_start[tasks].astype(np.int64)
    step = graph.node_step[source]
    order = np.argsort(step, kind="stable")
    layers = np.split(order, np.flatnonzero(np.diff(step[order])) + 1)
    passed = np.zeros(graph.n_edges)
    even, samples = random_share / choices[source], graph.edge_count[source, action]
    for arm in range(graph.n_arms):
        share = even + (1 - random_share) * (action == always_arm_actions(graph, arm)[source])
        share /= samples
        visits = np.zeros(graph.n_nodes)
        visits[starts] = 1.0 / graph.n_arms
        for edges in layers:
            went = visits[source[edges]] * share[edges]
            passed[edges] += went
            visits += np.bincount(landing[edges], went, graph.n_nodes)
    edges = np.flatnonzero((passed > 0) & (graph.node_status[landing] == OPEN))
    return (
        np.concatenate([starts, landing[edges]]),
        np.concatenate([np.full(len(starts), -1), edges]),
        np.concatenate([np.ones(len(starts)), passed[edges]]),
    )


# -- features ----------------------------------------------------------------------------------
def signal_columns(layout: ObservationLayout) -> npt.NDArray[np.int64]:
    """Columns of a flat observation that show the situation: signals and the step, not budget, price and masks."""
    every = np.arange(layout.width)
    return np.concatenate([every[layout.columns[group]] for group in ("node_signals", "task", "edge_signals", "step")])


def price_of(observation: _Floats, layout: ObservationLayout) -> npt.NDArray[np.float64]:
    """Lambda of flat observations (n, width), float64 (n,)."""
    column = np.minimum(observation[:, layout.columns["lambda"].start].astype(np.float64), _LARGEST_PRICE_COLUMN)
    return np.asarray(column / (1.0 - column))


def signal_rows(
    recording: Recording, nodes: npt.NDArray[np.int64], edges: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """What `signal_columns` of an observation hold in these situations, reached by these edges (-1: a start)."""
    graph = recording.graph
    answer = graph.edges["signals"][np.maximum(edges, 0)] * (edges >= 0)[:, None]
    step = graph.node_step[nodes].astype(np.float32)
    embedding = recording.tasks.embedding[graph.node_task[nodes]]
    return np.concatenate([graph.node_signals[nodes], embedding, answer, (step / (step + 4.0))[:, None]], axis=1)


def rounded(rows: _Floats) -> npt.NDArray[np.float32]:
    """Signals on a grid, so that situations that hardly differ are one."""
    return np.asarray(np.rint(rows * _GRID) / _GRID, dtype=np.float32)


def distinct(rows: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where each distinct row stands first, (m,), and which of them every row is, (n,)."""
    words = np.ascontiguousarray(rows + np.float32(0)).view(np.uint32).astype(np.uint64)
    factors = np.random.default_rng(0).integers(1, 2**63, (rows.shape[1],), dtype=np.uint64) | np.uint64(1)
    mixed = words * factors
    mixed ^= mixed >> np.uint64(29)
    digest = np.asarray(np.sum(mixed * factors[::-1], axis=1))
    _, first, inverse = np.unique(digest, return_index=True, return_inverse=True)
    return first, inverse


class Signals:
    """The situation's columns of the observation, on a grid."""

    name = "signals"
    observation = "flat"

    def __init__(self, layout: ObservationLayout) -> None:
        self._columns = signal_columns(layout)

    def distinct(self, observation: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Features of the distinct situations of a batch, (m, d), and which of them each episode is in, (n,)."""
        rows = rounded(observation[:, self._columns])
        first, inverse = distinct(rows)
        return rows[first], inverse

    def of_nodes(
        self, recording: Recording, nodes: npt.NDArray[np.int64], edges: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """The same for situations of a recording, reached by these edges."""
        rows = rounded(signal_rows(recording, nodes, edges))
        first, inverse = distinct(rows)
        return rows[first], inverse

    def to_state(self) -> tuple[dict[str, Any], Arrays]:
        """Nothing was fitted."""
        return {}, {}


class TfIdf:
    """TF-IDF of the character n-grams of the text observation.

    Args:
        ngrams: those that count.
        idf: inverse document frequency of each, float (len(ngrams),).
    """

    name = "tfidf"
    observation = "text"

    def __init__(self, ngrams: list[str], idf: _Floats) -> None:
        self._vectorizer = _vectorizer(vocabulary={ngram: column for column, ngram in enumerate(ngrams)})
        self._vectorizer.idf_ = self._idf = np.asarray(idf, dtype=np.float32)
        self._ngrams = ngrams

    @classmethod
    def fit(cls, texts: list[str], max_ngrams: int) -> Self:
        """The most frequent n-grams of these texts."""
        fitted = _vectorizer(max_features=max_ngrams).fit(texts)
        return cls(fitted.get_feature_names_out().tolist(), fitted.idf_)

    def distinct(self, observation: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """See `Signals.distinct`."""
        return self._of_texts(observation["text"])

    def of_nodes(
        self, recording: Recording, nodes: npt.NDArray[np.int64], edges: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """See `Signals.of_nodes`; how a situation was reached is in its text or not known."""
        return self._of_texts(situation_texts(recording, nodes))

    def to_state(self) -> tuple[dict[str, Any], Arrays]:
        """N-grams and their weights."""
        return {"ngrams": self._ngrams}, {"idf": self._idf}

    def _of_texts(self, texts: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        number: dict[str, int] = {}
        inverse = np.array([number.setdefault(text, len(number)) for text in texts], dtype=np.int64)
        return self._vectorizer.transform(list(number)).toarray(), inverse


def _vectorizer(**arguments: Any) -> Any:
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "baselines") from error
    return TfidfVectorizer(analyzer="char", ngram_range=(1, 3), lowercase=False, dtype=np.float32, **arguments)


# -- models ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Examples:
    """Distinct situations and what comes of each action there."""

    inputs: npt.NDArray[np.float32]
    """Features, (n, d)."""
    score: npt.NDArray[np.float64]
    """Mean final score, (n, n_actions); 0 where nothing is known."""
    cost_usd: npt.NDArray[np.float64]
    """Mean remaining cost, (n, n_actions)."""
    count: npt.NDArray[np.int64]
    """How many of the situations fitted to it stands for, (n,), >= 1."""
    weight: npt.NDArray[np.float64]
    """How much it counts, (n, n_actions): about `count`, by how often it is met; 0 where an action is not legal."""


class _Model(Protocol):
    """Features -> scores and costs."""

    name: str

    def predict(self, inputs: npt.NDArray[np.float32]) -> tuple[_Floats, _Floats]:
        """Score and remaining cost in USD, (n, n_actions) each."""
        ...

    def to_state(self) -> tuple[dict[str, Any], Arrays]: ...

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Arrays) -> Self: ...


class _Neighbours:
    """Weighted mean over the nearest distinct situations that together stand for at least k."""

    name = "neighbours"

    def __init__(
        self, k: int, inputs: _Floats, score: _Floats, cost_usd: _Floats, count: npt.NDArray[np.int64], weight: _Floats
    ) -> None:
        self.k = k
        self._kept = {"inputs": inputs, "score": score, "cost_usd": cost_usd, "count": count, "weight": weight}
        self._transposed = np.ascontiguousarray(inputs.T)  # (d, m)
        self._norms = (inputs**2).sum(axis=1) / 2
        self._sums = np.concatenate([weight * score, weight * cost_usd, weight], axis=1)  # (m, 3 n_actions)
        self._all = self._sums.sum(axis=0)

    @classmethod
    def fit(cls, k: int, examples: Examples) -> Self:
        return cls(k, examples.inputs, examples.score, examples.cost_usd, examples.count, examples.weight)

    def predict(self, inputs: npt.NDArray[np.float32]) -> tuple[_Floats, _Floats]:
        n_actions = self._sums.shape[1] // 3
        sums = np.concatenate([self._near(inputs[low : low + 512]) for low in range(0, len(inputs), 512)])
        known = np.tile(sums[:, 2 * n_actions :] > 0, 3)
        sums = np.where(known, sums, self._all)  # where the arm is legal nowhere near: what it does in all
        weight = np.maximum(sums[:, 2 * n_actions :], 1e-12)
        return sums[:, :n_actions] / weight, sums[:, n_actions : 2 * n_actions] / weight

    def _near(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Sums over the neighbours, (n, 3 n_actions)."""
        distance = self._norms - inputs @ self._transposed  # (n, m): half the square, without the input's own
        k = min(self.k, len(self._norms))
        nearest = np.argpartition(distance, k - 1, axis=1)[:, :k]
        order = np.take_along_axis(distance, nearest, axis=1).argsort(axis=1, kind="stable")
        nearest = np.take_along_axis(nearest, order, axis=1)
        count = self._kept["count"][nearest]
        used = count.cumsum(axis=1) - count < self.k
        return np.asarray(np.einsum("nk,nka->na", used.astype(np.float64), self._sums[nearest]))

    def to_state(self) -> tuple[dict[str, Any], Arrays]:
        return {"k": self.k}, dict(self._kept)

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        return cls(int(settings["k"]), **arrays)


class _Costs:
    """Remaining cost by ridge regression, clipped at 0."""

    def __init__(self, weight: _Floats, bias: _Floats) -> None:
        self.weight, self.bias = weight, bias  # (d, n_actions), (n_actions,)

    @classmethod
    def fit(cls, examples: Examples) -> Self:
        n, d = examples.inputs.shape
        inputs = np.concatenate([examples.inputs, np.ones((n, 1))], axis=1).astype(np.float64)
        weight = np.empty((d + 1, examples.score.shape[1]))
        for action in range(weight.shape[1]):
            weighted = inputs * examples.weight[:, action, None]
            square = weighted.T @ inputs + 1e-3 * np.eye(d + 1)
            weight[:, action] = np.linalg.solve(square, weighted.T @ examples.cost_usd[:, action])
        return cls(weight[:-1], weight[-1])

    def predict(self, inputs: npt.NDArray[np.float32]) -> _Floats:
        return np.asarray(np.maximum(inputs @ self.weight + self.bias, 0.0))

    def arrays(self) -> Arrays:
        return {"cost_weight": self.weight, "cost_bias": self.bias}


class _Logits:
    """The logistic function of linear scores; costs by ridge regression."""

    name = "logits"

    def __init__(self, weight: _Floats, bias: _Floats, costs: _Costs) -> None:
        self.weight, self.bias, self.costs = weight, bias, costs  # (d, n_actions), (n_actions,)

    def predict(self, inputs: npt.NDArray[np.float32]) -> tuple[_Floats, _Floats]:
        return sigmoid(inputs @ self.weight + self.bias), self.costs.predict(inputs)

    def to_state(self) -> tuple[dict[str, Any], Arrays]:
        return {}, {"weight": self.weight, "bias": self.bias, **self.costs.arrays()}

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        return cls(arrays["weight"], arrays["bias"], _Costs(arrays["cost_weight"], arrays["cost_bias"]))


class _Boosted:
    """A boosted regressor of each action's score; costs by ridge regression."""

    name = "boosted"

    def __init__(self, regressors: list[Any], costs: _Costs) -> None:
        self.regressors, self.costs = regressors, costs

    def predict(self, inputs: npt.NDArray[np.float32]) -> tuple[_Floats, _Floats]:
        scores = np.stack([regressor.predict(inputs) for regressor in self.regressors], axis=1)
        return np.clip(scores, 0.0, 1.0), self.costs.predict(inputs)

    def to_state(self) -> tuple[dict[str, Any], Arrays]:
        from skops.io import dumps

        files = {
            f"regressor/{action}": np.frombuffer(dumps(regressor), dtype=np.uint8)
            for action, regressor in enumerate(self.regressors)
        }
        return {}, files | self.costs.arrays()

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        files = pick("regressor", arrays)
        regressors = [_load_regressor(files[str(action)].tobytes()) for action in range(len(files))]
        return cls(regressors, _Costs(arrays["cost_weight"], arrays["cost_bias"]))


def _load_regressor(content: bytes) -> Any:
    """A regressor from a skops file that holds nothing but what one is made of.

    Raises:
        RunError: it holds other types, or cannot be read.
    """
    try:
        from skops.io import get_untrusted_types, loads
    except ImportError as error:
        raise MissingExtraError("skops", "baselines") from error
    from sklearn.ensemble import HistGradientBoostingRegressor

    try:
        odd = sorted(set(get_untrusted_types(data=content)) - set(_TRUSTED))
        found = None if odd else loads(content, trusted=list(_TRUSTED))
    except Exception as error:  # a damaged archive fails in many ways
        raise RunError(f"a boosted regressor cannot be read ({type(error).__name__}: {error}); train again") from None
    if type(found) is not HistGradientBoostingRegressor:
        raise RunError(
            f"the file of a boosted regressor holds {', '.join(odd) or type(found).__name__}; expected a "
            "HistGradientBoostingRegressor and nothing else; do not use this file, train again"
        )
    return found


def sigmoid(logits: _Floats) -> npt.NDArray[Any]:
    """The logistic function, of the dtype of `logits`."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -50.0, 50.0))))


_MODELS: dict[str, type[_Model]] = {model.name: model for model in (_Neighbours, _Logits, _Boosted)}


# -- the policy --------------------------------------------------------------------------------
class SuccessPredictor:
    """Takes the legal action with the largest predicted score - lambda * predicted cost / cost scale.

    Among equals the cheapest. Lambda is read from the observation; budgets count through the masks.

    Args:
        recording: gives names and the cost scale.
        features: turn observations into inputs of the model.
        model: predicts.
    """

    kind = "success_prediction"

    def __init__(self, recording: Recording, features: Signals | TfIdf, model: _Model) -> None:
        self.layout = ObservationLayout.of(recording)
        self.observation = features.observation
        self._scale, self._features, self._model = recording.cost_scale_usd, features, model

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[npt.NDArray[np.int64], Any]:
        """See `routegym.policies.policy.Policy`."""
        flat = self._flat(observation)
        score, cost_usd = self._outcomes(observation)
        cost = cost_usd / self._scale
        value = score - np.maximum(price_of(flat, self.layout), _TIE)[:, None] * cost
        legal = flat[:, self.layout.columns["affordable"]] > 0.5 if action_masks is None else np.asarray(action_masks)
        return np.where(legal, value, -np.inf).argmax(axis=1).astype(np.int64), state

    def predicted(self, observation: Any) -> npt.NDArray[np.float64]:
        """Predicted final score of each action, float64 (n, n_actions), in [0, 1]."""
        return np.asarray(self._outcomes(observation)[0], dtype=np.float64)

    def _flat(self, observation: Any) -> npt.NDArray[np.float32]:
        if (self.observation == "text") != isinstance(observation, Mapping):
            raise ConfigError(
                f"the observation is of type {type(observation).__name__}; this policy was fitted to "
                f'{self._features.name} and expects observation="{self.observation}" of the environment'
            )
        return np.asarray(observation["flat"] if self.observation == "text" else observation)

    def _outcomes(self, observation: Any) -> tuple[_Floats, _Floats]:
        inputs, inverse = self._features.distinct(observation)
        score, cost = self._model.predict(inputs)
        return score[inverse], cost[inverse]

    def to_state(self) -> tuple[dict[str, Any], Arrays]:
        """See `routegym.policies.storage.StoredPolicy`."""
        features, weights = self._features.to_state()
        model, arrays = self._model.to_state()
        settings = {"features": self._features.name, "model": self._model.name}
        return settings | features | model, nested("features", weights) | nested("model", arrays)

    @classmethod
    def from_state(cls, recording: Recording, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        """See `routegym.policies.storage.StoredPolicy`."""
        features: Signals | TfIdf
        if settings["features"] == TfIdf.name:
            features = TfIdf([str(ngram) for ngram in settings["ngrams"]], pick("features", arrays)["idf"])
        else:
            features = Signals(ObservationLayout.of(recording))
        model = _MODELS[str(settings["model"])].from_state(settings, pick("model", arrays))
        return cls(recording, features, model)


# -- the algorithms ----------------------------------------------------------------------------
@dataclass(frozen=True)
class _SuccessPrediction:
    """What the routers of this file have in common."""

    features: Literal["signals", "tfidf"] = "signals"
    """``signals``: what the observation shows of the situation; ``tfidf``: character n-grams of its text."""
    situations: int = 20_000
    """Visits of the training tasks' situations to fit to; each situation once where there are no more."""
    random_share: float = 0.2
    """Share of random actions in these visits; otherwise an episode stays with one arm, as is predicted."""
    max_ngrams: int = 256
    """The most frequent n-grams that are used."""

    _positive: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.features not in ("signals", "tfidf"):
            raise ConfigError(f"features = {self.features!r}; expected 'signals' or 'tfidf'")
        check_positive(self, "situations", "max_ngrams", *self._positive)
        if not 0 < self.random_share <= 1:
            raise ConfigError(f"random_share = {self.random_share}; expected a share above 0 and at most 1")

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> SuccessPredictor:
        """Fit to what the recording says of every situation of the training tasks.

        A fit takes seconds and starts over when it is interrupted. See `routegym.policies.algorithm.Algorithm`.
        """
        rng = np.random.default_rng(np.random.SeedSequence(seed))
        features, examples = self._examples(problem, rng)
        policy = SuccessPredictor(problem.recording, features, self._model(examples, rng, seed))
        if training is not None:
            training.report({"step": len(examples.inputs), "seed": seed, "brier": _brier(policy, examples)})
        return policy

    def _examples(self, problem: Problem, rng: np.random.Generator) -> tuple[Signals | TfIdf, Examples]:
        recording, graph = problem.recording, problem.recording.graph
        nodes, edges, visits = near_arm_visits(graph, problem.tasks, self.random_share)
        drawn = np.ones(len(nodes))
        if len(nodes) > self.situations:
            drawn = rng.multinomial(self.situations, visits / visits.sum()).astype(np.float64)
            kept = np.flatnonzero(drawn)
            nodes, edges, visits = nodes[kept], edges[kept], drawn[kept]
            drawn = visits
        score, cost = (column[nodes] for column in arm_outcomes(graph))
        features: Signals | TfIdf
        if self.features == "tfidf":
            features = TfIdf.fit(situation_texts(recording, nodes).tolist(), self.max_ngrams)
        else:
            features = Signals(ObservationLayout.of(recording))
        inputs, which = features.of_nodes(recording, nodes, edges)
        weight = np.where(np.isnan(score), 0.0, visits[:, None])

        def total(values: _Floats) -> npt.NDArray[np.float64]:
            sums = [np.bincount(which, column, len(inputs)) for column in np.nan_to_num(values).T]
            return np.stack(sums, axis=1)

        count = np.bincount(which, drawn, len(inputs)).astype(np.int64)
        together = total(weight)
        known = np.where(together > 0, together, 1.0)
        return features, Examples(
            inputs=inputs,
            score=total(weight * np.nan_to_num(score)) / known,
            cost_usd=total(weight * np.nan_to_num(cost)) / known,
            count=count,
            weight=together * (count.sum() / visits.sum()),
        )

    def _model(self, examples: Examples, rng: np.random.Generator, seed: int) -> _Model:
        raise NotImplementedError


def _brier(policy: SuccessPredictor, examples: Examples) -> float:
    score, _ = policy._model.predict(examples.inputs)
    return float((examples.weight * (score - examples.score) ** 2).sum() / examples.weight.sum())


@dataclass(frozen=True)
class KNN(_SuccessPrediction):
    """Mean outcome of the k nearest situations, those that look alike taken together."""

    situations: int = 8_192
    """Visits of the training tasks' situations to fit to; each situation once where there are no more."""
    k: int = 32
    """Situations that are looked at."""

    _positive: ClassVar[tuple[str, ...]] = ("k",)

    def _model(self, examples: Examples, rng: np.random.Generator, seed: int) -> _Model:
        return _Neighbours.fit(self.k, examples)


@dataclass(frozen=True)
class Logistic(_SuccessPrediction):
    """A logistic regression of success for each action (scikit-learn)."""

    inverse_penalty: float = 1.0
    """C of scikit-learn: the larger, the less the weights are held down."""

    _positive: ClassVar[tuple[str, ...]] = ("inverse_penalty",)

    def _model(self, examples: Examples, rng: np.random.Generator, seed: int) -> _Model:
        try:
            from sklearn.linear_model import LogisticRegression
        except ImportError as error:
            raise MissingExtraError("scikit-learn", "baselines") from error
        n_actions = examples.score.shape[1]
        weight, bias = np.zeros((examples.inputs.shape[1], n_actions)), np.zeros(n_actions)
        twice = np.concatenate([examples.inputs, examples.inputs])
        won = np.repeat([True, False], len(examples.inputs))
        for action in range(n_actions):
            score, seen = examples.score[:, action], examples.weight[:, action]
            share = np.concatenate([seen * score, seen * (1 - score)])  # a score of 0.7 is won 7 times of 10
            used = share > 1e-9
            if len(set(won[used].tolist())) < 2:  # always won, never won or never legal
                bias[action] = 20.0 if won[used].any() else -20.0
                continue
            model = LogisticRegression(C=self.inverse_penalty, max_iter=1000)
            # OpenBLAS may raise the flag of an invalid operation on finite numbers (numpy's issue 24067).
            with np.errstate(invalid="ignore"):
                model.fit(twice[used], won[used], share[used])
            weight[:, action], bias[action] = model.coef_[0], model.intercept_[0]
        return _Logits(weight, bias, _Costs.fit(examples))


@dataclass(frozen=True)
class Boosting(_SuccessPrediction):
    """Gradient-boosted trees for each action (scikit-learn's HistGradientBoosting, squared error of the score)."""

    trees: int = 60
    """Boosting rounds."""
    leaves: int = 31
    """Leaves of a tree at most."""
    learning_rate: float = 0.1
    """Weight of each tree."""
    min_leaf: int = 20
    """Situations in a leaf at least."""

    _positive: ClassVar[tuple[str, ...]] = ("trees", "learning_rate", "min_leaf")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.leaves < 2:
            raise ConfigError(f"leaves = {self.leaves}; expected an integer >= 2")

    def _model(self, examples: Examples, rng: np.random.Generator, seed: int) -> _Model:
        try:
            from sklearn.ensemble import HistGradientBoostingRegressor
        except ImportError as error:
            raise MissingExtraError("scikit-learn", "baselines") from error
        regressors = []
        for action in range(examples.score.shape[1]):
            model = HistGradientBoostingRegressor(
                max_iter=self.trees,
                max_leaf_nodes=self.leaves,
                learning_rate=self.learning_rate,
                min_samples_leaf=self.min_leaf,
                early_stopping=False,
                random_state=seed,
            )
            used = np.repeat(np.arange(len(examples.count)), examples.count)
            if (examples.weight[:, action] > 0).any():  # else it is never legal, and nothing will ask
                used = used[examples.weight[used, action] > 0]
            weight = examples.weight[used, action] / examples.count[used]
            model.fit(examples.inputs[used], examples.score[used, action], weight + 1e-12)
            regressors.append(model)
        return _Boosted(regressors, _Costs.fit(examples))


@dataclass(frozen=True)
class MatrixFactorization(_SuccessPrediction):
    """Success as the product of a projected situation and an embedding of the arm, through the logistic function.

    As in RouteLLM's matrix factorisation, sigmoid(a_j . (P x + p) + b_j), fitted by Adam to the cross-entropy.
    """

    rank: int = 8
    """Length of the embeddings."""
    updates: int = 2_000
    """Adam steps."""
    batch_size: int = 1_024
    """Situations in a step, drawn by how often they were seen."""
    learning_rate: float = 0.02
    """At the start; it falls linearly to zero."""

    _positive: ClassVar[tuple[str, ...]] = ("rank", "updates", "batch_size", "learning_rate")

    def _model(self, examples: Examples, rng: np.random.Generator, seed: int) -> _Model:
        d, n_actions = examples.inputs.shape[1], examples.score.shape[1]
        projection = rng.normal(0, d**-0.5, (d, self.rank))
        arms = rng.normal(0, self.rank**-0.5, (self.rank, n_actions))
        weights = [projection, np.zeros(self.rank), arms, np.zeros(n_actions)]
        adam = _Adam(weights, self.learning_rate, self.updates)
        often = examples.weight.sum(axis=1)
        legal = examples.weight > 0
        draws = rng.choice(len(often), (self.updates, self.batch_size), p=often / often.sum())
        for rows in draws:
            inputs = examples.inputs[rows]
            hidden = inputs @ projection + weights[1]  # (B, rank)
            error = (sigmoid(hidden @ arms + weights[3]) - examples.score[rows]) * legal[rows] / len(rows)
            back = error @ arms.T
            adam.step([inputs.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)])
        # Both factors are linear: their product gives the same predictions.
        return _Logits(projection @ arms, weights[1] @ arms + weights[3], _Costs.fit(examples))


class _Adam:
    """Adam (arXiv 1412.6980) with a linearly falling rate, in place."""

    def __init__(self, weights: list[npt.NDArray[np.float64]], rate: float, updates: int) -> None:
        self._weights, self._rate, self._updates, self._done = weights, rate, updates, 0
        self._moments = [(np.zeros_like(weight), np.zeros_like(weight)) for weight in weights]

    def step(self, gradients: list[Any]) -> None:
        """One update."""
        rate = self._rate * (1 - self._done / self._updates)
        self._done += 1
        for weight, gradient, (mean, square) in zip(self._weights, gradients, self._moments, strict=True):
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient**2 - square)
            unbiased = np.sqrt(square / (1 - 0.999**self._done)) + 1e-8
            weight -= rate * mean / (1 - 0.9**self._done) / unbiased
