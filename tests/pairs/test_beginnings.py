"""What stands in front of a prompt, and how long a prompt may be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from basisbench.errors import TaskError
from basisbench.pairs import tokens as token_alignment
from basisbench.pairs.alignment import align, load_splits
from basisbench.types import Bos, ContrastPair, Segment
from basisbench_baselines.pocket.corpus.stream import build_tokenizer
from helpers.task_pairs import GOOD, NOUNS, TwoSplits, pair


def adding_none() -> Any:
    """Return the tokenizer that has a beginning-of-sequence token, changed so that it adds none itself."""
    from tokenizers import processors

    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B")
    return tokenizer


def with_bos(tokens: str, pairs: list[ContrastPair]) -> list[ContrastPair]:
    """Return pairs whose texts begin with tokens of their own, as those of a chat template do."""

    def begun(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
        return (Segment("opening", f"{tokens}The"), *segments[1:])

    return [replace(item, clean=begun(item.clean), counterfactual=begun(item.counterfactual)) for item in pairs]


@pytest.mark.parametrize(("bos", "adds", "text", "expected"), [
    ("auto", True, "", True),
    ("auto", True, "<s> ", True),
    ("auto", False, "", False),
    ("auto", False, "<s> ", True),
    ("always", True, "", True),
    ("always", True, "<s> ", True),
    ("always", True, "<s> <s> ", True),
    ("always", False, "", True),
    ("always", False, "<s> ", True),
    ("never", True, "", False),
    ("never", True, "<s> ", False),
    ("never", False, "", False),
])  # fmt: skip
def test_a_beginning_of_sequence_stands_in_front_once_or_not_at_all(
    bos: Bos, adds: bool, text: str, expected: bool
) -> None:
    tokenizer = build_tokenizer() if adds else adding_none()
    group = align("demo", "1", with_bos(text, GOOD), tokenizer, "attribution", 10, bos=bos)[0]
    ids = tokenizer("The doctor", add_special_tokens=False)["input_ids"]
    assert group.clean[0].tolist() == [tokenizer.bos_token_id] * expected + ids
    assert group.counterfactual[0].tolist()[-1:] == tokenizer("doctors", add_special_tokens=False)["input_ids"]
    assert group.roles == ("bos",) * expected + ("opening", "subject")
    assert group.token_texts == ("<s>",) * expected + ("The", "doctor")


def test_a_token_that_the_tokenizer_does_not_have_cannot_stand_in_front() -> None:
    tokenizer = adding_none()
    tokenizer.bos_token = None
    for bos in ("auto", "never"):
        group = align("demo", "1", GOOD, tokenizer, "attribution", 10, bos=bos)[0]
        assert group.roles == ("opening", "subject")
    with pytest.raises(TaskError, match="has no beginning-of-sequence token to put in front of prompts") as caught:
        align("demo", "1", GOOD, tokenizer, "attribution", 10, bos="always")
    assert "\n" not in str(caught.value)


def test_a_text_that_begins_with_its_own_does_not_pair_with_one_that_does_not() -> None:
    """In front of one prompt alone it would shift all positions."""
    begun = with_bos("<s> ", GOOD)
    mixed = [replace(item, counterfactual=other.counterfactual) for item, other in zip(GOOD, begun, strict=True)]
    for tokenizer in (build_tokenizer(), adding_none()):
        with pytest.raises(TaskError, match=f"{token_alignment.UNEQUAL}: 10"):
            align("demo", "1", mixed, tokenizer, "attribution", 10)


def test_texts_with_and_without_their_own_are_groups_of_their_own() -> None:
    nouns = [pair(f"{noun}s", noun) for noun in NOUNS]
    pair_set = align("demo", "1", [*GOOD, *with_bos("<s> ", nouns)], adding_none(), "attribution", 40)
    assert sorted(group.length for group in pair_set) == [2, 3]


@pytest.mark.parametrize(("longest", "kept"), [(None, 18), (4, 18), (3, 9), (2, 0)])
def test_prompts_longer_than_the_model_s_positions_are_dropped_and_counted(longest: int | None, kept: int) -> None:
    def longer(item: ContrastPair) -> ContrastPair:
        opening = Segment("opening", "Today the")
        return replace(
            item,
            template="long",
            clean=(opening, *item.clean[1:]),
            counterfactual=(opening, *item.counterfactual[1:]),
        )

    pairs = [*GOOD[:9], *map(longer, GOOD[:9])]
    task = TwoSplits({"attribution": pairs, "evaluation": pairs})
    reason = token_alignment.TOO_LONG
    if not kept:
        with pytest.raises(TaskError, match=f"no usable attribution pairs .*{reason}: 18") as caught:
            load_splits(task, build_tokenizer(), attribution=18, evaluation=18, seed=0, longest=longest)
        assert "\n" not in str(caught.value)
        return
    for pair_set in load_splits(task, build_tokenizer(), attribution=18, evaluation=18, seed=0, longest=longest):
        assert pair_set.pair_count == kept
        assert pair_set.dropped == ({} if kept == 18 else {reason: 9})
        assert all(group.length <= (longest or 4) for group in pair_set)
