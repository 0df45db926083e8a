"""The two splits of a task: the groups that both have, draws, what is refused, and a split as a data set."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from basisbench.errors import TaskError
from basisbench.pairs import alignment
from basisbench.pairs.alignment import load_splits, pairs_of, to_dataset
from basisbench.registry import load_registry
from basisbench.types import PairSet
from basisbench_baselines.pocket.corpus.stream import build_tokenizer
from helpers import task_pairs
from helpers.task_pairs import GOOD, NOUNS, TwoSplits, all_nouns, pair

REGISTRY = load_registry()


def test_load_splits_keeps_the_groups_that_both_splits_have() -> None:
    more = [pair(f"{noun}s", noun, template="attribution only") for noun in NOUNS]
    task = TwoSplits({"attribution": GOOD + more, "evaluation": GOOD[:9]})
    attribution, evaluation = load_splits(task, build_tokenizer(), attribution=50, evaluation=50, seed=0)
    assert [group.group for group in attribution] == [group.group for group in evaluation] == ["plain:1,1"]
    assert (attribution.pair_count, evaluation.pair_count) == (10, 9)
    assert attribution.dropped == {alignment.UNMATCHED_GROUP: 10}
    assert evaluation.dropped == {}


def test_load_splits_with_no_common_group_says_so() -> None:
    task = TwoSplits({"attribution": GOOD, "evaluation": [pair(noun, f"{noun}s", template="b") for noun in NOUNS]})
    with pytest.raises(TaskError, match="no aligned group in the other split: 20"):
        load_splits(task, build_tokenizer(), attribution=50, evaluation=50, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["ioi", "sva_rc", "user_occupation"])
def test_load_splits_repeats_itself(task: str) -> None:
    first, again = task_pairs.splits(task, "words"), task_pairs.load_pairs(task, "words")
    for ours, theirs in zip(itertools.chain(*first.values()), itertools.chain(*again.values()), strict=True):
        assert ours.clean_text == theirs.clean_text
        assert ours.counterfactual_text == theirs.counterfactual_text


def test_load_splits_draws_attribution_pairs_anew_and_keeps_the_evaluation_pairs() -> None:
    more = [pair(noun.singular, noun.plural) for noun in all_nouns()[:45]]
    task = TwoSplits({"attribution": more, "evaluation": GOOD})

    def draw(number: int, count: int = 20) -> tuple[PairSet, PairSet]:
        return load_splits(task, build_tokenizer(), attribution=count, evaluation=10, seed=0, draw=number)

    drawn = [draw(number) for number in range(3)]
    assert [[group.group for group in first] for first, _ in drawn] == [["plain:1,1"]] * 3
    assert len({second[0].clean_text for _, second in drawn}) == 1
    rows = [first[0].clean_text for first, _ in drawn]
    assert {len(set(texts)) for texts in rows} == {20}  # no pair twice in a draw
    assert not set(rows[0]) & set(rows[1])
    # The candidates are used up after 45: the third draw begins again.
    everything = [item.clean_text for item in more]
    assert rows[2] == tuple(everything[40:] + everything[:15])
    for first, _ in drawn:
        for row, text in enumerate(first[0].clean_text):
            assert text == f"The {first[0].clusters['words'][row].split()[0]}"
            assert first[0].clean[row].tolist() == build_tokenizer()(text)["input_ids"]
        assert first[0].token_texts[2] == first[0].clean_text[0].split()[1]
    with pytest.raises(
        TaskError, match="'demo' has 45 attribution pairs in its groups, and each draw takes all of them"
    ):
        draw(1, 45)
    assert draw(0, 45)[0].pair_count == 45


@pytest.mark.slow
def test_to_dataset_has_a_row_per_pair_and_a_version() -> None:
    pair_set = pairs_of(TwoSplits({"attribution": GOOD, "evaluation": []}), build_tokenizer(), "attribution", 10, 0)
    dataset = to_dataset(pair_set)
    assert dataset.num_rows == pair_set.pair_count == 10
    assert dataset[3]["clean_text"] == pair_set[0].clean_text[3]
    assert dataset[3]["clean"] == pair_set[0].clean[3].tolist()
    assert dataset[3]["roles"] == ["bos", "opening", "subject"]
    assert dataset[3]["clusters"] == {"words": "writer writers"}
    assert str(dataset.info.version) == "7.0.0"
    assert "demo, version 7, attribution split" in dataset.info.description


@pytest.mark.parametrize(("split", "number", "expected"), [
    ("validation", 5, "task 'sva_rc' has no split 'validation'; it has attribution and evaluation"),
    ("attribution", 0, "task 'sva_rc': 0 pairs asked of the attribution split; ask for at least 1"),
])  # fmt: skip
def test_a_wrong_request_is_refused_in_one_line(split: Any, number: int, expected: str) -> None:
    with pytest.raises(TaskError) as caught:
        pairs_of(REGISTRY.get("task", "sva_rc"), build_tokenizer(), split, number, 0)
    assert str(caught.value) == expected


def test_a_task_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment, "MOST_CANDIDATES", 20)
    task = TwoSplits({"attribution": GOOD * 3, "evaluation": GOOD * 2})
    with pytest.raises(TaskError, match="task 'demo' yields more than 20 attribution candidates; a task must end"):
        pairs_of(task, build_tokenizer(), "attribution", 10, 0)
    assert pairs_of(task, build_tokenizer(), "evaluation", 10, 0).pair_count == 10
