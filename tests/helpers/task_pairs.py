"""The pairs of the built-in tasks under two tokenizers, made once: a task has thousands of candidates to tokenise.

And pairs of a made-up task, for what alignment does with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from basisbench.pairs.alignment import align, load_splits
from basisbench.pairs.lexicon import PORTIONS, word_lists
from basisbench.registry import load_registry
from basisbench.types import SPLITS, ContrastPair, PairSet, Segment, Split
from basisbench_baselines.pocket.corpus.stream import build_tokenizer
from helpers.subword_tokenizer import subword_tokenizer

TOKENIZERS = {"words": build_tokenizer, "subwords": subword_tokenizer}
"""For the first every word is a token; the second splits many words, and so fewer pairs can be aligned."""

COUNTS = {"attribution": 200, "evaluation": 100}


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


def pair(
    subject: str,
    other: str,
    *,
    answers: tuple[str, ...] = (" is",),
    foils: tuple[str, ...] = (" are",),
    template: str = "plain",
) -> ContrastPair:
    def prompt(noun: str) -> tuple[Segment, ...]:
        return (Segment("opening", "The"), Segment("subject", f" {noun}"))

    return ContrastPair(template, prompt(subject), prompt(other), answers, foils, (subject, other))


NOUNS = ("doctor", "boy", "driver", "writer", "dancer", "king", "judge", "player", "friend", "worker")
GOOD = [pair(noun, f"{noun}s") for noun in NOUNS]


def all_nouns() -> list[Any]:
    return [noun for portion in PORTIONS for noun in word_lists(portion).nouns]


def aligned(pairs: list[ContrastPair], count: int = 100, **options: int) -> PairSet:
    return align("demo", "1", pairs, build_tokenizer(), "attribution", count, **options)


@dataclass(frozen=True)
class TwoSplits:
    """A task that is given its pairs."""

    by_split: dict[Split, list[ContrastPair]]
    name: str = "demo"
    version: str = "7"
    summary: str = "for tests"

    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        del seed
        return iter(self.by_split[split])
