"""The pocket model's corpus: what it holds, what it holds out, and its tokenizer."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from itertools import islice
from pathlib import Path

import pytest

from basisbench.pairs.lexicon import attributes, held_out_auxiliary, word_lists
from basisbench.types import SPLITS
from basisbench_baselines.pocket.corpus.stream import (
    MAXIMUM_TOKENS,
    SPECIAL_TOKENS,
    build_tokenizer,
    documents,
    vocabulary,
)
from helpers.corpus_rules import held_out_violations
from helpers.pocket_tasks import pocket_tasks


@cache
def train() -> tuple[str, ...]:
    return tuple(islice(documents(0, "train"), 2000))


def tokens_of(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


def test_documents_repeat_for_a_seed_and_differ_between_seeds() -> None:
    assert tuple(islice(documents(0, "train"), 50)) == train()[:50]
    assert tuple(islice(documents(1, "train"), 50)) != train()[:50]


@pytest.mark.slow
def test_no_held_out_document_is_a_training_document_of_any_seed() -> None:
    held_out = set(islice(documents(0, "held_out"), 300))
    for seed in range(3):
        assert held_out.isdisjoint(islice(documents(seed, "train"), 1000))
    # The reason, which holds for every document: the text alone decides its split.
    import zlib

    assert all(zlib.crc32(text.encode()) % 8 == 0 for text in held_out)
    assert all(zlib.crc32(text.encode()) % 8 for text in train())


def test_documents_are_thirty_to_sixty_two_tokens_and_varied() -> None:
    lengths = [len(tokens_of(text)) for text in train()]
    assert min(lengths) >= 30
    assert max(lengths) <= MAXIMUM_TOKENS
    assert len(set(train())) == len(train())
    sentences = Counter(sentence for text in train() for sentence in re.split(r"(?<=[.?!]) ", text))
    assert len(sentences) > 5000


@pytest.mark.slow
def test_vocabulary_is_what_documents_and_tasks_use() -> None:
    words = vocabulary()
    assert list(words) == sorted(set(words))
    assert not set(words) & set(SPECIAL_TOKENS)
    assert 1000 <= len(words) <= 1400
    known = set(words)
    used = {token for text in islice(documents(5, "train"), 8000) for token in tokens_of(text)}
    assert used <= known
    # Every word is met in training, so that no embedding stays at its random start.
    assert known - used == set()
    for task in pocket_tasks():
        for split in SPLITS:
            for pair in task.candidates(split, 0):
                text = " ".join((pair.clean_text, pair.counterfactual_text, *pair.answers, *pair.foils))
                assert set(tokens_of(text)) <= known


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_nothing_that_is_held_out_occurs(split: str) -> None:
    texts = train() if split == "train" else tuple(islice(documents(2, "held_out"), 500))
    assert [(text, found) for text in texts if (found := held_out_violations(text))] == []


@pytest.mark.parametrize(
    ("document", "rule"),
    [
        ("Then, Anna and John went to the park. John gave a ball to Anna.", "transfer frame"),
        ("It is cold. Then, Mary and John went to the zoo. John gave a ball to Mary.", "transfer frame"),
        ("When Mary and John got to the park, John handed a knife to Mary at once.", "transfer frame"),
        ("The girl near the cars is tall.", "noun with a modifier"),
        ("The girls that the doctors like are tall.", "noun with a modifier"),
        ("The doctor that the girls like is tall.", "inside a modifier"),
        ("The doctor that likes the girls is tall.", "inside a modifier"),
        ("The doctors behind the truck are tall.", "inside a modifier"),
        ("Now the girl is tall.", "held-out auxiliary"),
        ("Now the girls are tall.", "held-out auxiliary"),
        ("User: I love my skirt. Assistant: You are a woman.", "task's question"),
        ("Anna likes her skirt. She is a woman. User: I love my veil. Assistant: You are a woman.", "task's question"),
    ],
)
def test_each_breach_is_found(document: str, rule: str) -> None:
    assert held_out_auxiliary(word_lists("evaluation").nouns[0]).singular == "is"
    assert len(found := held_out_violations(document)) >= 1
    assert any(rule in line for line in found)


@pytest.mark.slow
def test_evaluation_words_are_trained_on_elsewhere() -> None:
    """Held-out words must be known words, or the evaluation measures nothing."""
    counted = Counter(token for text in islice(documents(3, "train"), 8000) for token in tokens_of(text))
    evaluation = word_lists("evaluation")
    for word in sorted(evaluation.words):
        assert counted[word] >= 5, word
    for attribute in attributes().values():
        for cues in attribute.cues.values():
            for cue in (*cues["attribution"], *cues["evaluation"]):
                assert counted[cue] >= 5, cue


@pytest.mark.slow
def test_about_a_third_of_the_documents_open_like_a_task() -> None:
    """Judged by the tasks' own prompts: a document opens with what stands between their varied words."""
    patterns = []
    for task in pocket_tasks():
        frames = set()
        for pair in task.candidates("attribution", 0):
            frame = re.escape(pair.clean_text)
            for word in sorted(pair.words, key=len, reverse=True):
                frame = re.sub(rf"\b{word}\b", r"\\w+", frame)
            frames.add(frame)
        patterns.append(re.compile("(?:" + "|".join(sorted(frames)) + r")\b"))
    texts = (*train(), *islice(documents(4, "train"), 4000))
    # Each task's very prompt opens some documents; the user tasks' statement and question meet there less often.
    assert min(sum(bool(pattern.match(text)) for text in texts) for pattern in patterns) >= 15
    matched = sum(any(pattern.match(text) for pattern in patterns) for text in texts) / len(texts)
    assert 0.25 < matched < 0.6


