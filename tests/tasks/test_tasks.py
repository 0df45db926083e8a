"""The built-in tasks: their words are split cleanly and their pairs are minimal, whatever the tokenizer."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import pytest

from basisbench.pairs.lexicon import (
    PORTIONS,
    attributes,
    auxiliary_verbs,
    held_out_auxiliary,
    relative_verbs,
    word_lists,
)
from basisbench.protocols import Task
from basisbench.registry import load_registry
from basisbench.types import SPLITS, ContrastPair, Split
from helpers import task_pairs
from helpers.pocket_tasks import pocket_tasks

REGISTRY = load_registry()
TASKS = [REGISTRY.get("task", entry.name) for entry in REGISTRY.of("task")]
NAMES = {task.name for task in TASKS}

QUICK = ("ioi", "sva_rc", "user_occupation")
some_quick = pytest.mark.parametrize(
    "task",
    [pytest.param(task, id=task.name, marks=() if task.name in QUICK else pytest.mark.slow) for task in TASKS],
)
"""Every task, of which the quick tests see one of each kind: thousands of candidates take a while."""
every_split = pytest.mark.parametrize("split", SPLITS)


@cache
def drawn(name: str, split: Split) -> list[ContrastPair]:
    return list(REGISTRY.get("task", name).candidates(split, 0))


def candidates(task: Task, split: Split) -> list[ContrastPair]:
    return drawn(task.name, split)


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def test_the_issue_s_tasks_are_registered() -> None:
    assert {
        "ioi",
        "sva_simple",
        "sva_nounpp",
        "sva_rc",
        "sva_within_rc",
        "user_gender",
        "user_occupation",
        "user_country",
        "user_age",
    } <= NAMES


def test_no_word_of_the_lexicon_is_in_two_portions_or_lists() -> None:
    counted: Counter[str] = Counter()
    for portion in PORTIONS:
        lists = word_lists(portion)
        counted.update(word.lower() for word in (*lists.names, *lists.places, *lists.things))
        counted.update(form for noun in lists.nouns + lists.objects for form in (noun.singular, noun.plural))
    for attribute in attributes().values():
        counted.update(value.lower() for value in attribute.values)
        counted.update(cue.lower() for split in attribute.cues.values() for cues in split.values() for cue in cues)
    counted.update(form for verb in (*auxiliary_verbs(), *relative_verbs()) for form in (verb.singular, verb.plural))
    assert [word for word, times in counted.items() if times > 1] == []


def test_held_out_auxiliary_covers_all_verbs_and_refuses_other_nouns() -> None:
    evaluation = word_lists("evaluation").nouns
    assert {held_out_auxiliary(noun) for noun in evaluation} == set(auxiliary_verbs())
    with pytest.raises(ValueError, match="not in"):
        held_out_auxiliary(word_lists("attribution").nouns[0])


@some_quick
def test_splits_share_no_word_that_the_task_varies(task: Task) -> None:
    attribution, evaluation = ({word for pair in candidates(task, split) for word in pair.words} for split in SPLITS)
    assert attribution
    assert evaluation
    assert not attribution & evaluation
    # `words` is not a mere claim: no varied word of one split occurs anywhere in the other split's prompts.
    for split, foreign in zip(SPLITS, (evaluation, attribution), strict=True):
        for pair in candidates(task, split):
            assert not foreign.intersection(words_of(pair.clean_text + " " + pair.counterfactual_text))


@some_quick
@every_split
def test_words_names_everything_that_differs_between_the_prompts(task: Task, split: Split) -> None:
    for pair in candidates(task, split):
        differing = {
            word
            for clean, counterfactual in zip(words_of(pair.clean_text), words_of(pair.counterfactual_text), strict=True)
            if clean != counterfactual
            for word in (clean, counterfactual)
        }
        assert differing
        assert differing <= set(pair.words)


@some_quick
@every_split
def test_candidates_are_distinct_finite_and_the_same_on_every_call(task: Task, split: Split) -> None:
    first = candidates(task, split)
    assert first == list(task.candidates(split, 0))
    assert first != list(task.candidates(split, 4))
    assert len({(pair.clean_text, pair.counterfactual_text) for pair in first}) == len(first)


@some_quick
@every_split
def test_pairs_are_minimal(task: Task, split: Split) -> None:
    for pair in candidates(task, split):
        differing = [
            (clean, counterfactual)
            for clean, counterfactual in zip(pair.clean, pair.counterfactual, strict=True)
            if clean != counterfactual
        ]
        assert len(differing) == 1
        clean, counterfactual = differing[0]
        assert clean.role == counterfactual.role
        assert len(words_of(clean.text)) == len(words_of(counterfactual.text)) == 1
        roles = [segment.role for segment in pair.clean]
        assert len(roles) == len(set(roles))
        assert set(pair.answers).isdisjoint(pair.foils)


@every_split
def test_ioi_answer_is_the_name_said_once(split: Split) -> None:
    templates = set()
    for pair in candidates(REGISTRY.get("task", "ioi"), split):
        names = [word for word in words_of(pair.clean_text) if word in word_lists(split).names]
        counterfactual = [word for word in words_of(pair.counterfactual_text) if word in word_lists(split).names]
        assert Counter(names)[pair.answers[0].strip()] == 1
        assert Counter(counterfactual)[pair.foils[0].strip()] == 1
        assert {*names} == {pair.answers[0].strip(), pair.foils[0].strip()}
        assert pair.template.endswith("/abba") == (names[0] == pair.answers[0].strip())
        templates.add(pair.template)
    assert len(templates) == 8


@every_split
@pytest.mark.parametrize("name", ["sva_simple", "sva_nounpp", "sva_rc", "sva_within_rc"])
def test_agreement_answer_agrees_with_its_noun(name: str, split: Split) -> None:
    role = "clause_subject" if name == "sva_within_rc" else "subject"
    plurals = {noun.plural for noun in word_lists(split).nouns}
    verbs = relative_verbs() if name == "sva_within_rc" else auxiliary_verbs()
    singular = {verb.singular for verb in verbs}
    plural = {verb.plural for verb in verbs}
    seen = set()
    for pair in candidates(REGISTRY.get("task", name), split):
        text = next(segment.text.strip() for segment in pair.clean if segment.role == role)
        right, wrong = (plural, singular) if text in plurals else (singular, plural)
        assert pair.answers[0].strip() in right
        assert pair.foils[0].strip() in wrong
        seen.update(pair.answers)
    assert {word.strip() for word in seen} == singular | plural


@every_split
@pytest.mark.parametrize("name", ["gender", "occupation", "country", "age"])
def test_user_cue_decides_the_answer(name: str, split: Split) -> None:
    value_of = {cue: value for value, cues in attributes()[name].cues.items() for cue in cues[split]}
    answers = set()
    for pair in candidates(REGISTRY.get("task", f"user_{name}"), split):
        clean, counterfactual = (
            next(segment.text.strip() for segment in side if segment.role == "cue")
            for side in (pair.clean, pair.counterfactual)
        )
        assert pair.answers == (f" {value_of[clean]}",)
        assert pair.foils == (f" {value_of[counterfactual]}",)
        answers.update(pair.answers)
        # The user does not name the attribute's value.
        assert not set(attributes()[name].values).intersection(words_of(pair.clean_text))
    assert len(answers) == len(attributes()[name].values)


FACTORS = {
    "ioi": {"receiver", "giver"},
    **{f"sva_{structure}": {"noun"} for structure in ("simple", "nounpp", "rc", "within_rc")},
    **{name: {"cue", "counterfactual_cue"} for name in NAMES if not name.startswith(("ioi", "sva_"))},
}


@some_quick
@every_split
def test_levels_are_words_of_the_pair_that_decide_its_answer(task: Task, split: Split) -> None:
    for pair in candidates(task, split):
        assert pair.clusters.keys() == FACTORS[task.name]
        assert set(pair.clusters.values()) <= set(pair.words)
        if task.name == "ioi":
            assert (pair.clusters["receiver"], pair.clusters["giver"]) == (pair.answers[0][1:], pair.foils[0][1:])
            continue
        changed = zip(words_of(pair.clean_text), words_of(pair.counterfactual_text), strict=True)
        (clean, counterfactual), *others = [(one, other) for one, other in changed if one != other]
        assert not others
        if "noun" in pair.clusters:
            noun = next(noun for noun in word_lists(split).nouns if noun.singular == pair.clusters["noun"])
            assert {clean, counterfactual} == {noun.singular, noun.plural}
        else:
            assert pair.clusters == {"cue": clean, "counterfactual_cue": counterfactual}


@pytest.mark.slow
@pytest.mark.parametrize("task", pocket_tasks(), ids=lambda task: task.name)
def test_intervals_have_eight_levels_or_more_of_each_factor_to_resample(task: Task) -> None:
    evaluation = task_pairs.splits(task.name, "words")["evaluation"]
    assert evaluation.pair_count == 100
    assert set(evaluation[0].clusters) == FACTORS[task.name]
    for factor in evaluation[0].clusters:
        assert len({level for group in evaluation for level in group.clusters[factor]}) >= 20
