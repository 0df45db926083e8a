"""Pairs whose segments have speakers: the tokenizer's own chat template writes them, and roles stay in place."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from basisbench.errors import TaskError
from basisbench.pairs.alignment import load_splits
from basisbench.pairs.chat import write_pairs
from basisbench.pairs.task_file import load_task_file
from basisbench.types import ContrastPair, Segment
from basisbench_baselines.pocket.corpus.stream import build_tokenizer
from helpers.task_pairs import NOUNS, TwoSplits

TEMPLATE = (
    "Friends noticed my dress.{% for message in messages %} {{ message['role'] | capitalize }}: "
    "{{ message['content'] | trim }}{% endfor %}{% if add_generation_prompt %} Assistant:{% endif %}"
)


@pytest.fixture
def tokenizer() -> Any:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def talk(noun: str, *reply: Segment) -> tuple[Segment, ...]:
    said = (Segment("statement", "I like the", "user"), Segment("cue", f" {noun}", "user"), Segment("end", ".", "user"))
    return (*said, *reply)


REPLY = (Segment("reply", "The", "assistant"), Segment("subject", " doctor", "assistant"))


def pair(noun: str, *reply: Segment) -> ContrastPair:
    both = (talk(noun, *reply), talk(f"{noun}s", *reply))
    return ContrastPair("chat", *both, (" is",), (" are",), (noun, f"{noun}s"))


def texts(segments: tuple[Segment, ...]) -> list[tuple[str, str, str]]:
    return [(segment.role, segment.text, segment.speaker) for segment in segments]


def test_the_template_s_text_becomes_segments_between_the_task_s(tokenizer: Any) -> None:
    (written,) = write_pairs("demo", tokenizer, [pair("king", *REPLY)])
    assert texts(written.clean) == [
        ("user_header", "Friends noticed my dress. User: ", ""),
        ("statement", "I like the", ""),
        ("cue", " king", ""),
        ("end", ".", ""),
        ("assistant_header", " Assistant: ", ""),
        ("reply", "The", ""),
        ("subject", " doctor", ""),
    ]
    assert written.counterfactual_text == written.clean_text.replace("king", "kings")


def test_a_chat_that_ends_with_the_user_ends_where_the_assistant_begins(tokenizer: Any) -> None:
    (written,) = write_pairs("demo", tokenizer, [pair("king")])
    assert texts(written.clean)[-1] == ("assistant_header", " Assistant:", "")


def test_a_chat_aligns_as_the_same_messages_of_a_file_do(tokenizer: Any, tmp_path: Any) -> None:
    """The file's prompt is one segment, written whole by the template: the slow twin."""
    pairs = [pair(noun, *REPLY) for noun in NOUNS]
    task = TwoSplits({"attribution": pairs, "evaluation": pairs})
    found = load_splits(task, tokenizer, attribution=10, evaluation=10, seed=0)[1]
    rows = [
        {
            name: [
                {"role": "user", "content": f"I like the {word}."},
                {"role": "assistant", "content": "The doctor"},
            ]
            for name, word in (("clean", noun), ("corrupted", f"{noun}s"))
        }
        | {"answer": " is", "foil": " are"}
        for noun in NOUNS
    ]
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(rows))
    whole = {
        (pair.clean_text, pair.counterfactual_text)
        for pairs in load_task_file(path).for_tokenizer(tokenizer).by_split.values()
        for pair in pairs
    }
    assert whole == {both for group in found for both in zip(group.clean_text, group.counterfactual_text, strict=True)}
    assert len(whole) == len(NOUNS)


def test_plain_pairs_stay_the_same_objects_of_text() -> None:
    plain = replace(pair("king"), clean=(Segment("subject", "king"),), counterfactual=(Segment("subject", "kings"),))
    assert write_pairs("demo", build_tokenizer(), [plain]) == [plain]


def test_what_cannot_be_a_chat_is_refused_in_one_line(tokenizer: Any) -> None:
    mixed = pair("king", Segment("reply", " The"))
    with pytest.raises(TaskError, match=r"'demo': a prompt has segments with a speaker and others without; .*'I like"):
        write_pairs("demo", tokenizer, [mixed])
    with pytest.raises(TaskError, match="'demo': the model's chat template changes a message: 'The ' is lost"):
        write_pairs("demo", tokenizer, [pair("king", Segment("reply", "The ", "assistant"))])
    with pytest.raises(TaskError, match="'demo': the model's tokenizer has no chat template"):
        write_pairs("demo", build_tokenizer(), [pair("king")])
