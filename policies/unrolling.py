"""Policy evaluation on the graph: what every action of a situation is worth if the policy goes on as it does.

A recording knows what each arm would have led to, so a policy's values are worked out and not guessed from one
sampled episode. Where an episode stands is given by a node, the response that led there (its signals are seen) and
the amount spent; with the episode's budget and price of cost these make the observation. Places that are equal in all
three are followed once for each way to them: where situations are drawn they hardly ever meet (in the whole tree of
AgentSteps a third of those after four calls are copies).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.core import kernels
from routegym.core.observation import ObservationLayout
from routegym.core.tables import Slots, tables_of
from routegym.errors import ConfigError, MissingEdgeError
from routegym.graph.graph import OPEN

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = ["Act", "Evaluation", "Unroller"]

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]
_Bools = npt.NDArray[np.bool_]

#: Observations float32 (n, width) -> probabilities of the actions (n, n_actions), 0 where they are illegal.
Act = Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]


@dataclass(frozen=True)
class Evaluation:
    """A policy's values in n episodes, and in those m situations of them whose every legal action was followed."""

    score: _Floats
    """Expected score of each episode, (n,)."""
    cost_usd: _Floats
    """Its expected cost, (n,)."""
    episode: _Ints
    """The episode that each situation belongs to, (m,)."""
    node: _Ints
    """Where it is, (m,)."""
    spent_usd: _Floats
    """What was spent to get there, (m,)."""
    observation: npt.NDArray[np.float32]
    """What is seen there, (m, width)."""
    weight: _Floats
    """Expected visits in an episode, (m,): exact, or an unbiased estimate where situations were drawn."""
    probability: _Floats
    """Of each action, (m, n_actions)."""
    q: _Floats
    """Expected ``score - lambda * cost / cost_scale`` from there on after each action, 0 if illegal, (m, n_actions)."""

    @property
    def value(self) -> _Floats:
        """Expected objective from each situation on, (m,)."""
        value: _Floats = (self.probability * self.q).sum(axis=1)
        return value


@dataclass(frozen=True)
class _Front:
    """The situations that are to be followed next, n of them."""

    episode: _Ints
    node: _Ints
    edge: _Ints  # that led there, -1 at the start
    spent_usd: _Floats
    weight: _Floats  # expected visits; 0 where one action is followed only


@dataclass(frozen=True)
class _Layer:
    """Situations after the same number of calls, n of them, and the e edges that are followed from there."""

    observation: npt.NDArray[np.float32]
    front: _Front
    whole: _Ints  # the rows whose every action is followed, (w,)
    probability: _Floats  # (w, A)
    row: _Ints  # where each edge starts, (e,)
    action: _Ints  # (e,)
    share: _Floats  # of this sample among those of the action that are followed, (e,)
    outcome: _Floats  # score and cost of the edge itself, (e, 2)
    onward: _Ints  # the edges that do not end the episode; they lead to rows 0, 1, ... of the next layer

    def back_up(self, following: _Floats) -> tuple[_Floats, _Floats]:
        """Score and cost to go: of each row (n, 2) and of each action of the whole rows (w, A, 2).

        Args:
            following: the former of the next layer.
        """
        outcome = self.outcome.copy()
        outcome[self.onward] += following
        outcome *= self.share[:, None]
        n, n_actions = len(self.front.node), self.probability.shape[1]
        place = self.row * n_actions + self.action
        by_action: _Floats = np.empty((n, n_actions, 2))
        for part in (0, 1):
            total = np.bincount(place, outcome[:, part], minlength=n * n_actions)
            by_action[:, :, part] = total.reshape(n, n_actions)
        to_go = by_action.sum(axis=1)  # right where one action is followed
        by_action = by_action[self.whole]
        to_go[self.whole] = (self.probability[:, :, None] * by_action).sum(axis=1)
        return to_go, by_action


