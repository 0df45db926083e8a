"""Documents as token ids: encode a stream once, then cut it into batches of nearly equal length.

1. Every document becomes one row: the beginning-of-sequence token, then its words.
2. Rows are visited in windows of many batches; inside a window they are sorted by length, so that a batch
   carries little padding, and the order of the batches is shuffled.
3. The batch of a step is a pure function of (seed, step), so a killed run continues where it stopped.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from basisbench.errors import BasisBenchError
from basisbench_baselines.training.checkpoint import load_state, save_state
from basisbench_baselines.training.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

WINDOW_BATCHES = 64
_ENCODE_AT_ONCE = 2000


@dataclass(frozen=True, eq=False)
class EncodedDocuments:
    """Documents as one long row of token ids.

    Attributes:
        tokens: ids of all documents, one after the other, each beginning with the BOS token.
        ends: where each document ends in `tokens`.
    """

    tokens: Int[np.ndarray, " token"]
    ends: Int[np.ndarray, " document"]

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def lengths(self) -> Int[np.ndarray, " document"]:
        """Tokens per document, BOS included."""
        return np.diff(self.ends, prepend=0)

    def first(self, count: int) -> EncodedDocuments:
        """Return the first `count` documents."""
        ends = self.ends[:count]
        return EncodedDocuments(self.tokens[: ends[-1]], ends)

    def rows(self, indices: Int[np.ndarray, " row"], pad: int) -> tuple[Int[Tensor, "row pos"], Int[Tensor, " row"]]:
        """Return documents as padded rows (padding on the right) and their lengths."""
        import torch

        lengths = self.lengths[indices]
        starts = self.ends[indices] - lengths
        positions = np.arange(lengths.max())
        real = positions < lengths[:, None]
        ids = np.where(real, self.tokens[np.where(real, starts[:, None] + positions, 0)], pad)
        return torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(lengths)


def encode_documents(
    tokenizer: PreTrainedTokenizerFast, documents: Iterator[str], count: int, progress: Progress
) -> EncodedDocuments:
    """Encode the next `count` documents of a stream.

    Raises:
        BasisBenchError: the tokenizer has no BOS token, or a word is not in its vocabulary.
    """
    bos, unknown = tokenizer.bos_token_id, tokenizer.unk_token_id
    if bos is None:
        raise BasisBenchError("the pocket tokenizer has no beginning-of-sequence token")
    pieces: list[np.ndarray] = []
    with progress.bar("documents", count) as bar:
        for first in range(0, count, _ENCODE_AT_ONCE):
            texts = list(itertools.islice(documents, min(_ENCODE_AT_ONCE, count - first)))
            for text, ids in zip(texts, tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True):
                if unknown in ids:
                    raise BasisBenchError(f"the pocket tokenizer does not know every word of {text!r}")
                pieces.append(np.array([bos, *ids], dtype=np.int32))
            bar.update(len(texts))
    return EncodedDocuments(np.concatenate(pieces), np.cumsum([len(piece) for piece in pieces]))


def load_or_encode(
    path: Path, tokenizer: PreTrainedTokenizerFast, documents: Iterator[str], count: int, progress: Progress
) -> EncodedDocuments:
    """Return the documents saved at `path`, or encode and save them."""
    import torch

    saved = load_state(path)
    if saved is not None:
        return EncodedDocuments(saved[0]["tokens"].numpy(), saved[0]["ends"].numpy())
    encoded = encode_documents(tokenizer, documents, count, progress)
    tensors = {"tokens": torch.from_numpy(encoded.tokens), "ends": torch.from_numpy(encoded.ends)}
    save_state(path, tensors, {"documents": count})
    return encoded


def batch_indices(lengths: Int[np.ndarray, " document"], batch: int, step: int, seed: int) -> Int[np.ndarray, " row"]:
    """Return the documents of one step; every document is in at most one step's batch."""
    total = len(lengths) // batch
    window, place = divmod(step, WINDOW_BATCHES)
    size = min(WINDOW_BATCHES, total - window * WINDOW_BATCHES)
    first = window * WINDOW_BATCHES * batch
    inside = np.argsort(lengths[first : first + size * batch], kind="stable")
    order = np.random.default_rng((seed, window)).permutation(size)
    chosen = inside[order[place] * batch : (order[place] + 1) * batch]
    return first + chosen
