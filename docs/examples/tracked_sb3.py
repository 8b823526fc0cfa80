"""A training script of one's own with stable-baselines3, whose metrics go to runs/tracked and to TensorBoard or W&B.

python docs/examples/tracked_sb3.py                       # runs/tracked/metrics.jsonl and runs/tracked/tensorboard
WANDB_MODE=offline python docs/examples/tracked_sb3.py 200000 wandb
"""

import sys

from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env

import routegym  # noqa: F401  registers the environments
from routegym.policies.sb3_training import MetricsCallback
from routegym.tracking import Run, Tracking

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
service = sys.argv[2] if len(sys.argv) > 2 else "tensorboard"
settings = {"learning_rate": 1e-3, "exploration_fraction": 0.5}

env = make_vec_env("routegym/SingleCall-v0", n_envs=4, seed=0, env_kwargs={"lambda_": 0.1})
model = DQN("MlpPolicy", env, seed=0, **settings)
run = Run("runs/tracked")
with Tracking(run, "single_call", service, {"algo": "dqn", **settings}) as tracking:
    model.learn(steps, callback=MetricsCallback(tracking.report, seed=0, every=2_000))
for record in run.history()[-3:]:
    print(f"step {record['step']:6d}: score {record['score']:.3f} at ${record['cost_usd']:.6f}")
