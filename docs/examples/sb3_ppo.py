"""Train a router with plain stable-baselines3: nothing here knows more about routegym than the env id."""

import sys

import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import routegym  # noqa: F401  (registers the envs)

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000

# lambda_ is the price of cost in the reward: 0.2 means that always asking the dearest arm costs 0.2 points of score
train_env = make_vec_env("routegym/AgentSteps-v0", n_envs=16, env_kwargs={"lambda_": 0.2})
model = PPO("MlpPolicy", train_env, n_steps=128, batch_size=512, gamma=1.0, learning_rate=1e-3, seed=0)
model.learn(steps, progress_bar=False)

test_env = gym.make("routegym/AgentSteps-v0", lambda_=0.2, split="test")
reward, spread = evaluate_policy(model, test_env, n_eval_episodes=200, warn=False)
print(f"mean reward on test tasks: {reward:.3f} +- {spread / 200**0.5:.3f}")

observation, info = test_env.reset(seed=1)
done = False
while not done:
    action, _ = model.predict(observation, deterministic=True)
    observation, reward, terminated, truncated, info = test_env.step(action)
    arm = test_env.unwrapped.recording.action_names[int(action)]
    print(f"{arm:<16} ${info['cost_usd']:.6f} -> {info['text']}")
    done = terminated or truncated
print(f"score {info['score']:.0f}, cost ${info['cost_usd_total']:.6f}")
