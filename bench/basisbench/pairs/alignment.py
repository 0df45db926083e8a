"""From contrast pairs as text to aligned groups of token ids, for any fast tokenizer.

1. Both prompts of a pair are tokenised whole; a token belongs to the segment that holds its last character.
2. A beginning-of-sequence token stands in front where the tokenizer itself puts one there, and never two; a task can
   be told to have one always or never.
3. A pair is kept if its two prompts differ, have the same number of tokens in each segment, no more in all than the
   model has positions, and each answer and foil is exactly one more token after the clean and after the
   counterfactual prompt. Under the metric "logprob" each pair has one answer and one foil, of equally many tokens.
4. Pairs with the same template and the same tokens per segment form a group. Groups with too few pairs are left
   out, because reference values are means over a group.
5. `count` pairs are spread evenly over the groups; `load_splits` keeps only groups that both splits have.
6. Each pair gets its levels of the task's cluster factors; one that never varies is left out.

Every candidate that is left out for a reason other than `count` is counted under that reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from basisbench.errors import TaskError
from basisbench.pairs.chat import write_pairs
from basisbench.pairs.task_file import FileTask
from basisbench.pairs.tokens import NOT_SINGLE, AlignedPair, collect, token_texts, tokenizer_name
from basisbench.types import SPLITS, Bos, ContrastPair, Metric, Pairs, PairSet, Split

if TYPE_CHECKING:
    from datasets import Dataset

    from basisbench.protocols import Task

MINIMUM_GROUP = 8
"""Fewest pairs of an aligned group, unless asked otherwise."""

MOST_CANDIDATES = 300_000
"""Candidates of one split; a task that yields more is taken for one that never ends."""

WORDS_FACTOR = "words"
"""Cluster factor of a task that names none: the words of a pair together."""

SMALL_GROUP = "aligned group too small"
UNMATCHED_GROUP = "no aligned group in the other split"


def align(
    task_name: str,
    version: str,
    candidates: Iterable[ContrastPair],
    tokenizer: Any,
    split: Split,
    count: int,
    *,
    bos: Bos = "auto",
    longest: int | None = None,
    minimum_group: int = MINIMUM_GROUP,
    metric: Metric = "logit",
) -> PairSet:
    """Tokenise candidates and return about `count` of them as aligned groups, largest first.

    Args:
        task_name: name of the task, for the groups and for errors.
        version: version of the task's data.
        candidates: pairs as text; earlier ones are preferred.
        tokenizer: a fast Hugging Face tokenizer (it must give offsets).
        split: the split that the candidates belong to.
        count: pairs wanted; fewer are returned when there are fewer.
        bos: whether a beginning-of-sequence token stands in front of each prompt.
        longest: positions that the model has; longer prompts are dropped. None for any number.
        minimum_group: fewest pairs of a group; smaller groups are dropped.
        metric: what answers are worth; under "logprob" they may have several tokens.

    Returns:
        The groups, with the candidates left out counted by reason.

    Raises:
        TaskError: nothing is left, the tokenizer is not a fast one or lacks the token that `bos` asks for, pairs have
            different cluster factors, or there is no such split or no such count.
    """
    check_request(task_name, split, count)
    groups, dropped = collect(task_name, candidates, tokenizer, bos=bos, longest=longest, metric=metric)
    _check_factors(task_name, (item.pair for group in groups.values() for item in group))
    kept = [_build(task_name, version, split, key, group, metric) for key, group in groups.items()]
    kept = [pairs for pairs in kept if len(pairs) >= minimum_group]
    dropped += Counter({SMALL_GROUP: sum(map(len, groups.values())) - sum(map(len, kept))})
    if not kept:
        raise _no_pairs(task_name, tokenizer, split, dropped, max(map(len, groups.values()), default=0), minimum_group)
    # The largest groups, as many as `count` pairs can fill.
    kept = sorted(kept, key=lambda pairs: (-len(pairs), pairs.group))[: max(1, count // minimum_group)]
    chosen = sorted(_spread_pairs(kept, count), key=lambda pairs: -len(pairs))
    return PairSet(_finished(chosen, tokenizer), dropped)


def pairs_of(
    task: Task,
    tokenizer: Any,
    split: Split,
    count: int,
    seed: int,
    *,
    bos: Bos = "auto",
    longest: int | None = None,
    metric: Metric = "logit",
) -> PairSet:
    """Return about `count` pairs of a split of a task as aligned groups of single-token answers.

    Args:
        task: the task.
        tokenizer: a fast Hugging Face tokenizer.
        split: the split.
        count: pairs wanted.
        seed: order of the candidates.
        bos: whether a beginning-of-sequence token stands in front of each prompt.
        longest: positions that the model has; longer prompts are dropped. None for any number.
        metric: what answers are worth; under "logprob" they may have several tokens.

    Raises:
        TaskError: no candidate survives this tokenizer, or there is no such split or count.
    """
    check_request(task.name, split, count)
    if isinstance(task, FileTask):
        task = task.for_tokenizer(tokenizer)
    candidates = list(islice(task.candidates(split, seed), MOST_CANDIDATES + 1))
    if len(candidates) > MOST_CANDIDATES:
        raise TaskError(f"task '{task.name}' yields more than {MOST_CANDIDATES} {split} candidates; a task must end")
    candidates = write_pairs(task.name, tokenizer, candidates)
    return align(task.name, task.version, candidates, tokenizer, split, count, bos=bos, longest=longest, metric=metric)


def check_request(task_name: str, split: str, count: int) -> None:
    """Refuse a split that there is not, and fewer than one pair.

    Raises:
        TaskError: tells which task, what was asked and what it has.
    """
    if split not in SPLITS:
        raise TaskError(f"task '{task_name}' has no split '{split}'; it has {' and '.join(SPLITS)}")
    if count < 1:
        raise TaskError(f"task '{task_name}': {count} pairs asked of the {split} split; ask for at least 1")


def load_splits(
    task: Task,
    tokenizer: Any,
    *,
    attribution: int,
    evaluation: int,
    seed: int,
    bos: Bos = "auto",
    draw: int = 0,
    longest: int | None = None,
    minimum_group: int = MINIMUM_GROUP,
    metric: Metric = "logit",
) -> tuple[PairSet, PairSet]:
    """Return the attribution and the evaluation pairs of a task, with the same group keys in both.

    Args:
        task: a task; every candidate it has is tokenised.
        tokenizer: a fast Hugging Face tokenizer.
        attribution: attribution pairs wanted.
        evaluation: evaluation pairs wanted.
        seed: order of the candidates.
        bos: whether a beginning-of-sequence token stands in front of each prompt.
        draw: which attribution pairs are taken from the same groups; the evaluation pairs are those of draw 0. Draws
            share no pair while candidates last; then they go through a group's candidates again from the first.
        longest: positions that the model has; longer prompts are dropped. None for any number.
        minimum_group: fewest pairs that a group must have in each split.
        metric: what answers are worth; under "logprob" they may have several tokens.

    Returns:
        Both splits; groups come in the same order, the one with the most pairs in its smaller split first.

    Raises:
        TaskError: a split has no usable pair, the two splits have no group in common, or draw 0 takes every candidate
            already.
    """
    everything = 1_000_000
    found = [
        pairs_of(task, tokenizer, split, everything, seed, bos=bos, longest=longest, metric=metric) for split in SPLITS
    ]
    tables = [{group.group: group for group in pair_set if len(group) >= minimum_group} for pair_set in found]
    drops = [Counter(pair_set.dropped) for pair_set in found]
    common = [key for key in tables[0] if key in tables[1]]
    common.sort(key=lambda key: (-min(len(tables[0][key]), len(tables[1][key])), key))
    for pair_set, table, dropped in zip(found, tables, drops, strict=True):
        for group in pair_set:
            if group.group not in table:
                dropped[SMALL_GROUP] += len(group)
            elif group.group not in common:
                dropped[UNMATCHED_GROUP] += len(group)
    if not common:
        raise _no_pairs(task.name, tokenizer, "attribution and evaluation", drops[0] + drops[1], 0, minimum_group)
    # The same groups for both splits: as many as the smaller request can fill.
    keep = common[: max(1, min(attribution, evaluation) // minimum_group)]
    first, second = ([table[key] for key in keep] for table in tables)
    drawn = _spread_pairs(first, attribution, draw)
    if draw and sum(map(len, drawn)) == sum(map(len, first)):
        raise TaskError(
            f"task '{task.name}' has {sum(map(len, first))} attribution pairs in its groups, and each draw takes all "
            "of them; ask for fewer attribution pairs, or for draw 0 alone"
        )
    return (
        PairSet(_finished(drawn, tokenizer), dict(drops[0])),
        PairSet(_finished(_spread_pairs(second, evaluation), tokenizer), dict(drops[1])),
    )


def to_dataset(pair_set: PairSet) -> Dataset:
    """Return a `datasets.Dataset` with a row per pair; its info carries task and version."""
    from datasets import Dataset, DatasetInfo, Version

    rows = [
        {
            "task": group.task,
            "version": group.version,
            "split": group.split,
            "group": group.group,
            "roles": list(group.roles),
            "clean_text": group.clean_text[index],
            "counterfactual_text": group.counterfactual_text[index],
            "clean": group.clean[index].tolist(),
            "counterfactual": group.counterfactual[index].tolist(),
            "answers": group.answers[index].tolist(),
            "foils": group.foils[index].tolist(),
            "clusters": {factor: levels[index] for factor, levels in group.clusters.items()},
        }
        for group in pair_set
        for index in range(len(group))
    ]
    first = pair_set[0]
    number = f"{first.version}.0.0" if first.version.isdigit() else "0.0.0"
    info = DatasetInfo(
        description=f"{first.task}, version {first.version}, {first.split} split: {len(rows)} contrast pairs",
        dataset_name=first.task,
        version=Version(number),
    )
    return Dataset.from_list(rows, info=info)


def _shares(sizes: Sequence[int], count: int) -> list[int]:
    """Spread `count` over groups as evenly as their sizes allow; earlier groups get what is left over."""
    shares = [0] * len(sizes)
    left = min(count, sum(sizes))
    while left:
        open_groups = [index for index, size in enumerate(sizes) if shares[index] < size]
        step = max(1, left // len(open_groups))
        for index in open_groups:
            added = min(step, sizes[index] - shares[index], left)
            shares[index] += added
            left -= added
    return shares


def _spread_pairs(groups: Sequence[Pairs], count: int, draw: int = 0) -> list[Pairs]:
    shares = _shares([len(group) for group in groups], count)
    return [
        _select(group, [(draw * share + index) % len(group) for index in range(share)])
        for group, share in zip(groups, shares, strict=True)
    ]


def _select(group: Pairs, rows: Sequence[int]) -> Pairs:
    return replace(
        group,
        clean=group.clean[rows],
        counterfactual=group.counterfactual[rows],
        answers=group.answers[rows],
        foils=group.foils[rows],
        clean_text=tuple(group.clean_text[row] for row in rows),
        counterfactual_text=tuple(group.counterfactual_text[row] for row in rows),
        clusters={factor: tuple(levels[row] for row in rows) for factor, levels in group.clusters.items()},
    )


def clusters_of(pair: ContrastPair) -> Mapping[str, str]:
    """Return the level that a pair has of each cluster factor: its own, or its words together."""
    return pair.clusters or {WORDS_FACTOR: " ".join(pair.words)}


def _check_factors(task_name: str, pairs: Iterable[ContrastPair]) -> None:
    """Refuse pairs of one task that have different cluster factors.

    Raises:
        TaskError: names them.
    """
    found = {", ".join(sorted(clusters_of(pair))): None for pair in pairs}
    if len(found) > 1:
        first, other = list(found)[:2]
        raise TaskError(
            f"task '{task_name}': one pair has the cluster factors {first}, another one {other}; all pairs of a task "
            "need the same"
        )


def _finished(groups: Sequence[Pairs], tokenizer: Any) -> tuple[Pairs, ...]:
    """Return groups, once their pairs are chosen, with the tokens of the first prompt and the factors that vary.

    Of a factor with one level over all groups nothing can be resampled, so it is left out unless all are such.
    """
    levels = {factor: {level for group in groups for level in group.clusters[factor]} for factor in groups[0].clusters}
    kept = [factor for factor, found in levels.items() if len(found) > 1] or list(levels)
    return tuple(
        replace(
            group,
            clusters={factor: group.clusters[factor] for factor in kept},
            token_texts=token_texts(tokenizer, group.clean[0].tolist()),
        )
        for group in groups
    )


def _build(task: str, version: str, split: Split, key: str, group: Sequence[AlignedPair], metric: Metric) -> Pairs:
    import numpy as np

    clusters = [clusters_of(item.pair) for item in group]
    return Pairs(
        task=task,
        version=version,
        split=split,
        group=key,
        roles=group[0].roles,
        clean=np.array([item.clean for item in group], dtype=np.int64),
        counterfactual=np.array([item.counterfactual for item in group], dtype=np.int64),
        answers=np.array([item.answers for item in group], dtype=np.int64),
        foils=np.array([item.foils for item in group], dtype=np.int64),
        clean_text=tuple(item.pair.clean_text for item in group),
        counterfactual_text=tuple(item.pair.counterfactual_text for item in group),
        clusters={factor: tuple(levels[factor] for levels in clusters) for factor in clusters[0]},
        metric=metric,
    )


def _no_pairs(
    task_name: str, tokenizer: Any, split: str, dropped: Mapping[str, int], largest: int, needed: int
) -> TaskError:
    reasons = "; ".join(f"{reason}: {number}" for reason, number in Counter(dropped).most_common() if number)
    if NOT_SINGLE in dropped:
        reasons += "; --metric logprob takes answers of several tokens"
    fewest = f"{needed} pairs per group and split are needed, the largest group has {largest}; " if largest else ""
    return TaskError(
        f"task '{task_name}' has no usable {split} pairs for {tokenizer_name(tokenizer)} "
        f"({fewest}{reasons or 'the task gave no candidates'})"
    )
