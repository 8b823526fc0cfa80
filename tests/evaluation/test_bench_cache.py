"""What a bench keeps is named by everything that decides it."""

import pickle
from dataclasses import replace
from pathlib import Path

import helpers
import pytest

from routegym.evaluation.bench import BenchSettings, Job, bench_parts, bound_file
from routegym.evaluation.outcomes import Grid

MINE = """
from routegym.policies.baselines import AlwaysArm


class Mine(AlwaysArm):
    def __init__(self, recording):
        super().__init__(recording, {arm})
"""


def kept(recording, cache: Path) -> set[Path]:
    """Where fits, the attainable bound and folds are kept."""
    grid = Grid.of(recording, [1.0], [0.0])
    settings = BenchSettings.of("routegym/Attempts-v0", "made", recording, grid)
    folds = bench_parts("made", recording, 2, cache)
    return {Job("always", 0, settings, cache).folder, bound_file(cache, settings), *map(Path, folds)}


@pytest.mark.parametrize("what", ["cost_scale_usd", "budget_range_usd", "prices"])
def test_prices_and_scales_are_in_the_names(what: str, tmp_path: Path) -> None:
    recording = helpers.build("attempts", 30)
    first = kept(recording, tmp_path)
    assert kept(replace(recording), tmp_path) == first
    table = recording.prices
    dearer = {model: replace(price, prompt=price.prompt + 1) for model, price in table.prices.items()}
    low, high = recording.budget_range_usd
    other = {
        "cost_scale_usd": 2 * recording.cost_scale_usd,
        "budget_range_usd": (low, 2 * high),
        "prices": replace(table, prices=dearer),
    }
    assert not first & kept(replace(recording, **{what: other[what]}), tmp_path)


def test_an_algorithm_that_was_changed_is_fitted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = helpers.build("attempts", 30)
    settings = BenchSettings.of("routegym/Attempts-v0", "made", recording, Grid.of(recording, [1.0], [0.0]))
    source = tmp_path / "changed_algorithm.py"
    monkeypatch.syspath_prepend(tmp_path)
    source.write_text(MINE.format(arm=0))
    first, again = (Job("changed_algorithm:Mine", 0, settings, tmp_path).folder for _ in range(2))
    assert first == again
    source.write_text(MINE.format(arm=1))
    assert Job("changed_algorithm:Mine", 0, settings, tmp_path).folder != first


def test_a_job_of_other_code_is_another_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that unpickles a job derives its folder anew, and sees that its own code is another."""
    recording = helpers.build("attempts", 30)
    settings = BenchSettings.of("routegym/Attempts-v0", "made", recording, Grid.of(recording, [1.0], [0.0]))
    job = Job("always", 0, settings, tmp_path)
    folder = job.folder
    sent = pickle.dumps(job)
    assert pickle.loads(sent).folder == folder
    monkeypatch.setattr("routegym.__version__", "9.9.9")
    assert pickle.loads(sent).folder != folder
