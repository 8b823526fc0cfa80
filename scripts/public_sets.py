"""Import public sets of recorded routing data, play routers on them, and write docs/public_sets.md.

The sets are those of a folder that the project does not contain (docs/public_sets.md says what is in it). What is done
is kept: killed and started again, it goes on.

examples:
  python scripts/public_sets.py --data ../shared/data                      everything, which takes hours
  python scripts/public_sets.py --data ../shared/data --sets mint_k5/attempts bbh_direct_cot/tfidf
  python scripts/public_sets.py --page                                     the page from what is there
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import tyro
from update_docs import between

from routegym.core import RoutingVectorEnv
from routegym.core.rollout import rollout
from routegym.evaluation.bench import open_bench
from routegym.evaluation.comparison import Comparison
from routegym.evaluation.report import Table
from routegym.evaluation.statistics import Sweep, aiq_difference, difference_at_cost
from routegym.graph.library import load_recording
from routegym.policies.baselines import FixedCascade

_ROOT = Path(__file__).resolve().parents[1]
_MINT_ARMS = (
    "Meta-Llama-3-8B-Instruct",
    "openchat-3.5-1210",
    "CodeActAgent-Mistral-7b-v0.1",
    "Mixtral-8x7B-Instruct-v0.1",
    "Meta-Llama-3-70B-Instruct",
    "claude-instant-1",
    "gpt-4-0613",
)
_SQL_ARMS = ("chat-bison-001", "text-bison-001", "gpt-3.5", "gpt-4")
_LAMBDAS = (0.0, 0.002, 0.007, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 2.0, 4.0, 8.0)
_TOKENS = {"prompt_tokens": "in_tokens", "completion_tokens": "out_tokens"}
_ASKED = {"query": "query_id", "prompt": "question", "kind": "task"}
_COLUMNS = _ASKED | _TOKENS
_CASCADES = {
    "mint_k5": (
        ("CodeActAgent-Mistral-7b-v0.1", "Meta-Llama-3-8B-Instruct", "Meta-Llama-3-70B-Instruct"),
        ("CodeActAgent-Mistral-7b-v0.1", "Meta-Llama-3-70B-Instruct", "gpt-4-0613"),
    ),
    "intercode_sql": (("text-bison-001", "gpt-3.5", "gpt-4"),),
}
_ENVS = {"single_call": "SingleCall", "cascade": "Cascade", "attempts": "Attempts"}
_PREDICTORS = ("always", "random_mixture", "knn", "logistic", "matrix_factorization", "boosting", "irt")
_PLANNERS = ("always", "random_mixture", "fixed_cascade", "knn", "logistic", "predict_then_plan", "irt")
_LEARNERS = ("all_action", "maskable_ppo", "grpo", "bc")


@dataclass(frozen=True)
class Play:
    """A set in one environment family, with one sort of text features."""

    set: str
    kind: str = "single_call"
    text: str = "tfidf"
    columns: Mapping[str, str] = field(default_factory=lambda: _COLUMNS)
    queries: str = ""
    """Set whose queries are taken; its own by default."""
    verdict: bool = False
    arms: tuple[str, ...] = ()
    folds: int = 0
    calls: int = 3
    """Attempts that an episode allows, where it allows several."""
    policies: tuple[str, ...] = _PLANNERS + _LEARNERS
    """Routers; every one of the package if there are none."""
    steps: int | None = None
    """Environment steps of every learner that counts them; the tuned numbers by default."""

    @property
    def name(self) -> str:
        """Of its folders and of its part of the page."""
        if self.kind == "single_call":
            return f"{self.set}/{self.text}"
        return f"{self.set}/{self.kind}" + (f"_{self.calls}_calls" if self.calls != Play.calls else "")


_MINT = {"query": "query_id", "kind": "task"} | _TOKENS
_INTERCODE = {"query": "query_id", "prompt": "query"}
_INTERCODE |= {"prompt_tokens": "in_tokens_est", "completion_tokens": "out_tokens_est"}
_MADE_OF: dict[str, dict[str, Any]] = {
    "mint_k5": {"columns": _MINT, "verdict": True, "folds": 5},
    "mint_turns": {"columns": _MINT, "queries": "mint_k5", "folds": 5},
    "mint_feedback_gpt35": {"columns": _MINT, "queries": "mint_k5", "folds": 5},
    "intercode_sql": {"columns": _INTERCODE | {"kind": "hardness"}, "verdict": True, "folds": 5},
    "intercode_bash": {"columns": _INTERCODE, "verdict": True, "folds": 5},
    "zeroeval": {"columns": _COLUMNS | {"kind": "dataset"}},
    "llmrouter_dc": {"columns": _ASKED | {"prompt_tokens": "in_tokens"}},
    "bbh_direct_cot": {},
    "routellm_gsm8k_mmlu": {"columns": _COLUMNS | {"kind": "dataset"}},
}


def _routers(made: Mapping[str, Any], text: str) -> tuple[str, ...]:
    """Of a single-call set; every router takes hours where each fold is a fit of its own."""
    if text == "minilm":
        return (*_PREDICTORS, "all_action")
    return _PREDICTORS + _LEARNERS if "folds" in made else ()


_PLAYS = (
    *(
        Play(name, text=text, policies=_routers(made, text), **made)
        for name, made in _MADE_OF.items()
        for text in ("tfidf", "minilm")
    ),
    Play("mint_k5", "cascade", policies=(), arms=_MINT_ARMS, steps=300_000, **_MADE_OF["mint_k5"]),
    Play("mint_k5", "cascade", arms=_MINT_ARMS, calls=5, steps=300_000, **_MADE_OF["mint_k5"]),
    Play("mint_k5", "attempts", policies=(), arms=_MINT_ARMS, **_MADE_OF["mint_k5"]),
    Play("intercode_sql", "cascade", policies=(), arms=_SQL_ARMS, steps=300_000, **_MADE_OF["intercode_sql"]),
    Play("intercode_sql", "attempts", policies=(), arms=_SQL_ARMS, **_MADE_OF["intercode_sql"]),
)


@dataclass(frozen=True)
class PublicSets:
    """Import, bench, write the page."""

    data: Path | None = None
    """Folder of the sets."""
    sets: tuple[str, ...] = ()
    """Which of them, as SET/FEATURES or SET/KIND; all by default."""
    out: Path = Path("runs/public")
    """Folder of recordings and results."""
    seeds: int = 5
    """Training seeds."""
    policies: tuple[str, ...] = ()
    """Routers; those of the page by default."""
    page: bool = False
    """Only write the page."""

    def run(self) -> None:
        """Do what is not done yet."""
        known = {play.name: play for play in _PLAYS}
        unknown = [name for name in self.sets if name not in known]
        if unknown:
            raise SystemExit(f"--sets {unknown[0]}: expected some of {', '.join(known)}")
        if not self.page and (self.data is None or not self.data.is_dir()):
            raise SystemExit(f"--data {self.data}: expected the folder of the sets")
        for name in self.sets or known:
            if not self.page:
                print(f"== {name}", flush=True)
                self._play(known[name])
            bench = self.out / name
            if (bench / "results.md").is_file():
                picture = f"pictures/{name.replace('/', '-')}-frontier.png"
                shutil.copyfile(bench / "frontier.png", _ROOT / "docs" / picture)
                text = (bench / "results.md").read_text(encoding="utf-8").rstrip()
                text += f"\n\n![score against mean cost on {name}]({picture})"
                if known[name].kind != "single_call":
                    comparison = self._comparison(name)
                    text += "\n\n" + _against_cascades(comparison, _CASCADES[known[name].set])
                if known[name].kind == "attempts":
                    text += "\n\n" + _against_whole_attempts(comparison, self._comparison(f"{known[name].set}/cascade"))
                between("docs/public_sets.md", name, text)

    def _comparison(self, name: str) -> Comparison:
        bench = self.out / name
        metrics = json.loads((bench / "metrics.json").read_text(encoding="utf-8"))
        return open_bench(bench, metrics, load_recording(self.out / "recordings" / name)).comparison

    def _play(self, play: Play) -> None:
        recording = self.out / "recordings" / play.name
        if not (recording / "meta.json").is_file():
            _run(self._import(play, recording))
        arguments = ["bench", "--env", f"routegym/{_ENVS[play.kind]}-v0", "--recording", str(recording)]
        arguments += ["--seeds", str(self.seeds), "--no-attainable"]
        arguments += ["--lambdas", *map(str, _LAMBDAS)]
        arguments += ["--out", str(self.out / play.name)]
        if play.folds:
            arguments += ["--folds", str(play.folds)]
        if play.steps:
            arguments += ["--steps", str(play.steps)]
        if policies := self.policies or play.policies:
            arguments += ["--policies", *policies]
        _run(arguments)

    def _import(self, play: Play, recording: Path) -> list[str]:
        assert self.data is not None
        folder = self.data / play.set
        arguments = ["import", "table", str(folder / "responses.csv.gz"), "-o", str(recording), "--name", play.set]
        arguments += ["--queries", str(self.data / (play.queries or play.set) / "queries.jsonl.gz")]
        columns = dict(play.columns)
        if play.kind == "attempts":
            columns |= {f"turns.{name}": name for name in ("query", "prompt_tokens", "completion_tokens")}
        if play.kind == "attempts" and (folder / "models.csv").is_file():  # the turns share a bill by what they cost
            arguments += ["--prices", str(folder / "models.csv")]
            columns["prices.arm"] = "model"
        arguments += ["--columns", *(f"{name}={column}" for name, column in columns.items())]
        arguments += ["--kind", play.kind, "--text", play.text]
        if play.verdict:
            arguments += ["--verdict"]
        if play.arms:
            arguments += ["--arms", *play.arms]
        if play.kind != "single_call":
            arguments += ["--most-attempts", str(play.calls)]
        if play.kind == "attempts":
            turns = self.out / "turns" / f"{play.set}.parquet"
            turns.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(_turns(folder / "steps.csv.gz"), turns)
            arguments += ["--turns", str(turns)]
        return arguments


def _against_cascades(comparison: Comparison, cascades: Sequence[Sequence[str]]) -> str:
    """How every router does at the cost of fixed cascades that are known to be good on these very tasks."""
    recording = comparison.recording
    tasks = recording.split(comparison.split)
    env = RoutingVectorEnv(len(tasks), recording, split=comparison.split, info="lean", autoreset_mode="SameStep")
    columns, header = [], ["policy"]
    for ladder in cascades:
        played = rollout(FixedCascade(recording, ladder), env, tasks)
        fixed = Sweep(played.score[None, None], played.cost_usd[None, None])
        header.append(f"at {' → '.join(ladder)}: {played.score.mean():.4f} @ ${played.cost_usd.mean():.5f}")
        columns.append({name: difference_at_cost(one.sweep, fixed) for name, one in comparison.entries.items()})
    order = sorted(comparison.entries, key=lambda name: -columns[0][name].estimate)
    rows = [(name, *(column[name].signed(4) for column in columns)) for name in order]
    title = (
        "Score minus that of a fixed cascade, at its own mean cost (95 % paired bootstrap; * excludes 0). The cascades "
        "were picked in hindsight, on all these tasks; what such a choice is worth on tasks that it has not seen, the "
        "row fixed_cascade says:"
    )
    return title + "\n\n" + Table("", tuple(header), rows).markdown().rstrip()


def _against_whole_attempts(turns: Comparison, whole: Comparison) -> str:
    """What it brings every router that attempts unfold turn by turn."""
    assert turns.recording.tasks.ids == whole.recording.tasks.ids
    rows = []
    for name in turns.entries.keys() & whole.entries.keys():
        sweeps = turns.entries[name].sweep, whole.entries[name].sweep
        reached = [turns.aiq_of(sweep) for sweep in reversed(sweeps)]
        rows.append((name, *reached, aiq_difference(*sweeps, turns.references.arms).signed()))
    rows.sort(key=lambda row: -row[2])
    title = (
        "AIQ of the same routers on the same tasks, deciding about whole attempts (the part on the cascade) and about "
        "turns (95 % paired bootstrap; * excludes 0):"
    )
    cells = [(name, f"{before:.4f}", f"{after:.4f}", difference) for name, before, after, difference in rows]
    header = ("policy", "whole attempts", "turns", "difference")
    return title + "\n\n" + Table("", header, cells).markdown().rstrip()


def _turns(path: Path) -> pa.Table:
    """The turns under the names that `routegym import` knows."""
    raw = pacsv.read_csv(path, convert_options=pacsv.ConvertOptions(strings_can_be_null=False))
    if "obs" in raw.column_names:  # MINT: what the environment answered
        names = {
            "step": "turn",
            "prompt_tok": "prompt_tokens",
            "completion_tok": "completion_tokens",
            "obs": "feedback",
        }
    else:  # InterCode: whether the command could be executed, and the reward
        valid = pc.if_else(pc.equal(raw["valid"], 1.0), "ok", "error")
        raw = raw.append_column("feedback", pc.fill_null(valid, "none"))
        names = {"ctx_tokens_est": "prompt_tokens", "action_tokens": "completion_tokens"}
    names |= {"query_id": "query", "model": "arm"}
    kept = ("query_id", "model", "turn", "step", "feedback", "obs", "reward", *names)
    table = raw.select([column for column in raw.column_names if column in kept])
    return table.rename_columns([names.get(column, column) for column in table.column_names])


def _run(arguments: list[str]) -> None:
    print(f"$ {shlex.join(['routegym', *arguments])}", flush=True)
    subprocess.run([str(Path(sys.executable).with_name("routegym")), *arguments], check=True)


if __name__ == "__main__":
    tyro.cli(PublicSets, description=__doc__).run()
