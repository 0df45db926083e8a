"""Answers of several tokens: what is kept, what is dropped and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from basisbench.errors import TaskError
from basisbench.pairs.alignment import load_splits
from basisbench.pairs.lexicon import word_lists
from basisbench.pairs.task_file import load_task_file
from basisbench.pairs.tokens import CONTINUATION_ROLE, SEVERAL, TOO_LONG, UNEQUAL_ANSWERS
from basisbench.types import PairSet
from basisbench_baselines.pocket.corpus.stream import build_tokenizer

NOUNS = word_lists("attribution").nouns
TOKENIZER = build_tokenizer()


def split(folder: Path, answer: object, foil: object, *, longest: int | None = None) -> PairSet:
    rows = [
        {"clean": f"The {noun.singular}", "corrupted": f"The {noun.plural}", "answer": answer, "foil": foil}
        for noun in NOUNS
    ]
    path = folder / "pairs.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    task = load_task_file(path)
    return load_splits(task, TOKENIZER, attribution=20, evaluation=20, seed=0, longest=longest, metric="logprob")[1]


@pytest.mark.parametrize(("answer", "foil"), [(" is near the", " are near the"), (" is", " are")])
def test_prompts_go_on_with_all_tokens_of_the_answer_but_the_last(tmp_path: Path, answer: str, foil: str) -> None:
    (group,) = split(tmp_path, answer, foil)
    ids, other = (TOKENIZER(text, add_special_tokens=False)["input_ids"] for text in (answer, foil))
    assert group.metric == "logprob"
    assert group.answers.tolist() == [ids] * len(group)
    assert group.foils.tolist() == [other] * len(group)
    more = len(ids) - 1
    for side, texts in ((group.clean, group.clean_text), (group.counterfactual, group.counterfactual_text)):
        for row, text in zip(side.tolist(), texts, strict=True):
            prompt = TOKENIZER(text)["input_ids"]
            assert row == prompt + ids[:more]
    assert group.roles == ("bos", "prompt", "prompt", *[CONTINUATION_ROLE] * more)
    assert len(group.token_texts) == group.length == 3 + more


@pytest.mark.parametrize(
    ("answer", "foil", "longest", "reason"),
    [
        (" is near", " are", None, UNEQUAL_ANSWERS),
        ([" is", " has"], " are", None, SEVERAL),
        (" is near the", " are near the", 4, TOO_LONG),
        (" is zzqz", " are near", None, "a word is unknown"),
    ],
)
def test_what_cannot_be_compared_is_dropped_and_counted(
    tmp_path: Path, answer: object, foil: object, longest: int | None, reason: str
) -> None:
    with pytest.raises(TaskError, match=rf"\({reason}.*: {len(NOUNS) // 2}\)"):
        split(tmp_path, answer, foil, longest=longest)


def test_whoever_has_such_answers_is_told_of_the_metric(tmp_path: Path) -> None:
    with pytest.raises(TaskError):
        split(tmp_path, " is near", " are")
    task = load_task_file(tmp_path / "pairs.json")
    with pytest.raises(TaskError, match=r"not a single token: .*; --metric logprob takes answers of several tokens"):
        load_splits(task, TOKENIZER, attribution=20, evaluation=20, seed=0)
