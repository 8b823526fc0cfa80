"""Prompts that are the same, or nearly so, though their texts differ."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

__all__ = ["LEAST_WORDS", "SIMILAR", "near_duplicates", "normalized", "words_of"]

#: Cosine from which two prompts are near duplicates, over their words and pairs of neighbouring words, each weighted by
#: how few prompts have it: what all prompts of a template share makes them no duplicates.
SIMILAR = 0.8

#: Prompts with fewer words of letters are compared as a whole only: short sums look alike and are not the same task.
LEAST_WORDS = 8

Ints = npt.NDArray[np.int64]

_END = re.compile(r"[.,;:!?\u3002\uff0c\uff1f\uff01]+(?=\s|$)")  # ends a clause; within a word or number it means more
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d]+|[^\w\s]")
_QUOTES = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014", "''\"\"--")
_BANDS, _ROWS = 40, 3  # of pairs that share 60 % of their words and pairs (cosine 0.75), 1 in 17,000 is missed
_ALIKE = 0.4  # least share of equal hashes of pairs that are looked at: 4 standard errors below 60 %
_COMMON, _SHARE = 20, 0.02  # what more prompts have than so many, and than this share, is of a template
_NEIGHBOURS = 8  # compared in each band; a band with more prompts of one key is of prompts made from a template
_CHUNK = 1 << 20  # words hashed, or pairs compared, at a time
_PRIME = np.uint64(0x9E3779B97F4A7C15)


def words_of(prompt: str) -> list[str]:
    """The words, numbers and signs of a prompt; case, white space, kinds of quotes and ends of clauses do not count."""
    plain = unicodedata.normalize("NFKC", prompt).casefold().translate(_QUOTES)
    return _WORD.findall(_END.sub(" ", plain))


def normalized(prompt: str) -> str:
    """Equal for prompts of the same words."""
    return " ".join(words_of(prompt))


def near_duplicates(prompts: Sequence[str], group: npt.NDArray[np.integer], similar: float = SIMILAR) -> Ints:
    """Pairs of prompts of different groups that are nearly the same, but not the same.

    Nearly the same: they have the same numbers, at least `LEAST_WORDS` words each, and a cosine of at least `similar`.
    Candidates come from MinHash signatures in bands, so that the work grows with the number of words. Every
    prompt is compared with its nearest neighbours only: where very many are alike not all pairs are named.

    Args:
        prompts: n texts.
        group: of each, such as its split, (n,).
        similar: least cosine, see `SIMILAR`.

    Returns:
        Pairs of positions, int64 (m, 2), the first of each the lower one, ascending.
    """
    if len(np.unique(group)) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    number: dict[str, int] = {}
    words = [[number.setdefault(word, len(number)) for word in words_of(prompt)] for prompt in prompts]
    spelt = np.array([name[0].isalpha() for name in number], dtype=bool)
    numeric = np.array([name[0].isdigit() for name in number], dtype=bool)
    long = np.array([at for at, row in enumerate(words) if np.count_nonzero(spelt[row]) >= LEAST_WORDS], dtype=np.int64)
    if len(long) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    features, first = _features([words[row] for row in long])
    _, place, count = np.unique(features, return_inverse=True, return_counts=True)
    weight = np.square(np.log((len(long) + 1) / count))
    weight[count > max(_COMMON, _SHARE * len(long))] = 0.0
    weight = weight[place]
    norm, own = np.add.reduceat(weight, first), np.add.reduceat(weight > 0, first, dtype=np.int64)
    signatures = _signatures(features, first)
    pairs = _candidates(signatures, np.asarray(group)[long])
    pairs = pairs[(own[pairs] >= LEAST_WORDS).all(axis=1)]
    close = [
        (signatures[part[:, 0]] == signatures[part[:, 1]]).mean(axis=1) >= _ALIKE
        for part in np.array_split(pairs, len(pairs) * _BANDS * _ROWS // _CHUNK + 1)
    ]
    last = np.append(first[1:], len(features))
    kept = []
    for one, other in pairs[np.concatenate(close)].tolist():
        ours, theirs = words[long[one]], words[long[other]]
        if ours == theirs or _numbers(ours, numeric) != _numbers(theirs, numeric):
            continue
        mine = slice(first[one], last[one])
        shared = np.isin(features[mine], features[first[other] : last[other]], assume_unique=True)
        if weight[mine][shared].sum() >= similar * np.sqrt(norm[one] * norm[other]):
            kept.append((long[one], long[other]))
    return np.array(sorted(kept), dtype=np.int64).reshape(-1, 2)


def _numbers(words: list[int], numeric: npt.NDArray[np.bool_]) -> list[int]:
    return sorted(word for word in words if numeric[word])


def _features(words: Sequence[Sequence[int]]) -> tuple[npt.NDArray[np.uint64], Ints]:
    """Words and pairs of neighbours as numbers, one text after the other, each without doubles; where each begins."""
    lengths = np.array([len(row) for row in words])
    flat = _mix(np.fromiter(chain.from_iterable(words), dtype=np.uint64, count=int(lengths.sum())) + np.uint64(1))
    owner = np.repeat(np.arange(len(words)), lengths)
    within = owner[1:] == owner[:-1]
    pairs = _mix(flat[:-1] * np.uint64(3) + flat[1:])[within]
    flat, owner = np.concatenate([flat, pairs]), np.concatenate([owner, owner[1:][within]])
    order = np.lexsort((flat, owner))
    flat, owner = flat[order], owner[order]
    fresh = np.append(True, (flat[1:] != flat[:-1]) | (owner[1:] != owner[:-1]))
    flat, owner = flat[fresh], owner[fresh]
    return flat, np.searchsorted(owner, np.arange(len(words)))


def _signatures(features: npt.NDArray[np.uint64], first: Ints) -> npt.NDArray[np.uint32]:
    """MinHash of each text, (n, bands * rows): as many of two rows are equal as the texts share features."""
    salts = _mix(np.arange(1, _BANDS * _ROWS + 1, dtype=np.uint64))
    found = np.zeros((len(first), len(salts)), dtype=np.uint32)
    last = np.append(first[1:], len(features))
    low = 0
    while low < len(first):
        high = max(low + 1, int(np.searchsorted(last, first[low] + _CHUNK, side="right")))
        part, start = features[first[low] : last[high - 1]], first[low:high] - first[low]
        for column, salt in enumerate(salts):
            found[low:high, column] = np.minimum.reduceat(((part ^ salt) * _PRIME) >> np.uint64(32), start)
        low = high
    return found


def _candidates(signatures: npt.NDArray[np.uint32], group: npt.NDArray[np.integer]) -> Ints:
    """Pairs of different groups that agree in all rows of some band."""
    n = len(signatures)
    whole = _combined(signatures)
    found = []
    for band in range(_BANDS):
        key = _combined(signatures[:, band * _ROWS : (band + 1) * _ROWS])
        order = np.lexsort((whole, key))
        for offset in range(1, min(_NEIGHBOURS, n - 1) + 1):
            first, second = order[:-offset], order[offset:]
            both = (key[first] == key[second]) & (group[first] != group[second])
            first, second = first[both], second[both]
            found.append(np.minimum(first, second) * n + np.maximum(first, second))
    pairs = np.unique(np.concatenate(found))
    return np.stack([pairs // n, pairs % n], axis=1)


def _combined(columns: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    """Rows as one number each."""
    total = np.zeros(len(columns), dtype=np.uint64)
    for column in columns.T:
        total = _mix(total * np.uint64(31) + column)
    return total


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spread numbers over all 64 bits (the finaliser of SplitMix64)."""
    values = values * _PRIME
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
