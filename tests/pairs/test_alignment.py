"""What alignment promises, checked by means other than its own."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from basisbench.errors import TaskError
from basisbench.pairs import alignment
from basisbench.pairs import tokens as token_alignment
from basisbench.pairs.alignment import align
from basisbench.registry import load_registry
from basisbench.results.schema import Text
from basisbench.types import ContrastPair, Split
from basisbench_baselines.pocket.corpus.stream import build_tokenizer
from helpers import task_pairs
from helpers.pocket_tasks import pocket_tasks
from helpers.task_pairs import GOOD, NOUNS, aligned, all_nouns, pair

REGISTRY = load_registry()

QUICK = (("ioi", "words"), ("sva_rc", "words"), ("user_occupation", "subwords"))
"""Tasks and tokenizers of the quick tests: one task of each kind, and the one whose words are split most."""
TASKS = [task.name for task in pocket_tasks()]
every_task_and_tokenizer = pytest.mark.parametrize(
    ("task", "tokenizer_name"),
    [
        pytest.param(task, name, marks=() if (task, name) in QUICK else pytest.mark.slow)
        for task in TASKS
        for name in task_pairs.TOKENIZERS
    ],
)


@cache
def candidates_by_text(task: str, split: Split) -> dict[tuple[str, str], ContrastPair]:
    candidates = REGISTRY.get("task", task).candidates(split, 0)
    return {(pair.clean_text, pair.counterfactual_text): pair for pair in candidates}


@pytest.mark.slow
@every_task_and_tokenizer
def test_ids_are_the_tokenizer_s_own(task: str, tokenizer_name: str) -> None:
    """One of the two puts a beginning-of-sequence token in front, the other has one and puts none."""
    tokenizer = task_pairs.tokenizer(tokenizer_name)
    for pair_set in task_pairs.splits(task, tokenizer_name).values():
        for group in pair_set:
            for side, texts in ((group.clean, group.clean_text), (group.counterfactual, group.counterfactual_text)):
                assert side.tolist() == tokenizer(list(texts))["input_ids"]
                assert ((side == tokenizer.bos_token_id).sum(axis=1) == (tokenizer_name == "words")).all()


@pytest.mark.slow
@every_task_and_tokenizer
def test_answers_and_foils_are_single_continuations(task: str, tokenizer_name: str) -> None:
    tokenizer, wanted = task_pairs.tokenizer(tokenizer_name), candidates_by_text(task, "evaluation")
    for group in task_pairs.splits(task, tokenizer_name)["evaluation"]:
        assert group.answers.shape == group.foils.shape == (len(group), 1)
        sources = [wanted[texts] for texts in zip(group.clean_text, group.counterfactual_text, strict=True)]
        for side, texts in ((group.clean, group.clean_text), (group.counterfactual, group.counterfactual_text)):
            for ids, words in (
                (group.answers, [source.answers for source in sources]),
                (group.foils, [source.foils for source in sources]),
            ):
                continuations = [text + word for text, (word,) in zip(texts, words, strict=True)]
                continued = tokenizer(continuations)["input_ids"]
                expected = np.concatenate([side, ids], axis=1).tolist()
                assert continued == expected


@every_task_and_tokenizer
def test_a_position_plays_one_role_throughout_a_group(task: str, tokenizer_name: str) -> None:
    """The tokens of each role, put together, are the text of that role's segment: in every pair, on both sides."""
    tokenizer, source = task_pairs.tokenizer(tokenizer_name), candidates_by_text(task, "attribution")
    for group in task_pairs.splits(task, tokenizer_name)["attribution"]:
        assert (group.roles[0] == "bos") == (tokenizer_name == "words")
        assert "bos" not in group.roles[1:]
        assert len(group.roles) == len(group.token_texts) == group.length
        pieces = set()
        for row in range(len(group)):
            found = source[group.clean_text[row], group.counterfactual_text[row]]
            assert group.group.startswith(found.template + ":")
            for ids, segments in ((group.clean[row], found.clean), (group.counterfactual[row], found.counterfactual)):
                for segment in segments:
                    own = tuple(ids[[role == segment.role for role in group.roles]].tolist())
                    pieces.add((own, segment.text.replace(" ", "")))
        for own, text in pieces:  # each once: prompts share most of theirs
            assert tokenizer.decode(own).replace(" ", "") == text


