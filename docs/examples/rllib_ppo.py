"""PPO of RLlib on the native batch environment, under hard budgets, on several machines if Ray has them.

Ray 2.60 holds gymnasium at 1.2.2, so RLlib wants an environment of its own: docs/scripts.md says how it is made.

    python docs/examples/rllib_ppo.py 500000 2
"""

import sys
from pathlib import Path

import ray
import torch as th
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule

from routegym import load_recording
from routegym.evaluation.outcomes import Grid, play
from routegym.policies.network import NetworkPolicy
from routegym.policies.networks import make_actor
from routegym.policies.storage import save_policies

steps, runners = (int(word) for word in (sys.argv[1:] or ["500000", "2"]))
hidden = (64, 64)


class Router(TorchRLModule, ValueFunctionAPI):
    """routegym's own network, which masks what the budget cannot pay by what it observes; and a critic."""

    def setup(self) -> None:
        self.actor = make_actor("mlp", hidden, load_recording("cascade"))
        width = self.observation_space.shape[0]
        layers = [th.nn.Linear(width, 64), th.nn.Tanh(), th.nn.Linear(64, 64), th.nn.Tanh(), th.nn.Linear(64, 1)]
        self.critic = th.nn.Sequential(*layers)

    def _forward(self, batch: dict, **kwargs: object) -> dict:
        return {Columns.ACTION_DIST_INPUTS: self.actor(batch[Columns.OBS])}

    def compute_values(self, batch: dict, embeddings: object = None) -> th.Tensor:
        return self.critic(batch[Columns.OBS]).squeeze(-1)


batch = 8_192
config = (
    PPOConfig()
    .environment(
        "routegym:routegym/Cascade-v0",  # with its module: actors import it, too
        env_config={"budget_usd": "sampled", "lambda_": (0.0, 0.2), "info": "lean"},
    )
    .env_runners(
        num_env_runners=runners,
        num_envs_per_env_runner=batch // (16 * max(runners, 1)),
        gym_env_vectorize_mode="vector_entry_point",  # one environment of many episodes
        rollout_fragment_length=16,
    )
    .training(
        train_batch_size_per_learner=batch,
        minibatch_size=2_048,
        num_epochs=4,
        lr=2e-3,
        gamma=1.0,
        lambda_=0.95,
        entropy_coeff=0.005,
        clip_param=0.2,
        vf_loss_coeff=0.5,
        use_kl_loss=False,
        grad_clip=0.5,
    )
    .rl_module(rl_module_spec=RLModuleSpec(module_class=Router))
    .debugging(seed=0, log_level="ERROR")
)

if __name__ == "__main__":
    ray.init(include_dashboard=False, log_to_driver=False)
    algorithm = config.build_algo()
    done = 0
    while done < steps:
        found = algorithm.train()
        done = int(found["num_env_steps_sampled_lifetime"])
        print(f"step {done:7d}: mean reward {found['env_runners']['episode_return_mean']:.3f}")
    actor = algorithm.get_module().actor
    algorithm.stop()
    ray.shutdown()

    recording = load_recording("cascade")
    grid = Grid.of(recording, lambdas=[0.0])
    policy = NetworkPolicy(actor, "mlp", hidden)
    outcomes = play(policy, recording, "test", grid)  # as `routegym evaluate` does
    for budget, score, cost in zip(grid.budgets, outcomes.scores.mean(1), outcomes.costs.mean(1), strict=True):
        print(f"budget {budget:.6f} USD: score {score:.3f} at {cost:.6f} USD")
    folder = Path("runs/rllib")
    folder.mkdir(parents=True, exist_ok=True)
    save_policies(folder, recording, {0: policy})  # weights in safetensors, for `load_policies`
