"""PPO in CleanRL's style: plain torch and ``gym.make_vec``, hard budgets through action masks."""

import sys

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

import routegym  # noqa: F401  (registers the envs)

total, n_envs, n_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 300_000, 256, 16
envs = gym.make_vec("routegym/AgentSteps-v0", n_envs, "vector_entry_point", budget_usd="sampled", lambda_=0.02)
width, n_actions = envs.single_observation_space.shape[0], int(envs.single_action_space.n)
torch.manual_seed(0)
actor = nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, n_actions))
critic = nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 1), nn.Flatten(0))
optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=3e-3)
obs, ended = envs.reset(seed=0)[0], np.zeros(n_envs, dtype=bool)

for update in range(1, total // (n_envs * n_steps) + 1):
    steps, scores = [], []
    for _ in range(n_steps):
        o, mask, live = torch.tensor(obs), torch.tensor(envs.action_masks()), torch.tensor(~ended)
        with torch.no_grad():
            choice = Categorical(logits=actor(o).masked_fill(~mask, -1e9))
            action = choice.sample()
        obs, reward, terminated, truncated, info = envs.step(action.numpy())
        ended = terminated | truncated  # NEXT_STEP autoreset: the next step only resets, and is not learned from
        scores.extend(info["score"][ended])
        steps.append((o, mask, action, choice.log_prob(action), live, torch.tensor(reward), torch.tensor(ended)))
    o, mask, action, old_logp, live, reward, done = (torch.stack(part) for part in zip(*steps, strict=True))
    with torch.no_grad():
        target, ahead = torch.zeros(n_steps, n_envs), critic(torch.tensor(obs))
        for t in reversed(range(n_steps)):
            target[t] = ahead = reward[t].float() + ahead * ~done[t]
    o, mask, action, old_logp, target = (part[live] for part in (o, mask, action, old_logp, target))
    for batch in [part for _ in range(4) for part in torch.randperm(len(o)).split(1024)]:
        choice, value = Categorical(logits=actor(o[batch]).masked_fill(~mask[batch], -1e9)), critic(o[batch])
        gain = (target[batch] - value).detach()
        gain = (gain - gain.mean()) / (gain.std() + 1e-8)
        ratio = (choice.log_prob(action[batch]) - old_logp[batch]).exp()
        policy_loss = -torch.min(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()
        loss = policy_loss + 0.5 * (value - target[batch]).pow(2).mean() - 0.005 * choice.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"step {update * n_envs * n_steps:>8,}  score {np.mean(scores):.3f} over {len(scores)} episodes")
