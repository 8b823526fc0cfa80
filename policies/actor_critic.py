"""Our actors inside the policy classes of stable-baselines3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from routegym.core.observation import ObservationLayout
from routegym.errors import MissingExtraError
from routegym.policies.network import NetworkPolicy
from routegym.policies.networks import Actor, make_actor
from routegym.policies.networks.mlp import mlp
from routegym.policies.networks.recurrent import RecurrentActor, make_head
from routegym.policies.networks.text import TextEncoder, text_actor
from routegym.policies.recurrent import RecurrentPolicy

try:
    import torch as th
    from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
    from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
except ImportError as error:
    raise MissingExtraError("sb3-contrib", "train") from error

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = ["ActorCritic", "CostCritic", "MaskableActorCritic", "RecurrentActorCritic", "TextActorCritic"]


class _Extractor(th.nn.Module):
    """In the place of stable-baselines3's extractor: the actor's logits, and the last hidden layer of a critic."""

    def __init__(self, actor: Actor, n_actions: int, inputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.latent_dim_pi, self.latent_dim_vf = n_actions, hidden[-1]
        self.actor = actor
        self.critic = th.nn.Sequential(mlp(inputs, hidden[:-1], hidden[-1], last_gain=2**0.5), th.nn.Tanh())

    def forward(self, features: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: th.Tensor) -> th.Tensor:
        logits: th.Tensor = self.actor(features)
        return logits

    def forward_critic(self, features: th.Tensor) -> th.Tensor:
        value: th.Tensor = self.critic(features)
        return value


class _Routing:
    """Mixed into a policy class of stable-baselines3: builds our networks in the place of its own.

    Args of the policy (``policy_kwargs``):
        recording: what the networks are made for.
        network: a key of `routegym.policies.networks.NETWORKS`.
        hidden: widths of the hidden layers, for actor and critic each.
    """

    # Of the class that this is mixed into.
    mlp_extractor: Any
    action_net: Any
    value_net: Any
    features_dim: int
    optimizer: th.optim.Optimizer
    optimizer_class: Any
    optimizer_kwargs: dict[str, Any]

    def __init__(
        self, *args: Any, recording: Recording, network: str = "mlp", hidden: Sequence[int] = (64, 64), **kwargs: Any
    ) -> None:
        self.recording, self.network, self.hidden = recording, network, tuple(hidden)
        super().__init__(*args, ortho_init=False, **kwargs)  # type: ignore[call-arg]

    def _build_mlp_extractor(self) -> None:
        actor = make_actor(self.network, self.hidden, self.recording)
        n_actions = self.recording.graph.n_actions
        self.mlp_extractor = _Extractor(actor, n_actions, self.features_dim, self.hidden)

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)  # type: ignore[misc]
        self.action_net = th.nn.Identity()  # the actor's logits are final
        th.nn.init.orthogonal_(self.value_net.weight, 1.0)
        th.nn.init.zeros_(self.value_net.bias)
        parameters = self.parameters()  # type: ignore[attr-defined]
        self.optimizer = self.optimizer_class(parameters, lr=lr_schedule(1), **self.optimizer_kwargs)

    def to_network_policy(self, stochastic: bool = False) -> NetworkPolicy:
        """The actor alone; for `stochastic` see `NetworkPolicy`."""
        return NetworkPolicy(self.mlp_extractor.actor, self.network, self.hidden, stochastic)


class ActorCritic(_Routing, ActorCriticPolicy):
    """Actor and critic for PPO, GRPO and others without mask arguments: the actor masks by itself."""


class MaskableActorCritic(_Routing, MaskableActorCriticPolicy):
    """Actor and critic for sb3-contrib's MaskablePPO."""


class CostCritic(ActorCritic):
    """With a second critic, for the cost still to come; `PPOLagrangian` trains it."""

    def _build_mlp_extractor(self) -> None:
        super()._build_mlp_extractor()
        self.cost_critic = mlp(self.features_dim, self.hidden, 1, last_gain=1.0)

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.cost_optimizer = self.optimizer_class(self.cost_critic.parameters(), lr=lr_schedule(1))

    def cost_values(self, observation: th.Tensor) -> th.Tensor:
        """Expected cost still to come, in cost scales, (n,), of observations (n, width)."""
        values: th.Tensor = self.cost_critic(observation)
        return values.squeeze(-1)


class RecurrentActorCritic(_Routing, RecurrentActorCriticPolicy):
    """Actor and critic for sb3-contrib's RecurrentPPO, each with an LSTM beside the present observation.

    Args of the policy (``policy_kwargs``): those of the others but for ``network``, and ``lstm_hidden_size``.
    """

    def _build_mlp_extractor(self) -> None:
        head = make_head(self.lstm_output_dim, self.hidden, self.recording)
        inputs = self.features_dim + self.lstm_output_dim
        self.mlp_extractor = _Extractor(head, self.recording.graph.n_actions, inputs, self.hidden)

    @staticmethod
    def _process_sequence(
        features: th.Tensor,
        lstm_states: tuple[th.Tensor, th.Tensor],
        episode_starts: th.Tensor,
        lstm: th.nn.LSTM,
    ) -> tuple[th.Tensor, Any]:
        # The observation goes on to the head, which finds there what is legal.
        output, states = RecurrentActorCriticPolicy._process_sequence(features, lstm_states, episode_starts, lstm)
        return th.cat([features, output], dim=-1), states

    def to_recurrent_policy(self) -> RecurrentPolicy:
        """The actor alone."""
        return RecurrentPolicy(RecurrentActor(self.lstm_actor, self.mlp_extractor.actor), self.hidden)


class TextActorCritic(MaskableActorCritic):
    """Actor and critic on the features of one encoder of the text, for observations as `text_columns` makes them.

    Args of the policy (``policy_kwargs``): ``recording`` and ``hidden``.
    """

    features_extractor: _Reader

    def __init__(self, *args: Any, recording: Recording, **kwargs: Any) -> None:
        layout = ObservationLayout.of(recording)
        reader: dict[str, Any] = {"features_extractor_class": _Reader, "features_extractor_kwargs": {"layout": layout}}
        super().__init__(*args, recording=recording, **reader, **kwargs)

    def _build_mlp_extractor(self) -> None:
        head = make_head(self.features_extractor.encoder.width, self.hidden, self.recording)
        self.mlp_extractor = _Extractor(head, self.recording.graph.n_actions, self.features_dim, self.hidden)

    def to_text_actor(self) -> Actor:
        """The actor alone."""
        layout = ObservationLayout.of(self.recording)
        return text_actor(self.features_extractor.encoder, self.mlp_extractor.actor, layout)


class _Reader(BaseFeaturesExtractor):
    """The encoder as a features extractor of stable-baselines3."""

    def __init__(self, observation_space: Any, layout: ObservationLayout) -> None:
        encoder = TextEncoder(layout, observation_space.shape[0] - layout.width)
        super().__init__(observation_space, layout.width + encoder.width)
        self.encoder = encoder

    def forward(self, rows: th.Tensor) -> th.Tensor:
        features: th.Tensor = self.encoder(rows)
        return features
