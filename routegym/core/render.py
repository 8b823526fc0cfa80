"""A route as text: what was asked, who answered, what it cost, what is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from routegym.errors import MissingExtraError

if TYPE_CHECKING:
    from routegym.core.vector_env import RoutingVectorEnv

__all__ = ["draw_route", "format_usd", "print_route", "route_text"]

_BAR = 20
_HEIGHT, _WIDTH, _LINE = 256, 640, 14  # pixels of a picture and of a line in it


def format_usd(amount: float) -> str:
    """USD to a millionth, finer where that would be zero; ``no cap`` for infinity."""
    if np.isinf(amount):
        return "no cap"
    return f"${amount:.2e}" if 0 < abs(amount) < 1e-6 else f"${amount:.6f}"


def route_text(env: RoutingVectorEnv, slot: int) -> str:
    """The route of one episode so far, a line per step."""
    recording, graph = env.recording, env.recording.graph
    route = env.routes[slot]
    node = int(env.node[slot])
    task = int(graph.node_task[node])
    lines = [f"task {recording.tasks.ids[task]}: {recording.tasks.prompts[task]}"]
    for step, (edge, action) in enumerate(route, start=1):
        record = graph.edges[edge]
        lines.append(
            f"{step:>3}. {recording.action_names[action]:<18} {format_usd(float(record['cost_usd'])):>10}"
            f"  -> {recording.texts[int(record['next'])]}"
        )
    spent, budget = float(env.ledger.spent_usd[slot]), float(env.ledger.budget_usd[slot])
    share = 0.0 if np.isinf(budget) else min(spent / budget, 1.0)
    bar = "#" * round(share * _BAR) + "." * (_BAR - round(share * _BAR))
    lines.append(f"spent {format_usd(spent)} of {format_usd(budget)} [{bar}]")
    score = float(graph.node_score[node])
    if not np.isnan(score):
        lines.append(f"ended with score {score:g}")
    return "\n".join(lines)


def print_route(text: str) -> None:
    """Print a route to the terminal."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    Console().print(Panel(Text(text), title="routegym", expand=False))


def draw_route(text: str) -> npt.NDArray[np.uint8]:
    """A route as a picture, uint8 (256, 640, 3); the last lines of one that is too long."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise MissingExtraError("pillow", "plots") from error
    picture = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    for row, line in enumerate(text.splitlines()[-(_HEIGHT // _LINE) :]):
        draw.text((4, 1 + row * _LINE), line, fill="black", font=font)
    return np.array(picture, dtype=np.uint8)
