"""Environment families, one file each: the workflow of the family and its registration."""

if __name__ != "routegym.envs":  # a second name would load every class twice
    raise ImportError(
        f"the folder envs/ was imported as {__name__!r}; its only name is 'routegym.envs': "
        'install the project (pip install -e .) and write "import routegym.envs"'
    )

from collections.abc import Callable, Sequence
from typing import Any

from routegym.registration import kind_of
from routegym.tasks.arithmetic import next_operation
from routegym.tasks.taskset import TaskSet

__all__ = ["workflow_of"]


def workflow_of(env: str, arms: Sequence[str], tasks: TaskSet) -> Any:
    """The workflow of an environment family for these arms and tasks.

    Args:
        env: id of an environment (``routegym/Cascade-v0``) or its kind (``cascade``).
        arms: names of the pool's arms, in order.
        tasks: decides whether the difficulty levels of arithmetic are shown.

    Raises:
        ConfigError: there is no such family.
    """
    from routegym.envs.agent_steps import AgentStepsWorkflow
    from routegym.envs.attempts import AttemptsWorkflow
    from routegym.envs.cascade import CascadeWorkflow
    from routegym.envs.single_call import SingleCallWorkflow

    levels = all(next_operation(f"({prompt})") is not None for prompt in tasks.prompts)
    makers: dict[str, Callable[[], Any]] = {
        "single_call": lambda: SingleCallWorkflow(levels),
        "cascade": lambda: CascadeWorkflow(arms, levels=levels),
        "agent_steps": AgentStepsWorkflow,
        "attempts": lambda: AttemptsWorkflow(arms),
    }
    return makers[env if env in makers else kind_of(env)]()
