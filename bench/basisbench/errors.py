"""The errors a user can meet: one line that says what, where, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class BasisBenchError(Exception):
    """A mistake in the input or the set-up, told in one line; the command line prints it and exits with 2."""


class TaskError(BasisBenchError):
    """A task yields no usable pairs for a tokenizer, or its data is malformed."""


class BasisError(BasisBenchError):
    """A basis does not fit the model, or its dictionary explains nothing."""


class RecordError(BasisBenchError):
    """A record or suite file is malformed; the message names the file and the field."""


def refuse_file(out: Path, expected: str = "expected a folder for --out") -> None:
    """Refuse a path that cannot be a folder, before work is done for it.

    Args:
        out: the path.
        expected: what is to be given instead, for the message.

    Raises:
        BasisBenchError: it is a file, or a file lies on the way to it.
    """
    standing = next((path for path in (out, *out.absolute().parents) if path.exists()), out)
    if standing.exists() and not standing.is_dir():
        raise BasisBenchError(f"{standing}: is a file; {expected}")


def hold(name: str, found: object, right: bool, expected: str) -> None:
    """Refuse what a public function was given.

    Args:
        name: of the argument.
        found: what was given.
        right: whether it is as it should be.
        expected: what it should be, in words.

    Raises:
        BasisBenchError: it is not right.
    """
    if not right:
        raise BasisBenchError(f"{name}: expected {expected}, found {' '.join(repr(found).split()):.60}")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> BasisBenchError:
    """Build the error for a name that is not registered, with the nearest known names.

    Args:
        kind: what was looked up, for example "task".
        name: the name as the user wrote it.
        known: every registered name of that kind.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names)}"
    return BasisBenchError(f"no {kind} named '{name}'; {hint}")


OUT_OF_MEMORY = "out of memory; close other programs, or raise the limit (ulimit -v)"

_NOT_MAPPED = ("failed to map segment", "annot allocate memory")
"""What the loader says of a library for which no memory is left."""


def lacks_memory(error: BaseException) -> bool:
    """Tell whether an error says that this process has no memory left, not even to load a library."""
    if isinstance(error, ImportError | OSError):
        return any(sign in str(error) for sign in _NOT_MAPPED)
    return isinstance(error, MemoryError)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(":") if lines else type(error).__name__


def whole_message(error: BaseException, longest: int = 300) -> str:
    """Return an error's message on one line, without its middle where it is too long; with its type where it is a word.

    Args:
        error: what a library has raised.
        longest: characters.
    """
    text = str(error)
    if " " not in text.strip():  # a key that is missing
        text = f"{type(error).__name__} {text}"
    text = " ".join(text.split()).rstrip(":")
    # A path may stand first and the reason last.
    return text if len(text) <= longest else f"{text[: longest * 2 // 3]} ... {text[-longest // 3 :]}"
