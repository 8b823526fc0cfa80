"""The same environment on live models: whatever is not recorded yet is asked, once, and kept."""

import sys
import tempfile
from pathlib import Path

from routegym import Recording, RoutingVectorEnv
from routegym.envs.agent_steps import AgentStepsWorkflow
from routegym.graph import Expander, start_recording
from routegym.pool.pool import load_pool
from routegym.tasks import generate_tasks

tasks = generate_tasks(int(sys.argv[1]) if len(sys.argv) > 1 else 50, seed=7)
pool, workflow = load_pool(), AgentStepsWorkflow()

recording = start_recording("live", workflow, pool, tasks)  # nothing but the tasks' first situations, once it grows
expander = Expander(workflow, pool, recording)
recording.fix_scales()

env = RoutingVectorEnv(len(tasks.ids), recording, split="all", expander=expander, autoreset_mode="Disabled")
for arm in (0, len(pool.arms) - 1):
    env.reset(seed=0, options={"task_id": range(len(tasks.ids))})
    score, done = 0.0, 0
    while done < env.num_envs:
        observation, reward, terminated, truncated, info = env.step([arm] * env.num_envs)
        score += info["score"].sum()
        done += (terminated | truncated).sum()
    cost = info["cost_usd_total"].mean()
    print(
        f"always {pool.arms[arm].name:<16} score {score / done:.2f}  cost ${cost:.6f}  calls {recording.graph.n_edges}"
    )

folder = Path(tempfile.mkdtemp()) / "live"
recording.save(folder)
print(f"kept {Recording.load(folder).graph.n_edges} calls in {folder}; replaying them costs nothing")
