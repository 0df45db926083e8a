"""Tokenises contrast pairs, keeps those whose prompts align, and groups them; steps 1 to 4 of `alignment`."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from basisbench.errors import TaskError
from basisbench.results.schema import printable
from basisbench.types import Bos, ContrastPair, Metric, Segment

REPEATED = "clean prompt already used by an earlier pair"
SAME_PROMPT = "clean and counterfactual prompt are the same tokens"
UNEQUAL = "clean and counterfactual differ in tokens per segment"
NOT_SINGLE = "an answer or foil is not a single token"
SEVERAL = "several answers or foils, where log-probabilities take one of each"
UNEQUAL_ANSWERS = "answer and foil differ in tokens"
NOT_BEHIND = "an answer or foil changes the prompt's tokens, or has other tokens after the other prompt"
OVERLAP = "an answer token is also a foil token"
UNKNOWN = "a word is unknown to the tokenizer"
TOO_LONG = "longer than the model's positions"

BOS_ROLE = "bos"
"""Role of the position of a beginning-of-sequence token."""

CONTINUATION_ROLE = "answer"
"""Role of the positions of an answer's tokens but its last, where answers have several."""


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
    task_name: str,
    candidates: Iterable[ContrastPair],
    tokenizer: Any,
    *,
    bos: Bos = "auto",
    longest: int | None = None,
    metric: Metric = "logit",
) -> tuple[dict[str, list[AlignedPair]], Counter[str]]:
    """Group the candidates that survive, and count the others by reason.

    Args:
        task_name: name of the task, for errors.
        candidates: pairs as text; of those with one clean prompt the first that survives is kept.
        tokenizer: a fast Hugging Face tokenizer.
        bos: whether a beginning-of-sequence token stands in front.
        longest: most positions of a prompt, that token included; None for any number.
        metric: what answers are worth, which decides whether they may have several tokens.

    Returns:
        The survivors by group key, in the order of the candidates, and the counts.

    Raises:
        TaskError: the tokenizer is not a fast one, or has no beginning-of-sequence token that is asked for.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise TaskError(f"task '{task_name}': {tokenizer_name(tokenizer)} is not a fast one, so it gives no offsets")
    front = _Front.of(tokenizer, bos, task_name)
    pairs = list(candidates)
    prompts = [(pair.clean_text, pair.counterfactual_text) for pair in pairs]
    tokens = _with_ends(tokenizer, (text for both in prompts for text in both))
    dropped: Counter[str] = Counter()
    # For each clean prompt the candidates that use it, in order: the first that survives is taken.
    waiting: dict[tuple[int, ...], list[_Prompts]] = {}
    for index, pair in enumerate(pairs):
        clean, counterfactual = (tokens[text] for text in prompts[index])
        counts = _segment_counts(pair.clean, clean.ends)
        own, other_own = front.own(clean.ids), front.own(counterfactual.ids)
        # Some tokenizers have one token for the unknown and for the beginning.
        if tokenizer.unk_token_id in clean.ids[own:] + counterfactual.ids[other_own:]:
            dropped[UNKNOWN] += 1
        elif clean.ids == counterfactual.ids:
            dropped[SAME_PROMPT] += 1
        elif own != other_own or counts != _segment_counts(pair.counterfactual, counterfactual.ends):
            dropped[UNEQUAL] += 1
        elif longest is not None and len(front.put(own)) + len(clean.ids) - own > longest:
            dropped[TOO_LONG] += 1
        else:
            entry = _Prompts(index, pair, counts, clean.ids, counterfactual.ids, own, front.put(own))
            waiting.setdefault(clean.ids, []).append(entry)
    survivors: list[tuple[int, str, AlignedPair]] = []
    while waiting:
        entries = [queue.pop(0) for queue in waiting.values()]
        for entry, continued in zip(entries, _continuations(tokenizer, entries), strict=True):
            aligned = _judge(entry, continued, tokenizer, metric, longest)
            if isinstance(aligned, str):
                dropped[aligned] += 1
            else:
                survivors.append((entry.index, _group_key(entry, aligned, metric), aligned))
                dropped[REPEATED] += len(waiting[entry.clean])
                waiting[entry.clean].clear()
        waiting = {clean: queue for clean, queue in waiting.items() if queue}
    groups: dict[str, list[AlignedPair]] = {}
    for _, key, aligned in sorted(survivors, key=lambda survivor: survivor[0]):
        groups.setdefault(key, []).append(aligned)
    return groups, +dropped


@dataclass(frozen=True)
class _Prompts:
    """A candidate whose two prompts align; ids and counts are those of its text.

    Of these the first `own` are beginning-of-sequence tokens that the text begins with; `front` takes their place.
    """

    index: int
    pair: ContrastPair
    counts: tuple[int, ...]
    clean: tuple[int, ...]
    counterfactual: tuple[int, ...]
    own: int
    front: tuple[int, ...]


@dataclass(frozen=True)
class _Front:
    """What stands in front of a prompt.

    Attributes:
        bos: the beginning-of-sequence token; None where the tokenizer has none.
        added: the ids that are put in front of a text.
        keep: whether a text that begins with that token itself keeps it.
    """

    bos: int | None
    added: tuple[int, ...]
    keep: bool

    @classmethod
    def of(cls, tokenizer: Any, bos: Bos, task_name: str) -> _Front:
        """Return what a tokenizer and the condition `bos` put in front.

        Raises:
            TaskError: a token is asked for that the tokenizer does not have.
        """
        token = None if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)
        if bos == "always":
            if token is None:
                raise TaskError(
                    f"task '{task_name}': {tokenizer_name(tokenizer)} has no beginning-of-sequence token "
                    "to put in front of prompts; bos can be auto or never"
                )
            return cls(token, (token,), keep=True)
        return cls(token, added_in_front(tokenizer) if bos == "auto" else (), keep=bos == "auto")

    def own(self, ids: Sequence[int]) -> int:
        """Count the beginning-of-sequence tokens that a text begins with."""
        return next((index for index, token in enumerate(ids) if token != self.bos), len(ids))

    def put(self, own: int) -> tuple[int, ...]:
        """Return what stands in front of a text that begins with `own` such tokens: never two of them."""
        return self.added or ((self.bos,) if own and self.keep and self.bos is not None else ())


def added_in_front(tokenizer: Any) -> tuple[int, ...]:
    """Return the ids that a tokenizer itself puts in front of a text, as a model that uses it was trained to see."""
    text = "a"
    plain, whole = (list(tokenizer(text, add_special_tokens=special)["input_ids"]) for special in (False, True))
    ends = range(len(plain), len(whole) + 1)
    return tuple(whole[: next((end - len(plain) for end in ends if whole[end - len(plain) : end] == plain), 0)])


def _continuations(tokenizer: Any, entries: Sequence[_Prompts]) -> Iterator[list[tuple[int, ...]]]:
    """Yield for each entry the ids of each prompt followed by each answer and foil, clean prompt first."""
    texts = [
        [prompt + word for prompt in (entry.pair.clean_text, entry.pair.counterfactual_text) for word in _words(entry)]
        for entry in entries
    ]
    unique, encoded = _encode(tokenizer, (text for row in texts for text in row))
    ids = dict(zip(unique, map(tuple, encoded["input_ids"]), strict=True))
    for row in texts:
        yield [ids[text] for text in row]


def _words(entry: _Prompts) -> tuple[str, ...]:
    return entry.pair.answers + entry.pair.foils


def _judge(
    entry: _Prompts, continued: Sequence[tuple[int, ...]], tokenizer: Any, metric: Metric, longest: int | None
) -> AlignedPair | str:
    """Return the aligned pair, or the reason why its answers or foils will not do."""
    if metric == "logprob":
        return _judge_whole(entry, continued, tokenizer, longest)
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
    return _aligned(entry, answers, foils)


def _judge_whole(
    entry: _Prompts, continued: Sequence[tuple[int, ...]], tokenizer: Any, longest: int | None
) -> AlignedPair | str:
    """Return the aligned pair with whole answers, or the reason why they will not do."""
    if (len(entry.pair.answers), len(entry.pair.foils)) != (1, 1):
        return SEVERAL
    prompts = (entry.clean, entry.clean, entry.counterfactual, entry.counterfactual)
    behind = [ids[len(prompt) :] for prompt, ids in zip(prompts, continued, strict=True)]
    if any(ids[: len(prompt)] != prompt for prompt, ids in zip(prompts, continued, strict=True)):
        return NOT_BEHIND
    answer, foil = behind[:2]
    if [answer, foil] != behind[2:] or not answer or not foil:
        return NOT_BEHIND
    if tokenizer.unk_token_id in answer + foil:
        return UNKNOWN
    if len(answer) != len(foil):
        return UNEQUAL_ANSWERS
    if answer == foil:
        return OVERLAP
    aligned = _aligned(entry, answer, foil, answer[:-1])
    return TOO_LONG if longest is not None and len(aligned.clean) > longest else aligned


def _aligned(
    entry: _Prompts, answers: tuple[int, ...], foils: tuple[int, ...], behind: tuple[int, ...] = ()
) -> AlignedPair:
    """Put an aligned pair together; `behind` are tokens that both prompts go on with."""
    roles = [
        segment.role for segment, tokens in zip(entry.pair.clean, entry.counts, strict=True) for _ in range(tokens)
    ]
    return AlignedPair(
        pair=entry.pair,
        roles=(BOS_ROLE,) * len(entry.front) + tuple(roles[entry.own :]) + (CONTINUATION_ROLE,) * len(behind),
        clean=entry.front + entry.clean[entry.own :] + behind,
        counterfactual=entry.front + entry.counterfactual[entry.own :] + behind,
        answers=answers,
        foils=foils,
    )


def _group_key(entry: _Prompts, aligned: AlignedPair, metric: Metric) -> str:
    key = f"{entry.pair.template}:{','.join(map(str, entry.counts))}"
    if metric == "logprob":
        key += f":{len(aligned.answers)} answer tokens"
    elif (len(aligned.answers), len(aligned.foils)) != (1, 1):
        key += f":{len(aligned.answers)}/{len(aligned.foils)}"
    return f"{key}:{BOS_ROLE}" if entry.own else key


@dataclass(frozen=True)
class _Tokens:
    """Token ids of a text and the offset just after each token's last character."""

    ids: tuple[int, ...]
    ends: tuple[int, ...]


