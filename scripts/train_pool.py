"""Train the models of the embedded pool from nothing: one command, one thread, fixed seeds.

    python scripts/train_pool.py                       # every model, one after another
    python scripts/train_pool.py --model small --seed 0

Writes ``routegym/data/pool/<model>/config.json`` and ``model.safetensors`` (weights rounded to float16) and
brings ``routegym/data/pool/pool.yaml`` (arms, prices, training facts) up to date.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml
from rich.progress import track
from safetensors.torch import save_file
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from routegym.pool.codec import (
    ANSWER_TOKENS,
    END,
    PROMPT_TOKENS,
    VOCABULARY,
    WRITTEN_TOKENS,
    encode_answers,
    encode_operations,
)
from routegym.pool.config import POOL_SCHEMA
from routegym.pool.levels import sample_operations
from routegym.tasks.arithmetic import LEVELS

DATA = Path(__file__).resolve().parents[1] / "routegym" / "data" / "pool"

PRICE_DATE = "2026-11-22"

_DIRECT = {"template": "{prompt}", "max_tokens": ANSWER_TOKENS, "options": {"template": "direct"}}
_VOTE5 = {**_DIRECT, "samples": 5, "temperature": 0.7}
#: The tiers of each model; the models are in the order of `RECIPES`, cheapest first.
TIERS: dict[str, dict[str, Any]] = {"small": {"direct": _DIRECT, "vote5": _VOTE5}}

LOG_EVERY = 250
LOG_OPERATIONS = 300


@dataclass(frozen=True)
class Recipe:
    """How one model is built and trained."""

    width: int
    layers: int
    heads: int
    levels: dict[str, float]
    """Training range of direct answers: share of each level, normalised."""
    written: float
    """Share of training batches with the work written out."""
    steps: int
    batch: int
    learning_rate: float
    decay_from: float = 0.6
    """The rate is constant after the warm-up and decays linearly to 0 from this share of the steps on."""
    warmup: int = 100
    written_levels: dict[str, float] = field(default_factory=dict)
    """Training range of written answers; empty = that of direct ones."""
    weight_decay: float = 0.01


#: Shares of the levels for a model that sees all of them, three digits most often.
EVERY_LEVEL = {"add1": 1, "sub1": 1, "mul1": 1, "add2": 2, "sub2": 2, "mul2": 2, "add3": 3, "sub3": 3, "mul3": 3}

#: Each rung on its own range, larger rungs on harder levels.
RECIPES: dict[str, Recipe] = {
    "nano": Recipe(
        width=24,
        layers=2,
        heads=2,
        levels={"add1": 1, "sub1": 1, "mul1": 1, "add2": 2, "sub2": 2, "add3": 0.06, "sub3": 0.06},
        written=0.0,
        steps=2500,
        batch=512,
        learning_rate=6e-3,
    ),
    "times": Recipe(
        width=40,
        layers=2,
        heads=4,
        levels={"mul1": 1, "mul2": 2, "mul3": 4},
        written=0.0,
        steps=3000,
        batch=512,
        learning_rate=5e-3,
    ),
    "small": Recipe(
        width=64,
        layers=2,
        heads=4,
        levels={"add1": 1, "sub1": 1, "mul1": 1, "add2": 2, "sub2": 2, "mul2": 2, "add3": 0.16, "sub3": 0.16},
        written=0.0,
        steps=2400,
        batch=256,
        learning_rate=4e-3,
    ),
    "medium": Recipe(
        width=144,
        layers=2,
        heads=4,
        levels=EVERY_LEVEL | {"add3": 0.2, "sub3": 0.2, "mul3": 0.5},
        written=0.22,
        steps=2300,
        batch=256,
        learning_rate=2e-3,
        written_levels=EVERY_LEVEL,
    ),
    "large": Recipe(
        width=256,
        layers=2,
        heads=4,
        levels=EVERY_LEVEL | {"mul3": 4},
        written=0.25,
        steps=2800,
        batch=256,
        learning_rate=1.2e-3,
    ),
}


def build(recipe: Recipe) -> GPT2LMHeadModel:
    """A freshly initialised model."""
    config = GPT2Config(
        vocab_size=len(VOCABULARY),
        n_positions=PROMPT_TOKENS + WRITTEN_TOKENS,
        n_embd=recipe.width,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        activation_function="relu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=END,
    )
    model = GPT2LMHeadModel(config)
    # Faster than the fused kernels at a dozen positions.
    model.set_attn_implementation("eager")
    return model


def learning_rate(recipe: Recipe, step: int) -> float:
    """Rate at a step: linear warm-up, constant, linear decay."""
    start = recipe.decay_from * recipe.steps
    decay = min(1.0, (recipe.steps - step) / (recipe.steps - start))
    return recipe.learning_rate * min(1.0, (step + 1) / recipe.warmup) * decay


def sequences(rng: np.random.Generator, recipe: Recipe, size: int, template: str) -> npt.NDArray[np.int64]:
    """Prompt and answer tokens of one batch."""
    levels = (recipe.written_levels if template == "written" else {}) or recipe.levels
    a, op, b = sample_operations(rng, levels, size, part="train")
    return np.concatenate([encode_operations(a, op, b, template), encode_answers(a, op, b, template)], axis=1)


def train(name: str, recipe: Recipe, seed: int, out: Path) -> dict[str, Any]:
    """Train one model and write it to `out`."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng(np.random.SeedSequence([seed, recipe.width]))
    model = build(recipe)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    started = time.perf_counter()
    for step in track(range(recipe.steps), description=name):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        template = "written" if rng.random() < recipe.written else "direct"
        tokens = torch.from_numpy(sequences(rng, recipe, recipe.batch, template))
        logits = model(tokens[:, :-1], use_cache=False).logits[:, PROMPT_TOKENS - 1 :]
        answers = tokens[:, PROMPT_TOKENS:].reshape(-1)
        loss = functional.cross_entropy(logits.reshape(-1, len(VOCABULARY)), answers)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % LOG_EVERY == 0 or step + 1 == recipe.steps:
            seconds = time.perf_counter() - started
            print(f"{name} {step + 1} {seconds:.0f}s loss {loss.item():.4f} {accuracies(model, recipe)}")
    save(model, out)
    return {
        "folder": out.name,
        "parameters": sum(weights.numel() for weights in model.parameters()),
        "training": {
            "command": f"python scripts/train_pool.py --model {name} --seed {seed}",
            "seed": seed,
            "seconds": round(time.perf_counter() - started, 1),
            "recipe": asdict(recipe),
        },
    }


