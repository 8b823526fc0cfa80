"""Write the measured tables and pictures of README.md, docs/results.md and docs/recordings.md, and docs/cards/.

example:
  make quickstart results && python scripts/update_docs.py
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from routegym.evaluation.card import recording_card
from routegym.graph.library import load_recording, shipped_recordings

_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Update:
    """Bring the tables in the docs up to date."""

    run_folder: Path = Path("runs/quickstart")
    """An evaluated run folder, for the README; without it its part stays as it is."""
    benches: Path = Path("runs")
    """Where the folders bench-RECORDING are, for docs/results.md; those that are missing leave their part as it is."""

    def run(self) -> None:
        """Rewrite what stands between the markers."""
        if (self.run_folder / "metrics.json").is_file():
            metrics = json.loads((self.run_folder / "metrics.json").read_text(encoding="utf-8"))
            shutil.copyfile(self.run_folder / "frontier.png", _ROOT / "docs" / "frontier.png")
            between("README.md", "quickstart", _summary(metrics))
        between("docs/recordings.md", "recordings", _recordings())
        cards = _ROOT / "docs" / "cards"
        cards.mkdir(exist_ok=True)
        for name in shipped_recordings():
            (cards / f"{name}.md").write_text(recording_card(load_recording(name)), encoding="utf-8")
            bench = self.benches / f"bench-{name}"
            if not (bench / "results.md").is_file():
                continue
            pictures = _ROOT / "docs" / "pictures"
            pictures.mkdir(exist_ok=True)
            for picture in ("frontier.png", "shares.png"):
                shutil.copyfile(bench / picture, pictures / f"{name}-{picture}")
            between("docs/results.md", name, (bench / "results.md").read_text(encoding="utf-8").rstrip())


def between(name: str, marker: str, text: str) -> None:
    """Put a text between the two comments of a marker in a page."""
    path = _ROOT / name
    before, _, rest = path.read_text(encoding="utf-8").partition(f"<!-- {marker}: begin -->")
    _, end, after = rest.partition(f"<!-- {marker}: end -->")
    if not end:
        raise SystemExit(f"{name}: the markers of {marker!r} are missing")
    path.write_text(f"{before}<!-- {marker}: begin -->\n{text}\n{end}{after}", encoding="utf-8")


def _summary(metrics: dict[str, Any]) -> str:
    name, policy = next((name, found) for name, found in metrics["policies"].items() if found["learned"])
    zero, best, gap = policy["over_zero_router"], policy["over_best_baseline"], policy["gap_closed_oracle"]
    return (
        f"*AgentSteps, {metrics['tasks']} held-out tasks, {policy['seeds']} training seeds of `{name}`. Over the "
        f"common range of\nmean costs the learned policy scores {zero['estimate']:+.3f} {_range(zero)} above the zero "
        f"router and\n{best['estimate']:+.3f} {_range(best)} above the best fixed rule ({metrics['best_baseline']}). "
        f"It closes {gap['estimate']:.0%} of the\ngap to the clairvoyant optimum and exceeds its budget in "
        f"{policy['violations']} episodes (95 % paired bootstrap over tasks\nand seeds). All routers side by side: "
        "[results](docs/results.md).*"
    )


def _recordings() -> str:
    lines = [
        "| recording | tasks | situations | calls | cost scale | content hash | card |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in shipped_recordings():
        recording = load_recording(name)
        graph = recording.graph
        lines.append(
            f"| `{name}` | {graph.n_tasks:,} | {graph.n_nodes:,} | {graph.n_edges:,} | ${recording.cost_scale_usd:.6f} "
            f"| `{recording.content_hash[:12]}` | [card](cards/{name}.md) |"
        )
    return "\n".join(lines)


def _range(interval: dict[str, Any]) -> str:
    return f"[{interval['low']:+.3f}, {interval['high']:+.3f}]"


if __name__ == "__main__":
    tyro.cli(Update, description=__doc__).run()
