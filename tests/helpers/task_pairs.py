"""The pairs of the built-in tasks under two tokenizers, made once: a task has thousands of candidates to tokenise."""

from __future__ import annotations

from functools import cache
from typing import Any

from basisbench.pairs.alignment import load_splits
from basisbench.registry import load_registry
from basisbench.types import SPLITS, PairSet
from basisbench_baselines.pocket.corpus.stream import build_tokenizer
from helpers.subword_tokenizer import subword_tokenizer

TOKENIZERS = {"words": build_tokenizer, "subwords": subword_tokenizer}
"""For the first every word is a token; the second splits many words, and so fewer pairs can be aligned."""

COUNTS = {"attribution": 200, "evaluation": 160}


@cache
def tokenizer(name: str) -> Any:
    """Return one of the two tokenizers."""
    return TOKENIZERS[name]()


def load_pairs(task: str, tokenizer_name: str) -> dict[str, PairSet]:
    """Align both splits of a built-in task."""
    found = load_registry().get("task", task)
    return dict(zip(SPLITS, load_splits(found, tokenizer(tokenizer_name), **COUNTS, seed=0), strict=True))


splits = cache(load_pairs)
"""The same, aligned once."""