def update_pool_file(path: Path, trained: dict[str, dict[str, Any]]) -> None:
    """Put newly trained models into the pool file, with the arms and prices of all its models."""
    known = yaml.safe_load(path.read_text(encoding="utf-8"))["models"] if path.exists() else {}
    facts = {name: {**known, **trained}[name] for name in RECIPES if name in known or name in trained}
    models = {}
    for name, entry in facts.items():
        prompt = entry["parameters"] / 100_000
        listed = {"prompt": prompt, "cached": prompt / 10, "completion": 4 * prompt, "reasoning": 4 * prompt}
        models[name] = {
            "endpoint": "here",
            "folder": entry["folder"],
            "api": "completions",
            "parameters": entry["parameters"],
            "price": {kind: round(price, 9) for kind, price in listed.items()},
            "tiers": TIERS.get(name, {"direct": _DIRECT}),
            "training": entry["training"],
        }
    content = {
        "schema_version": POOL_SCHEMA,
        "name": "embedded",
        "about": "Arithmetic modulo 1000 by small GPT-2 models, trained by scripts/train_pool.py.",
        "prices": {"date": PRICE_DATE, "note": "nominal: proportional to the number of parameters"},
        "endpoints": {"here": {"backend": "arithmetic"}},
        "models": models,
    }
    path.write_text(yaml.dump(content, Dumper=_Plain, sort_keys=False, width=120), encoding="utf-8")


class _Plain(yaml.SafeDumper):
    """Writes equal parts out each time instead of referring to the first."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def save(model: GPT2LMHeadModel, out: Path) -> None:
    """Write the configuration and the weights rounded to float16."""
    out.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(out)
    weights = {
        name: value.detach().to(torch.float16).contiguous()
        for name, value in model.state_dict().items()
        # The output layer shares the embedding's weights.
        if name != "lm_head.weight"
    }
    path = out / "model.safetensors"
    save_file(weights, path, metadata={"format": "pt"})
    # safetensors writes for the owner only; an installed package must be readable by everyone.
    path.chmod(0o644)


@torch.no_grad()
def accuracies(model: GPT2LMHeadModel, recipe: Recipe) -> str:
    """Share of answers right in every digit by level, on held-out operands, for the progress log."""
    rng = np.random.default_rng(0)
    parts = []
    for template in ("direct", "written") if recipe.written else ("direct",):
        for name in LEVELS:
            a, op, b = sample_operations(rng, {name: 1.0}, LOG_OPERATIONS, part="held_out")
            prompts, answers = encode_operations(a, op, b, template), encode_answers(a, op, b, template)
            tokens = torch.from_numpy(np.concatenate([prompts, answers], axis=1))
            # Teacher forcing: if each greedy token is right after the right ones, so is the greedy answer.
            logits = model(tokens[:, :-1], use_cache=False).logits[:, PROMPT_TOKENS - 1 :]
            right = (logits.argmax(-1) == tokens[:, PROMPT_TOKENS:]).all(1).float().mean().item()
            parts.append(f"{template}:{name} {right:.2f}")
    return " ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(RECIPES), action="append", help="only these (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=DATA, help="folder to write to (default: the package's)")
    arguments = parser.parse_args()
    for name in arguments.model or RECIPES:
        trained = train(name, RECIPES[name], arguments.seed, arguments.out / name)
        update_pool_file(arguments.out / "pool.yaml", {name: trained})


if __name__ == "__main__":
    main()
