"""The environment ids, registered with string entry points so that nothing heavy is loaded."""

from __future__ import annotations

from gymnasium.envs.registration import register, registry

from routegym.errors import ConfigError

__all__ = ["ENV_IDS", "kind_of", "register_envs"]

_FAMILIES = {
    "routegym/SingleCall-v0": "single_call:SingleCall",
    "routegym/Cascade-v0": "cascade:Cascade",
    "routegym/AgentSteps-v0": "agent_steps:AgentSteps",
    "routegym/Attempts-v0": "attempts:Attempts",
}

#: Every id that ``import routegym`` registers.
ENV_IDS = tuple(_FAMILIES)


def kind_of(env_id: str) -> str:
    """Kind of recording that an environment takes, also the name of its shipped one.

    Raises:
        ConfigError: there is no such environment.
    """
    if env_id not in _FAMILIES:
        raise ConfigError(f"env = {env_id!r}; expected one of {', '.join(ENV_IDS)}")
    return _FAMILIES[env_id].partition(":")[0]


def register_envs() -> None:
    """Register every id once."""
    for name, place in _FAMILIES.items():
        if name not in registry:
            register(
                name,
                entry_point=f"routegym.envs.{place}Env",
                vector_entry_point=f"routegym.envs.{place}VectorEnv",
                kwargs={"lambda_": 0.2},
            )
