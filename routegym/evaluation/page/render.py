"""The page itself: a template, a style sheet and a script around the content, all in one file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np

import routegym
from routegym.errors import ConfigError, MissingExtraError
from routegym.evaluation.collapse import DIFFICULTIES
from routegym.evaluation.page.content import Section, SectionContent, section_content
from routegym.evaluation.page.text import excerpt, reveal

__all__ = ["report_page"]

_MEANINGS = {
    "easy": "the cheapest arm does",
    "medium": "the cheapest does not, one between the ends does",
    "hard": "only the dearest does",
    "intractable": "none does",
}


def report_page(sections: Sequence[Section], count: int = 20, tell: Callable[[str], None] = lambda _: None) -> str:
    """The results of some runs as one HTML page; it loads nothing, and its browser is told to load nothing.

    Args:
        sections: the runs.
        count: largest gains and largest losses to show of each run, so many of each.
        tell: is told what is done next.

    Raises:
        ConfigError: no section.
        MissingExtraError: plotly or Jinja2 is not installed.
    """
    if not sections:
        raise ConfigError("report_page was given no section; expected at least one run")
    try:
        import jinja2
    except ImportError:
        raise MissingExtraError("Jinja2", "report") from None
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise MissingExtraError("plotly", "report") from None
    library, script = get_plotlyjs(), _file("page.js")
    contents = []
    for section in sections:

        def named(step: str, section: Section = section) -> None:
            tell(f"{section.name}: {step}")

        contents.append(section_content(section, count, named))
    environment = jinja2.Environment(
        autoescape=True,
        finalize=lambda value: reveal(value) if type(value) is str else value,  # what is marked safe has another type
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"interval": _interval, "excerpt": excerpt, "signed": _signed}
    return environment.from_string(_file("page.html")).render(
        sections=contents,
        meanings={name: _MEANINGS[name] for name in DIFFICULTIES},
        forest={content.anchor: _forest(content) for content in contents},
        version=routegym.__version__,
        policy=_content_policy(library, script),
        style=_file("page.css"),
        library=library,
        script=script,
        figures=_json(_figures(contents)),
    )


def _figures(contents: Sequence[SectionContent]) -> dict[str, Any]:
    """Every figure by the id of its place."""
    found: dict[str, Any] = {}
    for content in contents:
        found[f"{content.anchor}-frontier"] = content.frontier
        if content.calibration is not None:
            found[f"{content.anchor}-calibration"] = content.calibration
        for number, (_, by_difficulty, by_budget) in enumerate(content.shares):
            found[f"{content.anchor}-difficulty-{number}"] = by_difficulty
            found[f"{content.anchor}-budget-{number}"] = by_budget
    return found


def _forest(content: SectionContent) -> dict[str, Any]:
    """Intervals over the zero router as bars: ends in percent of the common range, and where zero lies in it."""
    found = {name: policy["over_zero_router"] for name, policy in content.metrics["policies"].items()}
    low = min(0.0, *(interval["low"] for interval in found.values()))
    high = max(0.0, *(interval["high"] for interval in found.values()))
    low = max(low, -high / 2) if high > 0 else low  # what is far behind may be cut off, not the others squeezed
    width = (high - low) or 1.0

    def percent(value: float) -> float:
        return round(100 * float(np.clip((value - low) / width, 0.0, 1.0)), 2)

    bars = {
        name: {key: percent(interval[key]) for key in ("low", "estimate", "high")} | {"cut": interval["estimate"] < low}
        for name, interval in found.items()
    }
    return {"zero": percent(0.0), "bars": bars}


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-0.000", "+0.000")


def _interval(interval: Mapping[str, Any], style: str = "+.3f") -> str:
    return f"{interval['estimate']:{style}} [{interval['low']:{style}}, {interval['high']:{style}}]"


def _content_policy(*scripts: str) -> str:
    """A Content-Security-Policy that runs these scripts and no other, and loads nothing."""
    allowed = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _json(content: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends the element or begins a comment."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
