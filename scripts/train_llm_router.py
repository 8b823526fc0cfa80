"""Train a small language model as a router: warm start from demonstrations, GRPO, and a table beside other routers.

    python scripts/train_llm_router.py --model FOLDER --out runs/llm_router

FOLDER holds a causal language model that speaks ChatML, such as the SmolLM2-135M-Instruct that
`scripts/convert_gguf.py` makes. Needs `pip install "routegym[trl,train,pool]"`. Every stage is kept in OUT: run the
same command again and it goes on after the last one that was finished.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from routegym.evaluation.bench import keep_outcomes, read_outcomes
from routegym.evaluation.outcomes import Grid, Outcomes, budget_grid, play
from routegym.evaluation.references import arms_alone
from routegym.evaluation.statistics import Sweep, aiq_difference, mean_interval
from routegym.graph.library import load_recording
from routegym.graph.recording import Recording
from routegym.integrations.language_model import LanguageModelRouter
from routegym.integrations.teacher import best_action
from routegym.integrations.trl import demonstrations, router_environment, tasks, use_short_calls
from routegym.policies.algorithm import Problem, algorithm_class
from routegym.policies.config import tuned
from routegym.policies.text_ppo import TextPPO

BASELINES = ("always", "random_mixture", "confidence_cascade", "all_action", "maskable_ppo", "text_ppo")
SEEDS = {"all_action": 3, "maskable_ppo": 3, "text_ppo": 3}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the language model")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, logs and the table")
    parser.add_argument("--recording", default="cascade")
    parser.add_argument("--lambda", dest="price", type=float, default=0.1, help="price of cost")
    parser.add_argument("--demonstrations", type=int, default=128)
    parser.add_argument("--steps", type=int, default=12, help="updates of GRPO, one group each")
    parser.add_argument("--group", type=int, default=8, help="roll-outs of a group")
    parser.add_argument("--layers", type=int, default=8, help="transformer layers that are trained, the last ones")
    parser.add_argument("--test-tasks", type=int, default=60, help="held-out tasks to play")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    same_options(options)
    recording = fewer_test_tasks(load_recording(options.recording), options.test_tasks)
    grid = Grid(budget_grid(recording, 3)[1:], np.array([options.price]))
    played = {name: baseline(name, recording, grid, options) for name in BASELINES}
    stages: dict[str, Callable[[], Path]] = {
        "SmolLM2, untrained": lambda: options.model,
        "SmolLM2, warm start": lambda: warm_start(recording, options),
        "SmolLM2, warm start and GRPO": lambda: grpo(recording, options),
    }
    for name, stage in stages.items():
        played[name] = [language_model(stage(), recording, grid, options.out)]
    table(recording, grid, played, options.out)
    return 0


def same_options(options: argparse.Namespace) -> None:
    """What is kept in OUT is of one set of options."""
    mine = {name: str(value) for name, value in vars(options).items() if name != "out"}
    path = options.out / "options.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != mine:
        raise SystemExit(f"{options.out}: holds results of other options; name another folder with --out")
    path.write_text(json.dumps(mine, indent=1), encoding="utf-8")


def fewer_test_tasks(recording: Recording, count: int) -> Recording:
    """The recording with only so many test tasks, the first ones; the rest are validation tasks, which rules use."""
    splits = np.array(recording.tasks.splits, dtype=object)
    splits[recording.split("test")[count:]] = "val"
    return replace(recording, tasks=replace(recording.tasks, splits=tuple(splits)))


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    use_short_calls(tokenizer)
    return model, tokenizer


def thaw(model: PreTrainedModel, layers: int) -> None:
    """Train the last layers only; what is frozen stays in bfloat16, as it was stored."""
    model.requires_grad_(False)
    model.to(torch.bfloat16)
    for layer in model.model.layers[-layers:]:
        layer.requires_grad_(True).float()


def settings(options: argparse.Namespace, name: str) -> dict[str, Any]:
    return {
        "output_dir": str(options.out / f"{name}-trainer"),
        "use_cpu": not torch.cuda.is_available(),
        "bf16": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "gradient_checkpointing": False,
        "lr_scheduler_type": "linear",
        "seed": options.seed,
    }


def warm_start(recording: Recording, options: argparse.Namespace) -> Path:
    """Imitate the cheapest routes that win training tasks within their budgets."""
    folder = options.out / "warm_start"
    if (folder / "config.json").is_file():
        return folder
    began = time.monotonic()
    model, tokenizer = load(options.model)
    thaw(model, options.layers)
    rows = tasks(recording, options.demonstrations, lambda_=options.price, seed=options.seed)
    shown = demonstrations(router_environment(recording), rows, best_action)
    config = SFTConfig(
        **settings(options, "warm_start"),
        per_device_train_batch_size=4,
        num_train_epochs=1,
        learning_rate=2e-4,
        max_length=512,
        assistant_only_loss=True,
    )
    trainer = SFTTrainer(model, args=config, train_dataset=shown, processing_class=tokenizer)
    trainer.train()
    finish(trainer, folder, began)
    return folder


def grpo(recording: Recording, options: argparse.Namespace) -> Path:
    """Go on from the warm start by GRPO on the environment's own reward."""
    folder = options.out / "grpo"
    if (folder / "config.json").is_file():
        return folder
    began = time.monotonic()
    model, tokenizer = load(options.out / "warm_start")
    thaw(model, options.layers)
    config = GRPOConfig(
        **settings(options, "grpo"),
        per_device_train_batch_size=options.group,
        num_generations=options.group,
        max_steps=options.steps,
        learning_rate=5e-5,
        max_completion_length=320,
        max_tool_calling_iterations=5,  # rounds of the longest episode, and one for a refused call
        generation_kwargs={"max_new_tokens": 16},  # a round: a call and no thoughts
    )
    rows = tasks(recording, options.steps, lambda_=options.price, seed=options.seed + 1)
    trainer = GRPOTrainer(
        model,
        args=config,
        train_dataset=rows,
        processing_class=tokenizer,
        environment_factory=router_environment(recording),
    )
    trainer.train()
    finish(trainer, folder, began)
    return folder