class Unroller:
    """Follows policies through a complete recording.

    Args:
        recording: gives situations, costs and scores.
        width: how many situations of an episode, after the same number of calls, are followed with every legal action,
            on average and at most: those that are visited with a probability of at least 1 / width always, of the
            others some that are drawn in proportion to their visits and count for more. The rest is followed with one
            action drawn from the policy, and of several recorded samples one is drawn. So every estimate is unbiased,
            and its work grows with width. None follows everything: exact values, of n_actions ** steps situations.

    Raises:
        ConfigError: width is below 1.
    """

    def __init__(self, recording: Recording, width: float | None) -> None:
        if width is not None and not width >= 1:
            raise ConfigError(f"width = {width}; expected a number >= 1, or None to follow everything")
        self._recording, self._width = recording, width
        self._legal = ObservationLayout.of(recording).columns["affordable"]
        self._kernel, self._tables = kernels.load(kernels.choose()), tables_of(recording)
        self._tables.refresh(recording, features=True)

    def evaluate(
        self, act: Act, start: npt.NDArray[Any], budget_usd: _Floats, lambda_: _Floats, rng: np.random.Generator
    ) -> Evaluation:
        """Values of a policy in n episodes.

        Args:
            act: the policy.
            start: node where each episode starts, int (n,).
            budget_usd: hard cap of each in USD, inf = none, (n,).
            lambda_: price of cost of each, (n,).
            rng: draws what is followed, where not everything is.

        Raises:
            MissingEdgeError: a legal action was never recorded.
        """
        n = len(start)
        front = _Front(np.arange(n), start.astype(np.int64), np.full(n, -1), np.zeros(n), np.ones(n))
        layers: list[_Layer] = []
        while len(front.node):
            observation = self.observe(
                front.node, front.edge, front.spent_usd, budget_usd[front.episode], lambda_[front.episode]
            )
            layer, front = self._follow(front, observation, act(observation).astype(np.float64), budget_usd, rng)
            layers.append(layer)

        to_go, parts = np.zeros((0, 2)), []
        for layer in reversed(layers):
            to_go, ours = layer.back_up(to_go)
            parts.append(ours)
        by_action = np.concatenate(parts[::-1])
        episode, node, spent, weight = (
            np.concatenate([getattr(layer.front, name)[layer.whole] for layer in layers])
            for name in ("episode", "node", "spent_usd", "weight")
        )
        price = lambda_ / self._recording.cost_scale_usd
        return Evaluation(
            score=to_go[:, 0],
            cost_usd=to_go[:, 1],
            episode=episode,
            node=node,
            spent_usd=spent,
            observation=np.concatenate([layer.observation[layer.whole] for layer in layers]),
            weight=weight,
            probability=np.concatenate([layer.probability for layer in layers]),
            q=by_action[:, :, 0] - price[episode, None] * by_action[:, :, 1],
        )

    def observe(
        self, node: _Ints, edge: _Ints, spent_usd: _Floats, budget_usd: _Floats, lambda_: _Floats
    ) -> npt.NDArray[np.float32]:
        """What the environment shows in these n situations, float32 (n, width).

        Args:
            node: where, int64 (n,).
            edge: that led there, -1 at the start of an episode, int64 (n,).
            spent_usd: so far, (n,).
            budget_usd, lambda_: of the episode that each is in, (n,).
        """
        n = len(node)
        rows = np.arange(n)
        signals = np.zeros((n, len(self._recording.edge_signal_names)), dtype=np.float32)
        if len(self._tables.fields.signals):
            np.copyto(signals, self._tables.fields.signals[edge], where=edge[:, None] >= 0)
        slots = Slots(
            node=node,
            ended=np.zeros(n, dtype=bool),
            spent_usd=spent_usd,
            budget_usd=budget_usd,
            lambda_=lambda_,
            response_signals=signals,
            key=np.zeros(n, dtype=np.uint64),
            group=rows,
            episode=rows,
            draws=rows,
        )
        out = np.empty((n, ObservationLayout.of(self._recording).width), dtype=np.float32)
        self._kernel.observe(self._tables, slots, rows, out)
        return out

    def _follow(
        self,
        front: _Front,
        observation: npt.NDArray[np.float32],
        probability: _Floats,
        budget_usd: _Floats,
        rng: np.random.Generator,
    ) -> tuple[_Layer, _Front]:
        """The edges out of these situations, and where they lead."""
        fields = self._tables.fields
        followed = front.weight > 0
        whole, single = np.flatnonzero(followed), np.flatnonzero(~followed)
        row, action = np.nonzero(observation[whole, self._legal] > 0.5)
        row = np.concatenate([whole[row], single])
        action = np.concatenate([action, _draw(probability[single], rng)])
        edge, share, kept = self._samples(front.node[row], action, rng)
        row, action = row[kept], action[kept]
        weight = front.weight[row] * probability[row, action] * share

        episode, spent = front.episode[row], front.spent_usd[row] + fields.cost_usd[edge]
        node = fields.next[edge].astype(np.int64)
        status = fields.status[node]
        onward = (status == OPEN) & (spent + fields.floor_usd[node] <= budget_usd[episode])
        outcome = np.zeros((len(edge), 2))
        outcome[:, 0] = np.where(status == OPEN, 0.0, fields.score[node])  # a dead end scores nothing
        outcome[:, 1] = fields.cost_usd[edge]
        places = np.flatnonzero(onward)
        layer = _Layer(
            observation=observation,
            front=front,
            whole=whole,
            probability=probability[whole],
            row=row,
            action=action,
            share=share,
            outcome=outcome,
            onward=places,
        )
        return layer, _Front(
            episode[places], node[places], edge[places], spent[places], self._thin(weight[places], episode[places], rng)
        )

    def _samples(self, node: _Ints, action: _Ints, rng: np.random.Generator) -> tuple[_Ints, _Floats, _Ints]:
        """Recorded samples of actions: edges, the share of each among those of its action, and whose they are."""
        fields = self._tables.fields
        first, count = fields.first[node, action].astype(np.int64), fields.samples[node, action].astype(np.int64)
        if (first < 0).any():
            place = int(np.argmax(first < 0))
            raise MissingEdgeError(
                f"{self._recording.name}: nothing recorded for node {int(node[place])}, action "
                f"{self._recording.action_names[int(action[place])]!r}; policy evaluation needs a complete recording"
            )
        everyone = np.arange(len(node))
        if self._width is not None or not self._tables.many:
            drawn = (rng.random(len(node)) * count).astype(np.int64) if self._tables.many else 0
            return first + drawn, np.ones(len(node)), everyone
        owner = np.repeat(everyone, count)
        number = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
        return first[owner] + number, 1.0 / count[owner], owner

    def _thin(self, weight: _Floats, episode: _Ints, rng: np.random.Generator) -> _Floats:
        """New weights, the same in expectation, and each either 0 or at least 1 / width.

        Systematic sampling in each episode by itself: about as many situations are drawn as their visits add up to.
        """
        if self._width is None:
            return np.maximum(weight, np.finfo(np.float64).tiny)
        least = 1.0 / self._width
        candidate = np.flatnonzero(weight > 0)  # they are in the order of the episodes
        chance = np.minimum(weight[candidate] / least, 1.0)
        episode = episode[candidate]
        before = np.cumsum(chance) - chance
        first = np.diff(episode, prepend=-1) > 0
        before -= np.maximum.accumulate(np.where(first, before, 0.0))
        before += rng.random(int(episode.max(initial=-1)) + 1)[episode]
        drawn = (np.floor(before + chance) > np.floor(before)) | (chance == 1.0)
        thinned = np.zeros(len(weight))
        thinned[candidate[drawn]] = np.maximum(weight[candidate[drawn]], least)
        return thinned


def _draw(probability: _Floats, rng: np.random.Generator) -> _Ints:
    """An action for each row, int64 (n,)."""
    cumulative = np.cumsum(probability, axis=1)
    drawn: _Ints = (cumulative > rng.random((len(probability), 1)) * cumulative[:, -1:]).argmax(axis=1)
    return drawn
