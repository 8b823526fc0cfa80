"""The same training job with routegym and with its nearest peers: wall time and quality.

    python benchmarks/scale.py --table peers                 # see there
    ROUTEGYM_DATA=FOLDER python benchmarks/scale.py ...      # with another folder of recorded tables

Job: from the train split of one table, learn which arm to call for a prompt at any price of cost, and route the test
split at each of `LAMBDAS`, RouteLLM at thresholds. Everybody gets the same embedding of the prompts, made before the
clock starts; what counts is the frontier of mean cost and mean score on the test split (AIQ between the cheapest and
the dearest arm).

Peers: LLMRouter (llmrouter-lib) and RouteLLM through their own trainers, where they are installed, with the settings
that they ship; their routing entry points embed with networks from elsewhere, so the trained model is asked directly.
Neither knows a price. LLMRouter learns the best arm of each prompt, so that it is trained anew for each price, on
score - price * cost. RouteLLM learns who wins of two arms, so that one training serves every threshold: it gets twice
as many as there are prices, at quantiles of its win rates on the test split, and one above them all. scikit-learn
stands in for the rest: nearest neighbours of scores and costs, and a classifier of the best arm for each price.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from routegym.evaluation.frontier import aiq, hull
from routegym.evaluation.oracle import oracle_frontier
from routegym.evaluation.outcomes import LAMBDAS, Grid, play
from routegym.evaluation.references import arms_alone
from routegym.graph import Recording
from routegym.graph.imports import read_outcomes, to_recording
from routegym.policies.algorithm import Problem
from routegym.policies.config import tuned

HEADER = (
    "router",
    "by",
    "trainings",
    "training, wall",
    "training, CPU",
    "routing, CPU",
    "AIQ (test)",
    "with the arms alone",
)
OURS = ("knn", "logistic", "matrix_factorization", "maskable_ppo", "all_action")
PACKAGES = ("routegym", "scikit-learn", "torch", "llmrouter-lib", "routellm")
_DATA = Path(os.environ.get("ROUTEGYM_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
#: The table that the job is about, where it is there.
TABLE = _DATA / "routellm_gsm8k_mmlu"
NEIGHBOURS = 32
SEED = 0

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Job(NamedTuple):
    """One table of single calls as arrays; tasks are numbered, arms ordered from the cheapest."""

    recording: Recording
    inputs: npt.NDArray[np.float32]  # (tasks, dims)
    score: Floats  # (tasks, arms)
    cost: Floats  # (tasks, arms), in mean costs of the dearest arm
    train: Ints
    test: Ints

    @classmethod
    def of(cls, recording: Recording) -> Job:
        """Take the table out of a recording of single calls with one sample each."""
        everybody = arms_alone(recording, recording.split("all"))
        return cls(
            recording,
            recording.tasks.embedding,
            everybody.scores[0].T,
            everybody.costs[0].T / recording.cost_scale_usd,
            recording.split("train"),
            recording.split("test"),
        )

    def best(self, price: float) -> Ints:
        """The best arm of each training task at a price; among equals the cheapest."""
        return np.asarray((self.score - max(price, 1e-6) * self.cost)[self.train].argmax(axis=1))

    def points(self, chosen: Sequence[Ints]) -> tuple[Floats, Floats]:
        """Mean cost and score of arms chosen for the test tasks, (test,) for each operating point."""
        costs = [float(self.cost[self.test, arms].mean()) for arms in chosen]
        return np.array(costs), np.array([float(self.score[self.test, arms].mean()) for arms in chosen])

    def alone(self) -> tuple[Floats, Floats]:
        """Mean cost and score of every arm on the test tasks."""
        return self.cost[self.test].mean(axis=0), self.score[self.test].mean(axis=0)

    def quality(self, costs: Floats, scores: Floats) -> tuple[float, float]:
        """AIQ of operating points; and of these and the arms alone, which anybody can mix in."""
        alone = self.alone()
        span = float(alone[0].min()), float(alone[0].max())
        both = np.concatenate([costs, alone[0]]), np.concatenate([scores, alone[1]])
        return aiq(hull(costs, scores), *span), aiq(hull(*both), *span)


class Result(NamedTuple):
    """What one router took and achieved."""

    trainings: int
    training_s: Floats
    """Wall and CPU seconds of all trainings together, (2,); `routing_s` likewise."""
    routing_s: Floats
    points: tuple[Floats, Floats]
    """Mean cost, in mean costs of the dearest arm, and mean score at each operating point."""


Router = Callable[[Job], Result]


def now() -> Floats:
    """Wall and CPU seconds."""
    return np.array([time.perf_counter(), time.process_time()])


# -- ours --------------------------------------------------------------------------------------
def ours(name: str, quick: bool) -> Router:
    """One of our algorithms with its tuned hyperparameters: one training serves every price."""

    def run(job: Job) -> Result:
        short = {"maskable_ppo": {"steps": 2_000}, "all_action": {"updates": 5}} if quick else {}
        algorithm = tuned(name, "routegym/SingleCall-v0", short.get(name))
        problem = Problem(job.recording, budget_usd=None, lambda_=(LAMBDAS[0], LAMBDAS[-1]))
        start = now()
        policy = algorithm.fit(problem, SEED)
        trained = now()
        outcomes = play(policy, job.recording, "test", Grid(np.array([np.inf]), np.array(LAMBDAS)))
        routed = now()
        costs = outcomes.costs.mean(axis=1) / job.recording.cost_scale_usd
        return Result(1, trained - start, routed - trained, (costs, outcomes.scores.mean(axis=1, dtype=np.float64)))

    return run


# -- scikit-learn ------------------------------------------------------------------------------
def sklearn_neighbours(job: Job) -> Result:
    """Mean score and cost of the nearest training prompts."""
    from sklearn.neighbors import KNeighborsRegressor

    targets = np.concatenate([job.score, job.cost], axis=1)[job.train]
    start = now()
    model = KNeighborsRegressor(NEIGHBOURS).fit(job.inputs[job.train], targets)
    trained = now()
    score, cost = np.split(model.predict(job.inputs[job.test]), 2, axis=1)
    points = [(score - max(price, 1e-6) * cost).argmax(axis=1) for price in LAMBDAS]
    return Result(1, trained - start, now() - trained, job.points(points))


def sklearn_classifier(job: Job) -> Result:
    """A network that names the best arm, one for each price."""
    from sklearn.neural_network import MLPClassifier

    def one(price: float) -> tuple[Floats, Floats, Ints]:
        start = now()
        model = MLPClassifier((128, 64), early_stopping=True, random_state=SEED)
        model.fit(job.inputs[job.train], job.best(price))
        trained = now()
        chosen = model.predict(job.inputs[job.test])
        return trained - start, now() - trained, chosen

    return _for_each_price(job, one)


# -- LLMRouter ---------------------------------------------------------------------------------
#: Router and trainer of llmrouter.models, and the settings that it ships for it.
LLMROUTER: dict[str, tuple[str, str, dict[str, Any]]] = {
    "KNN": ("KNNRouter", "KNNRouterTrainer", {"n_neighbors": 5, "weights": "uniform", "metric": "minkowski"}),
    "MLP": (
        "MLPRouter",
        "MLPTrainer",
        {"hidden_layer_sizes": [128, 64], "activation": "relu", "lr": 0.001, "epochs": 100, "batch_size": 32},
    ),
    "MF": ("MFRouter", "MFRouterTrainer", {"latent_dim": 128, "lr": 0.001, "epochs": 5}),
}


def llmrouter(name: str) -> Router:
    """One of LLMRouter's routers by its own trainer, one training for each price."""

    def run(job: Job) -> Result:
        from llmrouter import models

        kind, trainer_kind, settings = LLMROUTER[name]
        names = [arm.name for arm in job.recording.arms]
        inputs = torch.from_numpy(job.inputs.copy())
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            torch.save(inputs, folder / "embedding.pt")

            def one(price: float) -> tuple[Floats, Floats, Ints]:
                _write_routing(job, price, names, folder / "routing.jsonl")
                config = {
                    "data_path": {
                        "query_embedding_data": str(folder / "embedding.pt"),
                        "routing_data_train": str(folder / "routing.jsonl"),
                    },
                    "hparam": settings | {"text_dim": job.inputs.shape[1]} if name == "MF" else settings,
                    "model_path": {
                        "ini_model_path": str(folder / "none"),
                        "save_model_path": str(folder / ("model.pkl" if name == "KNN" else "model.pt")),
                    },
                }
                (folder / "config.yaml").write_text(json.dumps(config), encoding="utf-8")  # YAML, too
                torch.manual_seed(SEED)
                start = now()
                with contextlib.redirect_stdout(io.StringIO()):
                    router = getattr(models, kind)(str(folder / "config.yaml"))
                    trainer = getattr(models, trainer_kind)(router)
                    trainer.train()
                trained = now()
                chosen = _llmrouter_choice(name, router, trainer.model, inputs[job.test])
                routed = now()
                return trained - start, routed - trained, np.array([names.index(one) for one in chosen])

            return _for_each_price(job, one)

    return run