def finish(trainer: Any, folder: Path, began: float) -> None:
    log = "".join(json.dumps(record) + "\n" for record in trainer.state.log_history)
    folder.with_suffix(".jsonl").write_text(log, encoding="utf-8")
    print(f"{folder.name}: {time.monotonic() - began:.0f} s", flush=True)
    draft = folder.with_name(f".{folder.name}")
    trainer.save_model(str(draft))
    draft.rename(folder)  # as a whole: a stage whose folder is there is finished


def language_model(folder: Path, recording: Recording, grid: Grid, out: Path) -> Outcomes:
    """Play the test tasks, or read what was played."""
    kept = out / f"played-{folder.name}.safetensors"
    found = read_outcomes(kept)
    if found is None:
        began = time.monotonic()
        router = LanguageModelRouter(*load(folder), recording)
        found = play(router, recording, "test", grid)
        keep_outcomes(kept, found)
        episodes = found.costs.size
        calls, tokens = found.calls.sum() / episodes, router.tokens / router.decisions
        print(
            f"{folder.name}: {episodes} episodes in {time.monotonic() - began:.0f} s; {calls:.2f} calls in each, and "
            f"{tokens:.0f} tokens of its own for each decision",
            flush=True,
        )
    return found


def baseline(name: str, recording: Recording, grid: Grid, options: argparse.Namespace) -> list[Outcomes]:
    """Fit and play a router of the package, once for each of its seeds."""
    env = f"routegym/{''.join(part.title() for part in recording.kind.split('_'))}-v0"
    played = []
    for seed in range(SEEDS.get(name, 1)):
        kept = options.out / f"played-{name}-{seed}.safetensors"
        found = read_outcomes(kept)
        if found is None:
            began = time.process_time()
            cls: Any = TextPPO if name == "text_ppo" else algorithm_class(name)
            if hasattr(cls, "fit"):
                algorithm = TextPPO() if name == "text_ppo" else tuned(name, env)
                policy = algorithm.fit(Problem(recording, lambda_=options.price), seed)
            else:
                policy = cls(recording)
            print(f"{name}, seed {seed}: fitted in {time.process_time() - began:.0f} CPU s", flush=True)
            found = play(policy, recording, "test", grid)
            keep_outcomes(kept, found)
        played.append(found)
    return played


def table(recording: Recording, grid: Grid, played: dict[str, list[Outcomes]], out: Path) -> None:
    """Score and cost under each budget, and AIQ through all operating points: none is chosen."""
    arms = arms_alone(recording, recording.split("test"))
    lines = [
        "| router | AIQ over zero router | reward | "
        + " | ".join("no cap" if np.isinf(b) else f"{b * 1e6:.3g}" for b in grid.budgets)
        + " |",
        "| --- | ---: | ---: |" + " ---: |" * len(grid.budgets),
    ]
    for name, outcomes in played.items():
        sweep = Sweep(np.stack([o.scores for o in outcomes]).astype(np.float64), np.stack([o.costs for o in outcomes]))
        gain = aiq_difference(sweep, arms, arms)
        reward = sweep.scores - grid.lambdas[0] * sweep.costs / recording.cost_scale_usd
        mean = mean_interval(reward.mean(axis=(0, 1)))
        cells = [
            f"{score:.3f} at {cost * 1e6:.3g}"
            for score, cost in zip(sweep.scores.mean(axis=(0, 2)), sweep.costs.mean(axis=(0, 2)), strict=True)
        ]
        assert not sum(o.violations.sum() for o in outcomes)
        lines.append(
            f"| {name} | {gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] | {mean.estimate:.3f} "
            f"[{mean.low:.3f}, {mean.high:.3f}] | " + " | ".join(cells) + " |"
        )
    text = "\n".join(lines) + "\n"
    (out / "table.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    raise SystemExit(main())