def _with_ends(tokenizer: Any, texts: Iterable[str]) -> dict[str, _Tokens]:
    """Return the tokens of each text."""
    unique, encoded = _encode(tokenizer, texts, return_offsets_mapping=True)
    return {
        text: _Tokens(tuple(ids), tuple([end for _, end in offsets]))
        for text, ids, offsets in zip(unique, encoded["input_ids"], encoded["offset_mapping"], strict=True)
    }


def _encode(tokenizer: Any, texts: Iterable[str], **asked: bool) -> tuple[list[str], Mapping[str, Any]]:
    """Return the texts, each once though many stand there several times, and what the tokenizer says of them."""
    unique = list(dict.fromkeys(texts))
    if not unique:
        return [], {"input_ids": [], "offset_mapping": []}
    # Masks, types and offsets that nobody reads would take longer to list than the tokens take to find.
    asked |= {"return_attention_mask": False, "return_token_type_ids": False}
    return unique, tokenizer(unique, add_special_tokens=False, **asked)


def _single_token(prompt: tuple[int, ...], continued: tuple[int, ...]) -> int | None:
    """Return the one token that the continuation adds, or None if it adds more or changes the prompt."""
    if len(continued) == len(prompt) + 1 and continued[:-1] == prompt:
        return continued[-1]
    return None


