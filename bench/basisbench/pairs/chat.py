"""Prompts as a chat, written by the template that a model's tokenizer brings along.

1. Segments that follow each other and have one speaker are one message.
2. The tokenizer's template writes the messages; a last message of the assistant is left open, for it is continued.
3. Each message is found again in that text. What the template puts before it (a system message, names of speakers,
   special tokens) becomes a segment of its own, "user_header" or "assistant_header", and the message's segments keep
   their roles, so that prompts align by role as plain ones do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import groupby
from typing import Any

from basisbench.errors import TaskError, first_line
from basisbench.types import ContrastPair, Segment


def write_pairs(task_name: str, tokenizer: Any, pairs: Sequence[ContrastPair]) -> list[ContrastPair]:
    """Return pairs as a model's tokenizer writes them: through its chat template where segments have speakers.

    Args:
        task_name: name of the task, for errors.
        tokenizer: a Hugging Face tokenizer.
        pairs: the pairs; those without speakers are returned as they are.

    Raises:
        TaskError: the tokenizer has no chat template, refuses the messages or changes them, or only some segments of a
            prompt have a speaker.
    """
    # A prompt stands in many candidates, and a template is slow.
    write = cache(partial(_write_prompt, task_name, tokenizer))
    return [
        replace(pair, clean=write(pair.clean), counterfactual=write(pair.counterfactual)) if _is_spoken(pair) else pair
        for pair in pairs
    ]


def _is_spoken(pair: ContrastPair) -> bool:
    return any(segment.speaker for segment in pair.clean + pair.counterfactual)


def _write_prompt(task_name: str, tokenizer: Any, segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    spoken = [bool(segment.speaker) for segment in segments]
    if not any(spoken):
        return segments
    if not all(spoken):
        raise TaskError(
            f"task '{task_name}': a prompt has segments with a speaker and others without; give all of them one, or "
            f"none: {''.join(segment.text for segment in segments)!r:.60}"
        )
    turns = [(speaker, tuple(turn)) for speaker, turn in groupby(segments, lambda segment: segment.speaker)]
    messages = [{"role": speaker, "content": "".join(segment.text for segment in turn)} for speaker, turn in turns]
    text = chat_text(task_name, tokenizer, messages)
    written: list[Segment] = []
    for (speaker, turn), message in zip(turns, messages, strict=True):
        header, found, text = text.partition(message["content"])
        if not found:
            lost = message["content"]
            raise TaskError(f"task '{task_name}': the model's chat template changes a message: {lost!r:.60} is lost")
        written += [Segment(f"{speaker}_header", header)] if header else []
        written += [Segment(segment.role, segment.text) for segment in turn]
    return (*written, Segment("assistant_header", text)) if text else tuple(written)


def chat_text(task_name: str, tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:
    """Return chat messages as the tokenizer's own template writes them.

    Args:
        task_name: name of the task, for errors.
        tokenizer: a Hugging Face tokenizer.
        messages: objects with role and content. A last message of the assistant is left open; after any other one the
            text ends where the assistant's begins.

    Raises:
        TaskError: the tokenizer has no chat template, or its template refuses the messages.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise TaskError(f"task '{task_name}': the model's tokenizer has no chat template; give prompts as text")
    answering = messages[-1]["role"] == "assistant"
    try:
        return str(
            tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=not answering, continue_final_message=answering
            )
        )
    except Exception as error:  # a template is a program of the model's makers, and may refuse in any way
        raise TaskError(
            f"task '{task_name}': the model's chat template refuses messages: {first_line(error)}"
        ) from error
