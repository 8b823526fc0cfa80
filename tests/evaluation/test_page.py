"""The page: its numbers against those they come from, its figures against plotly, and hostile texts."""

from __future__ import annotations

import base64
import builtins
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routegym.errors import ConfigError, MissingExtraError
from routegym.evaluation.calibration import predicted_success, success_calibration
from routegym.evaluation.collapse import DIFFICULTIES
from routegym.evaluation.comparison import Comparison, Entry
from routegym.evaluation.outcomes import Grid, play
from routegym.evaluation.page import Section, figures, report_page
from routegym.evaluation.page.content import contrast, section_content, situation
from routegym.evaluation.page.text import excerpt, label, reveal
from routegym.evaluation.references import recorded_alone, references
from routegym.graph.recording import Recording
from routegym.graph.subset import vary_arms
from routegym.policies.algorithm import Problem
from routegym.policies.baselines import AlwaysArm, ConfidenceCascade
from routegym.policies.success import KNN

pytest.importorskip("plotly")
pytest.importorskip("jinja2")

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\u202egnihtemos\u2066 else",
    "<!--<script>{{ 7 * 7 }}",
)


def section_of(recording: Recording, name: str = "a run", cap: int = 2) -> Section:
    """A cascade as the learned policy; one arm alone and a success predictor as baselines."""
    grid = Grid.of(recording, np.geomspace(*recording.budget_range_usd, 3).tolist(), [0.0, 0.2])
    policies: dict[str, Any] = {
        "mine": ConfidenceCascade(recording, (0, 1, 2), 0.9),
        "always": AlwaysArm(recording, 0),
        "knn": KNN(situations=256).fit(Problem(recording), 0),
    }
    entries = {
        one: Entry.of(
            {0: play(policy, recording, "test", grid)},
            {0: play(policy, recording, "val", grid)},
            learned=one == "mine",
        )
        for one, policy in policies.items()
    }
    comparison = Comparison(recording, "test", grid, entries, references(recording, "test", grid), resamples=20)
    return Section(
        name=name,
        env="routegym/Cascade-v0",
        comparison=comparison,
        played=comparison,
        metrics=comparison.metrics(),
        policy=policies.__getitem__,
        commands=("routegym train --out x",),
        seeds=(0,),
        machine="a machine",
        versions={"routegym": "0"},
        cap=cap,
    )


def hostile(recording: Recording) -> Recording:
    """The recording with texts that want to be code, to turn the line around, and to fill the page."""
    tasks = recording.tasks
    prompts = tuple(f"{number} {HOSTILE[number % 4]} {prompt}" for number, prompt in enumerate(tasks.prompts))
    long = tuple(f"{prompt}{'x' * 200_000}" for prompt in prompts)
    ids = tuple(f"{one}<b>{HOSTILE[number % 4]}" for number, one in enumerate(tasks.ids))
    arms = tuple(replace(arm, tier="<script>alert(2)</script>%{x}") for arm in recording.arms)
    graph_texts = recording.texts
    found = replace(recording, tasks=replace(tasks, prompts=long, ids=ids), arms=arms, name="<i>name")
    assert found.texts is graph_texts
    found.provenance = {"note": HOSTILE[0] * 1000}
    return found


@pytest.fixture(scope="module")
def cascade(recordings: dict[str, Path]) -> Recording:
    return Recording.load(recordings["cascade"])


@pytest.fixture(scope="module")
def section(cascade: Recording) -> Section:
    return section_of(cascade)


@pytest.fixture(scope="module")
def page(section: Section) -> str:
    return report_page([section], count=5)


