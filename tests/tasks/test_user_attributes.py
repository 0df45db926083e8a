"""What a model infers of a user: the same user turns in every frame, and cues that name nothing."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest

from basisbench.pairs.alignment import MINIMUM_GROUP, load_splits
from basisbench.types import SPLITS, ContrastPair, Split
from basisbench_tasks.user_attributes import PROVIDES, UserAttribute
from helpers.tiny_models import build_tiny_tokenizer

TASKS = [task for task in PROVIDES if isinstance(task, UserAttribute)]
ATTRIBUTES = sorted({task.attribute for task in TASKS})

every_attribute = pytest.mark.parametrize("attribute", ATTRIBUTES)
every_split = pytest.mark.parametrize("split", SPLITS)


def of(attribute: str) -> list[UserAttribute]:
    return [task for task in TASKS if task.attribute == attribute]


def user_turns(pair: ContrastPair) -> tuple[str, ...]:
    return tuple(
        segment.text.strip()
        for side in (pair.clean, pair.counterfactual)
        for segment in side
        if segment.role in ("statement", "cue", "boundary")
    )


def test_each_attribute_is_read_in_two_frames_as_text_and_as_a_chat() -> None:
    assert len({task.name for task in TASKS}) == len(TASKS) == 4 * len(ATTRIBUTES)
    for attribute in ATTRIBUTES:
        assert Counter(task.chat for task in of(attribute)) == {False: 2, True: 2}
        assert len({task.frame.name for task in of(attribute)}) == 2


@every_attribute
@every_split
def test_frames_and_formats_share_the_user_s_turn(attribute: str, split: Split) -> None:
    first, *others = ([user_turns(pair) for pair in task.candidates(split, 3)] for task in of(attribute))
    assert all(other == first for other in others)


@every_attribute
def test_no_cue_has_two_values_and_no_statement_is_in_both_splits(attribute: str) -> None:
    kinds = of(attribute)[0].kinds.values()
    cues = [
        cue.lower()
        for kind in kinds
        for words in kind.words.values()
        for text in words.values()
        for cue in text.split()
    ]
    assert [cue for cue, times in Counter(cues).items() if times > 1] == []
    for kind in kinds:
        assert not set(kind.statements["attribution"]) & set(kind.statements["evaluation"])


@every_split
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_cue_decides_and_the_user_never_names_the_answer(task: UserAttribute, split: Split) -> None:
    value_of = {
        cue: value for kind in task.kinds.values() for value, cues in kind.words[split].items() for cue in cues.split()
    }
    named = {word.lower() for other in of(task.attribute) for both in other.frame.answers.items() for word in both}
    answers = set()
    for pair in task.candidates(split, 0):
        assert pair.answers == (f" {task.frame.answers[value_of[pair.clusters['cue']]]}",)
        assert pair.foils == (f" {task.frame.answers[value_of[pair.clusters['counterfactual_cue']]]}",)
        answers.update(pair.answers)
        assert not named & set(re.findall(r"\w+", " ".join(user_turns(pair)).lower()))
    assert len(answers) == len(task.frame.answers)


@pytest.mark.slow
@pytest.mark.parametrize("task", [TASKS[0], TASKS[-1]], ids=lambda task: task.name)
def test_pairs_align_and_intervals_have_levels_to_resample(task: UserAttribute) -> None:
    tokenizer: Any = build_tiny_tokenizer(task)
    tokenizer.chat_template = (
        "{% for message in messages %}\n{{ message['role'] }}:{{ message['content'] }}{% endfor %}"
    )
    tokenizer.unk_token = None  # the template's words are none of the task's
    splits = load_splits(task, tokenizer, attribution=100, evaluation=100, seed=0)
    assert [pairs.pair_count for pairs in splits] == [100, 100]
    assert [group.group for group in splits[0]] == [group.group for group in splits[1]]
    for group in (*splits[0], *splits[1]):
        assert len(group) >= MINIMUM_GROUP
        changed = (group.clean != group.counterfactual).any(axis=0)
        assert [role for role, differs in zip(group.roles, changed, strict=True) if differs] == ["cue"]
        assert {"user_header", "assistant_header"} <= set(group.roles)
    for factor in ("cue", "counterfactual_cue"):
        assert len({level for group in splits[1] for level in group.clusters[factor]}) >= 20
