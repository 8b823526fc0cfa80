"""What commands that fit policies settle first: the environment and its recording, and whether results can be told."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = ["DEFAULT_ENV", "everywhere", "find_recording"]

#: The environment where neither it nor a recording is named.
DEFAULT_ENV = "routegym/AgentSteps-v0"


def find_recording(env: str | None, source: str | None) -> tuple[str, str, Recording]:
    """What is played on.

    Args:
        env: environment id; None = that of the recording's kind, or `DEFAULT_ENV`.
        source: a shipped recording's name or a recording folder; None = the environment's own.

    Returns:
        The environment id, the source, and the recording.

    Raises:
        ConfigError: the environment is unknown, or takes recordings of another kind.
        RecordingError: there is no such recording, or it is damaged.
    """
    from routegym.errors import ConfigError
    from routegym.graph.library import load_recording
    from routegym.registration import ENV_IDS, kind_of

    if source is None:
        env = env or DEFAULT_ENV
        return env, kind_of(env), load_recording(kind_of(env))
    wanted = None if env is None else kind_of(env)
    recording = load_recording(source)
    takes = {kind_of(one): one for one in ENV_IDS}
    own = takes.get(recording.kind)
    if own is None:
        raise ConfigError(
            f"recording {source!r} is of kind {recording.kind!r}; expected one that an environment takes: "
            f"{', '.join(takes)}"
        )
    if wanted not in (None, recording.kind):
        raise ConfigError(
            f"recording {source!r} is of kind {recording.kind!r}, and env = {env!r} takes {wanted!r}; leave --env out "
            f"or give --env {own}"
        )
    return own, source, recording


def everywhere(source: str) -> str:
    """A recording's name as it is, a folder as a path that does not depend on where one is."""
    from routegym.graph.library import recording_folder, shipped_recordings

    return source if source in shipped_recordings() else str(recording_folder(source))