def _segment_counts(segments: Sequence[Segment], ends: Sequence[int]) -> tuple[int, ...]:
    """Count the tokens whose last character lies in each segment."""
    borders = list(accumulate([len(segment.text) for segment in segments]))
    counts = [0] * len(borders)
    for end in ends:
        # A token that ends at a border still has its last character before it.
        counts[bisect_left(borders, max(end, 1))] += 1
    return tuple(counts)


def prompt_ids(tokenizer: Any, text: str, bos: Bos = "auto") -> tuple[tuple[int, ...], int]:
    """Return the ids of a text as a prompt, and how many beginning-of-sequence tokens stand in front.

    Args:
        tokenizer: a Hugging Face tokenizer.
        text: the text.
        bos: whether such a token stands in front.

    Raises:
        TaskError: a token is asked for that the tokenizer does not have.
    """
    front, ids = _Front.of(tokenizer, bos, "text"), tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    own = front.own(ids)
    put = front.put(own)
    return put + ids[own:], len(put)


def token_texts(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """Return each token as text on one line, with its leading space where the tokenizer tells; special ones too."""
    texts = (tokenizer.decode([token], clean_up_tokenization_spaces=False) for token in ids)
    pieces = tokenizer.convert_ids_to_tokens(list(ids))
    # A byte of a longer character, or a space alone, decodes to nothing that could be read.
    return tuple(
        printable(piece if not text or "\ufffd" in text else text) for text, piece in zip(texts, pieces, strict=True)
    )


def tokenizer_name(tokenizer: Any) -> str:
    """Return what to call a tokenizer in messages: by its model where it was loaded for one, else by its own name."""
    owner = getattr(tokenizer, "owner", "")
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    return f"the tokenizer of {owner}" if owner else f"tokenizer '{name}'"
