"""A small transformer encoder over the text of a situation, beside what the observation says of prices and budget.

Paper: Vaswani et al., "Attention Is All You Need", arXiv 1706.03762 (the encoder). Deviations: it reads bytes, learned
positions, the norm before each block, and the mean over the text in the place of a class token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch as th

from routegym.core.observation import ObservationLayout
from routegym.policies.networks import Actor
from routegym.policies.networks.recurrent import make_head

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = ["TextEncoder", "make_text_actor", "text_actor", "text_columns"]

_BYTES = 256
_PADDING = 0  # no text holds this byte
_UNREAD = ("node_signals", "task")  # groups of columns that say by other means what the text says


def text_columns(observation: dict[str, npt.NDArray[Any]], length: int) -> npt.NDArray[np.float32]:
    """Flat observations with the bytes of the situation's text in further columns, float32 (n, width + length).

    Args:
        observation: of ``observation="text"``.
        length: bytes of UTF-8 that are kept of a text, the first ones; shorter texts are padded with 0.
    """
    flat, texts = observation["flat"], observation["text"]
    cut = [text.encode()[:length].ljust(length, b"\0") for text in texts]
    symbols = np.frombuffer(b"".join(cut), dtype=np.uint8).reshape(len(cut), length)
    return np.concatenate([flat, symbols], axis=1, dtype=np.float32)


class TextEncoder(th.nn.Module):
    """Rows of `text_columns` to features (n, width of the flat observation + width).

    The first columns of the features are the flat observation, its hand-made signals and embeddings set to 0: what is
    known of the task is read from the text.

    Args:
        layout: of the flat observation.
        length: bytes of a text.
        width, layers, heads: of the transformer.
    """

    def __init__(
        self, layout: ObservationLayout, length: int, width: int = 32, layers: int = 2, heads: int = 4
    ) -> None:
        super().__init__()
        self._flat, self.width = layout.width, width
        read = th.ones(layout.width)
        for group in _UNREAD:
            read[layout.columns[group]] = 0.0
        self.register_buffer("_read", read, persistent=False)
        self.symbols = th.nn.Embedding(_BYTES, width, padding_idx=_PADDING)
        self.places = th.nn.Parameter(th.randn(length, width) * 0.1)
        block = th.nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.transformer = th.nn.TransformerEncoder(block, layers, enable_nested_tensor=False)

    _read: th.Tensor

    def forward(self, rows: th.Tensor) -> th.Tensor:
        """Features of rows float32 (n, width of the flat observation + length)."""
        texts, row = th.unique(rows[:, self._flat :].long(), dim=0, return_inverse=True)  # each text is read once
        texts = texts[:, : max(int((texts != _PADDING).sum(dim=1).max()), 1)]
        padding = texts == _PADDING
        padding[:, 0] = False  # an empty text is one byte of padding
        read = self.transformer(self.symbols(texts) + self.places[: texts.shape[1]], src_key_padding_mask=padding)
        kept = (~padding).unsqueeze(-1)
        code = (read * kept).sum(dim=1) / kept.sum(dim=1)  # (texts, width)
        return th.cat([rows[:, : self._flat] * self._read, code[row]], dim=1)


def make_text_actor(recording: Recording, length: int, hidden: Sequence[int]) -> Actor:
    """A fresh actor for rows of `text_columns`; torch's global generator draws its weights."""
    layout = ObservationLayout.of(recording)
    encoder = TextEncoder(layout, length)
    return text_actor(encoder, make_head(encoder.width, hidden, recording), layout)


def text_actor(encoder: TextEncoder, head: Actor, layout: ObservationLayout) -> Actor:
    """One actor of an encoder and a head for its features; see `make_head`."""
    return Actor(th.nn.Sequential(encoder, head.network), layout)
