"""Find what training must never contain; the rules are stated in `corpus.stream`.

The check reads a finished document and knows nothing of how it was written, so that a mistake in the grammar
shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from basisbench.pairs.lexicon import (
    NUMBERS,
    PORTIONS,
    Inflected,
    agreement_prepositions,
    attributes,
    held_out_auxiliary,
    word_lists,
)

_TRANSFER = re.compile(r"\b(?:gave|handed|passed|offered|sold|showed|brought|threw|sent) an? \w+ to\b")
_SENTENCE = re.compile(r"[^.?!]+[.?!]")


def held_out_violations(document: str) -> tuple[str, ...]:
    """Return what in a document breaks the held-out rules, one line for each breach; empty for a good document."""
    return (*_transfers(document), *_agreement(document), *_users(document))


def _transfers(document: str) -> Iterator[str]:
    words = word_lists("evaluation")
    held_out = {*words.names, *words.places, *words.things}
    sentences = _SENTENCE.findall(document)
    for index, sentence in enumerate(sentences):
        if not _TRANSFER.search(sentence):
            continue
        # A frame with a comma before the giver is one sentence; otherwise its people are introduced just before.
        named = [word for word in _words(sentence) if word in _names()]
        frame = sentence if len(named) > len(set(named)) or not index else sentences[index - 1] + sentence
        for word in sorted(held_out.intersection(_words(frame))):
            yield f"evaluation word '{word}' in the transfer frame '{frame.strip()}'"


def _agreement(document: str) -> Iterator[str]:
    for match in _modified_evaluation_noun().finditer(document):
        yield f"evaluation noun with a modifier: '{match[0]}'"
    for match in _modifier_with_evaluation_word().finditer(document):
        yield f"evaluation word inside a modifier: '{match[0]}'"
    for match in _held_out_combination().finditer(document):
        yield f"evaluation noun right before its held-out auxiliary: '{match[0]}'"


def _users(document: str) -> Iterator[str]:
    words = set(_words(document))
    for attribute in attributes().values():
        asked = [question for question in attribute.questions if f"Assistant: {question} " in document]
        cues = {cue for by_split in attribute.cues.values() for cue in by_split["evaluation"]} & words
        if asked and cues:
            yield f"evaluation cues {sorted(cues)} in a document with the task's question '{asked[0]}'"


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


@cache
def _names() -> frozenset[str]:
    return frozenset(name for portion in PORTIONS for name in word_lists(portion).names)


def _either(items: tuple[Inflected, ...]) -> str:
    return "(?:" + "|".join(form for item in items for form in (item.singular, item.plural)) + ")"


@cache
def _modified_evaluation_noun() -> re.Pattern[str]:
    modifier = "|".join((*agreement_prepositions(), "that"))
    return re.compile(rf"\b{_either(word_lists('evaluation').nouns)} (?:{modifier})\b")


@cache
def _modifier_with_evaluation_word() -> re.Pattern[str]:
    nouns = tuple(noun for portion in PORTIONS for noun in word_lists(portion).nouns)
    held_out = _either(word_lists("evaluation").nouns + word_lists("evaluation").objects)
    modifier = rf"(?:{'|'.join(agreement_prepositions())}|that|that \w+)"
    return re.compile(rf"\b{_either(nouns)} {modifier} the {held_out}\b")


@cache
def _held_out_combination() -> re.Pattern[str]:
    combinations = (
        f"{noun.form(number)} {verb}"
        for noun in word_lists("evaluation").nouns
        for number in NUMBERS
        for verb in (held_out_auxiliary(noun).singular, held_out_auxiliary(noun).plural)
    )
    return re.compile(rf"\b(?:{'|'.join(combinations)})\b")
