"""PPO with Tianshou 2.

pip install tianshou
python docs/examples/tianshou_ppo.py 10
"""

import sys

import gymnasium as gym
import torch as th
from tianshou.algorithm import PPO
from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OnPolicyTrainerParams
from tianshou.utils.net.common import Net
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic

import routegym  # noqa: F401  registers the environments

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
th.manual_seed(0)


def make(split: str) -> gym.Env:
    """A cascade, whose cost is priced at a fifth of the score."""
    return gym.make("routegym/Cascade-v0", lambda_=0.2, split=split)


train = DummyVectorEnv([lambda: make("train") for _ in range(16)])
test = DummyVectorEnv([lambda: make("test") for _ in range(16)])
train.seed(0)
test.seed(1)
env = make("train")
body = Net(state_shape=env.observation_space.shape, hidden_sizes=[64, 64])
actor = DiscreteActor(preprocess_net=body, action_shape=env.action_space.n, softmax_output=False)
critic = DiscreteCritic(preprocess_net=Net(state_shape=env.observation_space.shape, hidden_sizes=[64, 64]))
policy = DiscreteActorPolicy(actor=actor, action_space=env.action_space, deterministic_eval=True)
algorithm = PPO(policy=policy, critic=critic, optim=AdamOptimizerFactory(lr=2e-3), gamma=1.0, ent_coef=0.01)
result = algorithm.run_training(
    OnPolicyTrainerParams(
        training_collector=Collector(algorithm, train, VectorReplayBuffer(4_096, 16)),
        test_collector=Collector(algorithm, test),
        max_epochs=epochs,
        epoch_num_steps=4_096,
        collection_step_num_env_steps=2_048,
        update_step_num_repetitions=4,
        batch_size=256,
        test_step_num_episodes=200,
        show_progress=False,
        verbose=False,
    )
)
print(f"best mean reward on test tasks: {result.best_reward:.3f}")
