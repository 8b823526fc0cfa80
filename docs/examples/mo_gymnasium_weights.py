"""Score and cost as two rewards, in MO-Gymnasium's convention: one PPO for every way of weighing them.

pip install mo-gymnasium
python docs/examples/mo_gymnasium_weights.py 20000
"""

import sys

import gymnasium as gym
import numpy as np
from mo_gymnasium.wrappers import LinearReward
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

import routegym  # noqa: F401  registers the environments

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000


def make(weight: tuple[float, float], split: str) -> gym.Env:
    """The rewards of an episode sum up to (score, -cost / cost scale); gymnasium's checker wants scalar ones."""
    env = gym.make("routegym/Cascade-v0", reward="vector", split=split, disable_env_checker=True)
    return LinearReward(env, np.array(weight))


for weight in ((1.0, 0.0), (0.8, 0.2), (0.3, 0.7)):
    train = make_vec_env(lambda weight=weight: make(weight, "train"), n_envs=8, seed=0)
    model = PPO("MlpPolicy", train, n_steps=128, batch_size=256, learning_rate=2e-3, gamma=1.0, seed=0).learn(steps)
    env, found = make(weight, "test"), []
    for episode in range(200):
        observation, _ = env.reset(seed=episode)
        total, done = np.zeros(2), False
        while not done:
            action, _ = model.predict(observation, deterministic=True)
            observation, _, terminated, truncated, info = env.step(int(action))
            total, done = total + info["vector_reward"], terminated or truncated
        found.append(total)
    score, cost = np.mean(found, axis=0)
    print(f"weights {weight}: score {score:.3f}, cost {abs(cost):.3f} of the dearest arm's")
