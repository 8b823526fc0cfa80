"""A language model as the router, trained by TRL's GRPOTrainer: python docs/examples/trl_grpo.py FOLDER [STEPS]

FOLDER holds a causal language model with its tokenizer. Here it speaks ChatML and gets short calls; leave
`use_short_calls` out for a model with tools of its own.
"""

import os
import sys

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # environment_factory is new in TRL and says so

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from routegym.core import RoutingVectorEnv
from routegym.core.rollout import rollout
from routegym.graph.library import load_recording
from routegym.integrations.language_model import LanguageModelRouter
from routegym.integrations.trl import router_environment, tasks, use_short_calls

folder = sys.argv[1]
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 20

recording = load_recording("cascade")
environment = router_environment(recording)  # one tool for every arm, one object for every episode
print(environment.text.tool_names)

tokenizer = AutoTokenizer.from_pretrained(folder)
use_short_calls(tokenizer)
trainer = GRPOTrainer(
    AutoModelForCausalLM.from_pretrained(folder),
    args=GRPOConfig(
        output_dir="grpo",
        max_steps=steps,
        per_device_train_batch_size=4,
        num_generations=4,  # a group: the same task, budget and price
        max_completion_length=256,
        max_tool_calling_iterations=5,
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        save_strategy="no",
    ),
    train_dataset=tasks(recording, episodes=steps),
    processing_class=tokenizer,
    environment_factory=environment,
)
trainer.train()

router = LanguageModelRouter(trainer.model, tokenizer, recording)
env = RoutingVectorEnv(16, recording, split="test", observation="text", autoreset_mode="SameStep")
played = rollout(router, env, recording.split("test")[:32], budget_usd=recording.budget_range_usd[1], lambda_=0.1)
print(f"score {played.score.mean():.3f} at ${played.cost_usd.mean():.6f}, {played.violations.sum()} above the budget")