def test_subwords_do_split_words() -> None:
    lengths = {
        group.length
        for group in task_pairs.splits("user_occupation", "subwords")["evaluation"]
        if group.group.startswith("statement_0/question_0")
    }
    assert len(lengths) > 1


@every_task_and_tokenizer
def test_clean_prompts_are_distinct_and_differ_from_their_counterfactual(task: str, tokenizer_name: str) -> None:
    for pair_set in task_pairs.splits(task, tokenizer_name).values():
        prompts = [text for group in pair_set for text in group.clean_text]
        assert len(prompts) == len(set(prompts))
        for group in pair_set:
            assert (group.clean != group.counterfactual).any(axis=1).all()
            assert len(group) >= alignment.MINIMUM_GROUP


def test_words_that_cannot_be_printed_are_escaped_in_the_tokens_text() -> None:
    tokenizer = task_pairs.tokenizer("subwords")
    ids = tokenizer("The\n \u202e\U0001f600")["input_ids"]
    texts = token_alignment.token_texts(tokenizer, ids)
    assert len(texts) == len(ids)
    assert texts[:2] == ("The", "\\n")
    adapter = TypeAdapter(Text)
    assert all(adapter.validate_python(text) for text in texts)


def test_everything_left_out_is_counted_by_reason() -> None:
    odd = [
        pair("doctor", "boys"),  # the clean prompt was used by a good pair
        pair("sailor", "sailor"),
        pair("sailor", "son sons"),
        pair("sailor", "sailors", answers=(" is not",)),
        pair("son", "sons", answers=(" is", " has"), foils=(" has",)),
        pair("coach", "coaches", template="other"),
        pair("xylophonist", "sailors"),
        pair("sailor", "xylophonists"),
        pair("sailor", "sailors", answers=(" xylophones",)),
    ]
    pair_set = aligned(GOOD + odd)
    assert pair_set.pair_count == len(GOOD)
    assert pair_set.dropped == {
        token_alignment.REPEATED: 1,
        token_alignment.SAME_PROMPT: 1,
        token_alignment.UNEQUAL: 1,
        token_alignment.NOT_SINGLE: 1,
        token_alignment.OVERLAP: 1,
        token_alignment.UNKNOWN: 3,
        alignment.SMALL_GROUP: 1,
    }


def test_a_later_candidate_replaces_one_that_fails() -> None:
    pairs = [pair("doctor", "doctors", answers=(" is not",)), *GOOD]
    pair_set = aligned(pairs)
    assert pair_set.pair_count == len(GOOD)
    assert pair_set.dropped == {token_alignment.NOT_SINGLE: 1}


def test_an_answer_that_changes_the_prompt_s_tokens_is_not_single() -> None:
    """Written onto "The doctor" without a space, "s" makes another token and does not add one."""
    with pytest.raises(TaskError, match="not a single token: 10"):
        aligned([pair(noun, f"{noun}s", answers=("s",)) for noun in NOUNS])


def test_no_usable_pair_is_an_error_that_names_task_tokenizer_and_reasons() -> None:
    tokenizer = build_tokenizer()
    tokenizer.name_or_path = "some/model"
    with pytest.raises(TaskError) as caught:
        align("demo", "1", [pair("doctor", "two doctors")] * 2, tokenizer, "evaluation", 10)
    message = str(caught.value)
    assert "'demo'" in message
    assert "'some/model'" in message
    assert f"{token_alignment.UNEQUAL}: 2" in message
    assert "\n" not in message


def test_a_task_without_candidates_is_an_error() -> None:
    with pytest.raises(TaskError, match="no candidates"):
        aligned([])


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False
        name_or_path = "slow/model"

    with pytest.raises(TaskError, match="slow/model"):
        align("demo", "1", GOOD, Slow(), "attribution", 10)


