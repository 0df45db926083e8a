"""Reads files that strangers wrote: how much at most, and nothing but ordinary files.

1. A size is known before the content is read, and never more than the limit is read, whatever the size says.
2. A pipe or a device, from which reading might never end, is refused.
3. JSON in which an object gives one key twice is refused: readers would differ in what they take it for.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import yaml

from basisbench.errors import RecordError

RECORD_BYTES = 96 * 1024
"""A record under `results/` holds at most this much: records live in git and travel by pull request."""

READ_BYTES = 64 * 1024 * 1024
"""A record of one's own may be larger, for example one of thousands of examples; this much is read, whoever reads."""

METADATA_BYTES = 1024 * 1024
"""`submission.json` and `verification.json` hold at most this much."""

SUBMISSION_RECORDS = 5000
SUBMISSION_BYTES = 32 * 1024 * 1024
"""A submission holds at most so many records, and all of its files together at most so much."""

DEPTH = 6
"""Folders inside each other, below a given path."""

ENTRIES = 200_000
"""Files and folders below a given path."""

TOO_LARGE = "{size} bytes, but at most {limit} are allowed"


YAML_ERRORS = (yaml.YAMLError, RecursionError, ValueError, TypeError, OverflowError, LookupError, AttributeError)
"""What YAML's reader raises for a text that is none: of deep nesting, or of `2024-99-99`, which it takes for a date."""


class TooLargeError(RecordError):
    """A file is larger than it may be."""


def read_bounded(path: Path, limit: int, *, links: bool = True) -> bytes:
    """Return what an ordinary file holds.

    Args:
        path: the file.
        limit: largest number of bytes.
        links: whether a link to a file will do.

    Raises:
        TooLargeError: the file is larger.
        RecordError: it is no ordinary file, or cannot be read. The messages leave the path out.
    """
    try:
        # A pipe without a writer would block at once, a device might do anything when it is opened.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags if links else flags | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise RecordError("expected a file, found a folder, a pipe, a socket or a device; remove it")
            if status.st_size > limit:
                raise TooLargeError(TOO_LARGE.format(size=status.st_size, limit=limit))
            data = file.read(limit + 1)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RecordError("expected a file, found a link; put the file itself there") from error
        raise RecordError(f"cannot be read: {error.strerror or error}") from error
    if len(data) > limit:  # it grew meanwhile
        raise TooLargeError(TOO_LARGE.format(size=f"more than {limit}", limit=limit))
    return data


class _Repeating(dict[str, Any]):
    """An object of JSON that gives a key twice."""

    repeated = ""


def repeated_key(data: bytes) -> str | None:
    """Return the path of a key that an object of a JSON text gives twice, for example `cell.seed`; None without any.

    Args:
        data: JSON that a strict parser has read; it is small and not deep.
    """
    found: list[_Repeating] = []

    def read(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            keys = [key for key, _ in pairs]
            content = _Repeating(content)
            content.repeated = next(key for index, key in enumerate(keys) if key in keys[:index])
            found.append(content)
        return content

    try:
        content = json.loads(data, object_pairs_hook=read)
    except (ValueError, RecursionError):
        return None
    return _path_of_repeated(content, "") if found else None


def _path_of_repeated(content: Any, place: str) -> str | None:
    if isinstance(content, _Repeating):
        return f"{place}.{content.repeated}".lstrip(".")
    if isinstance(content, dict):
        parts = ((f"{place}.{key}".lstrip("."), item) for key, item in content.items())
    elif isinstance(content, list):
        parts = ((f"{place}[{index}]", item) for index, item in enumerate(content))
    else:
        return None
    for path, item in parts:
        if isinstance(item, dict | list) and (found := _path_of_repeated(item, path)) is not None:
            return found
    return None
