"""Tokenises contrast pairs, keeps those whose prompts align, and groups them; steps 1 to 4 of `alignment`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from basisbench.errors import TaskError
from basisbench.types import ContrastPair, Segment

REPEATED = "clean prompt already used by an earlier pair"
SAME_PROMPT = "clean and counterfactual prompt are the same tokens"
UNEQUAL = "clean and counterfactual differ in tokens per segment"
NOT_SINGLE = "an answer or foil is not a single token"
OVERLAP = "an answer token is also a foil token"
UNKNOWN = "a word is unknown to the tokenizer"


@dataclass(frozen=True)
class AlignedPair:
    """A pair that survived a tokenizer.

    Attributes:
        pair: the pair as text.
        roles: role of each position.
        clean: ids of the clean prompt, the beginning-of-sequence token included.
        counterfactual: ids of the counterfactual prompt, as many.
        answers: one id per answer.
        foils: one id per foil.
    """

    pair: ContrastPair
    roles: tuple[str, ...]
    clean: tuple[int, ...]
    counterfactual: tuple[int, ...]
    answers: tuple[int, ...]
    foils: tuple[int, ...]


def collect(
    task_name: str, candidates: Iterable[ContrastPair], tokenizer: Any
) -> tuple[dict[str, list[AlignedPair]], Counter[str]]:
    """Group the candidates that survive, and count the others by reason.

    Args:
        task_name: name of the task, for errors.
        candidates: pairs as text; of those with one clean prompt the first that survives is kept.
        tokenizer: a fast Hugging Face tokenizer.

    Returns:
        The survivors by group key, in the order of the candidates, and the counts.

    Raises:
        TaskError: the tokenizer is not a fast one.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise TaskError(
            f"task '{task_name}': tokenizer '{tokenizer_name(tokenizer)}' is not a fast one, so it gives no offsets"
        )
    pairs = list(candidates)
    prompts = [(pair.clean_text, pair.counterfactual_text) for pair in pairs]
    tokens = _tokenize(tokenizer, [text for both in prompts for text in both])
    dropped: Counter[str] = Counter()
    # For each clean prompt the candidates that use it, in order: the first that survives is taken.
    waiting: dict[tuple[int, ...], list[_Prompts]] = {}
    for index, pair in enumerate(pairs):
        clean, counterfactual = tokens[2 * index], tokens[2 * index + 1]
        counts = _segment_counts(pair.clean, clean.ends)
        if tokenizer.unk_token_id in clean.ids + counterfactual.ids:
            dropped[UNKNOWN] += 1
        elif clean.ids == counterfactual.ids:
            dropped[SAME_PROMPT] += 1
        elif counts != _segment_counts(pair.counterfactual, counterfactual.ends):
            dropped[UNEQUAL] += 1
        else:
            entry = _Prompts(index, pair, counts, clean.ids, counterfactual.ids)
            waiting.setdefault(clean.ids, []).append(entry)
    survivors: list[tuple[int, str, AlignedPair]] = []
    while waiting:
        entries = [queue.pop(0) for queue in waiting.values()]
        for entry, continued in zip(entries, _continuations(tokenizer, entries), strict=True):
            aligned = _judge(entry, continued, tokenizer)
            if isinstance(aligned, str):
                dropped[aligned] += 1
            else:
                survivors.append((entry.index, _group_key(entry, aligned), aligned))
                dropped[REPEATED] += len(waiting[entry.clean])
                waiting[entry.clean].clear()
        waiting = {clean: queue for clean, queue in waiting.items() if queue}
    groups: dict[str, list[AlignedPair]] = {}
    for _, key, aligned in sorted(survivors, key=lambda survivor: survivor[0]):
        groups.setdefault(key, []).append(aligned)
    return groups, +dropped


@dataclass(frozen=True)
class _Prompts:
    """A candidate whose two prompts align; ids without the beginning-of-sequence token."""

    index: int
    pair: ContrastPair
    counts: tuple[int, ...]
    clean: tuple[int, ...]
    counterfactual: tuple[int, ...]


def _continuations(tokenizer: Any, entries: Sequence[_Prompts]) -> Iterator[list[tuple[int, ...]]]:
    """Yield for each entry the ids of each prompt followed by each answer and foil, clean prompt first."""
    texts = [
        [prompt + word for prompt in (entry.pair.clean_text, entry.pair.counterfactual_text) for word in _words(entry)]
        for entry in entries
    ]
    encoded = iter(tokenizer([text for row in texts for text in row], add_special_tokens=False)["input_ids"])
    for row in texts:
        yield [tuple(next(encoded)) for _ in row]


def _words(entry: _Prompts) -> tuple[str, ...]:
    return entry.pair.answers + entry.pair.foils


def _judge(entry: _Prompts, continued: Sequence[tuple[int, ...]], tokenizer: Any) -> AlignedPair | str:
    """Return the aligned pair, or the reason why its answers or foils will not do."""
    size = len(_words(entry))
    found = [
        _single_token(prompt, ids)
        for prompt, row in ((entry.clean, continued[:size]), (entry.counterfactual, continued[size:]))
        for ids in row
    ]
    words = [token for token in found[:size] if token is not None]
    if tokenizer.unk_token_id in words:
        return UNKNOWN
    if len(words) < size or found[:size] != found[size:]:
        return NOT_SINGLE
    answers, foils = tuple(words[: len(entry.pair.answers)]), tuple(words[len(entry.pair.answers) :])
    if set(answers) & set(foils):
        return OVERLAP
    bos = () if tokenizer.bos_token_id is None else (int(tokenizer.bos_token_id),)
    roles = [
        segment.role for segment, tokens in zip(entry.pair.clean, entry.counts, strict=True) for _ in range(tokens)
    ]
    return AlignedPair(
        pair=entry.pair,
        roles=("bos",) * len(bos) + tuple(roles),
        clean=bos + entry.clean,
        counterfactual=bos + entry.counterfactual,
        answers=answers,
        foils=foils,
    )


def _group_key(entry: _Prompts, aligned: AlignedPair) -> str:
    key = f"{entry.pair.template}:{','.join(map(str, entry.counts))}"
    if (len(aligned.answers), len(aligned.foils)) != (1, 1):
        key += f":{len(aligned.answers)}/{len(aligned.foils)}"
    return key


@dataclass(frozen=True)
class _Tokens:
    """Token ids of a text and the offset just after each token's last character."""

    ids: tuple[int, ...]
    ends: tuple[int, ...]


def _tokenize(tokenizer: Any, texts: Sequence[str]) -> list[_Tokens]:
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
    return [
        _Tokens(tuple(ids), tuple(end for _, end in offsets))
        for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]


def _single_token(prompt: tuple[int, ...], continued: tuple[int, ...]) -> int | None:
    """Return the one token that the continuation adds, or None if it adds more or changes the prompt."""
    if len(continued) == len(prompt) + 1 and continued[:-1] == prompt:
        return continued[-1]
    return None


def _segment_counts(segments: Sequence[Segment], ends: Sequence[int]) -> tuple[int, ...]:
    """Count the tokens whose last character lies in each segment."""
    import numpy as np

    borders = np.cumsum([len(segment.text) for segment in segments])
    # A token that ends at a border still has its last character before it.
    owners = np.searchsorted(borders, np.maximum(ends, 1), side="left")
    return tuple(np.bincount(owners, minlength=len(segments)).tolist())


def tokenizer_name(tokenizer: Any) -> str:
    """Return what to call a tokenizer in messages: where it came from, or its class."""
    return str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)