@pytest.mark.slow
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    count=st.integers(1, 120),
    minimum=st.integers(1, 9),
)
@settings(max_examples=40)
def test_count_is_spread_over_the_largest_groups(sizes: list[int], count: int, minimum: int) -> None:
    nouns = [noun.plural for noun in all_nouns()]
    pairs = [
        pair(nouns[index], nouns[index - 1], template=f"group {group}")
        for group, (start, size) in enumerate(zip(np.cumsum([0, *sizes]), sizes, strict=False))
        for index in range(start % 60, start % 60 + size)
    ]
    usable = [size for size in _distinct_sizes(pairs) if size >= minimum]
    if not usable:
        with pytest.raises(TaskError):
            aligned(pairs, count, minimum_group=minimum)
        return
    pair_set = aligned(pairs, count, minimum_group=minimum)
    kept = sorted(usable, reverse=True)[: max(1, count // minimum)]
    assert len(pair_set) == len(kept)
    assert pair_set.pair_count == min(count, sum(kept))
    lengths = [len(group) for group in pair_set]
    assert lengths == sorted(lengths, reverse=True)
    for group in pair_set:
        assert len(group) >= min(minimum, count)


def _distinct_sizes(pairs: list[ContrastPair]) -> list[int]:
    seen: set[str] = set()
    sizes: dict[str, int] = {}
    for item in pairs:
        if item.clean_text not in seen:
            seen.add(item.clean_text)
            sizes[item.template] = sizes.get(item.template, 0) + 1
    return list(sizes.values())


@every_task_and_tokenizer
def test_each_task_has_pairs_in_the_same_groups_of_both_splits(task: str, tokenizer_name: str) -> None:
    splits = task_pairs.splits(task, tokenizer_name)
    for split, wanted in task_pairs.COUNTS.items():
        # Every word is a token for the pocket model; the other tokenizer splits many words and so loses pairs.
        assert (wanted if tokenizer_name == "words" else 50) <= splits[split].pair_count <= wanted
    attribution, evaluation = splits.values()
    assert [group.group for group in attribution] == [group.group for group in evaluation]
    assert min(map(len, (*attribution, *evaluation))) >= alignment.MINIMUM_GROUP
    prompts = [
        set(itertools.chain.from_iterable(group.clean_text + group.counterfactual_text for group in pair_set))
        for pair_set in (attribution, evaluation)
    ]
    assert not prompts[0] & prompts[1]


def clustered(levels: list[dict[str, str]]) -> list[ContrastPair]:
    return [replace(item, clusters=clusters) for item, clusters in zip(GOOD, levels, strict=True)]


def test_levels_of_a_pair_s_clusters_follow_it() -> None:
    levels = [{"noun": str(index), "mood": "calm" if index % 3 else "wild", "frame": "one"} for index in range(10)]
    group = aligned(clustered(levels), 7)[0]
    # Of a factor that never varies nothing can be resampled.
    assert group.clusters == {factor: tuple(levels[row][factor] for row in range(7)) for factor in ("noun", "mood")}
    assert group.clean_text == tuple(item.clean_text for item in GOOD[:7])


def test_a_factor_that_varies_between_groups_alone_is_kept() -> None:
    other = [replace(pair(f"{noun}s", noun, template="other"), clusters={"frame": "b"}) for noun in NOUNS]
    pair_set = aligned([*clustered([{"frame": "a"}] * 10), *other])
    assert sorted(group.clusters["frame"][0] for group in pair_set) == ["a", "b"]


def test_a_task_without_clusters_has_the_words_together_as_levels() -> None:
    assert aligned(GOOD)[0].clusters == {"words": tuple(f"{noun} {noun}s" for noun in NOUNS)}


def test_a_factor_stays_where_none_varies() -> None:
    """Without any factor, examples would be taken for independent ones."""
    assert aligned(clustered([{"noun": "one"}] * 10))[0].clusters == {"noun": ("one",) * 10}


def test_pairs_of_one_task_have_the_same_factors() -> None:
    levels = [{"noun": "a"}] * 9 + [{"name": "a"}]
    with pytest.raises(TaskError, match="'demo': one pair has the cluster factors noun, another one name; all"):
        aligned(clustered(levels))
