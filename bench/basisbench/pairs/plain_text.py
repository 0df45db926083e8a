"""Text that belongs to no task, as token ids: prompts of a user, and files in windows of one length."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basisbench.errors import BasisBenchError
from basisbench.pairs.tokens import prompt_ids
from basisbench.results.schema import printable

if TYPE_CHECKING:
    from basisbench.types import Bos

TEXT_TOKENS, WINDOW = 1024, 64
"""Tokens of a text that are read, in windows of so many."""


def read_windows(
    path: str | os.PathLike[str], tokenizer: Any, bos: Bos, longest: int | None
) -> tuple[list[list[int]], int]:
    """Return the beginning of a file of text, in windows of one length.

    Args:
        path: the file.
        tokenizer: a Hugging Face tokenizer.
        bos: whether a beginning-of-sequence token stands in front of each window.
        longest: most positions of a prompt; None for any number.

    Returns:
        Token ids, a row per window, and how many tokens stand in front of each.

    Raises:
        BasisBenchError: the file cannot be read, or is no text.
    """
    text = read_text(path, f"text {path}", 32 * TEXT_TOKENS)
    ids, front = _ids(text, tokenizer, bos, f"text {path}")
    width = max(1, min(WINDOW, longest or WINDOW) - front)
    body = ids[front : front + TEXT_TOKENS]
    windows = [body[start : start + width] for start in range(0, len(body), width)]
    return [ids[:front] + window for window in windows if len(window) == len(windows[0])], front


def read_text(path: str | os.PathLike[str], owner: str, characters: int = -1) -> str:
    """Read a file of UTF-8 text.

    Args:
        path: the file.
        owner: what messages call it.
        characters: how many to read from its beginning; -1 for all.

    Raises:
        BasisBenchError: the file cannot be read, or is no text.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            return file.read(characters)
    except OSError as error:
        raise BasisBenchError(f"{owner}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise BasisBenchError(f"{owner}: expected UTF-8 text") from error


def read_prompt(prompt: str, tokenizer: Any, bos: Bos, longest: int | None) -> tuple[list[int], int]:
    """Return a prompt as token ids, and how many beginning-of-sequence tokens stand in front.

    Args:
        prompt: the text.
        tokenizer: a Hugging Face tokenizer.
        bos: whether such a token stands in front.
        longest: most positions of a prompt; None for any number.

    Raises:
        BasisBenchError: it has no tokens, or too many.
    """
    if not isinstance(prompt, str):
        raise BasisBenchError(f"prompts: expected texts, found {prompt!r:.60}")
    name = f"prompt '{printable(prompt)[:40]}'"
    ids, front = _ids(prompt, tokenizer, bos, name)
    if longest is not None and len(ids) > longest:
        raise BasisBenchError(f"{name}: {len(ids)} tokens, but the model has {longest} positions")
    return ids, front


def _ids(text: str, tokenizer: Any, bos: Bos, what: str) -> tuple[list[int], int]:
    ids, front = prompt_ids(tokenizer, text, bos)
    if len(ids) <= front:
        raise BasisBenchError(f"{what}: the tokenizer makes no tokens of it")
    return list(ids), front
