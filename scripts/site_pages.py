"""Write the pages of the site that are made from the code: docs/envs.md with its pictures, and docs/papers.md.

example:
  python scripts/site_pages.py
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from matplotlib.figure import Figure

from routegym.registration import ENV_IDS

_ROOT = Path(__file__).resolve().parents[1]
_PAPERS = ("policies", "envs", "routegym/core", "routegym/evaluation", "routegym/integrations")
_STEPS = {"SingleCall": 1, "Cascade": 3, "AgentSteps": 4, "Attempts": 4}  # of the routes that are drawn
_BUDGET = 0.001


@dataclass(frozen=True)
class SitePages:
    """Bring the generated pages up to date."""

    pictures: bool = True
    """Draw the routes anew as well."""

    def run(self) -> None:
        """Write them."""
        (_ROOT / "docs" / "envs.md").write_text(environments_page(), encoding="utf-8")
        (_ROOT / "docs" / "papers.md").write_text(papers_page(), encoding="utf-8")
        for name, length in _STEPS.items() if self.pictures else ():
            routes = (_route(f"routegym/{name}-v0", seed) for seed in range(1000))
            figure = _drawn(*next(route for route in routes if len(route[1]) == length and route[2] == 1))
            figure.savefig(_ROOT / "docs" / "pictures" / f"route-{name.lower()}.png", dpi=110)


def environments_page() -> str:
    """Every environment's docstring, with a picture of a route."""
    parts = [
        "# Environments\n\n<!-- made by scripts/site_pages.py from the docstrings -->\n\n"
        "After `import routegym`, or as `routegym:routegym/...`, `gymnasium.make` gives the scalar environment and "
        '`gymnasium.make_vec(..., vectorization_mode="vector_entry_point")` the native batch one. The routes below are '
        f"a lucky random policy's, under a hard budget of ${_BUDGET:g}; arms that it cannot pay for are masked."
    ]
    for env_id in ENV_IDS:
        env: Any = gym.make(env_id).unwrapped
        text = inspect.cleandoc(type(env).__doc__ or "")
        first, _, rest = text.partition("\n\n")
        body = re.sub(r"``([^`]+)``", r"`\1`", rest).replace("\n## ", "\n### ").removeprefix("## ")
        picture = f"pictures/route-{env_id.partition('/')[2].partition('-')[0].lower()}.png"
        parts.append(f"## {env_id}\n\n{first}\n\n![a route of {env_id}]({picture})\n\n### {body}")
    return "\n\n".join(parts) + "\n"


def papers_page() -> str:
    """What the code says of the papers that it follows, module by module, with its deviations."""
    parts = [
        "# Papers\n\n<!-- made by scripts/site_pages.py from the docstrings -->\n\n"
        "What is implemented here from the literature, and where it deviates, in the words of each module."
    ]
    for folder in _PAPERS:
        for path in sorted((_ROOT / folder).rglob("*.py")):
            found = list(_of_papers(path))
            if found:
                module = ".".join(("routegym", *path.relative_to(_ROOT).with_suffix("").parts)).replace(
                    "routegym.routegym", "routegym"
                )
                parts.append(f"## `{module}`\n\n" + "\n\n".join(found))
    return "\n\n".join(parts) + "\n"


def _of_papers(path: Path) -> Iterator[str]:
    """Paragraphs of a module's docstring that begin with the papers it follows."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    for paragraph in text.split("\n\n"):
        if re.match(r"Papers?:", paragraph):
            plain = re.sub(r"``([^`]+)``", r"`\1`", " ".join(paragraph.split()))
            yield plain.replace(" Deviations:", "\n\nDeviations:")


def _route(env_id: str, seed: int) -> tuple[str, list[tuple[str, float, str]], float]:
    """A random policy's route: its task, each action with its cost and the situation it led to, and the score."""
    env = gym.make(env_id, budget_usd=_BUDGET, split="test")
    _, info = env.reset(seed=seed)
    core: Any = env.unwrapped
    recording, steps, rng, done = core.recording, [], np.random.default_rng(seed), False
    prompt = recording.tasks.prompts[recording.tasks.ids.index(info["task_id"])]
    while not done:
        action = int(rng.choice(np.flatnonzero(core.action_masks())))
        _, _, terminated, truncated, info = env.step(action)
        steps.append((recording.action_names[action], float(info["cost_usd"]), _readable(str(info["text"]))))
        done = terminated or truncated
    return prompt, steps, float(info["score"])


def _readable(text: str) -> str:
    """The last line of a situation, one thing in a line where it is JSON."""
    text = text.rsplit("\n", 1)[-1]
    if text.startswith("[["):
        return "\n".join(f"{arm}: {answer}" for arm, answer, _ in json.loads(text))
    if text.startswith("{"):
        parts = {
            name: " ".join(value) if isinstance(value, list) else value for name, value in json.loads(text).items()
        }
        return "\n".join(f"{name}: {value}" for name, value in parts.items() if value)
    return text


def _drawn(prompt: str, steps: list[tuple[str, float, str]], score: float) -> Figure:
    """Situations from left to right, what was chosen between them, and the budget as it runs down."""
    figure = Figure(figsize=(2.3 * (len(steps) + 1), 2.3), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set(xlim=(-0.5, len(steps) + 0.5), ylim=(-0.8, 0.5))
    left = _BUDGET
    for place, text in enumerate([prompt, *(after for _, _, after in steps)]):
        last = place == len(steps)
        lines = [textwrap.shorten(line, 26, placeholder=" ...") if " " in line else line for line in text.split("\n")]
        color = ("#d7efdc" if score >= 0.5 else "#f6d9d5") if last else "#e8edf7"
        box = {"boxstyle": "round,pad=0.5", "facecolor": color, "edgecolor": "0.6"}
        shown = "\n".join(lines) + (f"\nscore {score:g}" if last else "")
        axes.text(place, 0.1, shown, ha="center", va="center", fontsize=7.5, family="monospace", bbox=box, zorder=3)
        axes.barh(-0.55, 0.7 * left / _BUDGET, 0.07, place - 0.35, color="#4477aa")
        axes.barh(-0.55, 0.7, 0.07, place - 0.35, color="none", edgecolor="0.6", linewidth=0.7)
        axes.text(place, -0.7, f"${left:.6f} left", ha="center", va="center", fontsize=7, color="0.35")
        if last:
            break
        action, cost, _ = steps[place]
        arrow = {"arrowstyle": "-|>", "color": "0.35", "linewidth": 1.2}
        axes.annotate("", (place + 0.62, -0.25), (place + 0.38, -0.25), arrowprops=arrow, zorder=4)
        axes.text(place + 0.5, -0.3, f"{action}\n${cost:.6f}", ha="center", va="top", fontsize=7)
        left -= cost
    return figure


if __name__ == "__main__":
    tyro.cli(SitePages, description=__doc__).run()