def _write_routing(job: Job, price: float, names: list[str], path: Path) -> None:
    """LLMRouter's training table, with score - price * cost as the performance."""
    worth = job.score - max(price, 1e-6) * job.cost
    with path.open("w", encoding="utf-8") as file:
        for task in job.train.tolist():
            for arm, value in zip(names, worth[task].tolist(), strict=True):
                row = {"query": str(task), "model_name": arm, "performance": value, "embedding_id": task}
                file.write(json.dumps(row) + "\n")


def _llmrouter_choice(name: str, router: Any, model: Any, inputs: Any) -> list[str]:
    """What the trained model says, as its `route_single` reads it."""
    if name == "KNN":
        return [str(arm) for arm in model.predict(inputs.numpy())]
    with torch.no_grad():
        if name == "MLP":
            numbers = model.predict(inputs)
        else:
            numbers = model.score_all(model.project_text(inputs)[:, None, :]).argmax(dim=-1)
    return [router.idx_to_model[number] for number in numbers.tolist()]


# -- RouteLLM ----------------------------------------------------------------------------------
def routellm(quick: bool) -> Router:
    """RouteLLM's matrix factorisation of who wins, by its own training loop; for two arms."""

    def run(job: Job) -> Result:
        os.environ.setdefault("OPENAI_API_KEY", "none")  # asked for when it is imported, never used
        from routellm.routers.matrix_factorization import train_matrix_factorization as mf

        weak, strong = "mixtral-8x7b-instruct-v0.1", "gpt-4-1106-preview"  # names it knows, for the two arms
        torch.manual_seed(SEED)
        val = job.recording.split("val")
        with tempfile.TemporaryDirectory() as place:
            np.save(Path(place) / "embedding.npy", job.inputs)
            start = now()
            net = mf.MFModel_Train(
                dim=128,
                num_models=len(mf.MODEL_IDS),
                num_prompts=len(job.inputs),
                text_dim=job.inputs.shape[1],
                npy_path=str(Path(place) / "embedding.npy"),
            )
        train, test = (
            mf.PairwiseDataset(
                [
                    {"model_a": weak, "model_b": strong, "idx": task, "winner": f"model_{'ab'[int(won)]}"}
                    for task in tasks.tolist()
                    if (won := job.score[task, 1] > job.score[task, 0]) or job.score[task, 1] < job.score[task, 0]
                ]
            ).get_dataloaders(64)
            for tasks in (job.train, val)
        )
        with contextlib.redirect_stderr(io.StringIO()):
            epochs = 2 if quick else 100
            mf.train_loops(net, train, test, lr=3e-4, weight_decay=1e-5, alpha=0.1, num_epochs=epochs, device="cpu")
        trained = now()
        with torch.no_grad():
            pair = torch.tensor([mf.MODEL_IDS[strong]]), torch.tensor([mf.MODEL_IDS[weak]])
            rate = net(*pair, torch.from_numpy(job.test), test=True).numpy()
        thresholds = np.quantile(rate, np.linspace(0, 1, 2 * len(LAMBDAS)))
        points = [(rate >= threshold).astype(np.int64) for threshold in (*thresholds, np.inf)]
        return Result(1, trained - start, now() - trained, job.points(points))

    return run


