"""Functions from one word to another: values are right, and no prompt gives its answer away."""

from __future__ import annotations

from collections import Counter

import pytest

from basisbench.pairs.alignment import load_splits
from basisbench.types import SPLITS, Split
from basisbench_tasks.known_functions import PROVIDES, Addition, KnownFunction
from helpers.tiny_models import build_tiny_tokenizer

FUNCTIONS = [task for task in PROVIDES if isinstance(task, KnownFunction)]
VALUES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "one": 1}
VALUES |= {"ten": 10, "twelve": 12, "fourteen": 14, "sixteen": 16, "eighteen": 18}  # odd with odd, even with even

every_split = pytest.mark.parametrize("split", SPLITS)


@every_split
def test_sums_are_right(split: Split) -> None:
    (task,) = (task for task in PROVIDES if isinstance(task, Addition))
    for pair in task.candidates(split, 0):
        for side, (answer,) in ((pair.clean, pair.answers), (pair.counterfactual, pair.foils)):
            first, second = (segment.text.strip() for segment in side if segment.role in ("first", "second"))
            assert VALUES[answer.strip()] == VALUES[first] + VALUES[second]


@every_split
@pytest.mark.parametrize("task", FUNCTIONS, ids=lambda task: task.name)
def test_no_prompt_gives_its_answer_away(task: KnownFunction, split: Split) -> None:
    for pair in task.candidates(split, 0):
        words = (pair.clean_text + " " + pair.counterfactual_text).replace("?", "").split()
        assert not {pair.answers[0].strip(), pair.foils[0].strip()} & set(words)
        assert pair.answers != pair.foils


@pytest.mark.parametrize("task", FUNCTIONS, ids=lambda task: task.name)
def test_every_word_has_one_value(task: KnownFunction) -> None:
    words = Counter(entry.split(":")[0] for split in SPLITS for entry in task.words[split].split())
    assert [word for word, times in words.items() if times > 1] == []


@pytest.mark.slow
@pytest.mark.parametrize("task", PROVIDES, ids=lambda task: task.name)
def test_a_tokenizer_of_words_keeps_every_prompt_once(task: KnownFunction | Addition) -> None:
    splits = load_splits(task, build_tiny_tokenizer(task), attribution=100, evaluation=100, seed=0)
    for split, pairs in zip(SPLITS, splits, strict=True):
        wanted = {pair.clean_text for pair in task.candidates(split, 0)}
        assert sum(len(group) for group in pairs) == min(len(wanted), 100)
        assert len(pairs) == len({pair.template for pair in task.candidates(split, 0)})
