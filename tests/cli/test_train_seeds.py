"""``routegym train --workers``: seeds in processes of their own come to what they come to one after the other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from routegym.cli.main import main
from routegym.runners import Runner
from routegym.tracking.run import Run

# Its first process dies at once; the second one of seed 1 cannot go on.
MORTAL = """
import os, signal
from dataclasses import dataclass
from pathlib import Path
from routegym.errors import ConfigError
from routegym.policies.all_action import AllAction

@dataclass(frozen=True)
class Mortal(AllAction):
    def fit(self, problem, seed=0, training=None):
        died, failed = (Path(__file__).with_name(name) for name in ("died", "failed"))
        if not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if seed == 1 and not failed.exists():
            failed.touch()
            raise ConfigError("not today")
        return super().fit(problem, seed, training)
"""


def records(folder: Path) -> list[dict[str, Any]]:
    """What was reported, without what depends on the clock, seed by seed."""
    found = [{k: v for k, v in one.items() if k != "steps_per_second"} for one in Run(folder).history()]
    return sorted(found, key=lambda record: (record["seed"], record["step"]))


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.slow)])
def where(request: pytest.FixtureRequest) -> str:
    if request.param == "ray":
        assert isinstance(request.getfixturevalue("ray"), Runner)  # that is found by the command
    return str(request.param)


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals of Unix")
def test_seeds_side_by_side_come_to_the_same(
    where: str, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_mortal.py").write_text(MORTAL)
    command = ["train", "--recording", str(recording), "--seeds", "3", "--no-evaluate", "--set", "updates=40"]
    main([*command, "--algo", "all_action", "--out", "here"])

    apart = [*command, "--algo", "my_mortal:Mortal", "--out", "there", "--runner", where, "--workers", "2"]
    with pytest.raises(SystemExit):
        main(apart)
    assert "not today" in capsys.readouterr().err
    main(apart)  # goes on
    assert (tmp_path / "died").exists()
    for name in ("policy.safetensors", "policy.json"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    assert records(tmp_path / "there") == records(tmp_path / "here")
    left = [sorted(path.name for path in (tmp_path / where).iterdir()) for where in ("here", "there")]
    assert left[0] == left[1]


def test_what_cannot_be_divided_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--workers", "-1"], ["--live", "--tasks", "arithmetic:10", "--workers", "2"]):
        with pytest.raises(SystemExit) as error:
            main(["train", "--out", str(tmp_path / "run"), *wrong])
        assert error.value.code == 2
        assert "expected workers >= 0" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