# -- the table ---------------------------------------------------------------------------------
def _for_each_price(job: Job, one: Callable[[float], tuple[Floats, Floats, Ints]]) -> Result:
    training, routing, points = zip(*(one(price) for price in LAMBDAS), strict=True)
    return Result(len(LAMBDAS), np.sum(training, axis=0), np.sum(routing, axis=0), job.points(points))


def table_of(folder: Path) -> Recording:
    """A recorded table as single calls, with a TF-IDF embedding of its prompts."""
    data = read_outcomes(
        folder / "responses.csv.gz",
        queries=folder / "queries.jsonl.gz",
        columns={"query": "query_id", "prompt": "question"},
        name=folder.name,
    )
    return to_recording(data).recording


def compare(recording: Recording, quick: bool) -> list[tuple[str, ...]]:
    """Rows of the table; a peer that is not installed has dashes."""
    torch.set_num_threads(1)
    job = Job.of(recording)
    rows: list[tuple[str, ...]] = []
    todo: list[tuple[str, str, str, Router]] = [(name, "routegym", "routegym", ours(name, quick)) for name in OURS]
    todo += [
        ("nearest neighbours", "scikit-learn", "sklearn", sklearn_neighbours),
        ("network, best arm", "scikit-learn", "sklearn", sklearn_classifier),
        *((name, "LLMRouter", "llmrouter", llmrouter(name)) for name in LLMROUTER),
    ]
    if len(recording.arms) == 2:
        todo.append(("matrix factorisation", "RouteLLM", "routellm", routellm(quick)))
    for name, maker, package, router in todo:
        if find_spec(package) is None:
            rows.append((name, f"{maker}: not installed", *["-"] * 6))
            continue
        found = router(job)
        times = [f"{seconds:.2f} s" for seconds in (*found.training_s, found.routing_s[1])]
        rows.append((name, maker, str(found.trainings), *times, *_figures(job, found.points)))
    rows.append(("arms alone, mixed at random", "", *["-"] * 4, *_figures(job, job.alone())))
    costs, scores = oracle_frontier(recording.graph, job.test)
    rows.append(("clairvoyant", "", *["-"] * 4, *_figures(job, (costs / recording.cost_scale_usd, scores))))
    return rows


def _figures(job: Job, points: tuple[Floats, Floats]) -> tuple[str, str]:
    own, mixed = job.quality(*points)
    return f"{own:.4f}", f"{mixed:.4f}"
