"""The site builds without a warning, its generated pages are those of the code, and the tutorial's commands run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for page, said in (
        ("api/core", "RoutingVectorEnv"),
        ("api/policies", "MetricsCallback"),
        ("papers", "DeepSeekMath"),
    ):
        assert said in (tmp_path / "site" / page / "index.html").read_text(encoding="utf-8")


def test_generated_pages_are_those_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from site_pages import environments_page, papers_page

    for name, text in (("envs", environments_page()), ("papers", papers_page())):
        there = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
        assert there == text, f"docs/{name}.md is not what scripts/site_pages.py writes; run it"


@pytest.mark.timeout(600)
def test_the_commands_of_the_tutorial_run(tmp_path: Path) -> None:
    for package in ("torch", "sklearn", "plotly"):
        pytest.importorskip(package)
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs/tutorial.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) >= 7
    for command in commands:
        program, *arguments = command.split()
        assert program == "routegym"
        whole = [sys.executable, "-m", "routegym", *arguments]
        done = subprocess.run(whole, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    assert (tmp_path / "runs/mine/report.html").is_file()
    assert (tmp_path / "runs/bench-mine/results.md").is_file()
