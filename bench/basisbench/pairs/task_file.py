"""A task from prompt pairs that others have made: a file, or a dataset of the Hugging Face hub.

Formats (`basisbench.pairs.task_rows` reads them):

- Marks et al. 2025 (arXiv 2403.19647; data/ in their code): JSON lines, or one JSON array, of objects with
  `clean_prefix`, `patch_prefix`, `clean_answer` and `patch_answer`.
- Hanna et al. 2024 (arXiv 2403.17806; EAP-IG, MIB): CSV with `clean`, `corrupted`, and `correct_idx`, `incorrect_idx`
  (token ids of the tokenizer that the file was made for) or `answer` and `foil`.
- A dataset of the hub, by name and columns.

A prompt is a text, or chat messages (`[{"role": ..., "content": ...}]`) that the model's own template makes a text of.
An answer or foil is a text or a list of texts. Other fields, such as `case`, are ignored. A file names no roles, so the
whole prompt is one segment and pairs are aligned by their number of tokens alone. An object may have `clusters`, levels
by factor (`{"noun": "doctor"}`), if all have the same; otherwise the words in which its prompts differ are its level.

The splits are made here, whatever split the file was published as:

1. No prompt, clean or counterfactual, is in both splits. This always holds.
2. Where possible, no word in which the two prompts of a pair differ (uncle/uncles) is a differing word in both
   splits. This is possible if the pairs fall into clusters, linked by such words, that give each split at least a
   quarter of the pairs; `FileTask.words_disjoint` says whether it was. Words that a pair's prompts have in
   common, such as an attractor, may be in both splits.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from basisbench.errors import TaskError
from basisbench.pairs.chat import chat_text
from basisbench.pairs.pair_fields import CHAT, Pair, checked
from basisbench.pairs.sentence_frames import generator
from basisbench.pairs.task_rows import HUB, read_dataset, read_file
from basisbench.types import SPLITS, ContrastPair, Segment, Split

SMALLEST_SHARE = 0.25
"""Least share of the pairs that a split must get for the splits to be made by differing words."""


@dataclass(frozen=True)
class FileTask:
    """A task whose pairs come from a file or a dataset.

    Attributes:
        name: the file's name without its ending, or the dataset's.
        version: the first twelve hexadecimal digits of the SHA-256 of the content.
        summary: one line for listings.
        by_split: the pairs of each split, in the order of the file. Chat messages stand there as JSON, and token ids as
            numbers, until `for_tokenizer` makes texts of them.
        words_disjoint: whether the splits share no differing word, beside sharing no prompt.
        ids: whether answers and foils are token ids.
        repeated: pairs that were given more than once.
    """

    name: str
    version: str
    summary: str
    by_split: Mapping[Split, tuple[ContrastPair, ...]]
    words_disjoint: bool
    ids: bool = False
    repeated: int = 0

    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        """Yield the pairs of a split in an order drawn from `seed`."""
        pairs = list(self.by_split[split])
        generator(self.name, self.version, split, seed).shuffle(pairs)
        return iter(pairs)

    def for_tokenizer(self, tokenizer: Any) -> FileTask:
        """Return the task with chat messages and token ids as a model's tokenizer writes them.

        Raises:
            TaskError: the tokenizer has no chat template or refuses the messages, or has no such tokens.
        """
        written = partial(_written, self.name, tokenizer, {} if self.ids else None)
        return replace(self, by_split={split: tuple(map(written, self.by_split[split])) for split in SPLITS})


def _written(name: str, tokenizer: Any, tokens: dict[str, str] | None, pair: ContrastPair) -> ContrastPair:
    """Return a pair as text; `tokens` keeps the texts of token ids, and is None where there are none."""
    if tokens is not None:
        for number in (*pair.answers, *pair.foils):
            if number not in tokens:
                tokens[number] = _token_text(name, tokenizer, int(number))
        answers, foils = (tuple(tokens[number] for number in numbers) for numbers in (pair.answers, pair.foils))
        pair = replace(pair, answers=answers, foils=foils)
    if pair.template == CHAT:
        clean, counterfactual = (
            (Segment("prompt", chat_text(name, tokenizer, json.loads(segments[0].text))),)
            for segments in (pair.clean, pair.counterfactual)
        )
        pair = replace(pair, clean=clean, counterfactual=counterfactual)
    return pair


def _token_text(name: str, tokenizer: Any, number: int) -> str:
    if number >= len(tokenizer):
        raise TaskError(
            f"task '{name}': token id {number} is beyond the tokenizer's {len(tokenizer)}; the file was made for "
            "another tokenizer: use one that gives answers as text, or that model"
        )
    # Behind another token, for some tokenizers leave out the space that the first token of a text begins with.
    before = tokenizer("a", add_special_tokens=False)["input_ids"]
    alone, both = (tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in (before, [*before, number]))
    return str(both[len(alone) :])


def load_task_file(source: str | Path) -> FileTask:
    """Read prompt pairs as a task.

    Args:
        source: a file (JSON lines, one JSON array, CSV), or a dataset of the hub
            (`basisbench.pairs.task_rows.read_dataset`).

    Raises:
        TaskError: it cannot be read or is malformed; names the file, the line and the field.
    """
    if str(source).startswith(HUB):
        where = Path(source).as_posix()
        name, rows = read_dataset(where)
        found = [checked(place, value) for place, value in rows]
        content = json.dumps([[pair, dict(clusters)] for pair, clusters, _ in found]).encode()
        where = f"task data {where}"
    else:
        path = Path(source)
        content, rows = read_file(path)
        found = [checked(place, value) for place, value in rows]
        name, where = path.stem, f"task file {path}"
    if not found:
        raise TaskError(f"{where}: holds no pairs")
    if len({ids for *_, ids in found}) > 1:
        raise TaskError(f"{where}: some pairs give answers as text, others as token ids; give all in one way")
    pairs = list({pair: _contrast_pair(pair, clusters) for pair, clusters, _ in found}.values())
    by_split, words_disjoint = _split(pairs)
    return FileTask(
        name=name,
        version=hashlib.sha256(content).hexdigest()[:12],
        summary=f"{len(pairs)} distinct pairs from {where.partition(' ')[2].rpartition('/')[2]}",
        by_split=by_split,
        words_disjoint=words_disjoint,
        ids=found[0][2],
        repeated=len(found) - len(pairs),
    )


def _contrast_pair(pair: Pair, clusters: Mapping[str, str]) -> ContrastPair:
    template, clean, counterfactual, answers, foils = pair
    return ContrastPair(
        template=template,
        clean=(Segment("prompt", clean),),
        counterfactual=(Segment("prompt", counterfactual),),
        answers=answers,
        foils=foils,
        words=_differing_words(clean, counterfactual),
        clusters=clusters,
    )


def _differing_words(clean: str, counterfactual: str) -> tuple[str, ...]:
    first, second = (Counter(re.findall(r"\w+", text)) for text in (clean, counterfactual))
    return tuple(sorted((first - second) + (second - first)))


def _split(pairs: Sequence[ContrastPair]) -> tuple[dict[Split, tuple[ContrastPair, ...]], bool]:
    """Deal clusters of linked pairs to the splits, by differing words and prompts if that is balanced enough."""

    def prompts(pair: ContrastPair) -> list[Hashable]:
        return [("prompt", pair.clean_text), ("prompt", pair.counterfactual_text)]

    def words_and_prompts(pair: ContrastPair) -> list[Hashable]:
        return [*prompts(pair), *(("word", word) for word in pair.words)]

    by_words = _deal(_clusters(pairs, words_and_prompts))
    if min(map(len, by_words.values())) >= SMALLEST_SHARE * len(pairs):
        return by_words, True
    return _deal(_clusters(pairs, prompts)), False


def _clusters(
    pairs: Sequence[ContrastPair], links: Callable[[ContrastPair], Iterable[Hashable]]
) -> list[list[ContrastPair]]:
    """Join pairs that share a link, directly or through others."""
    parent = list(range(len(pairs)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first_with: dict[Hashable, int] = {}
    for index, pair in enumerate(pairs):
        for link in links(pair):
            parent[root(index)] = root(first_with.setdefault(link, index))
    clusters: dict[int, list[ContrastPair]] = {}
    for index, pair in enumerate(pairs):
        clusters.setdefault(root(index), []).append(pair)
    return list(clusters.values())


def _deal(clusters: Sequence[list[ContrastPair]]) -> dict[Split, tuple[ContrastPair, ...]]:
    """Give each cluster, largest first, to the split that has fewer pairs."""
    dealt: dict[Split, list[ContrastPair]] = {"attribution": [], "evaluation": []}
    for cluster in sorted(clusters, key=lambda cluster: (-len(cluster), cluster[0].clean_text)):
        smaller: Split = "attribution" if len(dealt["attribution"]) <= len(dealt["evaluation"]) else "evaluation"
        dealt[smaller].extend(cluster)
    return {split: tuple(pairs) for split, pairs in dealt.items()}
