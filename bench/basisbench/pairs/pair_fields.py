"""What the fields of a row of prompt pairs mean, and what is wrong with one that means nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from basisbench.errors import TaskError
from basisbench.pairs.task_rows import ANSWER_IDS, SLOTS

TEXT, CHAT = "file", "chat"
"""Templates of a pair whose prompts are texts, and of one whose prompts are chat messages."""

Pair = tuple[str, str, str, tuple[str, ...], tuple[str, ...]]
"""Template, clean and counterfactual prompt, answers, foils."""


def checked(where: str, value: object) -> tuple[Pair, Mapping[str, str], bool]:
    """Return the pair of a row, its cluster levels, and whether its answers are token ids."""
    if not isinstance(value, Mapping):
        fields = ", ".join(names[0] for names in SLOTS.values())
        raise TaskError(f"{where}: expected an object with {fields}, found {type(value).__name__}")
    names = {slot: next((name for name in known if name in value), "") for slot, known in SLOTS.items()}
    ids = False
    if not (names["answer"] and names["foil"]):
        for answer, foil in ANSWER_IDS:
            if answer in value and foil in value:
                names["answer"], names["foil"], ids = answer, foil, True
                break
    for slot, name in names.items():
        if not name:
            first, *others = SLOTS[slot]
            raise TaskError(f"{where}: field '{first}' is missing (it may be called {' or '.join(others)} too)")
    clean, counterfactual = (_prompt(where, names[slot], value[names[slot]]) for slot in ("clean", "counterfactual"))
    if clean[0] != counterfactual[0]:
        raise TaskError(f"{where}: one prompt is text and the other one chat messages; give both in one way")
    read = _token_ids if ids else _texts
    answers, foils = (read(where, names[slot], value[names[slot]]) for slot in ("answer", "foil"))
    for one, other, first, second in (
        (clean, counterfactual, "clean", "counterfactual"),
        (answers, foils, "answer", "foil"),
    ):
        if one == other:
            raise TaskError(f"{where}: field '{names[second]}' equals '{names[first]}', so the pair has no contrast")
    return (clean[0], clean[1], counterfactual[1], answers, foils), _clusters_of(where, value), ids


def _prompt(where: str, field: str, value: object) -> tuple[str, str]:
    """Return the template and the text of a prompt; of chat messages the JSON."""
    if not isinstance(value, list):
        return TEXT, _text(where, field, value)
    for message in value:
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise TaskError(
                f"{where}: field '{field}' must be text or chat messages, objects with role and content, found "
                f"{message!r:.60}"
            )
        for part in ("role", "content"):
            _text(where, f"{field}.{part}", message[part], empty=part == "content")
    if not value:
        raise TaskError(f"{where}: field '{field}' holds no message")
    return CHAT, json.dumps([{"role": message["role"], "content": message["content"]} for message in value])


def _text(where: str, field: str, value: object, *, empty: bool = False) -> str:
    if not isinstance(value, str) or not (empty or value.strip()):
        raise TaskError(f"{where}: field '{field}' must be text that is not empty, found {value!r:.60}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise TaskError(
                f"{where}: field '{field}' holds half a character ({value[error.start]!r}, a lone surrogate), which "
                "no tokenizer reads; write the whole one"
            ) from error
    return value


def _texts(where: str, field: str, value: object) -> tuple[str, ...]:
    """Return answers or foils; of several each once."""
    if not isinstance(value, list):
        return (_text(where, field, value),)
    if not value:
        raise TaskError(f"{where}: field '{field}' must be text or a list of texts, found an empty list")
    return tuple(dict.fromkeys(_text(where, field, each) for each in value))


def _token_ids(where: str, field: str, value: object) -> tuple[str, ...]:
    """Return token ids as numbers in text; a cell of a CSV holds one, or a list of them in brackets."""
    found = (
        re.findall(r"[^\s,\[\]]+", value) if isinstance(value, str) else value if isinstance(value, list) else [value]
    )
    numbers = [str(each) for each in found if not isinstance(each, bool)]
    if not numbers or not all(re.fullmatch(r"[0-9]{1,9}", number) for number in numbers):
        raise TaskError(f"{where}: field '{field}' must be a token id or a list of them, found {value!r:.60}")
    return tuple(dict.fromkeys(str(int(number)) for number in numbers))


def _clusters_of(where: str, value: Mapping[str, object]) -> Mapping[str, str]:
    """Return the levels of a row whose other fields are right."""
    clusters = value.get("clusters", {})
    if (
        not isinstance(clusters, Mapping)
        or not all(clusters)
        or not all(isinstance(level, str) and level for level in clusters.values())
    ):
        raise TaskError(
            f"{where}: field 'clusters' must be an object of levels by factor, each a text, found {clusters!r:.60}"
        )
    for factor, level in clusters.items():
        _text(where, "clusters", factor), _text(where, "clusters", level)
    return clusters