def test_no_document_contradicts_a_cue() -> None:
    """Every name and the user have one gender, one job, one country and one age in a document."""
    answers = {question: attribute.name for attribute in attributes().values() for question in attribute.questions}
    checked = 0
    for text in train():
        turns = re.findall(r"User: (.*?) Assistant: (\w[^.]*)\.", text)
        for statement, reply in turns:
            for question, name in answers.items():
                if not reply.startswith(f"{question} "):
                    continue
                value = reply.removeprefix(f"{question} ")
                said = set(tokens_of(statement))
                for other, cues in attributes()[name].cues.items():
                    if said & {*cues["attribution"], *cues["evaluation"]}:
                        assert other == value, text
                        checked += 1
    assert checked > 100


def test_tokenizer_makes_one_token_per_word_and_mark_and_no_unknown() -> None:
    tokenizer = build_tokenizer()
    assert len(tokenizer) == len(vocabulary()) + len(SPECIAL_TOKENS)
    for text in train()[:500]:
        encoded = tokenizer(text, return_offsets_mapping=True)
        assert encoded["input_ids"][0] == tokenizer.bos_token_id
        assert encoded["input_ids"].count(tokenizer.bos_token_id) == 1
        assert tokenizer.unk_token_id not in encoded["input_ids"]
        assert tokenizer.eos_token_id not in encoded["input_ids"]
        assert [text[start:end] for start, end in encoded["offset_mapping"][1:]] == tokens_of(text)
        assert tokenizer.decode(encoded["input_ids"], skip_special_tokens=True) == text


def test_tokenizer_survives_being_saved_and_loaded(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    built = build_tokenizer()
    built.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    special = ("unk_token", "bos_token", "eos_token", "pad_token")
    assert [getattr(loaded, name) for name in special] == ["<unk>", "<s>", "</s>", "<pad>"]
    texts = list(train()[:100])
    ids = built(texts)["input_ids"]
    assert loaded(texts)["input_ids"] == ids
    assert all(row.count(loaded.bos_token_id) == 1 for row in ids)
    assert loaded.batch_decode(ids, skip_special_tokens=True) == texts
    padded = loaded(texts, padding=True)["input_ids"]
    assert {row[-1] for row in padded} >= {loaded.pad_token_id}
    assert loaded.convert_ids_to_tokens(loaded.unk_token_id) == "<unk>"
    assert loaded("zzz", add_special_tokens=False)["input_ids"] == [loaded.unk_token_id]
