"""PPO with TorchRL.

pip install torchrl
python docs/examples/torchrl_ppo.py 100000
"""

import sys

import gymnasium as gym
import torch as th
from tensordict.nn import TensorDictModule
from torchrl.collectors import Collector
from torchrl.envs import Compose, GymWrapper, InitTracker, RewardSum, SerialEnv, TransformedEnv
from torchrl.modules import MLP, OneHotCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import routegym  # noqa: F401  registers the environments

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
batch, minibatch, epochs = 2_048, 256, 4
th.manual_seed(0)


def make() -> GymWrapper:
    """A cascade, whose cost is priced at a fifth of the score."""
    return GymWrapper(gym.make("routegym/Cascade-v0", lambda_=0.2))  # GymEnv would hand it a frameskip


env = TransformedEnv(SerialEnv(16, make), Compose(InitTracker(), RewardSum()))
env.set_seed(0)
width, actions = env.observation_spec["observation"].shape[-1], env.action_spec.shape[-1]
network = TensorDictModule(MLP(width, actions, num_cells=[64, 64]), ["observation"], ["logits"])
actor = ProbabilisticActor(network, ["logits"], ["action"], distribution_class=OneHotCategorical, return_log_prob=True)
critic = ValueOperator(MLP(width, 1, num_cells=[64, 64]), in_keys=["observation"])
advantage = GAE(gamma=1.0, lmbda=0.95, value_network=critic)
loss_of = ClipPPOLoss(actor, critic, entropy_coeff=0.01, normalize_advantage=True)
optimizer = th.optim.Adam(loss_of.parameters(), lr=2e-3)

collector = Collector(env, actor, frames_per_batch=batch, total_frames=max(steps // batch, 1) * batch)
for number, data in enumerate(collector):
    for _ in range(epochs):
        with th.no_grad():
            advantage(data)
        rows = data.reshape(-1)
        for part in th.randperm(len(rows)).split(minibatch):
            losses = loss_of(rows[part])
            loss = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    ended = data["next", "done"]
    reward = data["next", "episode_reward"][ended].mean().item()
    print(f"step {(number + 1) * batch:7d}: mean reward {reward:.3f}")
collector.shutdown()
