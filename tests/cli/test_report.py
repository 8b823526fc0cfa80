"""``routegym report``: the pages of a training and of a bench, what it refuses, and the page in a browser."""

from __future__ import annotations

import builtins
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml
from commands import refused

from routegym.cli.main import main
from routegym.cli.train import Train
from routegym.graph.recording import Recording
from routegym.policies.config import hyperparameters, tuned
from routegym.tracking.run import Run

pytest.importorskip("plotly")
pytest.importorskip("jinja2")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def bench(recordings: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bench of a learner and a success predictor; not to be changed."""
    out = tmp_path_factory.mktemp("bench") / "small"
    main(
        ["bench", "--env", "routegym/Cascade-v0", "--recording", str(recordings["cascade"]), "--out", str(out),
         "--seeds", "1", "--steps", "2048", "--no-attainable", "--policies", "maskable_ppo", "always", "knn"]
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def page(bench: Path, trained: Path) -> Path:
    """One page of both runs."""
    out = bench.parent / "both.html"
    main(["report", str(bench), str(trained), "--out", str(out), "--routes", "3"])
    return out


# -- files -------------------------------------------------------------------------------------
def test_a_training(run_folder: Path, recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((run_folder / "metrics.json").read_text())
    main(["report", str(run_folder), "--routes", "2"])
    found = (run_folder / "report.html").read_text(encoding="utf-8")
    assert f"report: {run_folder / 'report.html'}" in capsys.readouterr().out
    assert found.startswith("<!doctype html>")
    assert f"{before['policies']['maskable_ppo']['aiq']:.4f}" in found  # the numbers of the evaluation
    assert Recording.load(recording).content_hash in found
    assert "routegym train" in found
    assert json.loads((run_folder / "metrics.json").read_text()) == before
    first = (run_folder / "report.html").read_bytes()
    main(["report", str(run_folder), "--routes", "2"])
    assert (run_folder / "report.html").read_bytes() == first


def test_a_training_that_was_never_evaluated(run_folder: Path) -> None:
    (run_folder / "metrics.json").unlink()
    main(["report", str(run_folder), "--routes", "1"])
    assert "confidence_cascade" in (run_folder / "report.html").read_text(encoding="utf-8")


def test_both_on_one_page(page: Path, bench: Path) -> None:
    found = page.read_text(encoding="utf-8")
    metrics = json.loads((bench / "metrics.json").read_text())
    assert "2 runs" in found
    assert f"{metrics['policies']['knn']['aiq']:.4f}" in found
    assert "Brier" in found
    assert page.stat().st_size < 8_000_000


def test_the_command_of_a_training_gives_the_same_configuration(trained: Path) -> None:
    from routegym.cli.report import _train_command

    config = Run(trained).config
    command = shlex.split(_train_command(config, trained))
    assert command[:2] == ["routegym", "train"]
    again = tyro.cli(Train, args=command[2:], config=(tyro.conf.OmitArgPrefixes,))
    changes = dict(pair.split("=", 1) for pair in again.set)
    algorithm = tuned(again.algo, again.env, {name: yaml.safe_load(value) for name, value in changes.items()})
    plain = json.loads(json.dumps(hyperparameters(algorithm)))
    assert plain == config.hyperparameters
    assert list(range(again.seed, again.seed + again.seeds)) == config.seeds
    assert (again.env, again.recording, again.threads) == (config.env, config.recording, config.threads)
    assert (again.lambda_, again.budget_usd or "sampled") == (config.lambda_, config.budget_usd)


@pytest.mark.parametrize(("wanted", "number"), [(None, 5), (1e-9, 0), (1e9, 9)])
def test_the_budget_of_the_routes(bench: Path, tmp_path: Path, wanted: float | None, number: int) -> None:
    from routegym.core.render import format_usd

    out = tmp_path / "page.html"
    option = [] if wanted is None else ["--budget-usd", str(wanted)]
    main(["report", str(bench), "--out", str(out), "--routes", "1", *option])
    budget = json.loads((bench / "metrics.json").read_text())["budgets_usd"][number]
    assert f"under a hard budget of {format_usd(budget)} at price 0:" in out.read_text(encoding="utf-8")


# -- what it refuses ---------------------------------------------------------------------------
def test_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "expected a run folder" in refused(capsys, "report", str(tmp_path))
    assert "at least one" in refused(capsys, "report", str(tmp_path), "--routes", "0")
    assert "above 0" in refused(capsys, "report", str(tmp_path), "--budget-usd", "-1")
    (tmp_path / "metrics.json").write_text("[")
    assert "not valid JSON" in refused(capsys, "report", str(tmp_path))
    (tmp_path / "metrics.json").write_text('{"made": {}, "recording": "cascade"}')
    assert "damaged (no 'content_hash')" in refused(capsys, "report", str(tmp_path))


def test_a_recording_that_is_gone(
    run_folder: Path, recording: Path, recordings: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config = (run_folder / "config.yaml").read_text()
    (run_folder / "config.yaml").write_text(config.replace(str(recording), str(recording) + "-gone"))
    message = refused(capsys, "report", str(run_folder))
    assert "was not found" in message
    assert "--recording" in message
    other = str(recordings["cascade"])
    assert "has content hash" in refused(capsys, "report", str(run_folder), "--recording", other)
    assert not (run_folder / "report.html").exists()
    main(["report", str(run_folder), "--routes", "1", "--recording", other, str(recording)])
    assert (run_folder / "report.html").is_file()


def test_outcomes_that_are_gone(bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(bench, tmp_path / "copy"))
    next((copy / "cache").glob("knn-0-*/test-*.safetensors")).unlink()
    message = refused(capsys, "report", str(copy))
    assert "knn: no outcomes of seed 0" in message
    assert "run the bench again, with the same command, `routegym" in message


def test_prices_that_are_others_by_now(bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are no part of a recording's content hash."""
    copy = Path(shutil.copytree(bench, tmp_path / "copy"))
    metrics = json.loads((copy / "metrics.json").read_text())
    priced = Recording.load(metrics["made"]["recording"])
    priced.cost_scale_usd *= 2
    metrics["made"]["recording"] = str(priced.save(tmp_path / "priced"))
    (copy / "metrics.json").write_text(json.dumps(metrics))
    message = refused(capsys, "report", str(copy))
    assert "has other prices or scales than when the bench was run, though the same content" in message
    assert "run `routegym" in message
    del metrics["made"]["scales"]  # a bench of an earlier version
    (copy / "metrics.json").write_text(json.dumps(metrics))
    message = refused(capsys, "report", str(copy))
    assert "no outcomes of seed 0" in message
    assert "or the recording has other prices or scales by now" in message


def test_a_missing_extra(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("plotly"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    message = refused(capsys, "report", str(bench), "--out", str(tmp_path / "x.html"))
    assert 'pip install "routegym[report]"' in message


# -- in a browser ------------------------------------------------------------------------------
@pytest.fixture
def browser() -> Iterator[Any]:
    """A headless Chromium, if one is installed."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium is installed")
    options = (
        "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
        "--disable-sync",
    )  # fmt: skip
    with playwright.sync_playwright() as engine:
        chromium = engine.chromium.launch(executable_path=found, args=options)
        yield chromium
        chromium.close()


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (420, "dark")])
def test_in_a_browser(browser: Any, page: Path, width: int, scheme: str) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    tab.wait_for_selector(".plot .main-svg")

    places = tab.evaluate("[...document.querySelectorAll('.plot')].map(place => place.id)")
    assert len(places) == 2 * (1 + 4) + 1  # frontier, two policies' shares twice; one run has a calibration
    for place in places:
        drawn = f"#{place} .scatterlayer path.js-line, #{place} .barlayer .point path"
        shapes = tab.evaluate("at => [...document.querySelectorAll(at)].map(path => path.getAttribute('d'))", drawn)
        assert shapes, place
        assert all("NaN" not in shape for shape in shapes)
    curves = "path => path.getAttribute('d').length"
    lines = tab.locator(f"#{places[0]} .scatterlayer path.js-line")
    assert max(lines.nth(number).evaluate(curves) for number in range(lines.count())) > 200
    assert tab.evaluate("document.documentElement.scrollWidth") <= width  # only tables scroll sideways
    ink = tab.evaluate("getComputedStyle(document.body).color")
    assert (ink == "rgb(232, 234, 237)") == (scheme == "dark")
    assert tab.evaluate(
        "getComputedStyle(document.querySelector('.plot .main-svg')).backgroundColor"
        " === getComputedStyle(document.body).backgroundColor"
    )

    point = tab.locator(f"#{places[0]} .scatterlayer .points path.point").last
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.wait_for_selector(f"#{places[0]} .hoverlayer .hovertext")
    assert "score" in tab.locator(f"#{places[0]} .hoverlayer .hovertext").first.text_content()

    card = tab.locator("details.card").first
    assert not card.locator(".way").first.is_visible()
    card.locator("summary").click()
    assert card.locator(".way").first.is_visible()
    assert card.locator(".alone tbody tr").count() > 3

    assert said == []
    assert asked == [page.as_uri()]
    tab.close()


def test_a_script_that_slipped_in_does_not_run(browser: Any, page: Path, tmp_path: Path) -> None:
    """What escaping should never let through, the page's own policy stops."""
    text = page.read_text(encoding="utf-8")
    attack = "<script>document.title = 'run'</script><img src='https://example.org/x.png' onerror='document.title=1'>"
    bad = tmp_path / "bad.html"
    bad.write_text(text.replace("<main>", f"<main>{attack}", 1), encoding="utf-8")
    tab = browser.new_page()
    tab.goto(bad.as_uri())
    tab.wait_for_selector(".plot .main-svg")
    assert tab.title().startswith("routegym report")
    tab.close()


def test_on_paper(browser: Any, page: Path) -> None:
    tab = browser.new_page(color_scheme="dark", viewport={"width": 1400, "height": 900})
    tab.goto(page.as_uri())
    tab.wait_for_selector(".plot .main-svg")
    printed = tab.pdf(prefer_css_page_size=True, outline=True, tagged=True)
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) >= 2
    for heading in (b"Score against cost", b"Who is called when", b"Calibration", b"Routes", b"Provenance"):
        assert b"/Title (" + heading + b")" in printed
    # as long as it prints, the page is as wide as the paper, light, and no figure sticks out
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    tab.emulate_media(media="print")
    widths = tab.evaluate(
        "[...document.querySelectorAll('.plot .main-svg')].map(svg => svg.getBoundingClientRect().right)"
    )
    assert widths
    assert max(widths) <= 680.5
    assert tab.evaluate("getComputedStyle(document.body).color") == "rgb(26, 29, 33)"
    background = "getComputedStyle(document.querySelector('.plot .main-svg')).backgroundColor"
    assert tab.evaluate(background) == "rgb(255, 255, 255)"
    tab.emulate_media(media="screen")
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.evaluate(background) == "rgb(20, 23, 27)"
    tab.close()
