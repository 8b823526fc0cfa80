"""Advantage actor-critic in CleanRL's style: plain torch and ``gym.make_vec``, hard budgets through action masks."""

import sys

import gymnasium as gym
import numpy as np
import torch
from torch.distributions import Categorical

import routegym  # noqa: F401  (registers the envs)

total, n_envs, n_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 500_000, 256, 6
envs = gym.make_vec("routegym/AgentSteps-v0", n_envs, "vector_entry_point", budget_usd="sampled", lambda_=0.02)
width, n_actions = envs.single_observation_space.shape[0], int(envs.single_action_space.n)
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(width, 64), torch.nn.Tanh(), torch.nn.Linear(64, n_actions + 1))
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
(obs, info), ended, scores = envs.reset(seed=0), np.zeros(n_envs, dtype=bool), []

for update in range(1, total // (n_envs * n_steps) + 1):
    steps = []
    for _ in range(n_steps):
        out, mask, live = net(torch.tensor(obs)), torch.tensor(envs.action_masks()), torch.tensor(~ended)
        choice = Categorical(logits=out[:, :-1].masked_fill(~mask, -1e9))
        action = choice.sample()
        obs, reward, terminated, truncated, info = envs.step(action.numpy())
        ended = terminated | truncated  # NEXT_STEP autoreset: the next step only resets, and is not learned from
        scores.extend(info["score"][ended])
        reward, done = torch.tensor(reward, dtype=torch.float32), torch.tensor(ended)
        steps.append((choice.log_prob(action), choice.entropy(), out[:, -1], reward, done, live))
    logp, entropy, value, reward, done, live = (torch.stack(part) for part in zip(*steps, strict=True))
    target, ahead = torch.zeros_like(value), net(torch.tensor(obs))[:, -1].detach()
    for t in reversed(range(n_steps)):
        target[t] = ahead = reward[t] + ahead * ~done[t]
    gain = target - value
    loss = (0.5 * gain**2 - logp * gain.detach() - 0.005 * entropy)[live].mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if update % 20 == 0:
        print(f"step {update * n_envs * n_steps:>8,}  score {np.mean(scores):.3f} over {len(scores)} episodes")
        scores = []
