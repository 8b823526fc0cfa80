"""Write the measured tables of README.md, docs/results.md and docs/recordings.md from a run folder and the recordings.

example:
  make quickstart && python scripts/update_docs.py runs/quickstart
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from routegym.graph.library import load_recording, shipped_recordings
from routegym.tracking import Run

_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Update:
    """Bring the tables in the docs up to date."""

    run_folder: Annotated[Path, tyro.conf.Positional] = Path("runs/quickstart")
    """An evaluated run folder."""

    def run(self) -> None:
        """Rewrite what stands between the markers."""
        metrics = json.loads((self.run_folder / "metrics.json").read_text(encoding="utf-8"))
        shutil.copyfile(self.run_folder / "frontier.png", _ROOT / "docs" / "frontier.png")
        _between("README.md", "quickstart", _summary(metrics))
        _between("docs/results.md", "results", _results(metrics, Run(self.run_folder)))
        _between("docs/recordings.md", "recordings", _recordings())


def _between(name: str, marker: str, text: str) -> None:
    path = _ROOT / name
    before, _, rest = path.read_text(encoding="utf-8").partition(f"<!-- {marker}: begin -->")
    _, end, after = rest.partition(f"<!-- {marker}: end -->")
    if not end:
        raise SystemExit(f"{name}: the markers of {marker!r} are missing")
    path.write_text(f"{before}<!-- {marker}: begin -->\n{text}\n{end}{after}", encoding="utf-8")


def _summary(metrics: dict[str, Any]) -> str:
    gap, zero = metrics["oracle_gap_closed"], metrics["against"]["zero router"]["difference"]
    best = max((rival["aiq"], name) for name, rival in metrics["against"].items() if name != "zero router")[1]
    ahead = metrics["against"][best]["difference"]
    return (
        f"*AgentSteps, {metrics['tasks']} held-out tasks, {metrics['seeds']} training seeds. Over the common range of "
        f"mean costs the\nlearned policy scores {zero['estimate']:+.3f} {_range(zero)} above the zero router and "
        f"{ahead['estimate']:+.3f} {_range(ahead)}\nabove the best fixed strategy ({best}). It closes "
        f"{gap['estimate']:.0%} of the gap to the clairvoyant optimum and exceeds\nits budget in "
        f"{metrics['policy']['violations']} episodes (95 % paired bootstrap over tasks and seeds; "
        "[details](docs/results.md)).*"
    )


def _results(metrics: dict[str, Any], run: Run) -> str:
    config, gap = run.config, metrics["oracle_gap_closed"]
    low, high = metrics["cost_range_usd"]
    lines = [
        f"Recording `{metrics['recording']}` (content hash `{metrics['content_hash'][:12]}`), "
        f"{metrics['split']} split, "
        f"{metrics['tasks']} tasks, training seeds {config.seeds}; "
        + ", ".join(f"{name} {version}" for name, version in config.versions.items())
        + f"; {config.machine}, {config.threads} thread(s).",
        "",
        f"AIQ is the mean score of a strategy's frontier over mean costs from ${low:.6f} (always the cheapest arm) to "
        f"${high:.6f} (always the dearest).",
        "",
        "| strategy | AIQ | learned policy ahead by (95 % interval) |",
        "| --- | --- | --- |",
        f"| clairvoyant optimum, mean budget | {metrics['oracle']['aiq']:.4f} | |",
        f"| **learned policy** | **{metrics['policy']['aiq']:.4f}** | |",
    ]
    for name, rival in sorted(metrics["against"].items(), key=lambda item: -item[1]["aiq"]):
        lead = rival["difference"]
        lines.append(f"| {name} | {rival['aiq']:.4f} | {lead['estimate']:+.4f} {_range(lead)} |")
    lines += [
        "",
        f"Gap from the zero router to the optimum closed: **{gap['estimate']:.1%}** "
        f"[{gap['low']:.1%}, {gap['high']:.1%}]. "
        f"Episodes above their budget: {metrics['policy']['violations']}.",
        "",
        "| hard budget | mean cost | score | clairvoyant score at this cap | calls by arm |",
        "| --- | --- | --- | --- | --- |",
    ]
    for point in metrics["policy"]["budgets"]:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in point["shares"].items() if share >= 0.05)
        lines.append(
            f"| ${point['budget_usd']:.6f} | ${point['cost_usd']:.6f} | {point['score']:.3f} "
            f"| {point['oracle_score']:.3f} | {shares} |"
        )
    return "\n".join(lines)


def _recordings() -> str:
    lines = [
        "| recording | tasks | situations | calls | cost scale | content hash |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in shipped_recordings():
        recording = load_recording(name)
        graph = recording.graph
        lines.append(
            f"| `{name}` | {graph.n_tasks:,} | {graph.n_nodes:,} | {graph.n_edges:,} | ${recording.cost_scale_usd:.6f} "
            f"| `{recording.content_hash[:12]}` |"
        )
    return "\n".join(lines)


def _range(interval: dict[str, Any]) -> str:
    return f"[{interval['low']:+.4f}, {interval['high']:+.4f}]"


if __name__ == "__main__":
    tyro.cli(Update, description=__doc__).run()
