"""An environment family of one's own: an exam of several questions that are paid from one purse.

A task is ``58*7; 120-41; 3+4``. The router goes from question to question and has an arm answer each; the score is the
share that is right, and 0 where the money does not last to the end. So it has to see what is still to come.

    python docs/examples/my_workflow.py 300 300000
"""

import sys
import tempfile
from dataclasses import dataclass, replace

import gymnasium as gym
import numpy as np

from routegym import RoutingEnv, RoutingVectorEnv
from routegym.evaluation.outcomes import Grid, play
from routegym.graph import OPEN, TERMINATED, Expander, explore, start_recording
from routegym.graph.signals import RESPONSE_SIGNALS, response_signals
from routegym.policies.algorithm import Problem
from routegym.policies.baselines import AlwaysArm
from routegym.policies.ppo import MaskablePPO
from routegym.pool import Request, load_pool
from routegym.tasks import TaskSet, generate_tasks
from routegym.tasks.features import OPERATION_FEATURES, operation_features


@dataclass(frozen=True)
class Paper:
    task: int
    step: int
    questions: tuple[str, ...]
    answers: tuple[str, ...] = ()


class ExamWorkflow:
    kind, controls = "exam", ()  # no action but the arms; a control would come after them, the one that hands in first
    node_signal_names = (*(f"next_{name}" for name in OPERATION_FEATURES), *OPERATION_FEATURES, "done")
    edge_signal_names = RESPONSE_SIGNALS

    def start(self, tasks, indices):
        return [Paper(task, 0, tuple(tasks.prompts[task].split("; "))) for task in indices]

    def requests(self, states, arms):
        return [Request(arm, state.questions[state.step]) for state, arm in zip(states, arms, strict=True)]

    def advance(self, states, actions, responses):
        pairs = zip(states, responses, strict=True)
        return [replace(state, step=state.step + 1, answers=(*state.answers, r.text)) for state, r in pairs]

    def outcome(self, states, tasks):
        ended = np.array([state.step == len(state.questions) for state in states], dtype=bool)
        right = [np.equal(s.answers, tasks.references[s.task].split("; ")[: s.step]).sum() for s in states]
        score = np.where(ended, np.divide(right, [len(state.questions) for state in states]), np.nan)
        return np.where(ended, TERMINATED, OPEN).astype(np.uint8), score.astype(np.float32)

    def signals(self, states):  # what the router may see: the next question's level, those of all that are left
        rows = np.zeros((len(states), len(self.node_signal_names)), dtype=np.float32)
        for row, state in zip(rows, states, strict=True):
            levels = operation_features(state.questions[state.step :])
            row[: levels.shape[1]] = levels[:1].sum(axis=0)
            row[levels.shape[1] : -1] = levels.sum(axis=0) / len(state.questions)
            row[-1] = state.step / len(state.questions)
        return rows

    def response_signals(self, responses):
        return response_signals(responses, bool)

    def encode(self, states):  # equal situations have equal texts and are one node of the graph
        return ["; ".join(state.answers) for state in states]

    def decode(self, tasks, indices, steps, texts):
        papers = zip(self.start(tasks, indices), steps, texts, strict=True)
        return [replace(p, step=step, answers=tuple(text.split("; ")) if step else ()) for p, step, text in papers]


class ExamVectorEnv(RoutingVectorEnv):
    kind = "exam"


class ExamEnv(RoutingEnv):
    vector_class = ExamVectorEnv


def exams(count: int, questions: int = 3) -> TaskSet:
    singles = generate_tasks(count * questions, operations=(1, 1), seed=3)
    dealt = [slice(first, first + questions) for first in range(0, count * questions, questions)]
    return TaskSet(
        ids=singles.ids[:count],
        prompts=["; ".join(prompt[1:-1] for prompt in singles.prompts[part]) for part in dealt],
        references=["; ".join(singles.references[part]) for part in dealt],
        splits=singles.splits[:count],
    )


if __name__ == "__main__":
    count, steps = (int(word) for word in (sys.argv[1:] or ["300", "300000"]))
    pool, workflow = load_pool(), ExamWorkflow()
    recording = start_recording("exams", workflow, pool, exams(count))
    explore(Expander(workflow, pool, recording))  # every answer that any choices can lead to, each asked for once
    recording.fix_scales()
    folder = recording.save(tempfile.mkdtemp() + "/exams")
    print(f"{recording.graph.n_tasks} exams, {recording.graph.n_edges} recorded choices, in {folder}")

    gym.register("mine/Exam-v0", ExamEnv, vector_entry_point=ExamVectorEnv)
    env = gym.make("mine/Exam-v0", recording=folder, render_mode="ansi", split="test")
    env.reset(seed=0)
    for arm in (0, len(pool.arms) - 1, 0):
        env.step(arm)
    print(env.render())

    trained = MaskablePPO(steps=steps).fit(Problem(recording), seed=0)
    grid = Grid.of(recording, lambdas=[0.0])
    dear = play(AlwaysArm(recording, len(pool.arms) - 1), recording, "test", grid)
    learned = play(trained, recording, "test", grid)
    for place, budget in enumerate(grid.budgets):
        means = [outcomes.scores[place].mean() for outcomes in (learned, dear)]
        print(f"budget {budget:.6f} USD: score {means[0]:.3f}, always the dearest arm that can be paid {means[1]:.3f}")