class Reader(HTMLParser):
    """Elements and scripts as a browser finds them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.words: list[str] = []
        self._inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._inside:
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


# -- numbers -----------------------------------------------------------------------------------
def test_the_contrast_is_that_of_the_outcomes(section: Section):
    comparison = section.comparison
    found = contrast(comparison, ("mine", section.policy("mine")), ("always", section.policy("always")), section.cap, 4)
    point = comparison.grid.at_cap(section.cap)
    mine, theirs = (comparison.entries[name].outcomes[0] for name in ("mine", "always"))
    gain = mine.scores[point].astype(float) - theirs.scores[point]
    assert (found.tasks, found.higher, found.lower) == (len(gain), (gain > 0).sum(), (gain < 0).sum())
    assert found.score_difference == pytest.approx(gain.mean())
    assert found.dearer == (mine.costs[point].mean() > theirs.costs[point].mean())
    assert found.gained
    assert max(map(len, (found.gained, found.lost))) <= 4
    assert [card.gain for card in found.gained] == pytest.approx(sorted(gain, reverse=True)[: len(found.gained)])


def test_a_card_tells_both_routes_and_every_arm_alone(section: Section, cascade: Recording):
    comparison = section.comparison
    content = section_content(section, count=5)
    assert content.contrast is not None
    tasks = cascade.split("test").tolist()
    cards = (*content.contrast.gained, *content.contrast.lost)
    assert cards
    for card in cards:
        task = cascade.task_index[card.task]
        index = tasks.index(task)
        assert card.prompt == cascade.tasks.prompts[task]
        assert card.reference == cascade.tasks.references[task]
        arms = comparison.references.arms
        outcomes = [outcome for _, outcome in card.alone if outcome]
        assert [score for score, _, _ in outcomes] == pytest.approx(arms.scores[0, :, index])
        assert [name for name, _ in card.alone] == [arm.name for arm in cascade.arms]
        budget = comparison.grid.caps[section.cap]
        assert [inside for *_, inside in outcomes] == (arms.costs[0, :, index] <= budget).tolist()
        assert card.solved_by == (arms.scores[0, :, index] >= 0.5).sum()
        assert (card.difficulty == "intractable") == (card.solved_by == 0)
        assert card.gain == card.ways[0].score - card.ways[1].score
        assert card.ways[0].stops[0].situation == "nothing asked yet"
        assert {stop.choice for way in card.ways for stop in way.stops} <= set(cascade.action_names)
    assert dict(content.levels).keys() == set(DIFFICULTIES)
    assert sum(count for _, count in content.levels) == len(tasks)


def test_an_arm_that_was_not_recorded_is_said_to_be_so(cascade: Recording, page: str):
    masked = vary_arms(cascade, drop=0.6, split="test")
    section = section_of(masked)
    content = section_content(section, count=5)
    known = recorded_alone(masked, masked.split("test"))
    assert content.masked == section.metrics["masked_pairs"] == (~known).sum()
    assert content.contrast is not None
    cards = (*content.contrast.gained, *content.contrast.lost)
    for card in cards:
        there = known[:, masked.split("test").tolist().index(masked.task_index[card.task])]
        assert [outcome is not None for _, outcome in card.alone] == there.tolist()
        assert card.solved_by == sum(outcome[0] >= 0.5 for _, outcome in card.alone if outcome)
    missing = sum(outcome is None for card in cards for _, outcome in card.alone)
    html = report_page([section], count=5)
    text = Reader(html).text
    assert missing
    assert html.count('<td colspan="3">not recorded</td>') == missing
    for said in (
        "recorded arms alone solve",
        "another one stands in",
        "worst case stands in",
        "that was recorded for it",
    ):
        assert said in text
        assert said not in Reader(page).text


def test_situations_are_readable(cascade: Recording):
    start = int(cascade.graph.task_start[0])
    after = int(cascade.graph.edges["next"][cascade.graph.edge_first[start, 0]])
    arm, answer, sure = json.loads(cascade.texts[after])[0]
    assert situation(cascade, after) == f"{arm}: {answer} (confidence {sure:.2f})"


def test_where_a_route_starts_at_its_prompt_nothing_is_repeated(recordings: dict[str, Path]):
    steps = Recording.load(recordings["agent_steps"])
    assert situation(steps, int(steps.graph.task_start[3])) == ""


def test_predictions_are_those_that_calibration_is_measured_on(section: Section, cascade: Recording):
    policy: Any = section.policy("knn")
    predicted, outcome = predicted_success(policy, cascade, "test")
    assert predicted.shape == outcome.shape == (len(cascade.split("test")) * len(cascade.arms),)
    assert success_calibration(policy, cascade, "test")["brier"] == pytest.approx(((predicted - outcome) ** 2).mean())


def test_one_policy_alone_has_no_contrast(section: Section):
    comparison = replace(section.comparison, entries={"mine": section.comparison.entries["mine"]})
    alone = replace(section, comparison=comparison, played=comparison, metrics=comparison.metrics())
    assert section_content(alone).contrast is None
    text = Reader(report_page([alone])).text
    assert "This takes two policies; the run holds only one." in text
    assert "there is no other one to compare it with" in text
    assert "None of these policies predicts how likely success is." in text


def test_where_nothing_was_learned_the_best_two_are_compared(section: Section):
    entries = {name: section.comparison.entries[name] for name in ("always", "knn")}
    comparison = replace(section.comparison, entries=entries)
    rules = replace(section, comparison=comparison, played=comparison, metrics=comparison.metrics())
    found = section_content(rules)
    first, second = sorted(entries, key=lambda name: -rules.metrics["policies"][name]["aiq"])
    assert (found.best, found.rival) == (first, second)
    assert found.contrast is not None
    assert (found.contrast.mine, found.contrast.theirs) == (first, second)
    assert found.over_rival is not None
    higher, lower = (rules.metrics["policies"][name]["aiq"] for name in (first, second))
    assert found.over_rival["estimate"] == pytest.approx(higher - lower)
    assert [name for name, *_ in found.shares] == [first, second]
    text = Reader(report_page([rules])).text
    assert f"the best of the others, {second}" in text
    assert re.search(rf"The best policy, {first} ?, beside the best of the others, {second} ?, each", text)
    assert "learned policy" not in text


def test_where_mixing_arms_is_as_good_as_the_oracle_no_gap_is_told(section: Section):
    against = section.comparison.references
    comparison = replace(section.comparison, references=replace(against, oracle_mean=against.arms))
    metrics = comparison.metrics()
    json.dumps(metrics, allow_nan=False)
    assert {found["gap_closed_oracle"] for found in metrics["policies"].values()} == {None}
    twice = [replace(section, name=name, comparison=comparison, metrics=metrics) for name in ("one", "two")]
    text = Reader(report_page(twice)).text
    assert "gap to the oracle closed" not in text
    assert "nan%" not in text


# -- figures -----------------------------------------------------------------------------------
def painted(value: Any) -> Any:
    """A figure with a colour in the place of every name of one."""
    if isinstance(value, str) and value.startswith("--"):
        return "#123456"
    if isinstance(value, dict):
        return {key: painted(one) for key, one in value.items()}
    return [painted(one) for one in value] if isinstance(value, list) else value


def all_figures(section: Section) -> list[figures.Figure]:
    content = section_content(section)
    assert content.calibration is not None
    return [content.frontier, content.calibration, *(one for _, *pair in content.shares for one in pair)]


def test_figures_are_what_plotly_knows(section: Section):
    from plotly.graph_objects import Figure

    for found in all_figures(section):
        Figure(painted(found))  # raises where an attribute is unknown or has no sense


def test_every_colour_is_in_the_style_sheet(section: Section):
    style = files("routegym.evaluation.page").joinpath("page.css").read_text(encoding="utf-8")
    light, _, rest = style.partition("@media screen and (prefers-color-scheme: dark)")
    dark = rest.partition("\n}\n")[0]
    named = {one.partition("/")[0] for one in re.findall(r'"(--[^"]+)"', json.dumps(all_figures(section)))}
    assert {"--ink", "--series-1", "--ramp-1", "--control-1"} <= named
    for theme in (light, dark):
        assert named <= set(re.findall(r"(--[a-z0-9-]+): #[0-9a-f]{6};", theme))


def test_the_frontier_shows_the_points_and_their_numbers(section: Section):
    comparison = section.comparison
    found = figures.frontier(comparison, ["mine", "knn"])
    points = [t for t in found["data"] if t["name"] == "mine" and t["mode"] == "markers"]
    costs, scores = comparison.entries["mine"].sweep.points()
    order = np.argsort(costs, kind="stable")
    assert points[0]["x"] == pytest.approx(costs[order])
    assert points[0]["y"] == pytest.approx(scores[order])
    assert all("95 % interval" in detail and "hard budget" in detail for _, detail in points[0]["customdata"])
    arms = next(trace for trace in found["data"] if trace["name"] == "single arms")
    assert arms["text"] == [arm.name for arm in comparison.recording.arms]
    low, high = found["layout"]["yaxis"]["range"]
    assert all(low <= score <= high for score in scores)


def test_a_policy_that_costs_nothing_has_no_place_on_a_logarithmic_axis(section: Section):
    comparison = section.comparison
    free = comparison.entries["mine"]
    outcome = replace(free.outcomes[0], costs=np.zeros_like(free.outcomes[0].costs))
    entries = {"free": replace(free, outcomes={0: outcome})}
    found = figures.frontier(replace(comparison, entries=entries), ["free"])
    assert found["layout"]["xaxis"]["type"] == "log"
    assert [trace["x"] for trace in found["data"] if trace["name"] == "free" and trace["mode"] == "lines"] == [[], []]


def test_arms_that_cost_alike_are_on_a_linear_axis_with_round_ticks(recordings: dict[str, Path]):
    recording = Recording.load(recordings["single_call"])
    grid = Grid.of(recording, None, [0.0])
    against = references(recording, "test", grid)
    arms = against.arms
    alike = replace(against, arms=replace(arms, costs=np.linspace(0.2, 1, 3)[None, :, None] * np.ones_like(arms.costs)))
    axis = figures.frontier(Comparison(recording, "test", grid, {}, alike), [])["layout"]["xaxis"]
    assert "type" not in axis
    assert axis["tickvals"] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert axis["ticktext"] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]


def test_shares_add_up(section: Section):
    for _, by_difficulty, by_budget in section_content(section).shares:
        for found in (by_difficulty, by_budget):
            assert np.sum([trace["y"] for trace in found["data"]], axis=0) == pytest.approx(1)


def test_budgets_that_look_alike_have_bars_of_their_own(section: Section):
    points = section.metrics["policies"]["mine"]["budgets"][:1] * 2
    names = section.comparison.recording.action_names
    found = figures.budget_shares(points, names, figures.action_colors(names, 3))
    assert all(trace["x"] == [0, 1] for trace in found["data"])
    first, second = found["layout"]["xaxis"]["ticktext"]
    assert first == second


def test_arms_darken_and_controls_are_grey():
    colors = figures.action_colors(("a", "b", "c", "accept"), 3)
    assert colors == {"a": "--ramp-1", "b": "--ramp-5", "c": "--ramp-9", "accept": "--control-1"}
    assert figures.action_colors(("a",), 1) == {"a": "--ramp-5"}


# -- the page ----------------------------------------------------------------------------------
def test_it_says_what_was_run(page: str, section: Section, cascade: Recording):
    text = Reader(page).text
    for part in (
        "a run", "Score against cost", "Who is called when", "Calibration", "Routes", "Provenance",
        cascade.content_hash, cascade.prices.date, "routegym train --out x", "a machine", "over best baseline",
    ):  # fmt: skip
        assert part in text
    assert f"{section.metrics['policies']['mine']['aiq']:.4f}" in text


def test_the_browser_is_told_to_run_what_is_ours_and_to_load_nothing(page: str):
    reader = Reader(page)
    policy = next(
        attributes["content"] or ""
        for tag, attributes in reader.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none';")
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    run = [text for kind, text in reader.scripts if kind.get("type") != "application/json"]
    assert len(run) == 2
    assert {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run} == allowed
    assert "unsafe" not in policy.partition("script-src")[2].partition(";")[0]
    for tag, attributes in reader.tags:
        for name in ("src", "href", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,")), (tag, attributes)


def test_plotly_is_there_once(page: str):
    assert page.count("plotly.js v") == 1
    assert len(page) < 8_000_000


def test_hostile_texts_stay_texts(cascade: Recording):
    wicked = section_of(hostile(cascade), name=f"run{HOSTILE[0]}\ud800")
    wicked = replace(wicked, commands=(HOSTILE[0],), machine=HOSTILE[1], versions={HOSTILE[2]: HOSTILE[3]})
    found = report_page([wicked])
    assert len(found.encode("utf-8")) < 8_000_000  # every prompt has 200,000 characters
    reader = Reader(found)
    assert len(reader.scripts) == 3
    assert any(attributes.get("class") == "card" for _, attributes in reader.tags)
    assert all("alert(" not in text or "plotly.js v" in text for _, text in reader.scripts[1:])
    assert not [tag for tag, _ in reader.tags if tag in ("img", "i", "b2")]
    assert not [name for _, attributes in reader.tags for name in attributes if name.startswith("on")]
    outside = " ".join(reader.words)
    assert "</script><script>alert(1)</script>" in outside  # told, not run
    assert "{{ 7 * 7 }}" in outside
    assert "<U+202E>" in outside
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", outside)
    figures_json = reader.scripts[0][1]
    assert json.loads(figures_json)
    assert not set("<>&") & set(figures_json)


def test_texts_are_shortened_and_what_is_hidden_is_shown():
    assert excerpt("short", 10) == "short"
    text = excerpt("a" * 500 + "z" * 500, 100)
    assert text.startswith("a" * 75 + "\n")
    assert text.endswith("\n" + "z" * 25)
    assert "900 characters" in text
    assert reveal("a\u202eb\u200bc\x00\r\nd\te") == "a<U+202E>b<U+200B>c<U+0000>\nd\te"
    assert label("<b>\nbold</b> %{x}") == "&lt;b&gt; bold&lt;/b&gt; %{x}"


def test_several_runs_have_an_overview(section: Section):
    reader = Reader(report_page([section, replace(section, name="another")], count=1))
    assert "2 runs" in reader.text
    links = {attributes["href"] for tag, attributes in reader.tags if tag == "a"}
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert {link.removeprefix("#") for link in links if link} <= set(ids)
    assert len(ids) == len(set(ids))


def test_no_section_and_missing_extras(section: Section, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="at least one run"):
        report_page([])
    real = builtins.__import__
    for package, extra in (("plotly", "plotly"), ("jinja2", "Jinja2")):

        def without(name: str, *args: Any, package: str = package, **kwargs: Any) -> Any:
            if name.partition(".")[0] == package:
                raise ImportError(name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(MissingExtraError, match=rf"'{extra}' is needed.*routegym\[report\]"):
            report_page([section])
